"""The card of a saved policy's folder: which kind of policy it holds, and with which tokenizer it spoke."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlalign.tokenizers import HFTokenizer, as_tokenizer
from rlalign.types import Tokenizer

_CARD = "policy.json"


def save_card(folder: Path, kind: str, tokenizer: Tokenizer, **more: Any) -> None:
    """Write the card and, where it is a transformers tokenizer, the tokenizer."""
    if isinstance(tokenizer, HFTokenizer):
        tokenizer.save_pretrained(folder)
    # a tokenizer of the user's own has no name here: whoever loads the folder must bring it
    spec = getattr(tokenizer, "spec", None)
    (folder / _CARD).write_text(json.dumps({"kind": kind, "tokenizer": spec, **more}, indent=1))


def card_of(folder: Path) -> dict[str, Any] | None:
    """What `save_card` wrote; None for a folder from elsewhere."""
    path = folder / _CARD
    card: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return card


def saved_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder with a card, None where the user must bring it."""
    card = card_of(folder)
    if card is None:
        return None
    if card["tokenizer"] is not None:
        return as_tokenizer(card["tokenizer"])
    if not (folder / "tokenizer_config.json").is_file():
        return None
    return HFTokenizer(folder, vocab_size=card.get("vocab_size"))
