"""Checks with a tokenizer: rows as TRL's RewardTrainer tokenizes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rlalign.errors import UserError
from rlalign.preferences.pairs import Preference, Side
from rlalign.preferences.row_checks import same_text

_BATCH = 256  # rows that are tokenized together, which is several times faster


class TokenChecks:
    """Tokenizes preferences as RewardTrainer does, and compares lengths and sides.

    An explicit prompt is put before each side. A text ends in the EOS token, messages get the chat template.

    Args:
        name: name or folder of a tokenizer.
        max_length: largest number of tokens that RewardTrainer keeps; None: not checked.

    Raises:
        UserError: the tokenizer cannot be loaded.
    """

    def __init__(self, name: str, max_length: int | None) -> None:
        from transformers import AutoTokenizer

        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--tokenizer '{name}' cannot be loaded ({reason}); use a folder or a name of the hub"
            ) from error
        self._name = name
        self._max_length = max_length
        self._waiting: list[Preference] = []
        self.longest = 0
        self.too_long = 0

    def add(self, preference: Preference) -> Iterator[tuple[str, str, str]]:
        """Add a preference, and yield kind, place and detail of what is found in a full batch."""
        if preference.form == "mixed":
            return
        self._waiting.append(preference)
        if len(self._waiting) >= _BATCH:
            yield from self.finish()

    def finish(self) -> Iterator[tuple[str, str, str]]:
        """Yield what is found in the remaining preferences."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        chosen = self.token_ids([_whole(p, p.chosen) for p in waiting])
        rejected = self.token_ids([_whole(p, p.rejected) for p in waiting])
        for preference, a, b in zip(waiting, chosen, rejected, strict=True):
            self.longest = max(self.longest, len(a), len(b))
            if a == b and not same_text(preference.chosen, preference.rejected):
                yield "equal-sides", preference.place, "equal after tokenizing"
            if self._max_length is not None and max(len(a), len(b)) > self._max_length:
                self.too_long += 1
                yield "too-long", preference.place, f"{len(a)} and {len(b)} tokens"

    def token_ids(self, sides: Sequence[Side]) -> list[list[int]]:
        """Return the token ids of N sides with their prompts.

        Raises:
            UserError: messages, and the tokenizer has no chat template, or its template refuses them.
        """
        results: list[list[int]] = [[] for _ in sides]
        texts = [i for i, side in enumerate(sides) if isinstance(side, str)]
        chats = [i for i, side in enumerate(sides) if not isinstance(side, str)]
        if texts:
            encoded = self.tokenizer(text=[self._with_eos(str(sides[i])) for i in texts])["input_ids"]
            for i, ids in zip(texts, encoded, strict=True):
                results[i] = list(ids)
        for i in chats:
            results[i] = self._chat_ids(sides[i])
        return results

    def _with_eos(self, text: str) -> str:
        eos = self.tokenizer.eos_token or ""
        return text if text.endswith(eos) else text + eos

    def _chat_ids(self, messages: Side) -> list[int]:
        try:
            encoded = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
        except Exception as error:  # of a template, which is a program
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"--tokenizer '{self._name}': its chat template refuses messages ({reason}); use the tokenizer of a "
                "chat model"
            ) from error
        return list(encoded["input_ids"])


def _whole(preference: Preference, side: Side) -> Side:
    """Return a side with an explicit prompt before it."""
    prompt = preference.prompt
    if prompt is None:
        return side
    if isinstance(prompt, str):
        return prompt + str(side)
    return [*prompt, *(side if isinstance(side, list) else [])]
