"""Labels of matplotlib figures: each text is drawn as it is."""

from __future__ import annotations

from rlalign.escaping.terminal import visible


def literal(text: str) -> str:
    r"""Return a label that matplotlib draws as the text: no `$` begins mathematics, and no legend leaves it out.

    Example:
        >>> literal("$x$"), literal("_run")
        ('\\$x\\$', ' _run')
    """
    label = visible(text).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label  # a legend skips labels that begin with an underscore
