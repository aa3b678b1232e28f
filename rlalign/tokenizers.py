"""Tokenizers: bytes (any text), characters or words (small vocabularies), and Hugging Face tokenizers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.types import Prompt, Tokenizer


def chat_text(prompt: Prompt) -> str:
    """Return a prompt as one text: `role: content` lines, the last of which is an open one of the assistant.

    Example:
        >>> chat_text([{"role": "user", "content": "2+2?"}])
        'user: 2+2?\\nassistant:'
    """
    if isinstance(prompt, str):
        return prompt
    text = "".join(f"{m['role']}: {m['content']}\n" for m in prompt)
    if not prompt or prompt[-1]["role"] != "assistant":
        return text + "assistant:"
    return text[:-1] if prompt[-1]["content"] else text[:-2]  # that message is continued


class ByteTokenizer:
    """UTF-8 bytes 0-255, then EOS 256, PAD 257 and BOS 258, which begins each prompt. Encodes any text.

    Example:
        >>> tokenizer = ByteTokenizer()
        >>> tokenizer.encode_prompt("hé"), tokenizer.decode([104, 195, 169, 256])
        ([258, 104, 195, 169], 'hé')
    """

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

    Attributes:
        alphabet: the different characters, in order; character i has the id i + 2.
        spec: argument of `as_tokenizer` that builds an equal tokenizer.

    Example:
        >>> tokenizer = CharTokenizer("abc>")
        >>> tokenizer.vocab_size, tokenizer.encode("cab>"), tokenizer.decode([4, 2, 3, 1])
        (6, [4, 2, 3, 5], 'cab')
    """

    pad_id, eos_id = 0, 1

    def __init__(self, alphabet: str) -> None:
        self.alphabet = "".join(dict.fromkeys(alphabet))
        self.spec = f"chars:{self.alphabet}"
        self.vocab_size = len(self.alphabet) + 2
        self._ids = {char: i + 2 for i, char in enumerate(self.alphabet)}

    def encode(self, text: str) -> list[int]:
        """Return one id per character.

        Raises:
            UserError: a character is not in the alphabet.
        """
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

    Attributes:
        words: the different words, in order; word i has the id i + 2.
        spec: argument of `as_tokenizer` that builds an equal tokenizer.

    Raises:
        UserError: a word is empty or contains a blank.

    Example:
        >>> tokenizer = WordTokenizer(["the", "dog", "s", "run"])
        >>> tokenizer.encode("the dogs run"), tokenizer.decode([2, 3, 5])
        ([2, 3, 4, 5], 'the dog run')
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
        """Return the ids of a text, one per word.

        Raises:
            UserError: a part of the text is not a word of the list.
        """
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

    A plain prompt begins with the special tokens that the model begins a text with (BOS, or none), once if the text
    contains them. A list of messages is formatted by the chat template, with the assistant's header at its end. A final
    message of the assistant is continued instead. PAD may equal EOS: masks and lengths come from the rollout.

    Args:
        tokenizer: hub id, local path or the object.
        vocab_size: number of ids that the model can generate, if its embedding has more rows than the tokenizer has
            tokens (padded vocabularies).
        stop_ids: further tokens that end a turn, such as the EOS list of the model's generation_config.json. The
            smallest becomes EOS if the tokenizer has none.
        embedding_rows: number of ids that the model reads; None: all of the tokenizer.

    Attributes:
        hf: the transformers tokenizer.
        stop_ids: tokens that end a turn, EOS among them.
        adds_blank: a text begins with a blank that it does not have, as with SentencePiece.

    Raises:
        UserError: the tokenizer does not exist or has no EOS.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        vocab_size: int | None = None,
        stop_ids: Iterable[int] = (),
        embedding_rows: int | None = None,
    ) -> None:
        if isinstance(tokenizer, str | Path):
            tokenizer = _pretrained(str(tokenizer))
        stop_ids = frozenset(stop_ids)
        if tokenizer.eos_token_id is None and stop_ids:
            tokenizer.eos_token = tokenizer.convert_ids_to_tokens(min(stop_ids))
        if tokenizer.eos_token_id is None:
            raise UserError(
                f"expected a tokenizer with an EOS token, got '{tokenizer.name_or_path}' without one, so that no turn "
                "could end; use another tokenizer, or set its eos_token"
            )
        self.hf = tokenizer
        self.eos_id: int = tokenizer.eos_token_id
        self.stop_ids = stop_ids | {self.eos_id}
        self._rows = embedding_rows or 0
        pad_id = tokenizer.pad_token_id
        # padding that was added to the tokenizer alone has no row in the embedding
        self.pad_id: int = self.eos_id if pad_id is None or not self._has_row(pad_id) else pad_id
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
        self._before: tuple[list[int], str] = ([], "")
        self._before = self._context(plain)
        self.adds_blank = bool(self._before[0])

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens."""
        return self.readable(list(self.hf(text, add_special_tokens=False)["input_ids"]))

    @property
    def has_chat_template(self) -> bool:
        """True if messages can be encoded."""
        return bool(self.hf.chat_template)

    def encode_prompt(self, prompt: Prompt) -> list[int]:
        """Return the ids of a plain prompt after the model's prefix, or of messages through the chat template.

        An empty text becomes the tokens that the model begins a text with, or BOS, or EOS.

        Raises:
            UserError: there is no chat template for a prompt of messages, or it refuses them.
        """
        if isinstance(prompt, str):
            return self.after_prefix(self.encode(prompt))
        if not self.hf.chat_template:
            raise UserError(
                f"expected a tokenizer with a chat template for a prompt of messages, got '{self.hf.name_or_path}' "
                "without one; use prompts of plain text"
            )
        return self._format([dict(m) for m in prompt])

    def after_prefix(self, ids: list[int]) -> list[int]:
        """Return the context of a plain prompt, from the ids of its text."""
        # a prompt that a chat template has formatted begins with them already
        begins = ids[: len(self._prefix)] == self._prefix
        return self.readable((ids if begins else [*self._prefix, *ids]) or [self._start])

    def _format(self, messages: list[dict[str, str]]) -> list[int]:
        """Return the ids of messages through the chat template."""
        if messages and messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
            messages = messages[:-1]  # an empty answer is continued after the assistant's header
        continues = bool(messages) and messages[-1]["role"] == "assistant"
        try:
            ids = self.hf.apply_chat_template(
                messages,
                add_generation_prompt=not continues,
                continue_final_message=continues,
                tokenize=True,
                return_dict=False,
            )
        except Exception as error:  # a template may raise anything
            roles = ", ".join(str(message.get("role")) for message in messages)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"expected messages that the chat template of '{self.hf.name_or_path}' accepts, got the roles {roles} "
                f"({reason}); use other roles, or prompts of plain text"
            ) from error
        return self.readable(list(ids))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text without special tokens; ids that the tokenizer does not have are left out.

        It is the text as it continues another one: a blank before the first word is part of it.
        """
        return self._decode(ids, skip_special_tokens=True)

    def decode_raw(self, ids: Sequence[int]) -> str:
        """Return the text with special tokens, such as `<think>`."""
        return self._decode(ids, skip_special_tokens=False)

    def _decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        valid = [int(i) for i in ids if 0 <= i < self._token_count]
        before, text_before = self._before
        # transformers' cleanup would remove blanks that the policy generated
        text = self.hf.decode(
            [*before, *valid], skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        return str(text)[len(text_before) :]

    def _context(self, plain: list[int]) -> tuple[list[int], str]:
        """Return the ids and the text to decode other ids after: those of "a", which are `plain`, or nothing.

        SentencePiece writes the blank before a word into its token, as U+2581. Its decoder leaves the blank of the
        first token out, because it encodes a text with one blank more than it has.
        """
        second = self.encode("a a")[len(plain) :]
        if not second or not str(self.hf.convert_ids_to_tokens(second)[0]).startswith("\u2581"):
            return [], ""
        lost = self.decode(plain) == self.decode(second) == "a" and self.decode([*plain, *second]) == "a a"
        return (plain, "a") if lost else ([], "")

    def names(self, ids: Iterable[int]) -> str:
        """Return tokens and their ids for a message, such as `<|im_end|> (2), <|endoftext|> (0)`."""
        return ", ".join(f"{self.hf.convert_ids_to_tokens(i)} ({i})" for i in ids)

    def _has_row(self, token_id: int) -> bool:
        """Return True if the model's embedding has a row for an id."""
        return not self._rows or token_id < self._rows

    def readable(self, ids: list[int]) -> list[int]:
        """Return ids unchanged.

        Raises:
            UserError: the model's embedding has no row for one of them. On CUDA it would end the process.
        """
        if ids and not self._has_row(max(ids)):
            token = self.hf.convert_ids_to_tokens(max(ids))
            raise UserError(
                f"expected tokens of the model's embedding, which has {self._rows} rows, got {token!r} with the id "
                f"{max(ids)}, which was added to the tokenizer alone; use a model with a resized embedding, or texts "
                "without that token"
            )
        return ids

    def save_pretrained(self, folder: Path) -> None:
        """Write the tokenizer to a folder, in transformers' format."""
        self.hf.save_pretrained(folder)


def as_tokenizer(spec: Any) -> Tokenizer:
    """Return the tokenizer that a text names, or the tokenizer of an object.

    Args:
        spec: `bytes`, `chars:ALPHABET`, `words:A B C`, a hub id, a path, a transformers tokenizer or a `Tokenizer`,
            which is returned unchanged.

    Raises:
        UserError: the argument is none of these, or no tokenizer exists at the hub id or path.

    Example:
        >>> as_tokenizer("words:yes no").encode("no yes")
        [3, 2]
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
    except Exception as error:  # a damaged file raises errors of many types, the Rust library's among them
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"no tokenizer at '{name}': {reason}; use the hub id or path of a tokenizer") from error
