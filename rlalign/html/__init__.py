"""Reports in HTML: one file that loads nothing. The parts that all reports share.

markup.py                     the one module that turns text into markup
page.py, page.css, page.js    the page around the sections, its style and its script; sections and tables
components.py, numbers.py     parts of sections; numbers as text
svg.py                        axes, lines, dots and labels of a drawing
rows.py                       drawings with a row per value
"""
