"""Small files of recorded data, and environments under two tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.tokenizers import HFTokenizer
from tests.policies.conftest import TEMPLATE, bpe

CHARS = make_mdp("reverse")
REWRITING = (
    "{%- for m in messages -%}{%- if m.role == 'assistant' -%}<|assistant|>"
    "{%- if loop.last -%}{{ m.content }}{%- else -%}{{ m.content.split('|')[-1] }}{%- endif -%}<|end|>"
    "{%- else -%}<|user|>{{ m.content }}<|end|>{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
"""A chat template that drops the text before `|` of earlier answers, as Qwen3's drops their reasoning."""


def write(folder: Path, *rows: Mapping[str, Any], name: str = "data.jsonl") -> str:
    """Write rows as JSON lines and return the path."""
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def talk(*texts: str) -> list[dict[str, str]]:
    """Return texts as messages of user and assistant in turn."""
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


@pytest.fixture(scope="session")
def chat_mdp() -> TextMDP:
    """An environment under a tokenizer with a chat template: 0 EOS, 1 end of turn, 2 user, 3 assistant."""
    return make_mdp("reverse", tokenizer=HFTokenizer(bpe(template=TEMPLATE), stop_ids=[0, 1]))


@pytest.fixture(scope="session")
def rewriting_mdp() -> TextMDP:
    """The same with a template that rewrites earlier answers."""
    return make_mdp("reverse", tokenizer=HFTokenizer(bpe(template=REWRITING), stop_ids=[0, 1]))
