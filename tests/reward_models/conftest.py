"""Reward models that several tests read, trained once."""

from __future__ import annotations

import pytest

from rlalign.reward_models import Settings, train_reward_model
from tests.reward_models.tiny import CHATML, notes, write_model, write_rows

FAST = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3}


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", notes(160))


@pytest.fixture(scope="session")
def linear(tmp_path_factory, pairs_file):
    """A linear model."""
    folder = tmp_path_factory.mktemp("linear") / "rm"
    train_reward_model(pairs_file, folder, Settings(model="linear"))
    return folder


@pytest.fixture(scope="session")
def text_model(tmp_path_factory, pairs_file):
    """All weights of a model whose padding token is its EOS token, on plain texts."""
    root = tmp_path_factory.mktemp("text")
    base = write_model(root / "base", pad_is_eos=True)
    return train_reward_model(pairs_file, root / "rm", Settings(model=str(base), **FAST))


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory):
    """LoRA on a bf16 base with a chat template that ends in a newline."""
    root = tmp_path_factory.mktemp("chat")
    base = write_model(root / "base", template=CHATML, dtype="bfloat16")
    data = write_rows(root / "pairs.jsonl", notes(160, chat=True))
    settings = Settings(model=str(base), lora_r=8, epochs=6, batch_size=16, learning_rate=1e-2)
    return train_reward_model(data, root / "rm", settings)
