"""The checks of a reward. Each returns the first counterexample with its likely cause, or an empty text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
import numpy as np

from rlalign.checks.invariant import FUZZ, TOLERANCE, CheckResult, run_check
from rlalign.errors import UserError
from rlalign.rewards.guard import setup_of
from rlalign.rewards.specs import resolve
from rlalign.rewards.weighted_sum import compose
from rlalign.tokenizers import ByteTokenizer
from rlalign.types import Prompt, Reward, Scope, Scores

EXAMPLES = {
    "code": "code?allow=true&seconds=1",
    "ensemble": "ensemble?of=repetition|too_short&how=penalised",
    "product": "product?of=distinct_n|json_valid",
    "regex": "regex?pattern=[a-z]+",
    "soft_overlong": "soft_overlong?limit=64",
}
"""Specs with parameters, for the built-in rewards that cannot be checked without."""

FORMS = "texts and messages score equally"
"""Name of the check of the two forms of a completion."""
REMEDY = (
    "the reward reads a completion as a text, and for a conversation it is a list of messages "
    '([{"role": "assistant", "content": ...}], as in TRL); use @rlalign.reward(texts=True), or '
    "rlalign.rewards.text.text_of(completion)"
)

# Values of the column `answer`: a number, which is text and JSON too; a list of spans for rewards that refuse a number.
_ANSWERS = ("42", "Ann | person")


def check_reward(spec: Any) -> list[CheckResult]:
    """Run every check of a reward, on texts of every kind, alone and together (`rlalign check REWARD`).

    The texts include empty and huge ones, control characters, emoji, Chinese and broken JSON. Each must get one value;
    a failure must be NaN; equal texts must score equally, in any order of the batch.

    Args:
        spec: one spec of `rlalign.rewards.compose`. A reward whose required parameter is missing is not checked. A
            reward that binds the policy gets a small random one.

    Returns:
        A result per check, in a fixed order.

    Example:
        >>> all(result.passed for result in check_reward("repetition"))
        True
    """
    if failure := _pickling_failure(spec):
        return [CheckResult("the function can be sent to its worker process", False, failure)]
    with compose([spec]) as reward:
        if reward.needs_policy:
            from rlalign.policies.factory import make_policy  # imports torch

            reward.bind(make_policy("gru", tokenizer=ByteTokenizer()))
        return check_composed(reward)


def check_composed(reward: Reward) -> list[CheckResult]:
    """Run every check of a reward that is composed already."""
    texts = [*FUZZ, *(text[:40] for text in FUZZ)]
    batch = _TextBatch(reward, texts, _ANSWERS[0])
    sentence = [len(FUZZ) - 1]  # the only ordinary text
    try:
        try:
            batch.score(sentence)
        except UserError:
            batch = _TextBatch(reward, texts, _ANSWERS[1])
            batch.score(sentence)
    except UserError as error:
        return [CheckResult("can be scored", True, str(error), skipped=True)]
    except Exception:
        pass  # the first check reports the text and the error
    return [
        run_check("any text can be scored", lambda: check_any_text(batch)),
        run_check("one value per sample", lambda: check_shapes(batch)),
        run_check("a failed reward is NaN, a valid one finite", lambda: check_failures_are_nan(batch)),
        run_check("the total is the weighted sum of the components", lambda: check_weighted_sum(batch)),
        run_check("equal texts score equally", lambda: check_repeatable(batch)),
        run_check(
            "a score does not depend on its place in the batch",
            lambda: check_order(batch),
            batch.scope != "group",
        ),
        _check_forms(batch),
    ]


@dataclass(frozen=True, slots=True)
class _TextBatch:
    """Texts that a reward scores, with all columns that a built-in reward may need."""

    reward: Reward
    texts: Sequence[str]
    answer: str

    @property
    def scope(self) -> Scope:
        return next(iter(self.reward.scopes.values()))

    @property
    def rows(self) -> list[int]:
        return list(range(len(self.texts)))

    def score(self, rows: Sequence[int], prompt: Prompt = "Say something.") -> Scores:
        """Score some of the texts, as one batch; a completion is a list of messages if the prompt is one."""
        event: Any = "turn" if self.scope == "token" else self.scope
        completions = [self.texts[i] for i in rows]
        ids = [[*ByteTokenizer().encode(text), ByteTokenizer.eos_id] for text in completions]
        prompts = [prompt] * len(rows)
        return self.reward.score(event, prompts, completions, ids, **_columns(completions, self.answer))


# ---- checks ----


def check_any_text(batch: _TextBatch) -> str:
    """Return a text on which the reward raises. Scores each alone."""
    for i in batch.rows:
        try:
            batch.score([i])
        except Exception as error:
            return f"{batch.texts[i][:40]!r}: {type(error).__name__}: {error}; return a number or None for every text"
    return ""


def check_shapes(batch: _TextBatch) -> str:
    """Return the arrays that do not have one value per text."""
    scores = batch.score(batch.rows)
    arrays = {"total": scores.total, "valid": scores.valid, **scores.components}
    expected = (len(batch.texts),)
    wrong = [f"{name} has shape {np.shape(array)}" for name, array in arrays.items() if np.shape(array) != expected]
    return f"{', '.join(wrong)}, expected {expected}" if wrong else ""


def check_failures_are_nan(batch: _TextBatch) -> str:
    """Return a text whose failed score is a number, or whose valid score is not finite."""
    scores = batch.score(batch.rows)
    wrong = [batch.texts[i][:40] for i in batch.rows if scores.valid[i] != np.isfinite(scores.total[i])]
    return f"{wrong[0]!r} failed and has a total, or the reverse; a failed score must be NaN" if wrong else ""


def check_weighted_sum(batch: _TextBatch) -> str:
    """Return a note if a total is not Σ weight · component."""
    scores = batch.score(batch.rows)
    weights = batch.reward.weights
    # NaN is a component that does not apply, which adds nothing.
    total = sum(weights[name] * np.nan_to_num(values) for name, values in scores.components.items())
    equal = np.allclose((total - scores.total)[scores.valid], 0, atol=TOLERANCE)
    return "" if equal else "they differ; the total has a part that is not in the components"


def check_repeatable(batch: _TextBatch) -> str:
    """Return a text whose score changes in a second call."""
    text = _first_unequal(batch, batch.rows)
    return f"{text} changed in a second call; the reward is random or keeps state between calls" if text else ""


def check_order(batch: _TextBatch) -> str:
    """Return a text whose score changes with the order of the batch."""
    order = np.random.default_rng(0).permutation(len(batch.texts)).tolist()
    text = _first_unequal(batch, order)
    return (
        f"{text} changed in another order; the reward compares the texts of a batch: use scope='group'" if text else ""
    )


def _check_forms(batch: _TextBatch) -> CheckResult:
    """Warn of a text whose score is another one as messages. A reward of texts alone is right for data of texts."""
    prompt = [{"role": "user", "content": "Say something."}]
    try:
        texts = batch.score(batch.rows).total
    except Exception:  # another check reports it
        return CheckResult(FORMS, True)
    try:
        messages = batch.score(batch.rows, prompt).total
    except Exception as error:
        detail = f"{type(error).__name__}: {error}; for prompts that are conversations: {REMEDY}"
        return CheckResult(FORMS, True, detail, warning=True)
    equal = np.isclose(texts, messages, rtol=0, atol=1e-6, equal_nan=True)
    if equal.all():
        return CheckResult(FORMS, True)
    i = int(np.argmin(equal))
    scores = f"{batch.texts[i][:40]!r} scores {texts[i]:g} as a text, {messages[i]:g} as messages"
    return CheckResult(FORMS, True, f"{scores}; for prompts that are conversations: {REMEDY}", warning=True)


# ---- parts of the checks ----


def _pickling_failure(spec: Any) -> str:
    """Return why a function cannot be sent to its worker process, or an empty text."""
    for reward, _ in resolve([spec]):
        if reward.timeout_s is None:
            continue
        try:
            cloudpickle.dumps(setup_of(reward.function))
        except Exception as error:
            return (
                f"reward '{reward.name}' cannot be pickled: {type(error).__name__}: {error}; use timeout_s=None to run "
                "it in-process, or create the object inside the function"
            )
    return ""


def _columns(texts: Sequence[str], answer: str) -> dict[str, list[Any]]:
    """Return the columns that every environment passes, an answer and the labels of a classification."""
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


def _first_unequal(batch: _TextBatch, order: Sequence[int]) -> str:
    """Score all texts, then again in some order; return the first text with two scores, as a Python literal."""
    first = batch.score(batch.rows)
    second = batch.score(order)
    # Models round differently in another batch, hence 1e-6 rather than TOLERANCE.
    equal = np.isclose(first.total[list(order)], second.total, rtol=0, atol=1e-6, equal_nan=True)
    return "" if equal.all() else repr(batch.texts[order[int(np.argmin(equal))]][:40])
