"""Base class of the string environments: a random string, a separator, and one correct answer after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import ProceduralSource
from rlalign.errors import UserError
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Tokenizer

SEPARATOR = ">"


class StringTask(TextMDP):
    """Tasks with the prompt `abc>` whose answer is a function of `abc`.

    A subclass defines that function as `answer`, and may change the defaults.

    Args:
        alphabet: the letters of the random strings.
        min_length, max_length: bounds of the number of letters, which is drawn uniformly.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    rewards: ClassVar[Mapping[str, float]] = {"token_match": 1.0, "exact_match": 1.0}
    gold_score = 2.0
    answer_characters: ClassVar[str] = ""
    """Characters of answers that the alphabet need not contain; the tokenizer needs them."""

    def __init__(
        self, *, alphabet: str = "abcd", min_length: int = 2, max_length: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        if not 1 <= min_length <= max_length or not alphabet or SEPARATOR in alphabet:
            raise UserError(
                f"{type(self).__name__}: expected 1 <= min_length <= max_length (got {min_length}, {max_length}) "
                f"and a nonempty alphabet without '{SEPARATOR}' (got '{alphabet}')"
            )
        self.alphabet = alphabet
        answer = self.answer

        def make(rng: np.random.Generator) -> dict[str, str]:
            letters = rng.choice(list(alphabet), size=rng.integers(min_length, max_length + 1))
            text = "".join(letters)
            return {"prompt": text + SEPARATOR, "answer": answer(text)}

        # The limits hold for a tokenizer of bytes too, so that the width of the longest string is counted in bytes.
        width = max_length * max(len(char.encode()) for char in alphabet)
        defaults: dict[str, Any] = {
            "source": ProceduralSource(make, seed=seed),
            "max_prompt": width + 4,
            # EOS and one spare id: a correct answer does not reach the limit, at which length penalties begin.
            "max_new": width + 2,
        }
        super().__init__(**defaults | kwargs)

    @staticmethod
    def answer(text: str) -> str:
        """Return the one correct answer to a string."""
        raise NotImplementedError

    def default_tokenizer(self) -> Tokenizer:
        """Return a tokenizer of the alphabet and the separator, with two more ids for EOS and PAD."""
        return CharTokenizer(self.alphabet + SEPARATOR + self.answer_characters)
