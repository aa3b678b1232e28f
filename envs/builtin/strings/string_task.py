"""What the string environments have in common: a random string, a separator, and one right answer to say after it."""

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
    """Prompt `abc>`, answer a function of `abc`: a subclass says which, by `answer`, and may change the defaults.

    Args:
        alphabet: the letters that strings are made of.
        min_length, max_length: letters of a string, drawn uniformly.
        seed: of the family of tasks.
        kwargs: see TextMDP.
    """

    rewards: ClassVar[Mapping[str, float]] = {"token_match": 1.0, "exact_match": 1.0}
    gold_score = 2.0
    says: ClassVar[str] = ""
    """Characters of answers that are no letters of strings."""

    def __init__(
        self, *, alphabet: str = "abcd", min_length: int = 2, max_length: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        if not 1 <= min_length <= max_length or not alphabet or SEPARATOR in alphabet:
            raise UserError(
                f"{type(self).__name__} needs 1 <= min_length <= max_length (got {min_length}, {max_length}) "
                f"and an alphabet without '{SEPARATOR}' (got '{alphabet}')"
            )
        self.alphabet, answer = alphabet, self.answer

        def make(rng: np.random.Generator) -> dict[str, str]:
            letters = rng.choice(list(alphabet), size=rng.integers(min_length, max_length + 1))
            text = "".join(letters)
            return {"prompt": text + SEPARATOR, "answer": answer(text)}

        width = max_length * max(len(char.encode()) for char in alphabet)  # of the longest string, in bytes
        # an id to spare after the longest answer and EOS: a right answer is not at the limit, where penalties begin
        sizes = {"max_prompt": width + 4, "max_new": width + 2}
        super().__init__(**{"source": ProceduralSource(make, seed=seed), **sizes, **kwargs})

    @staticmethod
    def answer(text: str) -> str:
        """The one right answer to a string."""
        raise NotImplementedError

    def default_tokenizer(self) -> Tokenizer:
        """The alphabet and the separator, two ids more for EOS and PAD."""
        return CharTokenizer(self.alphabet + SEPARATOR + self.says)
