"""The pages of a study and its JSON interface.

app         the application: routes, refusals, headers
access      scopes of routes, cookies, CSRF, rate limits, sizes
pages       the annotators' pages, which work without script
admin       the administrator's pages
words       texts of the pages in English and Chinese
markup      Markdown and LaTeX of data as safe HTML
"""
