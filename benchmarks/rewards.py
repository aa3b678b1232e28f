"""What the built-in rewards cost: texts per second of processor time, and the table of docs/rewards.md.

    python benchmarks/rewards.py            # measures, writes benchmarks/results/rewards.json and the table
    python benchmarks/rewards.py --table    # the table alone, from the committed figures

The texts are sentences of 12 words on average, with answers that differ from them in some words. Rewards that need a
package which is missing, a server or a model of one's own are left out. Processor time is what other programs on the
machine disturb least; the way to a worker process and back, about 0.2 ms a batch, is not in it.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, write

from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards import compose
from rlalign.rewards.specs import resolve

PAGE = Path(__file__).parents[1] / "docs" / "rewards.md"
BEGIN, END = "<!-- table: python benchmarks/rewards.py -->", "<!-- end -->"
_ORDINARY = "the a film actor story was is very good bad long short red dog park ran saw and with in of never always"
_WORDS = _ORDINARY.split()
_SECONDS = 0.5  # measured for at least so long

# what a reward needs before it can judge the sentences
SPECS = {
    "regex": r"regex?pattern=\bgood\b",
    "soft_overlong": "soft_overlong?limit=16",
    "label_match": "label_match?labels=yes|no",
    "label_valid": "label_valid?labels=yes|no",
    "coverage": "coverage?keywords=dog|ran|park",
    "keyword_order": "keyword_order?keywords=dog|ran|park",
    "ensemble": "ensemble?of=vader|readability",
    "product": "product?of=distinct_n|readability",
    "code": "code?allow=true",
}
SKIPPED = ("llm_judge", "classifier", "fluency")


def sentences(count: int) -> tuple[list[str], list[str]]:
    """Sentences and answers that share some of their words."""
    rng = np.random.default_rng(0)
    said, wanted = [], []
    for _ in range(count):
        text = rng.choice(_WORDS, size=rng.integers(8, 17))
        changed = np.where(rng.random(len(text)) < 0.3, rng.choice(_WORDS, size=len(text)), text)
        said.append(" ".join(text).capitalize() + ".")
        wanted.append(" ".join(changed).capitalize() + ".")
    return said, wanted


def columns_of(name: str, count: int) -> tuple[list[str], list[str]]:
    """Completions and answers that suit a reward."""
    if name in ("json_fields", "json_valid"):
        return [json.dumps({"who": "Li", "when": i, "tags": ["a", "b"]}) for i in range(count)], [
            json.dumps({"who": "Wu", "when": i, "tags": ["b", "a"]}) for i in range(count)
        ]
    if name in ("span_f1", "span_iou"):
        return [f"Marie Curie | person\nWarsaw {i} | place" for i in range(count)], [
            "Marie | person\nRome | place"
        ] * count
    if name == "math_verify":
        return [f"So the answer is {i}." for i in range(count)], [str(i + i % 2) for i in range(count)]
    if name in ("label_match", "label_valid"):
        return ["yes"] * count, ["no"] * count
    if name == "snownlp":
        return [f"这部电影很好看，我看了{i}次，非常喜欢。" for i in range(count)], [""] * count
    if name == "code":
        return [f"x = {i}" for i in range(count)], ["assert x >= 0"] * count
    return sentences(count)


def texts_per_second(name: str) -> float:
    """Measured over batches of 64 after a first call that loads what must be loaded."""
    ((item, _),) = resolve(SPECS.get(name, name))
    with compose(replace(item, timeout_s=None)) as total:
        done, batch = 0, 64 if name != "code" else 8
        said, wanted = columns_of(name, 20_000 if name != "code" else 200)
        spent, at = 0.0, 0
        for first in (True, *[False] * 10_000):
            rows = slice(at, at + batch)
            texts = said[rows]
            if not texts:
                at = 0
                continue
            arguments: Any = ("episode", ["Say something."] * len(texts), texts, [[1] * 12] * len(texts))
            began = sum(os.times()[:4])  # of this process and of children that have ended
            total.score(*arguments, answer=wanted[rows])
            if first:
                continue
            spent, done, at = spent + sum(os.times()[:4]) - began, done + len(texts), at + batch
            if spent > _SECONDS:
                break
    return done / spent


def measure() -> dict[str, float]:
    """Name -> texts per second, three figures."""
    found = {}
    for name in sorted(REWARDS._paths):
        if name in SKIPPED:
            continue
        try:
            found[name] = float(f"{texts_per_second(name):.2g}")
        except UserError as error:
            print(f"{name}: left out, {error}")
            continue
        print(f"{name:20} {found[name]:>12,.0f} texts/s", flush=True)
    return found


def table(figures: dict[str, float]) -> str:
    """A row a reward: first sentence, range, texts per second, how it is hacked; from the docstrings."""
    lines = ["| reward | what it says | range | texts/s | hacked by |", "|---|---|---|---|---|"]
    for name in sorted(REWARDS._paths):
        text = " ".join((REWARDS.get(name).__doc__ or "").split())
        first = re.split(r"(?<=[.:]) (?=[A-Z`])|\. ", text.partition(" Range:")[0])[0].rstrip(".:")
        span, hacks = (_after(text, mark) for mark in ("Range:", "Hacked by:"))
        speed = f"{figures[name]:,.0f}" if name in figures else "a model's"
        cells = [f"`{name}`", first, span, speed, hacks]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _after(text: str, mark: str) -> str:
    """What a docstring says after a mark, up to its full stop or semicolon."""
    found = re.search(rf"{mark} (.*?)(?:;|\.(?= [A-Z])|\.$|$)", text)
    return found.group(1) if found else ""


def main() -> None:
    if "--table" not in sys.argv:
        write("rewards", {"texts_per_second": measure()})
    figures = json.loads((RESULTS / "rewards.json").read_text())["texts_per_second"]
    page = PAGE.read_text(encoding="utf-8")
    head, rest = page.split(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}\n\n{table(figures)}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
