"""The description of a study: study.toml."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlalign.errors import UserError, did_you_mean
from rlalign.typecheck import check_fields, check_range, checked, hints_of

Kind = Literal["pair", "rating", "ranking"]
LABELS = "ABCD"
"""Labels of the completions of an item, in the order on the screen."""
CHOICES = ("a", "b", "tie", "bad", "skip")
"""Answers to a pair: A is better, B is better, a tie, both are bad, no answer."""

_CONSENT = {
    "en": (
        "You will judge texts that were written by computer programs. Your answers are stored under a pseudonym and "
        "are used for research. You can stop at any time, and withdraw your answers."
    ),
    "zh": "您将评判由计算机程序生成的文本。您的回答以化名保存，用于研究。您可以随时停止，并可撤回您的回答。",
}
_GUIDELINES = {
    "en": "Judge each answer as you would if you had asked yourself. Take as long as you need.",
    "zh": "请像您自己提问那样评判每个回答。不限时间。",
}


@dataclass(frozen=True, slots=True)
class Scale:
    """A scale of ratings, from 1 to `points`.

    Attributes:
        name: identifier of letters, digits and underscores.
        label: what is rated, a text or a text for each language; empty: the name.
        low: meaning of 1, likewise.
        high: meaning of the largest number, likewise.
        points: number of points, 2 to 11.
    """

    name: str
    label: str | Mapping[str, str] = ""
    low: str | Mapping[str, str] = ""
    high: str | Mapping[str, str] = ""
    points: int = 5

    def text(self, part: Literal["label", "low", "high"], language: str) -> str:
        """Return the label or the meaning of an end in a language, else in the first one that has a text."""
        value: str | Mapping[str, str] = getattr(self, part)
        if isinstance(value, str):
            return value
        return value.get(language) or next(iter(value.values()), "")


@dataclass(frozen=True, slots=True)
class Example:
    """An item whose answer is known: for practice, for the check before the first item, or mixed in as gold.

    Attributes:
        prompt: a text or messages.
        completions: the texts, in the order of the labels.
        answer: a, b, tie or bad for a pair; the point on the first scale for a rating; the best label of a ranking.
        explanation: Markdown, shown after a practice item.
    """

    prompt: Any
    completions: tuple[str, ...]
    answer: str
    explanation: str = ""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the completions of the policies are sampled.

    Attributes:
        max_new: largest number of tokens; 0: as each run was trained.
        temperature: 0: as each run was trained.
        samples: completions per prompt and policy.
    """

    max_new: int = 0
    temperature: float = 0.0
    samples: int = 1


@dataclass(frozen=True, slots=True)
class Stop:
    """When enough is collected: a number of votes, or the width of the interval of each win rate, in points.

    Attributes:
        votes: number of votes; 0: all items have `votes_per_item`.
        width: 95 % interval of a win rate, in percentage points; 0: not used.
    """

    votes: int = 0
    width: float = 0.0


@dataclass(frozen=True, slots=True)
class Study:
    """A study.

    Attributes:
        name: title of the study.
        policies: run folders whose completions are compared.
        prompts: a data file with a column `prompt`; empty: the training prompts of the first policy's environment.
        completions: a data file of prompt, policy and completion, in place of policies and prompts.
        kind: pair, rating or ranking.
        count: number of prompts; 0: all.
        votes_per_item: number of people who judge an item.
        items_per_person: largest number of items of a person; 0: no limit.
        guidelines: a Markdown file; empty: a short text.
        consent: a Markdown file; empty: a short text.
        languages: of the pages, "en" and "zh"; the first one is the default.
        scales: of ratings.
        practice: items with an explanation, before the first item.
        check: items that must be answered correctly, within two tries, before the first item.
        gold: items with a known answer, mixed in.
        gold_share: share of items of a person that are gold questions.
        repeat_share: share of items of a person that were shown to them before.
        selection: the next item: "random", "priority" or "uncertainty".
        random_share: share of the items that "uncertainty" selects at random, at least 0.3.
        lease_minutes: an item that is not answered in this time is given to somebody else.
        break_items: a break is suggested after this number of items.
        break_minutes: a break is suggested after this time of work.
        completion_code: show a code at the end, for crowd sites.
        seed: of the samples and of the order of items.
        sampling: how completions are sampled.
        stop: when enough is collected.
    """

    name: str
    policies: tuple[str, ...] = ()
    prompts: str = ""
    completions: str = ""
    kind: Kind = "pair"
    count: int = 0
    votes_per_item: int = 3
    items_per_person: int = 0
    guidelines: str = ""
    consent: str = ""
    languages: tuple[str, ...] = ("en",)
    scales: tuple[Scale, ...] = ()
    practice: tuple[Example, ...] = ()
    check: tuple[Example, ...] = ()
    gold: tuple[Example, ...] = ()
    gold_share: float = 0.0
    repeat_share: float = 0.0
    selection: str = "random"
    random_share: float = 0.3
    lease_minutes: float = 20.0
    break_items: int = 50
    break_minutes: float = 25.0
    completion_code: bool = False
    seed: int = 0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    stop: Stop = field(default_factory=Stop)


def read_study(path: Path) -> Study:
    """Read study.toml and check it, without its policies and data.

    Paths in it are relative to its folder.

    Raises:
        UserError: the file cannot be read, or a setting is unknown, of another type, out of range or contradictory.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"'{path}' cannot be read ({error.strerror}); use rlalign new study {path} to write a template"
        ) from error
    except ValueError as error:  # of tomllib, or of a file that is not UTF-8
        raise UserError(f"'{path}' is no TOML file ({error}); mend it") from error
    content.pop("loop", None)  # settings of `rlalign feedback loop`: see feedback/loop/plan.py
    return checked_study(content)


def checked_study(values: Mapping[str, Any]) -> Study:
    """Return the study of the values of study.toml, checked without its policies and data.

    Raises:
        UserError: a setting is unknown, of another type, out of range or contradictory.
    """
    study: Study = _from_values(Study, values, "")
    _check(study)
    return study


def to_values(study: Study) -> dict[str, Any]:
    """Return a study as JSON values, from which `from_values` rebuilds it."""
    return dataclasses.asdict(study)


def from_values(values: Mapping[str, Any]) -> Study:
    """Return the study of stored JSON values."""
    study: Study = _from_values(Study, values, "")
    return study


def text_of(study: Study, part: Literal["consent", "guidelines"], folder: Path) -> dict[str, str]:
    """Return the Markdown text of the consent or of the guidelines, by language; a file serves all languages."""
    name = study.consent if part == "consent" else study.guidelines
    if not name:
        defaults = _CONSENT if part == "consent" else _GUIDELINES
        return {language: defaults[language] for language in study.languages}
    texts = {}
    for language in study.languages:
        # guidelines.zh.md beside guidelines.md serves the Chinese pages
        path = folder / name
        own = path.with_name(f"{path.stem}.{language}{path.suffix}")
        try:
            texts[language] = (own if own.is_file() else path).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise UserError(f"{part}: '{path}' cannot be read ({error}); write it, or leave out {part}") from error
    return texts


def _from_values(cls: Any, values: Mapping[str, Any], prefix: str) -> Any:
    """Return a dataclass of this module from nested values."""
    names = [f.name for f in dataclasses.fields(cls)]
    parts: dict[str, Any] = {
        "scales": Scale, "practice": Example, "check": Example, "gold": Example, "sampling": SamplingSettings,
        "stop": Stop,
    }  # fmt: skip
    arguments: dict[str, Any] = {}
    for name, value in values.items():
        if name not in names:
            raise UserError(f"unknown setting '{prefix}{name}' of a study.{did_you_mean(name, names)}")
        part = parts.get(name) if cls is Study else None
        where = f"{prefix}{name}"
        if part in (Scale, Example):
            if not isinstance(value, list | tuple) or not all(isinstance(entry, Mapping) for entry in value):
                raise UserError(f"'{where}': expected tables, got {value!r}; use [[{where}]]")
            arguments[name] = tuple(_from_values(part, entry, f"{where}.") for entry in value)
        elif cls is Example and name == "answer" and isinstance(value, int) and not isinstance(value, bool):
            arguments[name] = str(value)  # points of a rating
        elif part is not None:
            if not isinstance(value, Mapping):
                raise UserError(f"'{where}': expected a table, got {value!r}; use [{where}]")
            arguments[name] = _from_values(part, value, f"{where}.")
        else:
            arguments[name] = checked(hints_of(cls)[name], tuple(value) if isinstance(value, list) else value, where)
    missing = [
        f.name
        for f in dataclasses.fields(cls)
        if f.name not in arguments and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise UserError(f"expected the setting '{prefix}{missing[0]}' of a study, which is missing; add it")
    built = cls(**arguments)
    check_fields(built, prefix)
    return built


def _check(study: Study) -> None:
    """Raise UserError for settings that are out of range or contradict each other."""
    from rlalign.feedback.selection import SELECTIONS
    from rlalign.feedback.web.words import LANGUAGES

    if not study.name.strip():
        raise UserError("'name': expected the title of the study, got an empty text; use a few words")
    if bool(study.completions) == bool(study.policies):
        raise UserError(
            "expected either 'policies' with 'prompts', or 'completions', got "
            f"{'both' if study.completions else 'neither'}; use one of them"
        )
    for name, least, most in (
        ("votes_per_item", 1, 1000), ("count", 0, None), ("items_per_person", 0, None), ("gold_share", 0, 0.5),
        ("repeat_share", 0, 0.5), ("random_share", 0.3, 1), ("lease_minutes", 0.1, 1440), ("break_items", 1, None),
        ("break_minutes", 1, None),
    ):  # fmt: skip
        value = getattr(study, name)
        check_range(name, value, least=least)
        if most is not None and value > most:
            raise UserError(f"'{name}': expected at most {most}, got {value}; use a smaller number")
    check_range("sampling.samples", study.sampling.samples, least=1)
    check_range("sampling.max_new", study.sampling.max_new, least=0)
    check_range("sampling.temperature", study.sampling.temperature, least=0)
    check_range("stop.votes", study.stop.votes, least=0)
    check_range("stop.width", study.stop.width, least=0)
    if study.stop.width and study.kind != "pair":
        raise UserError(f"'stop.width': expected kind 'pair', whose win rates have intervals, got '{study.kind}'")
    if not study.languages or set(study.languages) - set(LANGUAGES):
        raise UserError(
            f"'languages': expected some of {', '.join(LANGUAGES)}, got {', '.join(study.languages)}; use [\"en\"]"
        )
    for name, entries in (
        ("languages", study.languages), ("policies", study.policies), ("scales", [s.name for s in study.scales])
    ):  # fmt: skip
        twice = sorted({entry for entry in entries if list(entries).count(entry) > 1})
        if twice:
            raise UserError(f"'{name}': expected different entries, got '{twice[0]}' twice; leave one out")
    if study.scales and study.kind != "rating":
        raise UserError(f"'scales': expected kind 'rating', got '{study.kind}'; leave the scales out")
    if study.gold and not study.gold_share:
        raise UserError("'gold_share': expected a share above 0 for the gold questions, got 0; use gold_share = 0.1")
    if study.stop.width and len(study.policies) == 1:
        raise UserError("'stop.width': expected two policies or more, whose win rates have intervals; use stop.votes")
    if study.selection not in SELECTIONS:
        raise UserError(f"unknown selection '{study.selection}'.{did_you_mean(study.selection, SELECTIONS)}")
    if study.selection == "uncertainty" and study.kind != "pair":
        raise UserError(f"selection 'uncertainty': expected kind 'pair', got '{study.kind}'; use selection 'random'")
    if study.kind == "rating" and not study.scales:
        raise UserError("kind 'rating': expected at least one scale, got none; add [[scales]] with a name")
    for scale in study.scales:
        if not scale.name.isidentifier():
            raise UserError(f"'scales.name': expected letters, digits and underscores, got '{scale.name}'")
        for part in (scale.label, scale.low, scale.high):
            foreign = set() if isinstance(part, str) else set(part) - set(study.languages)
            if foreign:
                raise UserError(
                    f"'scales': expected texts in {', '.join(study.languages)}, got one in '{sorted(foreign)[0]}'; "
                    "add it to 'languages'"
                )
        check_range("scales.points", scale.points, least=2)
        if scale.points > 11:
            raise UserError(f"'scales.points': expected at most 11, got {scale.points}")
    if study.gold_share and not study.gold:
        raise UserError("'gold_share': expected gold questions, got none; add [[gold]]")
    for part in ("practice", "check", "gold"):
        for example in getattr(study, part):
            _check_example(study, part, example)


def number_of_completions(kind: Kind) -> tuple[int, int]:
    """Return the least and the largest number of completions of an item."""
    return {"pair": (2, 2), "rating": (1, 1), "ranking": (2, 4)}[kind]


def _check_example(study: Study, part: str, example: Example) -> None:
    least, most = number_of_completions(study.kind)
    if not least <= len(example.completions) <= most:
        raise UserError(
            f"'{part}.completions': expected {least if least == most else f'{least} to {most}'} for kind "
            f"'{study.kind}', got {len(example.completions)}"
        )
    if study.kind == "pair":
        allowed = set(CHOICES) - {"skip"}
    elif study.kind == "rating":
        allowed = {str(point) for point in range(1, study.scales[0].points + 1)}
    else:
        allowed = set(LABELS[: len(example.completions)].lower())
    if example.answer.lower() not in allowed:
        raise UserError(f"'{part}.answer': expected one of {', '.join(sorted(allowed))}, got '{example.answer}'")
