"""Tokenizers: bytes (any text, nothing to download), letters or words (fast to learn), Hugging Face (real models)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.types import Prompt, Tokenizer


def chat_text(prompt: Prompt) -> str:
    """A prompt as one text. Messages become `role: content` lines and an open `assistant:` line."""
    if isinstance(prompt, str):
        return prompt
    return "".join(f"{m['role']}: {m['content']}\n" for m in prompt) + "assistant:"


class ByteTokenizer:
    """UTF-8 bytes 0-255, then EOS 256, PAD 257 and BOS 258, which begins every prompt."""

    spec = "bytes"
    """What `as_tokenizer` makes this one of."""
    vocab_size = 259
    eos_id, pad_id, bos_id = 256, 257, 258

    def encode(self, text: str) -> list[int]:
        """The bytes of a text; a lone surrogate becomes `?`."""
        return list(text.encode("utf-8", errors="replace"))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """BOS and the bytes of the prompt (see `chat_text` for messages)."""
        return [self.bos_id, *self.encode(chat_text(prompt))]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the bytes; broken UTF-8 becomes U+FFFD, other ids are left out."""
        return bytes(i for i in ids if 0 <= i < 256).decode("utf-8", errors="replace")


class CharTokenizer:
    """PAD 0, EOS 1, then one id for each character of an alphabet: a vocabulary that a policy learns from scratch.

    Raises UserError when a text holds another character.
    """

    pad_id, eos_id = 0, 1

    def __init__(self, alphabet: str) -> None:
        self.alphabet = "".join(dict.fromkeys(alphabet))
        self.spec = f"chars:{self.alphabet}"
        self.vocab_size = len(self.alphabet) + 2
        self._ids = {char: i + 2 for i, char in enumerate(self.alphabet)}

    def encode(self, text: str) -> list[int]:
        """One id a character."""
        try:
            return [self._ids[char] for char in text]
        except KeyError as error:
            raise UserError(f"character {error} is not in the tokenizer's alphabet '{self.alphabet}'") from None

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """One id a character, nothing added."""
        return self.encode(chat_text(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """Characters of the ids; PAD, EOS and ids out of range are left out."""
        return "".join(self.alphabet[i - 2] for i in ids if 2 <= i < self.vocab_size)


class WordTokenizer:
    """PAD 0, EOS 1, then one id for each word of a list: sentences that a policy learns to say from scratch.

    A text is cut at blanks, and what is no word then, from its left into the longest words there are. Decoding puts a
    blank between two words, but none beside an ideograph or a line break (a line break may be a word).
    Raises UserError when a text holds anything else.
    """

    pad_id, eos_id = 0, 1

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(dict.fromkeys(words))
        if wrong := [word for word in self.words if not word or " " in word]:
            raise UserError(f"'{wrong[0]}' is no word: the words of a WordTokenizer have no blanks in them")
        self.spec = "words:" + " ".join(self.words)
        self.vocab_size = len(self.words) + 2
        self._ids = {word: i + 2 for i, word in enumerate(self.words)}
        self._longest = re.compile("|".join(re.escape(w) for w in sorted(self.words, key=len, reverse=True)))

    def encode(self, text: str) -> list[int]:
        """One id a word."""
        return [i for part in text.split(" ") if part for i in self._cut(part)]

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """One id a word, nothing added."""
        return self.encode(chat_text(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """Words of the ids; PAD, EOS and ids out of range are left out."""
        text = ""
        for word in (self.words[i - 2] for i in ids if 2 <= i < self.vocab_size):
            text += word if not text or _close(text[-1]) or _close(word[0]) else f" {word}"
        return text

    def _cut(self, part: str) -> list[int]:
        if part in self._ids:
            return [self._ids[part]]
        found, at = [], 0
        while at < len(part):
            match = self._longest.match(part, at)
            if match is None:
                raise UserError(f"'{part[at:]}' is not among the tokenizer's words: {' '.join(self.words[:20])} ...")
            found.append(self._ids[match.group()])
            at = match.end()
        return found


def _close(char: str) -> bool:
    """Whether a character takes no blank beside it: a line break, an ideograph or full-width punctuation."""
    return char == "\n" or "\u3000" <= char <= "\u9fff" or "\uff00" <= char <= "\uffef"


class HFTokenizer:
    """A transformers tokenizer: by hub id, by local path, or the object itself.

    A plain prompt begins with what the model begins a text with (BOS, or nothing); a list of messages goes through the
    chat template, with the assistant's header at its end. PAD may equal EOS: nothing here or later looks for either.

    Args:
        tokenizer: name, path or object.
        vocab_size: ids that the model can emit where its embedding is wider than the tokenizer (padded vocabularies).

    Raises UserError when there is no EOS, or no chat template for a prompt of messages.
    """

    def __init__(self, tokenizer: Any, *, vocab_size: int | None = None) -> None:
        if isinstance(tokenizer, str | Path):
            tokenizer = _pretrained(str(tokenizer))
        if tokenizer.eos_token_id is None:
            raise UserError(f"the tokenizer of '{tokenizer.name_or_path}' has no EOS token: a turn could never end")
        self.hf = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._known = len(tokenizer)
        self.vocab_size = max(self._known, vocab_size or 0)
        self._start: int = self.eos_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        bare = self.encode("a")
        dressed = list(tokenizer("a")["input_ids"])
        starts = [i for i in range(len(dressed)) if dressed[i : i + len(bare)] == bare]
        self._prefix: list[int] = dressed[: starts[0]] if starts else []

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without special tokens."""
        return list(self.hf(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Ids of a plain prompt after the model's own prefix, or of messages through the chat template.

        An empty text becomes what the model begins a text with, or EOS where that is nothing.
        """
        if isinstance(prompt, str):
            return [*self._prefix, *self.encode(prompt)] or [self._start]
        if not self.hf.chat_template:
            raise UserError(
                f"the tokenizer of '{self.hf.name_or_path}' has no chat template: give prompts as plain texts"
            )
        messages = [dict(m) for m in prompt]
        return list(self.hf.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; ids that the tokenizer does not know are left out."""
        known = [int(i) for i in ids if 0 <= i < self._known]
        return str(self.hf.decode(known, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def save_pretrained(self, folder: Path) -> None:
        """Write the tokenizer as transformers does."""
        self.hf.save_pretrained(folder)


def as_tokenizer(given: Any) -> Tokenizer:
    """A tokenizer from `bytes`, `chars:ALPHABET`, `words:A B C`, a hub id or path, a transformers one, or itself."""
    if given == "bytes":
        return ByteTokenizer()
    if isinstance(given, str) and given.startswith("chars:"):
        return CharTokenizer(given.removeprefix("chars:"))
    if isinstance(given, str) and given.startswith("words:"):
        return WordTokenizer(word for word in given.removeprefix("words:").split(" ") if word)
    if isinstance(given, str | Path) or hasattr(given, "eos_token_id"):
        return HFTokenizer(given)
    if isinstance(given, Tokenizer):
        return given
    raise UserError(
        f"{type(given).__name__} is no tokenizer: "
        "give 'bytes', 'chars:ALPHABET', 'words:A B C', a hub id, a path or a transformers tokenizer"
    )


def _pretrained(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(f"no tokenizer at '{name}': {str(error).splitlines()[0]}") from error
