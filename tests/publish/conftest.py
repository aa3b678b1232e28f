"""A finished run, made once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import rlalign

from .hub_server import HubServer

SMALL = {
    "steps": 2,
    "rollout__prompts": 2,
    "rollout__group_size": 2,
    "evaluation__prompts": 3,
    "model__hidden_size": 16,
    "quiet": True,
}


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run of a transformers model."""
    folder = tmp_path_factory.mktemp("publish") / "a-run"
    rlalign.train("reverse", "tiny", "grpo", rewards=["token_match", "length=0"], output=folder, **SMALL)
    return folder


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """Return a hub on this machine."""
    server = HubServer()
    yield server
    server.close()
