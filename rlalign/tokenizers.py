"""Tokenizers: bytes (any text), characters or words (small vocabularies), and Hugging Face tokenizers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.types import Prompt, Tokenizer


def chat_text(prompt: Prompt) -> str:
    """Return a prompt as one text. Messages become `role: content` lines and an open `assistant:` line."""
    if isinstance(prompt, str):
        return prompt
    return "".join(f"{m['role']}: {m['content']}\n" for m in prompt) + "assistant:"


class ByteTokenizer:
    """UTF-8 bytes 0-255, then EOS 256, PAD 257 and BOS 258, which begins each prompt."""

    spec = "bytes"
    """Argument of `as_tokenizer` that builds this tokenizer."""
    vocab_size = 259
    eos_id, pad_id, bos_id = 256, 257, 258

    def encode(self, text: str) -> list[int]:
        """Return the bytes of a text; a lone surrogate becomes `?`."""
        return list(text.encode("utf-8", errors="replace"))

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return BOS and the bytes of the prompt (see `chat_text` for messages)."""
        return [self.bos_id, *self.encode(chat_text(prompt))]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of the bytes; broken UTF-8 becomes U+FFFD, other ids are left out."""
        return bytes(i for i in ids if 0 <= i < 256).decode("utf-8", errors="replace")


class CharTokenizer:
    """PAD 0, EOS 1, then one id per character of an alphabet: a vocabulary that a policy learns from scratch.

    Args:
        alphabet: the characters; repetitions count once.
    """

    pad_id, eos_id = 0, 1

    def __init__(self, alphabet: str) -> None:
        self.alphabet = "".join(dict.fromkeys(alphabet))
        self.spec = f"chars:{self.alphabet}"
        self.vocab_size = len(self.alphabet) + 2
        self._ids = {char: i + 2 for i, char in enumerate(self.alphabet)}

    def encode(self, text: str) -> list[int]:
        """Return one id per character. Raises UserError if a character is not in the alphabet."""
        try:
            return [self._ids[char] for char in text]
        except KeyError as error:
            raise UserError(
                f"expected characters of the tokenizer's alphabet '{self.alphabet}', got {error}; "
                "use a tokenizer that contains it"
            ) from None

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return one id per character, without special tokens."""
        return self.encode(chat_text(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the characters of the ids; PAD, EOS and ids out of range are left out."""
        return "".join(self.alphabet[i - 2] for i in ids if 2 <= i < self.vocab_size)


class WordTokenizer:
    """PAD 0, EOS 1, then one id per word of a list: sentences that a policy learns to generate from scratch.

    A text is split at blanks. A part that is not a word is split again, from the left, into the longest words of the
    list. Decoding puts a blank between two words, but none next to an ideograph or a line break (a line break may be a
    word).

    Args:
        words: the words; repetitions count once.

    Raises:
        UserError: a word is empty or contains a blank.
    """

    pad_id, eos_id = 0, 1

    def __init__(self, words: Iterable[str]) -> None:
        self.words = tuple(dict.fromkeys(words))
        invalid = [word for word in self.words if not word or " " in word]
        if invalid:
            raise UserError(f"expected words without blanks, got '{invalid[0]}'; use a list of single words")
        self.spec = "words:" + " ".join(self.words)
        self.vocab_size = len(self.words) + 2
        self._ids = {word: i + 2 for i, word in enumerate(self.words)}
        # an alternation matches its first alternative that fits: sorted by length, that is the longest word
        self._longest = re.compile("|".join(re.escape(w) for w in sorted(self.words, key=len, reverse=True)))

    def encode(self, text: str) -> list[int]:
        """Return one id per word. Raises UserError if a part of the text is not a word of the list."""
        ids: list[int] = []
        for part in text.split(" "):
            if part:
                ids += self._split(part)
        return ids

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return one id per word, without special tokens."""
        return self.encode(chat_text(prompt))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words of the ids; PAD, EOS and ids out of range are left out."""
        text = ""
        for word in (self.words[i - 2] for i in ids if 2 <= i < self.vocab_size):
            text += word if not text or _takes_no_blank(text[-1]) or _takes_no_blank(word[0]) else f" {word}"
        return text

    def _split(self, part: str) -> list[int]:
        """Return the ids of a part without blanks."""
        if part in self._ids:
            return [self._ids[part]]
        ids = []
        start = 0
        while start < len(part):
            match = self._longest.match(part, start)
            if match is None:
                raise UserError(
                    f"expected words of the tokenizer, got '{part[start:]}'; use its words: "
                    f"{' '.join(self.words[:20])} ..."
                )
            ids.append(self._ids[match.group()])
            start = match.end()
        return ids


def _takes_no_blank(char: str) -> bool:
    """Return True for a line break, an ideograph or full-width punctuation."""
    return char == "\n" or "\u3000" <= char <= "\u9fff" or "\uff00" <= char <= "\uffef"


class HFTokenizer:
    """A transformers tokenizer.

    A plain prompt begins with the special tokens that the model begins a text with (BOS, or none). A list of messages
    is formatted by the chat template, with the assistant's header at its end. PAD may equal EOS: masks and lengths come
    from the rollout, never from a search for either id.

    Args:
        tokenizer: hub id, local path or the object.
        vocab_size: number of ids that the model can generate, if its embedding has more rows than the tokenizer has
            tokens (padded vocabularies).

    Raises:
        UserError: the tokenizer does not exist or has no EOS.
    """

    def __init__(self, tokenizer: Any, *, vocab_size: int | None = None) -> None:
        if isinstance(tokenizer, str | Path):
            tokenizer = _pretrained(str(tokenizer))
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"expected a tokenizer with an EOS token, got '{tokenizer.name_or_path}' without one, so that no turn "
                "could end; use another tokenizer, or set its eos_token"
            )
        self.hf = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._token_count = len(tokenizer)
        self.vocab_size = max(self._token_count, vocab_size or 0)
        # the context of an empty prompt: a model needs one token to predict the next from
        self._start: int = self.eos_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        # The special tokens before a text, found by comparison: tokenizers differ in how they add them, and some also
        # append EOS, which must not end a prompt.
        plain = self.encode("a")
        with_special_tokens = list(tokenizer("a")["input_ids"])
        starts = [i for i in range(len(with_special_tokens)) if with_special_tokens[i : i + len(plain)] == plain]
        self._prefix: list[int] = with_special_tokens[: starts[0]] if starts else []

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return list(self.hf(text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids of a plain prompt after the model's prefix, or of messages through the chat template.

        An empty text becomes the tokens that the model begins a text with, or BOS, or EOS.

        Raises:
            UserError: the prompt is a list of messages and the tokenizer has no chat template.
        """
        if isinstance(prompt, str):
            return [*self._prefix, *self.encode(prompt)] or [self._start]
        if not self.hf.chat_template:
            raise UserError(
                f"expected a tokenizer with a chat template for a prompt of messages, got '{self.hf.name_or_path}' "
                "without one; use prompts of plain text"
            )
        messages = [dict(m) for m in prompt]
        return list(self.hf.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens; ids that the tokenizer does not have are left out."""
        valid = [int(i) for i in ids if 0 <= i < self._token_count]
        # transformers' cleanup would remove blanks that the policy generated
        return str(self.hf.decode(valid, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def save_pretrained(self, folder: Path) -> None:
        """Write the tokenizer in transformers' format."""
        self.hf.save_pretrained(folder)


def as_tokenizer(spec: Any) -> Tokenizer:
    """Return a tokenizer.

    Args:
        spec: `bytes`, `chars:ALPHABET`, `words:A B C`, a hub id, a path, a transformers tokenizer or a `Tokenizer`.

    Raises:
        UserError: the argument is none of these.
    """
    if spec == "bytes":
        return ByteTokenizer()
    if isinstance(spec, str) and spec.startswith("chars:"):
        return CharTokenizer(spec.removeprefix("chars:"))
    if isinstance(spec, str) and spec.startswith("words:"):
        return WordTokenizer(word for word in spec.removeprefix("words:").split(" ") if word)
    if isinstance(spec, str | Path) or hasattr(spec, "eos_token_id"):
        return HFTokenizer(spec)
    if isinstance(spec, Tokenizer):
        return spec
    raise UserError(
        f"expected a tokenizer, got {type(spec).__name__}; "
        "use 'bytes', 'chars:ALPHABET', 'words:A B C', a hub id, a path or a transformers tokenizer"
    )


def _pretrained(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no tokenizer at '{name}': {reason}; use the hub id or path of a tokenizer") from error
