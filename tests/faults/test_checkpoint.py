"""Checkpoints against kills, full disks, flipped bits and missing parts."""

import errno
import json
import os
import signal

import pytest
import torch

from rlalign.errors import FaultError, UserError
from rlalign.storage import checkpoint
from rlalign.training import rng as randomness

STATE = {
    "policy": {"w": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(0)},
    "learner": {"nested": [{"t": torch.tensor(3)}, None, "x", 1.5], 7: {"int key": True}},
    "buffer": None,
}


def put(folder, step, state=STATE, **kwargs):
    return checkpoint.save(folder, step, state, config_hash="h", **kwargs)


def test_round_trip_keeps_structure_keys_and_bits(tmp_path):
    state, manifest = checkpoint.load(put(tmp_path, 3))
    assert manifest["step"] == 3
    assert torch.equal(state["policy"]["w"], STATE["policy"]["w"])
    assert state["policy"]["b"].shape == (0,)
    assert state["learner"]["nested"][1:] == [None, "x", 1.5]
    assert state["learner"][7] == {"int key": True}
    assert state["buffer"] is None


def test_only_the_newest_are_kept_and_latest_is_numeric(tmp_path):
    for step in (1, 9, 10):
        put(tmp_path, step, keep=2)
    assert [p.name for p in checkpoint.complete(tmp_path)] == ["step-9", "step-10"]
    assert checkpoint.latest(tmp_path).name == "step-10"


def save_and_die(folder, after):
    """In a child: save step 1, then die by SIGKILL at the (after + 1)-th thing that saving step 2 does to the disk."""
    state = {"policy": {"w": torch.ones(4)}, "rng": {"x": 1}}
    put(folder, 1, state)
    seen = 0

    def deadly(real):
        def call(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen > after:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    for name in ("_write", "_fsync", "save_file"):
        setattr(checkpoint, name, deadly(getattr(checkpoint, name)))
    os.replace = deadly(os.replace)
    put(folder, 2, state)


@pytest.mark.parametrize("after", range(9))
def test_kill_9_at_every_stage_of_a_save_leaves_a_complete_checkpoint(tmp_path, after):
    child = os.fork()
    if child == 0:
        save_and_die(tmp_path, after)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if after < 8:  # 2 writes, 1 tensor file, its fsync, manifest, fsync of tmp, rename, fsync of the folder
        assert os.WIFSIGNALED(status)
        assert os.WTERMSIG(status) == signal.SIGKILL
    newest = checkpoint.latest(tmp_path)
    assert newest.name == ("step-1" if after < 7 else "step-2")
    state, _ = checkpoint.load(newest, need=("policy", "rng"))
    assert torch.equal(state["policy"]["w"], torch.ones(4))
    put(tmp_path, 3)  # the next save clears what the killed one left
    assert not list(tmp_path.glob("tmp-*"))


def test_full_disk_keeps_the_earlier_one_and_removes_the_partial(tmp_path, monkeypatch):
    put(tmp_path, 1)

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "_fsync", full)
    with pytest.raises(FaultError, match=r"no space left .* step-1 intact"):
        put(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]
    checkpoint.load(checkpoint.latest(tmp_path))


def test_full_disk_inside_safetensors_is_the_same_clear_error(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    put(tmp_path, 1)

    def full(*args):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(FaultError, match="no space left"):
        put(tmp_path, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["step-1"]


@pytest.mark.parametrize("name", ["policy.safetensors", "learner.json"])
def test_one_flipped_bit_names_the_file(tmp_path, name):
    file = put(tmp_path, 1) / name
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    with pytest.raises(FaultError, match=f"{name}.*damaged"):
        checkpoint.load(tmp_path / "step-1")


def test_missing_parts_are_refused_unless_allowed(tmp_path):
    path = put(tmp_path, 1)
    with pytest.raises(FaultError, match=r"lacks optimizer, rng.*--allow-change"):
        checkpoint.load(path, need=("policy", "optimizer", "rng"))
    state, _ = checkpoint.load(path, need=("policy", "optimizer", "rng"), lenient=True)
    assert "optimizer" not in state


def test_nothing_to_resume_says_so(tmp_path):
    (tmp_path / "tmp-step-4").mkdir()
    (tmp_path / "step-5").mkdir()  # no manifest: not a checkpoint
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoint.latest(tmp_path)


def test_pickles_are_neither_written_nor_read(tmp_path):
    path = put(tmp_path, 1)
    assert {p.suffix for p in path.iterdir()} == {".json", ".safetensors"}
    with pytest.raises(TypeError, match=r"cannot store a .* \(policy.f\)"):
        put(tmp_path, 2, {"policy": {"f": object()}})
    evil = tmp_path / "evil"
    (path / "policy.safetensors").write_bytes(b"cos\nsystem\n(S'touch " + str(evil).encode() + b"'\ntR.")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["policy.safetensors"]["sha256"] = checkpoint._sha256(path / "policy.safetensors")
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match=r"header|Safetensor|deserializ"):
        checkpoint.load(path)
    assert not evil.exists()


def test_rng_state_round_trip():
    import random

    import numpy as np

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002 - the global generator is meant

    state = randomness.global_state()
    first = draw()
    assert draw() != first
    randomness.set_global_state(state)
    assert draw() == first
