"""Wordle-v0: find a hidden word from the marks of the guesses.

The module also defines the rewards: functions that read the episode's `state`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.builtin.arguments import check_several_turns
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Task, Tokenizer

_MAX_WORDS = 10_000  # words of a game: each guess is compared with all remaining candidates


def won(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return 1 for each episode that found the word."""
    return [float(s.get("won", False)) for s in state]


def information(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the share of the word's information that the guesses gained.

    It is log(N / n) / log N with N words and n candidates left; 1 once one candidate is left.
    """
    return [s.get("information", 0.0) for s in state]


def well_formed(state: list[dict[str, Any]], **columns: Any) -> list[float]:
    """Return the share of turns that were words of the game."""
    return [s["words"] / s["turns"] if s.get("turns") else 0.0 for s in state]


@lru_cache(maxsize=4)
def words_of(alphabet: str, length: int) -> tuple[str, ...]:
    """Return all words of a length over an alphabet."""
    return tuple("".join(letters) for letters in product(alphabet, repeat=length))


@lru_cache(maxsize=1 << 16)
def marks(guess: str, word: str) -> str:
    """Return one mark per letter of a guess.

    `+`: in its place. `-`: elsewhere in the word. `.`: not in the word, or less often than in the guess.
    """
    # Letters of the word that no correct position uses; each of them marks one misplaced letter at most.
    unmatched = [w for g, w in zip(guess, word, strict=True) if g != w]
    symbols = []
    for g, w in zip(guess, word, strict=True):
        if g == w:
            symbols.append("+")
        elif g in unmatched:
            unmatched.remove(g)
            symbols.append("-")
        else:
            symbols.append(".")
    return "".join(symbols)


class Wordle(TextMDP):
    """Search for a hidden word.

    The prompt is `3 of abcd`, then a first guess with its marks, `abc+-.`. A turn is `acd`, and the reply is `+.-`, or
    `word?` after any text that is not a word. All strings over the alphabet are words.

    State: the rules, guesses and marks.
    Action: a character.
    Reward: 1 for the word, plus 0.5 · information, plus 0.2 · share of well-formed turns.
    Data: procedural, no license.
    Splits: disjoint by word and first guess: a held-out game does not occur in training, but its word does.

    Args:
        alphabet: the letters of words.
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
        alphabet = "".join(dict.fromkeys(alphabet))  # distinct letters, in their order
        self.alphabet = alphabet
        self.length = length
        if length < 1 or len(alphabet) < 2 or not alphabet.isalpha():
            raise UserError(f"Wordle: expected length >= 1 (got {length}) and at least two letters (got '{alphabet}')")
        count = len(alphabet) ** length
        if count > _MAX_WORDS:
            raise UserError(
                f"Wordle: expected at most {_MAX_WORDS} words, got {count} ({len(alphabet)} letters, length {length}); "
                "use fewer letters or a smaller length"
            )

        def make(rng: np.random.Generator) -> dict[str, Any]:
            words = words_of(alphabet, length)
            word, first = (words[i] for i in rng.choice(len(words), size=2, replace=False))
            prompt = f"{length} of {alphabet}\n{first}{marks(first, word)}\n"
            return {"prompt": prompt, "answer": word, "first": first}

        # The limits hold for a tokenizer of bytes too, so that letters are counted in bytes.
        width = max(len(char.encode()) for char in alphabet)
        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "max_prompt": 16 + width * (len(alphabet) + length) + length,
            "max_new": width * length + 1,
            "max_turns": 5,
            "max_reply": max(length + 1, 6),  # marks and line break, or `word?` and line break
        }
        super().__init__(**defaults | kwargs)
        check_several_turns("Wordle", self.max_turns)

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the characters of the game."""
        return CharTokenizer(self.alphabet + f"{self.length} of\n+-.word?")

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        """Return the marks of the guess, or None once the word is found."""
        words = words_of(self.alphabet, self.length)
        word = task.columns["answer"]
        state["turns"] = state.get("turns", 0) + 1
        state.setdefault("words", 0)
        guess = self.tokenizer.decode(turn_ids).strip()
        if len(guess) != self.length or not set(guess) <= set(self.alphabet):
            return self.tokenizer.encode("word?\n")
        state["words"] += 1
        symbols = marks(guess, word)
        candidates = state.get("left") or self._initial_candidates(task)
        state["left"] = [candidate for candidate in candidates if marks(guess, candidate) == symbols]
        state["information"] = math.log(len(words) / len(state["left"])) / math.log(len(words))
        state["won"] = guess == word
        return None if state["won"] else self.tokenizer.encode(symbols + "\n")

    def _initial_candidates(self, task: Task) -> Sequence[str]:
        """Return the words that agree with the first guess of the prompt, or all words without a first guess."""
        words = words_of(self.alphabet, self.length)
        first = task.columns.get("first")
        if not first:
            return words
        first_marks = marks(first, task.columns["answer"])
        return [word for word in words if marks(first, word) == first_marks]
