"""A run folder of format 1: reading, migration and resuming.

The folder was written by the last version before config.json had a format number. The run (PPO on a GRU policy) was
stopped between two updates of its second rollout; `expected_*` are of the same run, uninterrupted, by that version.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import FORMAT, fingerprint, from_json, same_experiment, to_json
from rlalign.errors import UserError
from rlalign.run import Run
from rlalign.storage import checkpoint
from rlalign.storage.run_folder import read_config
from rlalign.training.experiment import train_run
from rlalign.training.trainer import Trainer

FOLDER = Path(__file__).parents[1] / "data" / "run_format_1"


@pytest.fixture
def folder(tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(FOLDER, copy)
    return copy


def test_renamed_keys_are_migrated_with_their_values():
    old = json.loads((FOLDER / "config.json").read_text())
    config = read_config(FOLDER)
    assert list(config.rewards) == old["reward"] == ["token_match", "length?target=4=0.1"]
    data = old["objective"]["data"]
    assert (config.objective.filter.overlong, config.objective.regularizer.entropy_coef) == (0.2, 0.01)
    new = to_json(config)
    assert new["format"] == FORMAT
    assert {**new["objective"]["filter"], **new["objective"]["regularizer"]} == data
    assert from_json(new) == config


def test_functions_of_files_that_moved_are_found() -> None:
    old = json.loads((FOLDER / "config.json").read_text())
    specs = ["+rlalign.envs.hack_me:gold=0.5", "rlalign.rewards.match:token_match", "rlalign.envs.texts:brevity"]
    config = from_json({**old, "env": "rlalign.envs.reverse:Reverse?max_length=3", "reward": [*specs, "a.b:c"]})
    assert config.env == "rlalign.envs.builtin.strings.reverse:Reverse?max_length=3"
    assert config.rewards == (
        "+rlalign.envs.builtin.reward_hacking.hack_me:gold=0.5",
        "rlalign.rewards.builtin.match:token_match",
        "rlalign.envs.builtin.texts:brevity",
        "a.b:c",
    )


def test_a_newer_format_raises_an_error():
    with pytest.raises(UserError, match=f"expected a format from 1 to {FORMAT}, got {FORMAT + 1}"):
        from_json({**to_json(read_config(FOLDER)), "format": FORMAT + 1})


def test_the_fingerprint_of_an_old_checkpoint_is_recognized():
    config = read_config(FOLDER)
    _, manifest = checkpoint.load(checkpoint.latest(FOLDER / "checkpoints"))
    assert manifest["config"] == fingerprint(config, number=1)
    assert same_experiment(config, manifest["config"])
    assert not same_experiment(replace(config, seed=1), manifest["config"])


def test_the_restored_state_is_bitwise_equal_to_the_stored_one(folder):
    config = replace(read_config(folder), output=str(folder), resume=True)
    stored, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    trainer = Trainer(config, folder, *build_policy(config, build_mdp(config)), quiet=True)
    trainer.resume()
    state = trainer.state
    assert state.step == 1
    for name, weight in state.policy.trainable().items():
        assert torch.equal(weight, stored["policy"][name]), name
    buffer = state.experience.buffer
    assert (buffer.position, len(buffer.plan)) == (stored["buffer"]["position"], 4)
    tensors = buffer.batch.tensors()
    for name, tensor in stored["buffer"]["batch"].items():
        assert torch.equal(tensors["in_baseline" if name == "voters" else name], tensor), name
    assert torch.equal(state.rng.sampler.get_state(), stored["rng"]["sampler"])
    optimizer = trainer.learner.optimizer.state_dict()["state"]
    for index, moments in stored["optimizer"]["state"].items():
        assert torch.equal(optimizer[int(index)]["exp_avg_sq"], moments["exp_avg_sq"])
    trainer.close()


def test_the_resumed_run_ends_with_the_weights_of_the_uninterrupted_run(folder):
    """Bitwise equal on one machine; the tolerance is for other CPUs, which may round float32 differently."""
    config = replace(read_config(folder), output=str(folder), resume=True)
    train_run(config, quiet=True)
    state, _ = checkpoint.load(checkpoint.latest(folder / "checkpoints"))
    expected = load_file(FOLDER / "expected_policy.safetensors")
    assert state["progress"]["step"] == 3
    for name, weight in state["policy"].items():
        torch.testing.assert_close(weight, expected[f"policy.{name}"], rtol=1e-4, atol=1e-6)
    rows = [json.loads(line) for line in (FOLDER / "expected_metrics.jsonl").read_text().splitlines()]
    metrics = Run(folder).metrics
    for name in ("reward/mean", "rollout/tokens", "rollout/kl", "train/kl_coef", "eval/reward"):
        assert metrics[name] == pytest.approx([row[name] for row in rows], rel=1e-4)
