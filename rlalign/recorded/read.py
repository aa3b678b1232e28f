"""Recorded data of a run: the rows of a source as groups of trajectories, to train on and held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlalign.config.schema import RecordedConfig
from rlalign.envs.mdp import TextMDP
from rlalign.errors import RecordError, UserError
from rlalign.preferences.pairs import Preference
from rlalign.recorded.columns import Kind
from rlalign.recorded.encode import Encoder
from rlalign.recorded.items import Item, check_kind, read_divided
from rlalign.recorded.rows import completion_of, demonstration, is_cut, labelled, prompt_of, refuse_tools, rewarded
from rlalign.rollout.recorded import Group, Trajectory


@dataclass(frozen=True, slots=True)
class RecordedData:
    """Recorded data of a run.

    Attributes:
        kind: demonstrations, rewards, labels or pairs.
        train: groups to train on.
        validation: groups of other prompts, which early stopping may select weights by; empty if the data has one
            group of prompts only.
        test: groups of further prompts; those of `validation` if there are few (see `rlalign.recorded.items.halves`).
        notes: sentences for the user: sizes, and what was left out.
    """

    kind: Kind
    train: list[Group]
    validation: list[Group]
    test: list[Group]
    notes: list[str] = field(default_factory=list)

    @property
    def held_out(self) -> list[Group]:
        """All groups that are not trained on."""
        return self.validation if self.test is self.validation else [*self.validation, *self.test]

    @property
    def has_logprobs(self) -> bool:
        """Whether the log-probs of all actions of the training data were recorded."""
        return all(row.logprobs is not None for group in self.train for row in group)

    @property
    def longest(self) -> int:
        """Largest number of actions of a trajectory."""
        return max(row.num_actions for group in (*self.train, *self.held_out) for row in group)


def read_recorded(
    source: str,
    wanted: Kind,
    mdp: TextMDP,
    *,
    algorithm: str,
    settings: RecordedConfig,
    positions: int | None = None,
    drop: bool = False,
    seed: int = 0,
) -> RecordedData:
    """Return the data of a source as token ids.

    The source's own splits divide it if it names both training and other rows. Else a share of the rows is held out by
    groups of equal and nearly equal prompts. Pairs whose completions have equal ids have no gradient and are left out.

    Args:
        source: file, folder of datasets, or data set of the hub.
        wanted: what the algorithm learns from; `settings.kind` reads other data as this kind.
        mdp: bound to the policy's tokenizer.
        algorithm: for messages.
        settings: kind, turns, largest length, and share of held-out data.
        positions: most token ids that the model reads; None: no limit.
        drop: leave out rows that cannot be used, instead of raising an error.
        seed: of the division.

    Raises:
        RecordError: a row cannot be used.
        UserError: the source cannot be read, holds data of another kind, or nothing is left to train on.
    """
    kind = check_kind(source, wanted, algorithm, settings)
    division = read_divided(source, kind, settings.held_out, seed)
    few = division.test is division.validation
    encoder = Encoder.of(mdp, positions)
    counts = Counter(division.left_out)
    parts: list[list[Group]] = []
    for part in (division.train, division.validation, () if few else division.test):
        groups: list[Group] = []
        for item in part:
            try:
                encoded = _encoded(encoder, item, kind, settings.turns)
                groups += [[row.compact() for row in group] for group in encoded]
            except RecordError:
                if not drop:
                    raise
                counts["that cannot be used"] += 1
        parts.append(_usable(groups, kind, settings.max_length, counts))
    train, validation, test = parts
    if not train:
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
        raise UserError(
            f"'{source}': expected {kind} to train on, got none that can be used ({reasons or 'no row'}); correct the "
            "data"
        )
    if kind == "rewards":
        train, validation, test = (_by_prompt(part) for part in parts)
    data = RecordedData(kind, train, validation, validation if few else test)
    return replace(data, notes=_notes(kind, train, data.held_out, counts, mdp))


def _encoded(encoder: Encoder, item: Item, kind: Kind, turns: str) -> list[Group]:
    """Return the groups of a row. Raises RecordError if it cannot be used."""
    if isinstance(item.content, RecordError):
        raise item.content
    if isinstance(item.content, Preference):
        return [_pair(encoder, item.content)]
    if kind == "demonstrations":
        rows = demonstration(encoder, item.content, item.place, turns)
    elif kind == "rewards":
        rows = rewarded(encoder, item.content, item.place)
    else:
        rows = labelled(encoder, item.content, item.place)
    return [[row] for row in rows]


def _pair(encoder: Encoder, preference: Preference) -> Group:
    refuse_tools(preference.extra, preference.place)
    explicit = preference.explicit()
    prompt = prompt_of({"prompt": explicit.prompt}, preference.place)
    sides = {"chosen": explicit.chosen, "rejected": explicit.rejected}
    return [
        encoder.completion(
            prompt,
            completion_of(sides, name, preference.place),
            place=preference.place,
            cut=is_cut(preference.extra, name),
            name=name,
            reward=float(name == "chosen"),
        )
        for name in sides
    ]


def _usable(groups: Sequence[Group], kind: Kind, max_length: int | None, counts: Counter[str]) -> list[Group]:
    """Return the groups that are short enough and have a gradient; the others are counted."""
    usable = []
    for group in groups:
        if max_length is not None and any(len(row.ids) > max_length for row in group):
            counts[f"longer than {max_length} tokens"] += 1
        elif kind == "pairs" and list(group[0].ids) == list(group[1].ids):
            counts["equal completions"] += 1
        else:
            usable.append(group)
    return usable


def _by_prompt(groups: Sequence[Group]) -> list[Group]:
    """Return the trajectories of logged rewards with one group per prompt, in the order of the data."""
    together: dict[tuple[int, ...], list[Trajectory]] = {}
    for group in groups:
        for row in group:
            together.setdefault(tuple(row.ids[: row.prompt_length]), []).append(row)
    return list(together.values())


_UNITS = {"demonstrations": "row", "rewards": "prompt", "labels": "row", "pairs": "pair"}


def _notes(
    kind: Kind, train: Sequence[Group], held_out: Sequence[Group], counts: Counter[str], mdp: TextMDP
) -> list[str]:
    unit = _UNITS[kind]
    notes = [f"{kind}: {_counted(len(train), unit)} to train on, {len(held_out)} held out"]
    reasons = [f"{count} {reason}" for reason, count in counts.items() if count]
    if reasons:
        notes.append(f"left out of the data: {', '.join(reasons)}")
    longer = sum(any(row.num_actions > mdp.max_new for row in group) for group in (*train, *held_out))
    if longer:
        notes.append(
            f"{_counted(longer, unit)} with a completion of more than {mdp.max_new} tokens, the limit of the policy's "
            "own; --rollout.max-new raises it"
        )
    return notes


def _counted(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
