"""Checks of all preferences together: forms, duplicates, leaks between splits, lengths."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rlalign.envs.records.splits import KNOWN
from rlalign.preferences.findings import Findings
from rlalign.preferences.near_duplicates import are_few, prompt_groups
from rlalign.preferences.pairs import Preference
from rlalign.preferences.row_checks import ends_unfinished, joins_words, length_of, split_name
from rlalign.preferences.splits import group_text

_MANY = 20
"""Preferences from which a share is reported as a finding."""
_ALWAYS = 0.9
"""Share of pairs in which the same side is longer, from which length alone predicts the label."""
_UNFINISHED = 0.2
_JOINED = 0.5


class SetChecks:
    """Collects what the checks of all preferences need: digests, prompts and lengths, and no other text.

    Args:
        findings: gets what is found.
        first: number of places that are kept per form.
    """

    def __init__(self, findings: Findings, first: int) -> None:
        self._findings = findings
        self._first = first
        self.forms: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}
        self._seen: dict[bytes, str] = {}
        self._prompts: list[str] = []
        self._rows: list[tuple[str, str]] = []  # place and split
        self._lengths: list[tuple[int, int]] = []
        self._unfinished = [0, 0]
        self._joined = 0

    def add(self, preference: Preference) -> None:
        """Add a preference of the file itself."""
        form = preference.form
        self.forms[form] += 1
        places = self._places.setdefault(form, [])
        if len(places) < self._first:
            places.append(preference.place)
        explicit = preference.explicit()
        self._duplicates(preference, explicit)
        self._prompts.append(group_text(preference))
        self._rows.append((preference.place, split_name(preference, KNOWN)))
        self._lengths.append((length_of(explicit.chosen), length_of(explicit.rejected)))
        self._unfinished[0] += ends_unfinished(preference.chosen)
        self._unfinished[1] += ends_unfinished(preference.rejected)
        self._joined += joins_words(preference)

    def add_test(self, preference: Preference) -> None:
        """Add a preference of a second file, whose prompts must not be in the first one."""
        self._prompts.append(group_text(preference))
        self._rows.append((preference.place, "test"))

    def _duplicates(self, preference: Preference, explicit: Preference) -> None:
        sides = (explicit.chosen, explicit.rejected)
        key, swapped = (_digest(explicit.prompt, *pair) for pair in (sides, sides[::-1]))
        if key == swapped:
            return  # equal sides are a finding of their own
        if swapped in self._seen:
            self._findings.add("contradiction", preference.place, f"of {self._seen[swapped]}")
        # two people may give the same answer about a pair: rows of votes name them
        own = _digest(key.hex(), preference.annotator or "", "")
        if own in self._seen:
            self._findings.add("duplicate", preference.place, f"of {self._seen[own]}")
        self._seen.setdefault(own, preference.place)
        self._seen.setdefault(key, preference.place)

    def finish(self, *, test: bool) -> dict[str, Any]:
        """Add the findings about all rows, and return the statistics.

        Args:
            test: a second file was added; rows of the first one without a split are those of train.
        """
        self._mixed_forms()
        groups = prompt_groups(self._prompts)
        self._leaks(groups, test=test)
        own = len(self._lengths)
        statistics: dict[str, Any] = {
            "prompts": len(set(self._prompts[:own])),
            "prompt_groups": len(set(groups[:own])),
            "splits": dict(Counter(split or "none" for _, split in self._rows[:own])),
            **self._length_statistics(),
        }
        if are_few(statistics["prompt_groups"], statistics["prompts"]):
            detail = f"{statistics['prompts']} prompts in {statistics['prompt_groups']}"
            self._findings.add("few-groups", "all rows", detail)
        if own >= _MANY:
            shares = [count / own for count in self._unfinished]
            if max(shares) >= _UNFINISHED:
                detail = f"{shares[0]:.0%} of chosen, {shares[1]:.0%} of rejected"
                self._findings.add("unfinished", "all rows", detail, sum(self._unfinished))
            if self._joined >= _JOINED * own:
                self._findings.add("joined-words", "all rows", f"{self._joined / own:.0%} of the rows", self._joined)
        return statistics

    def _mixed_forms(self) -> None:
        if len(self.forms) == 1 and "mixed" not in self.forms:
            return
        common = next((form for form, _ in self.forms.most_common() if form != "mixed"), "")
        for form, count in self.forms.items():
            if form == common:
                continue
            missing = common.endswith("explicit") and form == common.replace("explicit", "implicit")
            kind = "missing-prompt" if missing else "mixed-forms"
            kept = self._places[form]
            detail = f"{form}, most are {common}"
            if form == "mixed":
                detail = "a text beside messages; leave out the column prompt if the messages contain it"
            for place in kept[:-1]:
                self._findings.add(kind, place, detail)
            self._findings.add(kind, kept[-1], detail, count - len(kept) + 1)

    def _leaks(self, groups: Sequence[int], *, test: bool) -> None:
        """Report the rows of test and validation whose group has rows of train."""
        trained: dict[int, dict[str, str]] = {}
        own = len(self._lengths)
        splits = ["train" if test and not split and i < own else split for i, (_, split) in enumerate(self._rows)]
        for i, (place, _) in enumerate(self._rows):
            if splits[i] == "train" and self._prompts[i]:
                trained.setdefault(groups[i], {}).setdefault(_spaced(self._prompts[i]), place)
        for i, (place, _) in enumerate(self._rows):
            if splits[i] in ("test", "validation") and groups[i] in trained and self._prompts[i]:
                rows = trained[groups[i]]
                same = rows.get(_spaced(self._prompts[i]))
                kind = "near-leak" if same is None else "leak"
                self._findings.add(kind, place, f"{splits[i]}; train has it in {same or next(iter(rows.values()))}")

    def _length_statistics(self) -> dict[str, Any]:
        """Return shares and the correlation of the label with the length, in characters without the prompt.

        The correlation is the point-biserial one over the 2 N sides: between the length of a side and 1 for chosen, 0
        for rejected.
        """
        count = len(self._lengths)
        longer = sum(a > b for a, b in self._lengths)
        different = sum(a != b for a, b in self._lengths)
        share = longer / different if different else None
        if share is not None and different >= _MANY and max(share, 1 - share) >= _ALWAYS:
            detail = f"chosen is longer in {longer} of {different} pairs of different length"
            self._findings.add("always-longer", "all rows", detail, max(longer, different - longer))
        return {
            "chosen_longer": share,
            "pairs_of_different_length": different,
            "mean_length_chosen": sum(a for a, _ in self._lengths) / count if count else None,
            "mean_length_rejected": sum(b for _, b in self._lengths) / count if count else None,
            "length_correlation": _correlation(self._lengths),
        }


def _correlation(lengths: Sequence[tuple[int, int]]) -> float | None:
    """Return the point-biserial correlation of label and length; None if all lengths are equal."""
    values = [value for pair in lengths for value in pair]
    if not values:
        return None
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    if deviation == 0:
        return None
    # the label has the standard deviation 1/2, and the covariance is a quarter of the difference of the means
    difference = sum(a - b for a, b in lengths) / len(lengths)
    return difference / (2 * deviation)


def _digest(*parts: Any) -> bytes:
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=16).digest()


def _spaced(text: str) -> str:
    return " ".join(text.casefold().split())
