"""Reports in HTML: one self-contained file for a study, or for a run, with the verdict first.

study.py, run.py    the two documents; search.py, that of a search
tables.py           tables of a study
pictures.py         its pictures with their captions; figures.py draws each, svg.py knows axes and labels
page.py             the page around them, with page.css and page.js; pieces.py, numbers.py: what parts are made of
html.py             the one place where text becomes markup
"""

from rlalign.compare.output.html.run import write_run_report
from rlalign.compare.output.html.study import render, write_report

__all__ = ["render", "write_report", "write_run_report"]
