"""`python -m rlalign.oracle` prints docs/reference/algorithms.md."""

from rlalign.oracle.page import markdown

print(markdown(), end="")
