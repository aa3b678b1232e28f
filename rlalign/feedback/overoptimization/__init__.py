"""Over-optimization of a proxy reward: how the true reward changes with the distance from the initial policy.

fits.py       the forms of Gao et al. (2210.10760), their fits and turning points, with a bootstrap over seeds
runs.py       curves of proxy, gold and KL, read from run folders
contents.py   the figures of all groups of runs as JSON values, and their sentences
page.py       the page
"""

from rlalign.feedback.overoptimization.contents import Overoptimization, contents, write_overoptimization
from rlalign.feedback.overoptimization.fits import Form, fit, fit_seeds, predict, turning_point
from rlalign.feedback.overoptimization.runs import RunCurve, read_curves

__all__ = [
    "Form",
    "Overoptimization",
    "RunCurve",
    "contents",
    "fit",
    "fit_seeds",
    "predict",
    "read_curves",
    "turning_point",
    "write_overoptimization",
]
