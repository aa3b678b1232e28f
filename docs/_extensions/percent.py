"""Tutorials as notebooks: scripts in the percent format, which name no kernel."""

from __future__ import annotations

import jupytext
from nbformat import NotebookNode


def read(text: str) -> NotebookNode:
    """Return the notebook of a script; its language is known also if nothing is executed."""
    notebook: NotebookNode = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    return notebook
