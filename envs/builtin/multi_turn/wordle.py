"""Wordle-v0: find a hidden word from the marks of the guesses.

The rewards stand here too: plain functions that read the episode's `state`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Task, Tokenizer

_MOST = 10_000  # words of a game: each guess compares all that are left


def won(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """1 when the word was found."""
    return [float(s.get("won", False)) for s in state]


def information(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The share of the word's bits that all guesses gained: log(N / left) / log N; 1 when one word is left."""
    return [s.get("information", 0.0) for s in state]


def well_formed(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """The share of turns that were words of the game."""
    return [s["words"] / s["turns"] if s.get("turns") else 0.0 for s in state]


@lru_cache(maxsize=4)
def words_of(alphabet: str, length: int) -> tuple[str, ...]:
    """Every word of a length over an alphabet."""
    return tuple("".join(letters) for letters in product(alphabet, repeat=length))


@lru_cache(maxsize=1 << 16)
def marks(guess: str, word: str) -> str:
    """`+` in its place, `-` elsewhere in the word, `.` not (or not as often) in the word."""
    rest = [w for g, w in zip(guess, word, strict=True) if g != w]
    said = []
    for g, w in zip(guess, word, strict=True):
        if g == w:
            said.append("+")
        elif g in rest:
            rest.remove(g)
            said.append("-")
        else:
            said.append(".")
    return "".join(said)


class Wordle(TextMDP):
    """State: the rules, guesses, marks. Action: a character. Reward: 1 for the word, 0.5 · information, 0.2 · form.

    Prompt `3 of abcd` and a first guess with its marks, `abc+-.`; turns such as `acd`, replies such as `+.-`, or
    `word?` to anything else. Every string over the alphabet is a word. Data: procedural, no licence. Splits: disjoint
    by word and first guess: a held-out game is a new one, its word is not.

    Args:
        alphabet: the letters that words are made of.
        length: letters of a word.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    id = "rlalign/Wordle-v0"
    description = "find a hidden word from the marks of the guesses: multi-turn, procedural"
    rewards: ClassVar[Mapping[str, float]] = {
        "rlalign.envs.builtin.multi_turn.wordle:won": 1.0,
        "rlalign.envs.builtin.multi_turn.wordle:information": 0.5,
        "rlalign.envs.builtin.multi_turn.wordle:well_formed": 0.2,
    }
    gold_score = 1.7

    def __init__(self, *, alphabet: str = "abcd", length: int = 3, seed: int = 0, **kwargs: Any) -> None:
        self.alphabet, self.length = "".join(dict.fromkeys(alphabet)), length
        if length < 1 or len(self.alphabet) < 2 or not self.alphabet.isalpha():
            raise UserError(f"Wordle needs length >= 1 (got {length}) and two letters or more (got '{alphabet}')")
        if len(self.alphabet) ** length > _MOST:
            raise UserError(
                f"Wordle: {len(self.alphabet)} letters make {len(self.alphabet) ** length} words of {length}, "
                f"more than {_MOST}: take fewer letters or shorter words"
            )
        alphabet = self.alphabet

        def make(rng: np.random.Generator) -> dict[str, Any]:
            words = words_of(alphabet, length)
            word, first = (words[i] for i in rng.choice(len(words), size=2, replace=False))
            said = f"{length} of {alphabet}\n{first}{marks(first, word)}\n"
            return {"prompt": said, "answer": word, "first": first}

        width = max(len(char.encode()) for char in alphabet)
        longest = 16 + width * (len(alphabet) + length) + length
        sizes = {"max_prompt": longest, "max_new": width * length + 1, "max_turns": 5}
        source = ProceduralSource(make, seed=seed)
        super().__init__(**{"source": source, **sizes, "max_reply": max(length + 1, 6), **kwargs})
        if self.max_turns < 2:
            raise UserError("Wordle: max_turns is 1, but the game is its replies: give at least 2")

    def default_tokenizer(self) -> Tokenizer:
        """The characters of the game."""
        return CharTokenizer(self.alphabet + f"{self.length} of\n+-.word?")

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """The marks of the guess, or None when it was the word."""
        words, word, first = words_of(self.alphabet, self.length), task.columns["answer"], task.columns.get("first")
        left = state.get("left") or ([w for w in words if marks(first, w) == marks(first, word)] if first else words)
        state["turns"] = state.get("turns", 0) + 1
        state.setdefault("words", 0)
        guess = self.tokenizer.decode(turn_ids).strip()
        if len(guess) != self.length or not set(guess) <= set(self.alphabet):
            return self.tokenizer.encode("word?\n")
        state["words"] += 1
        said = marks(guess, word)
        state["left"] = [word for word in left if marks(guess, word) == said]
        state["information"] = math.log(len(words) / len(state["left"])) / math.log(len(words))
        state["won"] = guess == word
        return None if state["won"] else self.tokenizer.encode(said + "\n")
