"""The card of a saved policy's folder: which kind of policy it holds, and with which tokenizer it spoke."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlalign.policies.tokenizer import HFTokenizer
from rlalign.types import Tokenizer

_CARD = "policy.json"


def save_card(folder: Path, kind: str, tokenizer: Tokenizer, **more: Any) -> None:
    """Write the card and, where it is a transformers tokenizer, the tokenizer."""
    own = None
    if isinstance(tokenizer, HFTokenizer):
        tokenizer.save_pretrained(folder)
    else:
        own = f"{type(tokenizer).__module__}:{type(tokenizer).__qualname__}"
    (folder / _CARD).write_text(json.dumps({"kind": kind, "tokenizer": own, **more}, indent=1))


def card_of(folder: Path) -> dict[str, Any] | None:
    """What `save_card` wrote; None for a folder from elsewhere."""
    path = folder / _CARD
    card: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
    return card


def saved_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a folder with a card: transformers' or this library's; a card imports nothing else."""
    from rlalign.registry import load

    card = card_of(folder)
    if card is None:
        return None
    named = card["tokenizer"]
    if named is None:
        from transformers import AutoTokenizer

        return HFTokenizer(AutoTokenizer.from_pretrained(folder), card.get("vocab_size"))
    found: Tokenizer | None = load(named)() if named.startswith("rlalign.") else None
    return found
