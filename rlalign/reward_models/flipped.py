"""Refits on labels of which a share is flipped: how much of the accuracy depends on careful labels."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlalign.feedback.statistics.estimate import Estimate
from rlalign.reward_models.data import Pair
from rlalign.reward_models.metrics import PairMetrics
from rlalign.reward_models.settings import Settings
from rlalign.reward_models.train import train_reward_model
from rlalign.typecheck import check_range


@dataclass(frozen=True, slots=True)
class Refit:
    """A refit on flipped labels.

    Attributes:
        share: of the labels in training that were flipped.
        accuracy: on the held-out pairs, whose labels are unchanged.
    """

    share: float
    accuracy: Estimate


def flip(pairs: Sequence[Pair], share: float, seed: int) -> list[Pair]:
    """Return pairs of which a share, rounded to a number of pairs, has its sides exchanged.

    Args:
        pairs: the pairs.
        share: between 0 and 1.
        seed: of the choice.
    """
    check_range("share of flipped labels", share, least=0, most=1)
    chosen = set(random.Random(seed).sample(range(len(pairs)), round(share * len(pairs))))
    return [
        replace(
            pair, chosen=pair.rejected, rejected=pair.chosen,
            chosen_first=None if pair.chosen_first is None else not pair.chosen_first,
        ) if i in chosen else pair
        for i, pair in enumerate(pairs)
    ]  # fmt: skip


def refit_flipped(
    train: Sequence[Pair], held_out: Sequence[Pair], settings: Settings, shares: Sequence[float]
) -> list[Refit]:
    """Train once per share on labels of which that share is flipped, and measure on unchanged labels.

    Args:
        train: pairs of the training.
        held_out: pairs of other groups of prompts.
        settings: of the training.
        shares: of flipped labels.
    """
    found = []
    for share in shares:
        rows = [replace(pair, split="train") for pair in flip(train, share, settings.seed)]
        rows += [replace(pair, split="test") for pair in held_out]
        with tempfile.TemporaryDirectory(prefix="rlalign-refit-") as scratch:
            result = train_reward_model(rows, Path(scratch) / "rm", settings)
        assert isinstance(result.metrics, PairMetrics)  # pairs were passed
        found.append(Refit(share, result.metrics.accuracy))
    return found
