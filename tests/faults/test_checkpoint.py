"""Checkpoints after kills, full disks, flipped bits and missing parts."""

import errno
import json
import os
import signal

import pytest
import torch

from rlalign.errors import FaultError, UserError
from rlalign.storage import checkpoint
from rlalign.storage.newest import newest
from rlalign.training import rng as randomness

STATE = {
    "policy": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)},
    "learner": {"nested": [{"t": torch.tensor(3)}, None, "x", 1.5], 7: {"int key": True}},
    "buffer": None,
}


def save_step(folder, step, state=STATE, **kwargs):
    """Save a checkpoint of `state` as this step, and return its folder."""
    return checkpoint.save(folder, step, state, config_hash="h", **kwargs)


def test_round_trip_keeps_structure_keys_and_bits(tmp_path):
    state, manifest = checkpoint.load(save_step(tmp_path, 3))
    assert manifest["step"] == 3
    assert torch.equal(state["policy"]["w"], STATE["policy"]["w"])
    assert state["policy"]["b"].shape == (0,)
    assert state["learner"]["nested"][1:] == [None, "x", 1.5]
    assert state["learner"][7] == {"int key": True}
    assert state["buffer"] is None


def test_only_the_newest_checkpoints_remain_and_steps_are_ordered_as_numbers(tmp_path):
    for step in (1, 9, 10):
        save_step(tmp_path, step, keep=2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-9", "step-10"]
    assert checkpoint.latest(tmp_path).name == "step-10"


def save_and_die(folder, after):
    """Save step 1, then send SIGKILL to this process at disk operation number `after + 1` of the save of step 2."""
    state = {"policy": {"w": torch.ones(4)}, "rng": {"x": 1}}
    save_step(folder, 1, state)
    operations = 0

    def killing(real):
        def call(*args, **kwargs):
            nonlocal operations
            operations += 1
            if operations > after:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("_write", "_fsync", "save_file"):
        setattr(checkpoint, name, killing(getattr(checkpoint, name)))
    os.replace = killing(os.replace)
    save_step(folder, 2, state)


@pytest.mark.parametrize("after", range(9))
def test_sigkill_at_each_stage_of_a_save_leaves_a_complete_checkpoint(tmp_path, after):
    child = os.fork()
    if child == 0:
        save_and_die(tmp_path, after)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    # 8 operations: 2 writes, 1 tensor file, its fsync, manifest, fsync of tmp, rename, fsync of the folder
    if after < 8:
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
    newest = checkpoint.latest(tmp_path)
    assert newest.name == ("step-1" if after < 7 else "step-2")
    state, _ = checkpoint.load(newest, need=("policy", "rng"))
    assert torch.equal(state["policy"]["w"], torch.ones(4))
    save_step(tmp_path, 3)  # the next save deletes the files of the killed one
    assert not list(tmp_path.glob("tmp-*"))


def test_full_disk_leaves_the_earlier_checkpoint_and_removes_the_partial_one(tmp_path, monkeypatch):
    save_step(tmp_path, 1)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "_fsync", full)
    with pytest.raises(FaultError, match=r"no space left .* step-1 intact"):
        save_step(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    checkpoint.load(checkpoint.latest(tmp_path))


def test_full_disk_inside_safetensors_raises_the_same_error(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    save_step(tmp_path, 1)

    def full(*args):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(FaultError, match="no space left"):
        save_step(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


@pytest.mark.parametrize("name", ["policy.safetensors", "learner.json"])
def test_one_flipped_bit_raises_an_error_that_names_the_file(tmp_path, name):
    file = save_step(tmp_path, 1) / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(FaultError, match=f"{name}.*damaged"):
        checkpoint.load(tmp_path / "step-1")


def test_missing_parts_raise_an_error_unless_allowed(tmp_path):
    path = save_step(tmp_path, 1)
    with pytest.raises(FaultError, match=r"lacks optimizer, rng.*--allow-change"):
        checkpoint.load(path, need=("policy", "optimizer", "rng"))
    state, _ = checkpoint.load(path, need=("policy", "optimizer", "rng"), lenient=True)
    assert "optimizer" not in state


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[: len(text) // 2],
        lambda text: "[1]",
        lambda text: "null",
        lambda text: b"\xff\xfe" + text.encode(),
        lambda text: text.replace('"step": 2', '"step": 3'),
        lambda text: text.replace('"config": "h"', '"config": "i"'),  # one bit
        lambda text: text.replace('"sha256": ', '"sha257": '),
        lambda text: text.replace('"versions"', '"versionr"'),
        lambda text: json.dumps({key: value for key, value in json.loads(text).items() if key != "files"}),
        lambda text: None,
    ],
)
def test_a_damaged_manifest_is_named_and_the_checkpoint_before_it_is_taken(tmp_path, damage):
    for step in (1, 2):
        save_step(tmp_path, step)
    file = tmp_path / "step-2" / "manifest.json"
    content = damage(file.read_text())
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FaultError, match=r"step-2/manifest\.json' (is damaged|cannot be read)"):
        checkpoint.load(tmp_path / "step-2")
    found = newest(tmp_path, need=("policy",))
    assert found.path.name == "step-1"
    assert "step-2/manifest.json" in found.damaged[tmp_path / "step-2"]
    found.set_damaged_aside()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["damaged-step-2", "step-1"]


def test_only_damaged_checkpoints_raise_an_error_that_names_each(tmp_path):
    for step in (1, 2):
        (save_step(tmp_path, step) / "manifest.json").write_text("")
    with pytest.raises(FaultError, match=r"no checkpoint in .* verifies.*step-2/manifest.*step-1/manifest"):
        newest(tmp_path, need=("policy",))


def test_a_manifest_of_before_without_its_own_digest_is_accepted(tmp_path):
    file = save_step(tmp_path, 1) / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["sha256"]
    file.write_text(json.dumps(manifest))
    assert checkpoint.load(tmp_path / "step-1")[1]["step"] == 1


def test_a_folder_that_cannot_be_written_raises_an_error_that_names_it(tmp_path):
    (tmp_path / "checkpoints").write_text("a file where the folder belongs")
    with pytest.raises(FaultError, match=r"checkpoints' cannot be written .*step-1 was not written, no earlier one"):
        save_step(tmp_path / "checkpoints", 1)


def test_no_complete_checkpoint_raises_an_error(tmp_path):
    (tmp_path / "tmp-step-4").mkdir()
    (tmp_path / "step-5").mkdir()  # no manifest: not a checkpoint
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoint.latest(tmp_path)


def test_pickles_are_neither_written_nor_read(tmp_path):
    path = save_step(tmp_path, 1)
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(TypeError, match=r"cannot store a .* \(policy.f\)"):
        save_step(tmp_path, 2, {"policy": {"f": object()}})
    marker = tmp_path / "evil"
    (path / "policy.safetensors").write_bytes(b"cos\nsystem\n(S'touch " + str(marker).encode() + b"'\ntR.")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["policy.safetensors"]["sha256"] = checkpoint._sha256(path / "policy.safetensors")
    manifest["sha256"] = checkpoint._digest_of(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FaultError, match=r"policy\.safetensors' is not a safetensors file"):
        checkpoint.load(path)
    assert not marker.exists()


def test_rng_state_round_trip():
    import random

    import numpy as np

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the global generator is tested

    state = randomness.global_state()
    first = draw()
    assert draw() != first
    randomness.set_global_state(state)
    assert draw() == first


def test_a_file_that_cannot_be_read_is_damaged_and_the_checkpoint_before_it_is_taken(tmp_path, monkeypatch):
    for step in (1, 2):
        checkpoint.save(tmp_path, step, {"policy": {"step": step}}, config_hash="h")
    real = checkpoint._sha256

    def unreadable(path):
        if path.parent.name == "step-2":
            raise OSError(errno.EIO, "Input/output error")
        return real(path)

    monkeypatch.setattr(checkpoint, "_sha256", unreadable)
    found = newest(tmp_path, need=("policy",))
    assert found.state == {"policy": {"step": 1}}
    (problem,) = found.damaged.values()
    assert problem.endswith("step-2/policy.json' cannot be read (Input/output error)")
