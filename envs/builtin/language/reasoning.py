"""Reasoning-v0: a procedural data set of reasoning-gym, by name, screened before use.

Some data sets score their own answer below 1, and some scorers raise on malformed answers. Such a data set is refused
with the reason before a run starts. The module also defines the rewards.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UnknownNameError, UserError
from rlalign.registry import import_optional
from rlalign.rewards.text import text_of
from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.types import Tokenizer

_SMALL = "min_terms=2,max_terms=2,min_digits=1,max_digits=1"
_SCREENED = 8  # entries of a data set that the screening scores
_DRAWS = 200  # attempts to find a task within the limits
_ASCII = "".join(chr(i) for i in range(32, 127)) + "\n"
_MALFORMED = ("", " ", "\x00", "nan", "-1e999", '{"a": [1,', "((", "x " * 200, "🙂", "这", "1/0", "[[]]", "None")


def exact(completions: Sequence[Any], entry: list[dict[str, Any]], gym: list[list[str]], **columns: Any) -> list[float]:
    """Return the score that each answer, without surrounding blanks, receives from its data set's own scorer.

    A correct answer scores 1. Some data sets give partial credit.

    Args:
        completions: B completions, as text or as messages.
        entry: entry of the data set for each.
        gym: name and configuration of the data set for each (see `dataset`).
        columns: other columns, ignored.

    Returns:
        B values in [0, 1].
    """
    rows = zip(completions, entry, gym, strict=True)
    return [float(dataset(*spec).score_answer(text_of(c).strip(), e)) for c, e, spec in rows]


def well_formed(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """Return 1 for each completion with the form of its reference: both numbers, or equally many lines and words."""
    pairs = zip(completions, answer, strict=True)
    return [float(answer_form(text_of(c)) == answer_form(reference)) for c, reference in pairs]


def answer_form(text: str) -> tuple[int, int]:
    """Return the numbers of lines and words of a text, or (0, 0) for a number."""
    text = text.strip()
    number = re.fullmatch(r"[+-]?[0-9]+(?:\.[0-9]+)?", text)
    return (0, 0) if number else (text.count("\n") + 1, len(text.split()))


@lru_cache(maxsize=32)
def dataset(task: str, config: str = "") -> Any:
    """Return a data set of reasoning-gym.

    Args:
        task: name of the data set.
        config: its settings, such as `max_terms=2,max_digits=1`.

    Raises:
        MissingExtraError: reasoning-gym is not installed.
        UnknownNameError: reasoning-gym has no such data set.
        UserError: the data set refuses the settings.
    """
    library = import_optional("reasoning_gym", "envs")
    registered = import_optional("reasoning_gym.factory", "envs").DATASETS
    if task not in registered:
        raise UnknownNameError("set of reasoning-gym", task, registered)
    settings = dict(pair.split("=", 1) for pair in config.split(",") if "=" in pair)
    try:
        return library.create_dataset(task, seed=0, **{k: _parse_setting(v) for k, v in settings.items()})
    except Exception as error:  # each data set raises exceptions of its own kind
        raise UserError(
            f"Reasoning config: expected settings of '{task}', got '{config}' ({error}); "
            "use settings that reasoning-gym accepts"
        ) from error


def screen(task: str, config: str = "") -> None:
    """Check the scorer of a data set.

    Raises:
        UserError: a reference answer does not score 1, or a malformed answer raises or scores outside [0, 1]. The
            message gives the reason.
    """
    data = dataset(task, config)
    for index in range(_SCREENED):
        try:
            entry = data[index]
            reference = entry["answer"]
            if not isinstance(reference, str):
                raise UserError(f"Reasoning task '{task}': expected reference answers, got none; use another task")
            reference_score = data.score_answer(reference.strip(), entry)
            # Negated, so that NaN is refused too.
            if not abs(reference_score - 1) < 1e-9:
                raise UserError(
                    f"Reasoning task '{task}': expected a score of 1 for its own answer '{reference}', "
                    f"got {reference_score}; use another task"
                )
            for text in _MALFORMED:
                score = float(data.score_answer(text.strip(), entry))
                if not 0 <= score <= 1:
                    raise UserError(
                        f"Reasoning task '{task}': expected scores from 0 to 1, got {score} for {text!r}; "
                        "use another task"
                    )
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"Reasoning task '{task}': expected a score for each answer, got {type(error).__name__}: {error}; "
                "use another task"
            ) from error


def _parse_setting(text: str) -> int | float | bool | str:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Reasoning(TextMDP):
    """Questions of a data set of reasoning-gym.

    State: the question.
    Action: a character.
    Reward: the score of the answer by the data set's own scorer, plus 0.2 for the form of the reference.
    Data: procedural, by reasoning-gym (Apache-2.0).
    Splits: disjoint by content.

    Args:
        task: a data set of reasoning-gym; one that fails the screening is refused with the reason.
        config: its settings, such as `max_terms=2,max_digits=1`; without them the default task has small numbers.
        seed: of the family of tasks.
        kwargs: see TextMDP. A question longer than max_prompt, or an answer longer than max_new, is drawn again.
    """

    id = "rlalign/Reasoning-v0"
    description = "any procedural data set of reasoning-gym (reasoning?task=gcd), screened: exact answers"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.language.reasoning:exact": 1.0,
        "rlalign.envs.builtin.language.reasoning:well_formed": 0.2,
    }
    gold_score = 1.2
    max_prompt = 256
    max_new = 8
    questions = True
    chat_max_new: int | None = 256

    def __init__(self, *, task: str = "chain_sum", config: str | None = None, seed: int = 0, **kwargs: Any) -> None:
        self.task = task
        settings = (_SMALL if task == "chain_sum" else "") if config is None else config
        screen(task, settings)
        limits = {
            "max_prompt": kwargs.get("max_prompt") or self.max_prompt,
            "max_new": kwargs.get("max_new") or self.max_new,
        }

        def make(rng: np.random.Generator) -> dict[str, Any]:
            for _ in range(_DRAWS):
                entry = dataset(task, settings)[int(rng.integers(2**31))]
                question = entry["question"] + "\n"
                answer = entry["answer"].strip()
                # Bytes, the finest tokenizer; the answer needs EOS and one id to stay below its limit.
                sizes = {"max_prompt": len(question.encode()) + 1, "max_new": len(answer.encode()) + 2}
                if all(sizes[name] <= limits[name] for name in sizes):
                    break
            else:
                name = next(name for name in sizes if sizes[name] > limits[name])
                raise UserError(
                    f"Reasoning: expected tasks of '{task}' within {name}={limits[name]}, got none in {_DRAWS} draws; "
                    f"use a larger {name}"
                )
            return {"prompt": question, "answer": answer, "entry": entry, "gym": [task, settings]}

        defaults: dict[str, Any] = {"source": ProceduralSource(make, seed=seed)}
        super().__init__(**defaults | kwargs)
        if kwargs.get("max_new") is not None:
            self.chat_max_new = None

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of printable ASCII, or of bytes for a data set with other characters."""
        tasks = [self.source.get("train", index) for index in range(_SCREENED)]
        is_ascii = all(set(str(t.prompt) + t.columns["answer"]) <= set(_ASCII) for t in tasks)
        return CharTokenizer(_ASCII) if is_ascii else ByteTokenizer()
