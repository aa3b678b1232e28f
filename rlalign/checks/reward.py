"""The laws of a reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlalign.checks.invariant import FUZZ, TOLERANCE, LawResult, law
from rlalign.errors import UserError
from rlalign.tokenizers import ByteTokenizer
from rlalign.types import Reward, Scores

EXAMPLES = {
    "code": "code?allow=true&seconds=1",
    "ensemble": "ensemble?of=repetition|too_short&how=penalised",
    "product": "product?of=distinct_n|json_valid",
    "regex": "regex?pattern=[a-z]+",
    "soft_overlong": "soft_overlong?limit=64",
}
"""With what those built-in rewards are checked that need a parameter."""


def check_reward_laws(spec: Any) -> list[LawResult]:
    """Run every law of a reward: on texts of every kind, alone and together.

    Args:
        spec: as for `rlalign.rewards.compose`. A reward that needs a parameter which was not given is not checked. One
            that asks for the policy gets a small random one.
    """
    from rlalign.rewards.weighted_sum import compose

    with compose([spec]) as reward:
        if reward.needs_policy:
            from rlalign.policies.factory import make_policy

            reward.bind(make_policy("gru", tokenizer=ByteTokenizer()))
        return _laws(reward)


def _laws(reward: Reward) -> list[LawResult]:
    scope = next(iter(reward.scopes.values()))
    texts = [*FUZZ, *(text[:40] for text in FUZZ)]

    answer = _ANSWERS[0]

    def score(rows: Sequence[int]) -> Scores:
        event: Any = {"token": "turn", "turn": "turn"}.get(scope, scope)
        said = [texts[i] for i in rows]
        ids = [[*ByteTokenizer().encode(text), ByteTokenizer.eos_id] for text in said]
        return reward.score(event, ["Say something."] * len(rows), said, ids, **_columns(said, answer))

    everything = list(range(len(texts)))
    try:
        try:
            score([len(FUZZ) - 1])
        except UserError:
            answer = _ANSWERS[1]
            score([len(FUZZ) - 1])
    except UserError as error:
        return [LawResult("can be scored", True, f"not checked: {error}")]
    except Exception:
        pass  # the first law says which text and why

    def crashes() -> str:
        for i in everything:
            try:
                score([i])
            except Exception as error:
                return f"{texts[i][:40]!r}: {type(error).__name__}: {error}"
        return ""

    def shapes() -> str:
        scores = score(everything)
        arrays = {"total": scores.total, "valid": scores.valid, **scores.components}
        wrong = [f"{k} has shape {np.shape(v)}" for k, v in arrays.items() if np.shape(v) != (len(texts),)]
        return ", ".join(wrong)

    def honest() -> str:
        scores = score(everything)
        wrong = [texts[i][:40] for i in everything if scores.valid[i] != np.isfinite(scores.total[i])]
        return f"{wrong[0]!r} failed and still has a total, or the reverse" if wrong else ""

    def sums() -> str:
        scores = score(everything)
        total = sum(reward.weights[name] * np.nan_to_num(value) for name, value in scores.components.items())
        return "" if np.allclose((total - scores.total)[scores.valid], 0, atol=TOLERANCE) else "they differ"

    def repeats() -> str:
        return _unequal(texts, score(everything), score(everything), everything)

    def alone() -> str:
        order = np.random.default_rng(0).permutation(len(texts)).tolist()
        return _unequal(texts, score(everything), score(order), order)

    return [
        law("any text can be scored", crashes),
        law("one value per sample", shapes),
        law("a failed reward is NaN, a valid one finite", honest),
        law("the total is the weighted sum of the components", sums),
        law("equal texts score equally", repeats),
        law("a score does not depend on its place in the batch", alone, scope != "group"),
    ]


_ANSWERS = ("42", "Ann | person")  # a number, a text and JSON; a list of spans


def _columns(texts: Sequence[str], answer: str) -> dict[str, list[Any]]:
    """The columns that every environment gives, an answer and the labels of a classification."""
    n = len(texts)
    return {
        "answer": [answer] * n,
        "labels": [["42", "nan"]] * n,
        "state": [{} for _ in texts],
        "turns": [[text] for text in texts],
        "replies": [[] for _ in texts],
        "truncated": [False] * n,
        "group_ids": [0] * n,
    }


def _unequal(texts: Sequence[str], first: Scores, second: Scores, order: Sequence[int]) -> str:
    same = np.isclose(first.total[list(order)], second.total, rtol=0, atol=1e-6, equal_nan=True)
    return "" if same.all() else f"{texts[order[int(np.argmin(same))]][:40]!r} does not"
