"""Reports in HTML: one self-contained file for a study, a run or a hyperparameter search, with the verdict first.

study.py, run.py, search.py   the three documents
table_sections.py             sections of a study that hold tables
plot_sections.py              sections of a study that hold drawings, with the words to read them
study_plots.py                the drawings of a study: from results to SVG

The parts that all reports share are in `rlalign/html/`.
"""

from rlalign.compare.output.html.run import write_run_report
from rlalign.compare.output.html.study import render, write_report

__all__ = ["render", "write_report", "write_run_report"]
