"""Reasoning-v0: any procedural set of reasoning-gym by its name, screened before it is used.

Some sets score their own answer below 1, and some scorers raise at answers that are none. Such a set is refused with
the reason, rather than found out in the middle of a run. The rewards stand here too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.texts import texts
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import MissingExtraError, UnknownNameError, UserError
from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.types import Tokenizer

_SMALL = "min_terms=2,max_terms=2,min_digits=1,max_digits=1"
_SCREENED = 8
_DRAWS = 200
_ASCII = "".join(chr(i) for i in range(32, 127)) + "\n"
_MALFORMED = ("", " ", "\x00", "nan", "-1e999", '{"a": [1,', "((", "x " * 200, "🙂", "这", "1/0", "[[]]", "None")


def exact(completions: Sequence[Any], entry: list[dict[str, Any]], gym: list[list[str]], **columns: Any) -> list[float]:
    """What the set's own scorer says of the answer, blanks around it left out; 1 for a right one, some give less."""
    rows = zip(texts(completions), entry, gym, strict=True)
    return [float(dataset(*g).score_answer(said.strip(), e)) for said, e, g in rows]


def well_formed(completions: Sequence[Any], answer: Sequence[str], **columns: Any) -> list[float]:
    """1 where the answer has the form of the reference: a number for a number, else as many lines and words."""
    return [float(form(said) == form(gold)) for said, gold in zip(texts(completions), answer, strict=True)]


def form(text: str) -> tuple[int, int]:
    """(0, 0) for a number, else lines and words."""
    text = text.strip()
    number = re.fullmatch(r"[+-]?[0-9]+(?:\.[0-9]+)?", text)
    return (0, 0) if number else (text.count("\n") + 1, len(text.split()))


@lru_cache(maxsize=32)
def dataset(task: str, config: str = "") -> Any:
    """A set of reasoning-gym. `config`: settings of the set, as `max_terms=2,max_digits=1`."""
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise MissingExtraError("Reasoning", "reasoning-gym", "envs") from error
    if task not in DATASETS:
        raise UnknownNameError("set of reasoning-gym", task, DATASETS)
    settings = dict(pair.split("=", 1) for pair in config.split(",") if "=" in pair)
    try:
        return reasoning_gym.create_dataset(task, seed=0, **{k: _number(v) for k, v in settings.items()})
    except Exception as error:  # each set has its own ways of refusing a configuration
        raise UserError(f"Reasoning: '{task}' cannot be made with '{config}': {error}") from error


def screen(task: str, config: str = "") -> None:
    """Raise UserError with the reason unless gold answers score 1 and malformed ones do not raise."""
    made = dataset(task, config)
    for index in range(_SCREENED):
        try:
            entry = made[index]
            if not isinstance(entry["answer"], str):
                raise UserError(f"Reasoning: '{task}' is left out: it has no reference answers")
            if not abs(made.score_answer(entry["answer"].strip(), entry) - 1) < 1e-9:
                raise UserError(f"Reasoning: '{task}' is left out: its own answer '{entry['answer']}' does not score 1")
            for text in _MALFORMED:
                score = float(made.score_answer(text.strip(), entry))
                if not 0 <= score <= 1:
                    raise UserError(f"Reasoning: '{task}' is left out: it scores {text!r} {score}, outside 0 to 1")
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"Reasoning: '{task}' is left out: {type(error).__name__}: {error}") from error


def _number(text: str) -> int | float | bool | str:
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


class Reasoning(TextMDP):
    """State: the question. Action: a character. Reward: the set's own score of the answer, and 0.2 for its form.

    Data: procedural, by reasoning-gym (Apache-2.0). Splits: disjoint by content.

    Args:
        task: a set of reasoning-gym; one that fails the screening is refused with the reason.
        config: settings of the set, as `max_terms=2,max_digits=1`; the default set is small unless they are given.
        seed: of the family of tasks.
        kwargs: see TextMDP. A question longer than max_prompt, or an answer longer than max_new, is drawn again.
    """

    id = "rlalign/Reasoning-v0"
    description = "any procedural set of reasoning-gym (reasoning?task=gcd), screened: exact answers"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.language.reasoning:exact": 1.0,
        "rlalign.envs.builtin.language.reasoning:well_formed": 0.2,
    }
    gold_score = 1.2
    max_prompt = 256
    max_new = 8

    def __init__(self, *, task: str = "chain_sum", config: str | None = None, seed: int = 0, **kwargs: Any) -> None:
        self.task = task
        settings = (_SMALL if task == "chain_sum" else "") if config is None else config
        screen(task, settings)
        limits = {"max_prompt": self.max_prompt, "max_new": self.max_new}
        longest = {k: kwargs[k] if kwargs.get(k) else v for k, v in limits.items()}

        def make(rng: np.random.Generator) -> dict[str, Any]:
            for _ in range(_DRAWS):
                entry = dataset(task, settings)[int(rng.integers(2**31))]
                question, answer = entry["question"] + "\n", entry["answer"].strip()
                sizes = {"max_prompt": len(question.encode()) + 1, "max_new": len(answer.encode()) + 2}
                if all(sizes[k] <= longest[k] for k in sizes):
                    break
            else:
                k = next(k for k in sizes if sizes[k] > longest[k])
                raise UserError(f"Reasoning: hardly any task of '{task}' fits into {k}={longest[k]}: raise {k}")
            return {"prompt": question, "answer": answer, "entry": entry, "gym": [task, settings]}

        source = ProceduralSource(make, seed=seed)
        super().__init__(**{"source": source, **kwargs})

    def default_tokenizer(self) -> Tokenizer:
        """Printable ASCII, or bytes for a set that says more than that."""
        tasks = [self.source.get("train", index) for index in range(_SCREENED)]
        plain = all(set(str(t.prompt) + t.columns["answer"]) <= set(_ASCII) for t in tasks)
        return CharTokenizer(_ASCII) if plain else ByteTokenizer()
