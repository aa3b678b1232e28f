"""Sixteen texts whose scores are stored with a reward model, and the check that a loaded model reproduces them.

A changed weight, another tokenizer or template, another padding token or another precision changes their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlalign.errors import UserError
from rlalign.rewards.reward_model.rendering import Sample
from rlalign.types import FloatArray

TOLERANCE = 1e-4
"""Largest difference, in standard deviations of the probes' scores."""
_ROUNDING = 4e-6
"""Largest difference relative to the largest score: float32 products in another order differ by about 1e-6."""

_TEXTS = (
    ("Say something about the garden:", "this note is very clear and kind"),
    ("Say something about the garden:", "it was rude, vague and wrong"),
    ("Name the capital of France.", "The capital of France is Paris."),
    ("Name the capital of France.", "Paris, perhaps? I am not sure, but I think so."),
    ("How do I boil an egg?", "Boil water, add the egg, wait for eight minutes, and cool it under cold water."),
    ("Write a line of Python.", "```python\nprint(sum(range(10)))\n```"),
    ("写一句话。", "今天天气很好。"),
    ("2 + 2 = ?", "4"),
)
PROBES: tuple[Sample, ...] = tuple(
    sample for prompt, text in _TEXTS for sample in (Sample(prompt, text), Sample(prompt, text, cut=True))
)
"""Each text finished and cut."""


def check_probes(folder: Path, expected: Sequence[float], scores: FloatArray) -> None:
    """Raise UserError if the scores of a loaded model are not those that were stored.

    Args:
        folder: of the model, for the message.
        expected: stored scores, [16].
        scores: of the loaded model, [16].
    """
    if len(expected) != len(PROBES):
        raise UserError(
            f"'{folder}': expected {len(PROBES)} probe scores in reward_model.json, got {len(expected)}; train the "
            "reward model again"
        )
    stored = np.asarray(expected, np.float64)
    limit = max(TOLERANCE * float(stored.std()), _ROUNDING * float(np.abs(stored).max()))
    difference = np.abs(scores - stored)
    worst = int(np.argmax(np.where(np.isfinite(difference), difference, np.inf)))
    if not difference[worst] <= limit:
        raise UserError(
            f"'{folder}': expected the score {stored[worst]:.6g} for probe {worst + 1}, got {scores[worst]:.6g} "
            f"(allowed difference {limit:.2g}); the weights, the tokenizer or the chat template changed since "
            "training: restore the folder, or train it again"
        )
