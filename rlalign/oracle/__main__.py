"""`python -m rlalign.oracle` prints docs/algorithms.md."""

from rlalign.oracle.page import markdown

print(markdown(), end="")
