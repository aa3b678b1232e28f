"""Whole runs of distillation: the exact KL falls, a stopped run resumes bitwise, other teachers are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp
from rlalign.config.schema import TrainConfig
from rlalign.config.serialize import update
from rlalign.errors import UserError
from rlalign.evaluation.enumeration import all_completions, completion_probabilities
from rlalign.evaluation.evaluate import held_out
from rlalign.policies.base import Policy
from rlalign.policies.factory import load, make_policy
from rlalign.policies.options import PolicyOptions
from rlalign.storage.jsonl import read_metrics
from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.training.distillation import verdict
from rlalign.training.experiment import train_run
from rlalign.types import Sampling
from tests.faults.test_resume import assert_same_run, stop_after
from tests.teachers.teacher_server import served

ENV = "reverse?alphabet=ab"
SMALL = {
    "steps": 6, "rollout.prompts": 4, "rollout.group_size": 4, "rollout.max_new": 3, "evaluation.prompts": 4,
    "evaluation.samples": 2, "model.hidden_size": 16, "learner.lr": 2e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher that is wider than the students and far from uniform."""
    path = tmp_path_factory.mktemp("big")
    tokenizer = build_mdp(default_config(ENV, "gru")).tokenizer
    policy = make_policy("gru", tokenizer=tokenizer, options=PolicyOptions(hidden_size=32), seed=5)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(3.0)
    policy.save_pretrained(path)
    return path


def config_of(output: Path, teacher: Path | str, algorithm: str = "distill", **changes: Any) -> TrainConfig:
    """Return a small run; `__` in the name of a change is a dot."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    base = update(default_config(ENV, "gru", algorithm), SMALL)
    return update(base, {"teacher": str(teacher), "output": str(output), **changes})


def exact_kl(policy: Policy, teacher: Policy, config: TrainConfig, *, forward: bool = False) -> float:
    """Return KL(pi‖teacher), or KL(teacher‖pi), over all completions of the held-out prompts, mean over prompts."""
    mdp = build_mdp(config)
    completions = all_completions(mdp.tokenizer.vocab_size, {mdp.tokenizer.eos_id}, mdp.max_new)
    values = []
    for task in held_out(mdp, "validation", 4):
        p, q = (
            completion_probabilities(x, mdp.prompt_ids(task), completions, Sampling())
            for x in ((teacher, policy) if forward else (policy, teacher))
        )
        assert p.sum() == pytest.approx(1.0, abs=1e-4)
        values.append(float((p * np.log(p / q)).sum()))
    return float(np.mean(values))


@pytest.mark.parametrize("algorithm", ["distill", "seq_kd"])
def test_a_run_lowers_the_exact_kl_to_its_teacher(tmp_path: Path, big: Path, algorithm: str) -> None:
    config = config_of(tmp_path / "run", big, algorithm, steps=40, rollout__prompts=16, evaluation__every=20)
    run = train_run(config, quiet=True)
    teacher = load(big)
    mdp = build_mdp(config)
    initial = make_policy("gru", tokenizer=mdp.tokenizer, options=PolicyOptions(hidden_size=16), seed=config.seed)
    for forward in (False, True):
        before = exact_kl(initial, teacher, config, forward=forward)
        after = exact_kl(run.policy, teacher, config, forward=forward)
        assert before > 0.5
        assert after < 0.5 * before
    assert run.comparison is not None
    assert run.comparison.before.mean("teacher_kl") > run.comparison.after.mean("teacher_kl")
    assert verdict(run.comparison).startswith("KL to the teacher: ")
    stored = json.loads((run.folder / "report" / "evaluation.json").read_text())["metrics"]
    assert stored["teacher_kl"]["difference"]["n"] == len(run.comparison.before.prompts)
    assert stored["kl"]["before"] == pytest.approx(0.0, abs=1e-5)  # of the initial policy, as without a teacher
    rows = read_metrics(run.folder)
    names = {
        "distill": {"rollout/teacher_kl", "rollout/teacher_kl_token", "train/kl"},
        "seq_kd": {"rollout/teacher_entropy", "train/forward_kl"},
    }
    assert names[algorithm] <= rows[0].keys()
    assert "eval/teacher_kl" in rows[19]
    assert not {"rollout/kl", "rollout/entropy" if algorithm == "seq_kd" else ""} & rows[0].keys()
    first, last = sorted(names[algorithm])[0 if algorithm == "distill" else 1], rows[-1]
    assert last[first] < rows[0][first]


def test_the_metrics_are_per_completion_and_per_token(tmp_path: Path, big: Path) -> None:
    run = train_run(config_of(tmp_path / "run", big, steps=1), quiet=True)
    row = read_metrics(run.folder)[0]
    assert row["rollout/teacher_kl"] == pytest.approx(row["rollout/teacher_kl_token"] * row["rollout/length"])
    assert row["rollout/teacher_kl"] == pytest.approx(row["train/kl"], abs=1e-5)


@pytest.mark.parametrize("algorithm", ["distill", "seq_kd"])
def test_a_stopped_and_resumed_run_is_bitwise_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, big: Path, algorithm: str
) -> None:
    train_run(config_of(tmp_path / "whole", big, algorithm), quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        assert train_run(config_of(tmp_path / "cut", big, algorithm), quiet=True).exit_status == 143
    train_run(config_of(tmp_path / "cut", big, algorithm, resume=True), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_resumed_run_refuses_a_changed_teacher(tmp_path: Path, big: Path) -> None:
    teacher = tmp_path / "teacher"
    load(big).save_pretrained(teacher)
    train_run(config_of(tmp_path / "run", teacher, steps=1), quiet=True)
    other = load(big)
    with torch.no_grad():
        next(other.parameters()).mul_(0.5)
    other.save_pretrained(teacher)
    with pytest.raises(UserError, match=r"teacher gru\.safetensors would make"):
        train_run(config_of(tmp_path / "run", teacher, steps=2, resume=True), quiet=True)


def test_a_run_from_a_server_equals_one_from_the_folder(tmp_path: Path, big: Path) -> None:
    with served(load(big)) as server:
        train_run(config_of(tmp_path / "server", server.url, steps=3), quiet=True)
    train_run(config_of(tmp_path / "folder", big, steps=3), quiet=True)
    rows = [read_metrics(tmp_path / name) for name in ("server", "folder")]
    for one, other in zip(*rows, strict=True):
        assert one["rollout/teacher_kl"] == pytest.approx(other["rollout/teacher_kl"], abs=1e-4)
        assert one["train/loss"] == pytest.approx(other["train/loss"], abs=1e-3)


def test_the_teacher_is_frozen_and_another_vocabulary_is_refused_before_training(tmp_path: Path) -> None:
    make_policy("gru", tokenizer=CharTokenizer("xyz>")).save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="expected the policy's vocabulary"):
        train_run(config_of(tmp_path / "run", tmp_path / "other"), quiet=True)
    assert not (tmp_path / "run" / "config.json").exists()
    assert read_metrics(tmp_path / "run") == []


def test_an_environment_without_reward_can_be_distilled_on(tmp_path: Path) -> None:
    prompts = [f"{i}, please" for i in range(30)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    make_policy("gru", tokenizer=ByteTokenizer(), seed=7).save_pretrained(tmp_path / "bytes")
    config = config_of(tmp_path / "run", tmp_path / "bytes", env=str(tmp_path / "prompts.jsonl"), steps=2)
    assert "KL to the teacher" in verdict(train_run(config, quiet=True).comparison)
    with pytest.raises(UserError, match="compares rewards, and"):
        train_run(update(config, {"evaluation.patience": 1, "evaluation.every": 1}), quiet=True)
