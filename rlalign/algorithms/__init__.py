"""Published algorithms as rows of data: the point of each on the axes, and the bias of its gradient or its optimum.

Modules:

    definitions         Algorithm, the registry, and the look-up of a name
    policy_gradients    the presets that sample their own completions
    recorded_data       the presets that learn from recorded data
    distillation        the presets that learn from a teacher
"""

from __future__ import annotations

from rlalign.algorithms import distillation as distillation  # registers its presets
from rlalign.algorithms import policy_gradients as policy_gradients  # registers its presets
from rlalign.algorithms import recorded_data as recorded_data  # registers its presets
from rlalign.algorithms.definitions import (
    ALGORITHMS,
    BEST_OF_N,
    OFFLINE,
    OFFLINE_AXES,
    OUTSIDE,
    UNTRAINED,
    Algorithm,
    algorithm,
    axes,
    diff,
    learns_from_data,
    recorded_presets,
    register_algorithm,
    sampling_presets,
    teacher_presets,
)

__all__ = [
    "ALGORITHMS",
    "BEST_OF_N",
    "OFFLINE",
    "OFFLINE_AXES",
    "OUTSIDE",
    "UNTRAINED",
    "Algorithm",
    "algorithm",
    "axes",
    "diff",
    "learns_from_data",
    "recorded_presets",
    "register_algorithm",
    "sampling_presets",
    "teacher_presets",
]
