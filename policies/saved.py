"""The card `policy.json` of a saved policy: its kind, its tokenizer and its sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.policies.model_files import ModelFiles
from rlalign.policies.stop_tokens import configured_eos, end_of_turn
from rlalign.tokenizers import HFTokenizer, as_tokenizer
from rlalign.types import Tokenizer

_CARD = "policy.json"
_GENERATION = "generation_config.json"


def write_card(folder: Path, kind: str, tokenizer: Tokenizer, **settings: Any) -> None:
    """Write the card and, if the tokenizer is a transformers tokenizer, the tokenizer.

    Args:
        folder: the policy folder, which exists.
        kind: causal, gru or tabular.
        tokenizer: the policy's tokenizer.
        settings: further entries of the card, as JSON values.
    """
    if isinstance(tokenizer, HFTokenizer):
        tokenizer.save_pretrained(folder)
        settings = {"stop_ids": sorted(tokenizer.stop_ids), **settings}
    # a custom tokenizer has no name: it must be passed when the folder is loaded
    spec = getattr(tokenizer, "spec", None)
    (folder / _CARD).write_text(json.dumps({"kind": kind, "tokenizer": spec, **settings}, indent=1))


def write_stop_ids(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the tokens that end a turn in training as the EOS list of generation_config.json, unless they are that.

    Args:
        folder: of a transformers model.
        tokenizer: the policy's tokenizer.
    """
    stop_ids = set(getattr(tokenizer, "stop_ids", ())) | {tokenizer.eos_id}
    content = ModelFiles(str(folder)).read_json(_GENERATION) or {}
    if configured_eos(content) != stop_ids:
        content["eos_token_id"] = sorted(stop_ids)
        (folder / _GENERATION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def update_card(folder: Path, **entries: Any) -> None:
    """Add entries, as JSON values, to the card of a policy folder."""
    card = json.loads((folder / _CARD).read_text()) | entries
    (folder / _CARD).write_text(json.dumps(card, indent=1))


def read_card(folder: Path) -> dict[str, Any] | None:
    """Return the card of a policy folder; None if `write_card` did not write there.

    Raises:
        UserError: the card is not a JSON object.
    """
    return ModelFiles(str(folder)).read_json(_CARD) if folder.is_dir() else None


def saved_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer of a folder with a card; None if the user must pass it."""
    card = read_card(folder)
    if card is None:
        return None
    if card.get("tokenizer") is not None:
        return as_tokenizer(card["tokenizer"])
    if not (folder / "tokenizer_config.json").is_file():
        return None
    tokenizer = HFTokenizer(folder, vocab_size=card.get("vocab_size"), stop_ids=card.get("stop_ids", ()))
    if "stop_ids" not in card:  # cards of earlier versions do not hold them
        files = ModelFiles(str(folder))
        stop_ids = configured_eos(files.read_json(_GENERATION), files.read_json("config.json"))
        end = end_of_turn(tokenizer.hf)
        stop_ids |= set() if end is None else {end}
        tokenizer.stop_ids |= {i for i in stop_ids if i < tokenizer.vocab_size}
    return tokenizer


def tokenizer_of(folder: Path, tokenizer: Tokenizer | None) -> Tokenizer:
    """Return the tokenizer of a folder with a card, or else the one passed.

    Raises:
        UserError: the folder holds none and none was passed.
    """
    own = saved_tokenizer(folder) or tokenizer
    if own is None:
        raise UserError(f"'{folder}': expected a tokenizer, which the folder does not hold; pass tokenizer=...")
    return own
