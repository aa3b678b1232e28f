"""Speed of the built-in rewards in texts per second of processor time.

    python benchmarks/rewards.py            # writes benchmarks/results/rewards.json; docs/_generate reads it

The texts are sentences of 12 words on average, with answers that differ from them in some words. Rewards that need a
missing package, a server or the user's own model are left out. Processor time is used because other programs on the
machine affect it least. It excludes the round trip to a worker process, about 0.2 ms per batch.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import Any

import numpy as np
from machine import write

from rlalign.errors import UserError
from rlalign.registry import REWARDS
from rlalign.rewards import compose
from rlalign.rewards.specs import resolve

_ORDINARY = "the a film actor story was is very good bad long short red dog park ran saw and with in of never always"
_WORDS = _ORDINARY.split()
_SECONDS = 0.5  # least processor time of a measurement

# parameters that a reward needs to score the sentences
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
    """Return sentences, and answers that share some of their words."""
    rng = np.random.default_rng(0)
    completions: list[str] = []
    answers: list[str] = []
    for _ in range(count):
        text = rng.choice(_WORDS, size=rng.integers(8, 17))
        changed = np.where(rng.random(len(text)) < 0.3, rng.choice(_WORDS, size=len(text)), text)
        completions.append(" ".join(text).capitalize() + ".")
        answers.append(" ".join(changed).capitalize() + ".")
    return completions, answers


def columns_of(name: str, count: int) -> tuple[list[str], list[str]]:
    """Return completions and answers that suit a reward."""
    if name in ("json_fields", "json_valid"):
        completions = [json.dumps({"who": "Li", "when": i, "tags": ["a", "b"]}) for i in range(count)]
        answers = [json.dumps({"who": "Wu", "when": i, "tags": ["b", "a"]}) for i in range(count)]
        return completions, answers
    if name in ("span_f1", "span_iou"):
        completions = [f"Marie Curie | person\nWarsaw {i} | place" for i in range(count)]
        return completions, ["Marie | person\nRome | place"] * count
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
    """Return the speed over batches of 64 (code: 8), after a first call that loads models and packages."""
    ((item, _),) = resolve(SPECS.get(name, name))
    batch = 64 if name != "code" else 8
    completions, answers = columns_of(name, 20_000 if name != "code" else 200)
    scored = 0
    seconds = 0.0
    start = 0
    with compose(replace(item, timeout_s=None)) as total:
        for warm_up in (True, *[False] * 10_000):
            rows = slice(start, start + batch)
            texts = completions[rows]
            if not texts:
                start = 0
                continue
            arguments: Any = ("episode", ["Say something."] * len(texts), texts, [[1] * 12] * len(texts))
            before = _processor_seconds()
            total.score(*arguments, answer=answers[rows])
            if warm_up:
                continue
            seconds += _processor_seconds() - before
            scored += len(texts)
            start += batch
            if seconds > _SECONDS:
                break
    return scored / seconds


def _processor_seconds() -> float:
    """Return the processor time of this process and of its ended children."""
    return sum(os.times()[:4])


def measure() -> dict[str, float]:
    """Return texts per second by name, to two significant digits."""
    figures = {}
    for name in sorted(REWARDS.built_in):
        if name in SKIPPED:
            continue
        try:
            figures[name] = float(f"{texts_per_second(name):.2g}")
        except UserError as error:
            print(f"{name}: left out, {error}")
            continue
        print(f"{name:20} {figures[name]:>12,.0f} texts/s", flush=True)
    return figures


def main() -> None:
    print(write("rewards", {"texts_per_second": measure()}))
    print("python docs/_generate writes them into docs/reference/rewards.md")


if __name__ == "__main__":
    main()
