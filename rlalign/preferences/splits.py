"""Splits of preferences into train and test by groups of prompts, never by pair."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from rlalign.errors import UserError
from rlalign.preferences.near_duplicates import prompt_groups, prompt_text
from rlalign.preferences.pairs import Preference


@dataclass(frozen=True, slots=True)
class Split:
    """Two parts of preferences that share no group of prompts.

    Attributes:
        train: preferences, with `split` "train", in their order.
        test: preferences, with `split` "test", in their order.
        train_groups: number of groups of prompts in train.
        test_groups: number of groups of prompts in test.
    """

    train: Sequence[Preference]
    test: Sequence[Preference]
    train_groups: int
    test_groups: int

    def __str__(self) -> str:
        return (
            f"train: {len(self.train)} preferences, {self.train_groups} groups of prompts; "
            f"test: {len(self.test)} preferences, {self.test_groups} groups of prompts"
        )


def split_by_group(preferences: Iterable[Preference], *, test: float = 0.2, seed: int = 0) -> Split:
    """Divide preferences into train and test by groups of equal and nearly equal prompts (`near_duplicates`).

    Groups are taken in a random order, and a group is in test if test then has at most its share of the preferences.
    Groups are larger than that share, or all of them together smaller, only if the data has no other division.

    Args:
        preferences: the preferences, whose own `group` and `split` are ignored.
        test: share of the preferences in test, between 0 and 1.
        seed: of the random order.

    Raises:
        UserError: the share is out of range, or the prompts form one group.
    """
    if not 0 < test < 1:
        raise UserError(f"test: expected a share between 0 and 1, got {test}; use test=0.2")
    held = list(preferences)
    groups = groups_of(held)
    count = len(set(groups))
    if count < 2:
        raise UserError(
            f"expected two or more groups of prompts, got {count} in {len(held)} preferences; add other prompts"
        )
    chosen = chosen_groups(groups, test, seed)
    parts: dict[str, list[Preference]] = {"train": [], "test": []}
    for preference, group in zip(held, groups, strict=True):
        name = "test" if group in chosen else "train"
        parts[name].append(replace(preference, split=name))
    return Split(parts["train"], parts["test"], count - len(chosen), len(chosen))


def chosen_groups(groups: Sequence[int], share: float, seed: int) -> set[int]:
    """Return the groups that are held out.

    They are taken in a random order, each if the held-out rows then have at most their share. If each group is larger
    than that, it is the smallest one, of equal ones the first in that order.

    Args:
        groups: the group of each row; two different ones or more.
        share: of the held-out rows, above 0.
        seed: of the random order.
    """
    sizes = Counter(groups)
    order = sorted(sizes)
    random.Random(seed).shuffle(order)
    chosen: set[int] = set()
    count = 0
    for group in order:
        if count + sizes[group] <= share * len(groups):
            chosen.add(group)
            count += sizes[group]
    return chosen or {min(order, key=lambda group: sizes[group])}


def groups_of(preferences: Sequence[Preference]) -> list[int]:
    """Return the group of the prompt of each preference; an implicit prompt is extracted as TRL does."""
    return prompt_groups([group_text(preference) for preference in preferences])


def group_text(preference: Preference) -> str:
    """Return the text by which the prompt of a preference is compared with others."""
    return prompt_text(preference.explicit().prompt)
