"""Uploads to a server on this machine, by the command: what arrives, what is left out, and each failure."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rlalign
from rlalign.assets import SMOLLM2_FOLDER, SMOLLM2_ID
from rlalign.errors import FaultError, UserError
from rlalign.publish.push import push, uploaded_files
from rlalign.publish.shareable_files import shareable_files, shared_base

from .conftest import SMALL
from .hub_server import HubServer


@pytest.fixture
def online(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let huggingface_hub in this process talk to the hub on this machine, as its variables do at its import."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", hub.token)


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Return a copy of the run with files that must not be uploaded."""
    folder = tmp_path / "a-run"
    shutil.copytree(run, folder)
    policy = folder / "policy"
    for name in ("evil.pkl", "pytorch_model.bin", ".env", "modeling.py", ".cache.json"):
        (policy / name).write_text("secret")
    (tmp_path / "secret.json").write_text("secret")
    (policy / "linked.json").symlink_to(tmp_path / "secret.json")
    (policy / "adapter[1]").mkdir()
    (policy / "adapter[1]" / "adapter_config.json").write_text("{}")
    return folder


def test_the_command_uploads_as_it_is_and_private_and_only_what_is_on_the_list(
    copy: Path, hub: HubServer, tmp_path: Path
) -> None:
    """In a process of its own: huggingface_hub reads its address and token when it is imported."""
    variables = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    command = [sys.executable, "-m", "rlalign", "push", str(copy), "me/model"]
    done = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.repos["me/model"] == {"visibility": "private", "type": "model"}
    files = hub.files["me/model"]
    expected = {"README.md", "config.json", "model.safetensors", "policy.json", "adapter[1]/adapter_config.json"}
    assert expected <= set(files)
    assert b"secret" not in files.values()
    for name, content in files.items():
        assert content == (copy / "policy" / name).read_bytes()
    output = " ".join(done.stdout.split())
    assert f"uploaded {len(files)} files to {hub.url}/me/model; left out: .cache.json, .env, evil.pkl" in output
    assert hub.validated[-1]["library_name"] == "transformers"


@pytest.mark.usefixtures("online")
def test_an_existing_repository_keeps_its_visibility_and_a_missing_card_is_written(copy: Path, hub: HubServer) -> None:
    (copy / "policy" / "README.md").unlink()
    push(copy, "me/model", private=False)
    assert hub.repos["me/model"]["visibility"] == "public"
    assert b"library_name: transformers" in hub.files["me/model"]["README.md"]
    push(copy, "me/model")
    assert hub.repos["me/model"]["visibility"] == "public"


@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("fail_at", ["create", "commit"])
def test_a_failing_server_loses_nothing_and_the_next_step_is_named(copy: Path, hub: HubServer, fail_at: str) -> None:
    hub.fail_at = fail_at
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with pytest.raises(
        FaultError, match=rf"(?s)to 'me/model' \(HfHubHTTPError: .*then use rlalign push {copy} me/model"
    ):
        push(copy, "me/model")
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("online")
def test_a_wrong_token_is_reported(run: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(FaultError, match="check hf auth whoami"):
        push(run, "me/model")
    assert hub.files == {}


@pytest.mark.usefixtures("online")
def test_a_run_is_uploaded_at_its_end(tmp_path: Path, hub: HubServer, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {**SMALL, "quiet": False, "tracking__push": "me/model"}
    rlalign.train("reverse", "gru", output=tmp_path / "r", **settings)
    assert f"to {hub.url}/me/model" in " ".join(capsys.readouterr().out.split())
    assert {"README.md", "policy.json"} <= set(hub.files["me/model"])
    assert hub.repos["me/model"]["visibility"] == "private"


def test_without_a_network_the_message_has_the_next_step(run: Path) -> None:
    with pytest.raises(FaultError, match=r"could not be uploaded to 'me/model' .*use rlalign push .* me/model"):
        push(run, "me/model")  # tests are offline


def test_a_folder_without_a_finished_run_is_refused(tmp_path: Path, run: Path) -> None:
    with pytest.raises(UserError, match="expected a run folder"):
        push(tmp_path, "me/model")
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "policy")
    with pytest.raises(UserError, match="has no policy yet"):
        push(copy, "me/model")


def test_the_list_is_of_formats_that_run_no_code(copy: Path) -> None:
    files, left_out = uploaded_files(copy / "policy")
    assert set(left_out) == {"evil.pkl", "pytorch_model.bin", ".env", "modeling.py", ".cache.json", "linked.json"}
    assert "model.safetensors" in files


@pytest.mark.usefixtures("online")
def test_an_adapter_loads_from_the_upload_alone(tmp_path: Path, hub: HubServer) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run = tmp_path / "home" / "r"
    rlalign.train("reverse", "tiny", "grpo", output=run, model__adapter__kind="lora", learner__lr=0.1, **SMALL)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert str(tmp_path) in (run / "policy" / "adapter" / "adapter_config.json").read_text()  # for this machine
    push(run, "me/model")
    uploaded = tmp_path / "uploaded"
    for name, content in hub.files["me/model"].items():
        assert str(tmp_path).encode() not in content, name
        (uploaded / name).parent.mkdir(parents=True, exist_ok=True)
        (uploaded / name).write_bytes(content)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    shutil.rmtree(run)
    card = (uploaded / "README.md").read_text()
    code = card.partition("```python\n")[2].partition("\n```")[0].replace("FOLDER", str(uploaded))
    names: dict[str, Any] = {"AutoModelForCausalLM": AutoModelForCausalLM, "PeftModel": PeftModel}
    exec(code, names)
    ids = torch.arange(4)[None]
    policy = AutoModelForCausalLM.from_pretrained(uploaded)
    with torch.no_grad():
        adapted, merged = (m(input_ids=ids).logits.float() for m in (names["model"], policy))
        initial = AutoModelForCausalLM.from_pretrained(uploaded / "base")(input_ids=ids).logits.float()
    torch.testing.assert_close(adapted, merged, atol=1e-3, rtol=0)
    assert (adapted - initial).abs().max() > 1e-2  # the check can fail


def test_the_base_of_an_adapter_is_renamed_in_each_text(tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    base = "/data/jürgen/gpt2"
    texts = {
        "policy.json": json.dumps({"measured": {"adapter": {"base": base}}}),
        "adapter/adapter_config.json": json.dumps({"base_model_name_or_path": base}, ensure_ascii=False),
        "adapter/README.md": f"---\nbase_model: {base}\ntags:\n- base_model:adapter:{base}\n---\n",  # of peft
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    for name, content in shareable_files(tmp_path, list(texts)).items():
        assert b"/data" not in content, name
        assert b"./gpt2" in content, name
    assert (tmp_path / "policy.json").read_text() == texts["policy.json"]


@pytest.mark.parametrize("found", ["run", "home", "key"])
def test_a_file_with_a_place_or_a_key_is_not_uploaded(copy: Path, monkeypatch: pytest.MonkeyPatch, found: str) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    texts = {"run": str(copy), "home": "/home/somebody/rm", "key": "hf_" + "a" * 30}
    (copy / "policy" / "adapter[1]" / "notes.txt").write_text(f"see {texts[found]}")
    with pytest.raises(UserError, match=r"notes.txt': expected a file without folders of this machine and without key"):
        push(copy, "me/model")


@pytest.mark.parametrize(
    ("base", "shared"),
    [
        ("/home/me/run/policy/base", "./base"),
        (f"/home/me/.cache/rlalign/models/{SMOLLM2_FOLDER}", SMOLLM2_ID),
        ("org/name", "org/name"),
        ("/home/me/gpt2", "./gpt2"),  # and not the repository of this name
    ],
)
def test_bases_are_named_as_others_find_them(tmp_path: Path, base: str, shared: str) -> None:
    (tmp_path / "base").mkdir()
    assert shared_base(base, tmp_path) == shared


def test_a_local_folder_named_base_is_not_the_one_beside_the_adapter(tmp_path: Path) -> None:
    assert shared_base("/home/me/base", tmp_path) == "./local/base"


@pytest.mark.parametrize("name", ["model", "a/b/c", "https://huggingface.co/a/b", "a b/c", ""])
def test_a_name_without_an_owner_is_refused_before_anything_is_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"push: expected a repository OWNER/NAME of the Hub, got '{name}'"):
        push(tmp_path / "no-run", name)
