"""The reliability picture: confidence of a reward model against its accuracy, as SVG or PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlalign.errors import FaultError, UserError
from rlalign.reward_models.metrics import Bin

_SUFFIXES = (".svg", ".png", ".pdf")


def draw_reliability(bins: Sequence[Bin], path: Path) -> Path:
    """Draw the bins with Wilson's intervals, and the diagonal of a calibrated model; return the path.

    Args:
        bins: of `rlalign.reward_models.metrics.reliability`.
        path: ends in .svg, .png or .pdf.

    Raises:
        UserError: another suffix.
        FaultError: the file cannot be written.
    """
    from matplotlib.figure import Figure

    if path.suffix not in _SUFFIXES:
        raise UserError(f"'{path}': expected a picture in {', '.join(_SUFFIXES)}, got '{path.suffix}'; rename it")
    figure = Figure(figsize=(4.5, 4.0), layout="constrained")
    axes = figure.subplots()
    axes.plot([0.5, 1], [0.5, 1], color="0.6", linestyle="--", label="calibrated")
    x = [b.confidence for b in bins]
    y = [b.accuracy for b in bins]
    errors = [[b.accuracy - b.low for b in bins], [b.high - b.accuracy for b in bins]]
    axes.errorbar(x, y, yerr=errors, fmt="o-", capsize=3, label="reward model, 95 % CI")
    axes.set_xlabel("probability of the preferred side")
    axes.set_ylabel("share of people who prefer it")
    axes.set_xlim(0.48, 1.02)
    axes.legend(loc="lower right")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise FaultError(f"'{path}' cannot be written ({error.strerror}); use another path") from error
    return path
