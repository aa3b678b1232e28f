"""The report of a study: all statistics of its votes as one JSON file, and the page that shows them.

contents.py        the JSON values, from a store
values.py          values with their paths: each number of the page names its place in the JSON file
cells.py           numbers, intervals and methods as cells of tables
policy_sections.py sections about policies: win rates, strengths, ranks, ratings
vote_sections.py   sections about votes and people: agreement, biases, reliability, planning
judges.py          LLM judges beside people
drawings.py        intervals as drawings
verdict.py         the sentences at the head of the page
page.py            the page, with the verdict first
"""

from rlalign.feedback.report.contents import Report, contents, write_report
from rlalign.feedback.report.page import render

__all__ = ["Report", "contents", "render", "write_report"]
