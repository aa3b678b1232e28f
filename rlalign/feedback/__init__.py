"""Judgements of people about completions: a study, its store, and the pages that collect votes.

study       study.toml: policies or completions, prompts, kind of judgement, guidelines
sampling    completions of the policies, and the items of a study
tables      the tables of the store
store       the store: one writer for SQLite, a connection pool for PostgreSQL
people      annotators: links, consent, checks, withdrawal
items       the next item of an annotator: leases
votes       votes, undo, comments
progress    counts of a study and of its annotators, and its votes as rows
exports     votes as lines of files, and who exported them
selection   the choice of the next item
enrollment  batches of items for the selection by uncertainty, and the weights that undo it
judges      LLM judges of pairs, marked everywhere and counted nowhere as people
statistics  agreement, biases, win rates and strengths, each with its interval
stopping    the rule that ends a study
web         the annotators' pages, the administrator's, and the JSON interface
simulate    simulated people that vote through the JSON interface
"""
