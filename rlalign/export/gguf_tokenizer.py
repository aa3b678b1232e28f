"""The tokenizer of a transformers folder as metadata of a GGUF file.

llama.cpp has byte-level BPE with a list of known pre-tokenizers, which a file names. The tokenizer of a folder is
compared with that list by its rule, not by the name of the model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rlalign.errors import UserError
from rlalign.policies.stop_tokens import configured_eos, end_of_turn

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""Token types of GGUF: ordinary, special, added to the vocabulary, and rows of the embedding without a token."""

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS = {_WORDS + r"\p{N}" + _REST: "qwen2", _WORDS + r"\p{N}{1,3}" + _REST: "llama-bpe"}
"""Regular expression of a Split pre-tokenizer -> llama.cpp's name of it."""
_BPE_SETTINGS = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
"""Settings of a BPE that llama.cpp does not have. It takes whole words of the vocabulary first (ignore_merges) for the
pre-tokenizer of Llama 3 alone."""


@dataclass(frozen=True, slots=True)
class GgufTokenizer:
    """The entries of a tokenizer in a GGUF file.

    Attributes:
        pre: llama.cpp's name of the pre-tokenizer.
        tokens: text of each id, in the alphabet of byte-level BPE.
        types: type of each id.
        merges: pairs, separated by a blank, in order of rank.
        bos_id: begins a text; EOS if the tokenizer has none.
        eos_id: ends a text.
        eot_id: ends a turn; None if no second token does.
        pad_id: padding; None without one.
        add_bos: a text begins with BOS.
        chat_template: Jinja template; None without one.
        unexpressed: ids that end a turn in training, for which GGUF has no entry.
    """

    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    bos_id: int
    eos_id: int
    eot_id: int | None
    pad_id: int | None
    add_bos: bool
    chat_template: str | None
    unexpressed: tuple[int, ...] = ()


def gguf_tokenizer(tokenizer: Any, rows: int, generation: dict[str, Any]) -> GgufTokenizer:
    """Return a transformers tokenizer in the terms of GGUF.

    Args:
        tokenizer: a fast transformers tokenizer.
        rows: token ids of the model's embedding.
        generation: content of generation_config.json, whose EOS list ends turns.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise _refusal(f"{type(tokenizer).__name__}, which has no tokenizer.json")
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    model = content["model"]
    eos = tokenizer.eos_token_id
    if eos is None:
        raise _refusal("no token that ends a text")
    normalizer = content["normalizer"]
    if normalizer and normalizer["type"] != "NFC":  # llama.cpp has none; texts are almost always in NFC already
        raise _refusal(f"the normalizer {normalizer['type']}")
    moved = [token["content"] for token in content["added_tokens"] if _spreads(token)]
    if moved:
        raise _refusal(f"the token {moved[0]!r}, which takes blanks beside it or stands between words only")
    if model["type"] == "BPE":
        texts = {int(i): str(text) for text, i in model["vocab"].items()}
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        pre = _pre_tokenizer(content["pre_tokenizer"], bool(merges))
        settings = [name for name in _BPE_SETTINGS if model.get(name)]
        if settings or (merges and bool(model.get("ignore_merges")) != (pre == "llama-bpe")):
            raise _refusal(f"{', '.join(settings) or 'ignore_merges'} with the pre-tokenizer {pre}")
    elif model["type"] == "WordLevel":
        texts, merges = _characters(model["vocab"])
        pre = "gpt-2"
    else:
        raise _refusal(f"a model of kind {model['type']}")
    types = dict.fromkeys(texts, NORMAL)
    for token in content["added_tokens"]:
        texts[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    past = sorted(i for i in texts if i >= rows)
    if past:
        raise _refusal(f"the id {past[0]}, for which the model's embedding of {rows} rows has none")
    names = [texts.get(i, f"[PAD{i}]") for i in range(rows)]
    if not merges:  # llama.cpp needs one: of two special tokens, which never stand as symbols side by side
        special = [names[i] for i, kind in types.items() if kind == CONTROL] or names[:1]
        merges = [f"{special[0]} {special[-1]}"]
    end = end_of_turn(tokenizer)
    stops = sorted((configured_eos(generation) | (set() if end is None else {end})) - {eos})
    bos = tokenizer.bos_token_id
    added = tokenizer("")["input_ids"]  # no text: an alphabet may lack any character
    return GgufTokenizer(
        pre=pre,
        tokens=names,
        types=[types.get(i, UNUSED) for i in range(rows)],
        merges=merges,
        bos_id=eos if bos is None else bos,
        eos_id=eos,
        eot_id=stops[0] if stops else None,
        pad_id=tokenizer.pad_token_id,
        add_bos=bos is not None and added[:1] == [bos],
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
        unexpressed=tuple(stops[1:]),
    )


def _characters(vocabulary: dict[str, int]) -> tuple[dict[int, str], list[str]]:
    """Return a vocabulary of single characters as byte-level BPE: texts by id, and merges of the bytes of each.

    Merges of the bytes of one character never join two characters, because no character continues another's bytes.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()  # type: ignore[no-untyped-call]  # untyped in transformers
    texts: dict[int, str] = {}
    merges: dict[str, None] = {}
    for text, i in vocabulary.items():
        if len(text) > 1:  # a special token, which is among the added tokens too
            texts[i] = text
            continue
        symbols = [letters[byte] for byte in text.encode()]
        texts[i] = "".join(symbols)
        for end in range(1, len(symbols)):
            merges[f"{''.join(symbols[:end])} {symbols[end]}"] = None
    return texts, list(merges)


def _pre_tokenizer(rule: Any, merges: bool) -> str:
    """Return llama.cpp's name of a pre-tokenizer.

    Raises:
        UserError: it has none with this rule.
    """
    parts = rule["pretokenizers"] if rule and rule["type"] == "Sequence" else [rule]
    kinds = [part["type"] if part else "none" for part in parts]
    last = parts[-1]
    if kinds[-1] == "ByteLevel" and not last["add_prefix_space"]:
        if kinds == ["ByteLevel"] and (last["use_regex"] or not merges):  # without merges, a split changes nothing
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and last["use_regex"] and parts[0]["individual_digits"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not last["use_regex"]:
            name = _SPLITS.get(parts[0]["pattern"].get("Regex"))
            if name is not None and parts[0]["behavior"] == "Isolated" and not parts[0]["invert"]:
                return name
    raise _refusal(f"the pre-tokenizer {' + '.join(kinds)}")


def _spreads(token: dict[str, Any]) -> bool:
    """Return True for an added token that matches more or less than its own text, which GGUF cannot express."""
    return bool(token["lstrip"] or token["rstrip"] or token["single_word"])


def _refusal(got: str) -> UserError:
    return UserError(
        f"--format gguf: expected a byte-level BPE of GPT-2, SmolLM, Qwen or Llama 3, or an alphabet, got {got}; use "
        "--format hf, then convert_hf_to_gguf.py of llama.cpp on that folder"
    )
