"""Paths of folders that do not exist: no hub is asked for them, and hub ids stay hub ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rlalign
from rlalign.config.schema import TrainConfig
from rlalign.errors import UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.factory import policy_kind
from rlalign.policies.model_files import ModelFiles, is_missing_folder
from rlalign.policies.model_folder import inspect_model
from rlalign.training.resume_check import check_resume


@pytest.fixture(autouse=True)
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with one run, and fail if a hub is asked."""
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "runs" / "a" / "config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def asked(*arguments: Any, **settings: Any) -> None:
        raise AssertionError(f"the hub was asked for {arguments}")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", asked)
    monkeypatch.setattr("transformers.utils.hub.cached_file", asked)


@pytest.mark.parametrize("name", ["runs/gone", "runs/gone/policy", "./gone", "/gone/policy", "~/gone", "gone/"])
def test_a_missing_folder_is_reported_at_once(name: str) -> None:
    for look in (policy_kind, inspect_model):
        with pytest.raises(UserError, match=f"no folder '{name}'"):
            look(name)
    assert ModelFiles(name).find("config.json") is None


@pytest.mark.parametrize("name", ["owner/name", "gpt2", "org/runs"])
def test_hub_ids_are_no_folders(name: str) -> None:
    assert not is_missing_folder(name)
    assert policy_kind(name) == "pretrained"


def test_a_hub_id_in_the_cache_is_loaded_though_a_folder_has_the_name_of_its_owner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: "/cache/config.json")
    assert not is_missing_folder("runs/name")


def test_a_missing_base_of_an_adapter_is_reported_with_the_adapter(tmp_path: Path) -> None:
    settings = {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "runs/gone/policy"}
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=r"base model 'runs/gone/policy' .*\(no folder 'runs/gone/policy'"):
        inspect_model(folder)


def test_a_resume_without_the_parent_says_what_is_missing(tmp_path: Path) -> None:
    small = {"steps": 1, "rollout__prompts": 2, "rollout__group_size": 2, "evaluation__prompts": 2, "quiet": True}
    small |= {"model__hidden_size": 16}
    rlalign.train("reverse", "gru", output=tmp_path / "runs" / "p", **small)
    rlalign.train("sort", "runs/p", output=tmp_path / "runs" / "q", **small)
    (tmp_path / "runs" / "p").rename(tmp_path / "moved")  # at none of the recorded paths
    config: TrainConfig = rlalign.Run(tmp_path / "runs" / "q").config
    expected = (
        rf"began with the policy 'runs/p/policy'.*expected the folder '{tmp_path}/runs/p/policy', got none; move or "
        "link the folder to that path, then use rlalign train --resume"
    )
    with pytest.raises(UserError, match=expected) as caught:
        check_resume(tmp_path / "runs" / "q", config, PlainConsole(quiet=True))
    assert "-> none" not in str(caught.value)
    (tmp_path / "moved").rename(tmp_path / "runs" / "p")
    check_resume(tmp_path / "runs" / "q", config, PlainConsole(quiet=True))
