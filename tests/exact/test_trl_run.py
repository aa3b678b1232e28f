"""Runs of TRL's trainers: the first update equals, up to rounding, that of the learner on the same completions.

Both begin with the same initial policy. The tests compare the gradient norm and the weights after the step.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import rlalign
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.config.validate import resolve
from rlalign.errors import UserError
from rlalign.evaluation.evaluate_run import evaluate_run
from rlalign.integrations.trl import record, train_trl
from rlalign.storage import checkpoint
from rlalign.training.learner import Learner

ENV = "reverse?max_length=2"
SMALL = {"rollout.prompts": 3, "rollout.group_size": 4, "steps": 1, "evaluation.prompts": 2, "model.hidden_size": 32}


def configuration(algorithm: str, output: Any, **changes: Any) -> Any:
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    config = default_config(ENV, "tiny", algorithm)
    return update(config, {**SMALL, "output": str(output), **{k.replace("__", "."): v for k, v in changes.items()}})


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return a list to which each rollout of TRL's trainer is appended."""
    rollouts: list[Any] = []
    real = record.as_rollout

    def as_rollout(*args: Any, **kwargs: Any) -> Any:
        rollouts.append(real(*args, **kwargs))
        return rollouts[-1]

    monkeypatch.setattr(record, "as_rollout", as_rollout)
    return rollouts


def learner_update(config: Any, rollout: Any) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    """Return metrics and weights of the learner's update of the initial policy on the same completions."""
    policy, mdp = build_policy(config, build_mdp(config))
    learner = Learner(
        policy, config.objective, config.learner, sampling=config.rollout.sampling, total_updates=1,
        generator=torch.Generator(), max_length=mdp.max_new,
    )  # fmt: skip
    with torch.no_grad():
        scores = policy.score(rollout.tokens, rollout.lengths, rollout.action_mask, config.rollout.sampling)
    metrics = learner.update(learner.prepare(replace(rollout, sampler_logprobs=scores.logprobs)))
    return metrics, {n: p.detach().clone() for n, p in policy.trainable().items()}


@pytest.mark.parametrize(
    ("algorithm", "changes"),
    [
        ("trl:grpo", {}),
        ("trl:grpo", {"learner__micro_batch": 3}),
        ("trl:grpo", {"objective__aggregation": "token_global", "learner__micro_batch": 4}),
        ("trl:grpo", {"objective__aggregation": "constant", "objective__scale": "none"}),
        ("trl:grpo", {"objective__scale": "batch_std", "rollout__temperature": 0.7}),
        ("trl:grpo", {"objective__ratio": "sequence_geomean"}),
        ("trl:grpo", {"objective__trust__kind": "soft_gate"}),
        ("trl:grpo", {"objective__trust__kind": "dual_clip"}),
        (
            "trl:grpo",
            {
                "objective__trust__kind": "stopgrad_cap",
                "objective__trust__low": 1.0,
                "objective__aggregation": "token_global",
            },
        ),
        ("trl:grpo", {"objective__ratio": "sequence_geomean", "objective__aggregation": "sequence_sum"}),
        ("trl:grpo", {"objective__kl__coef": 0.5, "objective__kl__importance": "token"}),
        ("trl:grpo", {"objective__kl__coef": 0.5}),
        ("trl:grpo", {"objective__regularizer__entropy_coef": 0.3, "objective__aggregation": "token_global"}),
        ("trl:rloo", {}),
        ("trl:rloo", {"learner__micro_batch": 6, "learner__weight_decay": 0.1, "learner__warmup": 4}),
        ("trl:rloo", {"objective__kl__coef": 0.5}),
    ],
    ids=str,
)
def test_the_first_update_equals_that_of_the_learner(tmp_path, rollouts, algorithm, changes) -> None:
    config = resolve(configuration(algorithm, tmp_path / "run", **changes))
    run = train_trl(config, quiet=True)
    metrics, weights = learner_update(config, rollouts[0])
    assert run.metrics["train/grad_norm"][0] == pytest.approx(metrics["train/grad_norm"], rel=2e-3)
    state, _ = checkpoint.load(checkpoint.latest(run.folder / "checkpoints"), need=("policy",))
    for name, expected in weights.items():
        # Adam's first step has the size of the learning rate for any gradient, so that rounding decides its sign near 0
        assert (state["policy"][name] - expected).abs().median() < 1e-5
    assert run.metrics["reward/mean"][0] == pytest.approx(float(rollouts[0].returns.nanmean()), abs=1e-6)


def test_prompts_initial_policy_and_metrics_equal_those_of_our_trainer(tmp_path, rollouts) -> None:
    """The order of prompts, their ids, the number of samples and steps, and the metric names are equal."""
    from rlalign.training.experiment import train_run

    common = {"steps": 3, "learner__epochs": 2, "learner__minibatches": 2, "evaluation__every": 2}
    run = train_trl(configuration("trl:grpo", tmp_path / "trl", **common), quiet=True)
    other = train_run(configuration("grpo", tmp_path / "ours", **common), quiet=True)
    our_comparison = other.comparison
    assert len(rollouts) == 3
    assert [s["prompt"] for s in run.samples] == [s["prompt"] for s in other.samples]
    mdp = build_mdp(run.config)
    first = rollouts[0]
    for row, task in enumerate(first.tasks):
        prompt = mdp.prompt_ids(task)
        assert first.tokens[row, : len(prompt)].tolist() == prompt
    assert first.num_actions.max() <= mdp.max_new
    assert our_comparison is not None
    assert run.comparison is not None
    assert run.comparison.before.completions == our_comparison.before.completions
    names = {k for k in other.metrics if k.split("/")[0] in ("reward", "rollout", "eval", "step")}
    assert names <= set(run.metrics)
    assert {"time/step", "time/rollout", "time/update", "time/tokens_per_s", "train/loss"} <= set(run.metrics)
    assert run.metrics["rollout/tokens"] == [float(r.num_actions.sum()) for r in rollouts]
    assert run.metrics["eval/reward"][1] is not None


@pytest.mark.pictures
def test_the_run_folder_has_the_usual_layout(tmp_path) -> None:
    run = train_trl(configuration("trl:rloo", tmp_path / "run", steps=2), quiet=True)
    assert run.config.algorithm == "trl:rloo"
    assert (run.folder / "report" / "evaluation.json").is_file()
    assert (run.folder / "report" / "reward.png").is_file()
    evaluation = evaluate_run(run.folder, run.config, split="validation")
    assert run.comparison is not None
    np.testing.assert_allclose(evaluation.after.metrics["reward"], run.comparison.after.metrics["reward"])
    assert evaluation.after.completions == run.comparison.after.completions
    for resume, message in ((False, "holds a run already"), (True, "holds a finished run")):
        with pytest.raises(UserError, match=message):
            train_trl(replace(run.config, resume=resume), quiet=True)
    assert run.metrics["step"] == [1, 2]


def test_the_same_configuration_gives_the_same_run(tmp_path) -> None:
    a, b = (train_trl(configuration("trl:grpo", tmp_path / n, steps=2), quiet=True) for n in "ab")
    assert a.metrics["reward/mean"] == b.metrics["reward/mean"]
    assert a.metrics["train/grad_norm"] == b.metrics["train/grad_norm"]


def test_a_stopped_run_reports_the_signal_and_starts_again_on_resume(tmp_path) -> None:
    calls = []

    def stops_the_run(completions, **columns):
        calls.append(1)
        if len(calls) == 4:  # the first call is the evaluation of the initial policy
            os.kill(os.getpid(), signal.SIGTERM)
        return [0.0] * len(completions)

    reward = [rlalign.reward("stops_the_run", timeout_s=None)(stops_the_run)]
    config = configuration("trl:grpo", tmp_path / "run", steps=6)
    run = train_trl(config, rewards=reward, quiet=True)
    assert run.exit_status == 128 + signal.SIGTERM
    assert run.comparison is None
    assert len(run.metrics["step"]) == 3
    resumed = train_trl(replace(config, resume=True), rewards=reward, quiet=True)
    assert resumed.metrics["step"] == [1, 2, 3, 4, 5, 6]
    assert resumed.comparison is not None


def test_an_adapter_is_trained_and_no_other_adapter_is_saved(tmp_path) -> None:
    base = train_trl(configuration("trl:rloo", tmp_path / "base"), quiet=True)
    config = default_config(str(base.folder / "policy"), str(base.folder / "policy"), "trl:grpo")
    config = update(config, {**SMALL, "env": ENV, "steps": 2, "output": str(tmp_path / "lora"), "model.adapter.r": 2})
    run = train_trl(config, quiet=True)
    assert config.objective.kl.coef > 0
    assert sorted(p.name for p in (run.folder / "policy" / "adapter").iterdir() if p.is_dir()) == []
    assert run.metrics["rollout/kl"][0] is not None


@pytest.mark.parametrize(
    ("algorithm", "changes", "message"),
    [
        ("trl:ppo", {}, "unknown algorithm 'trl:ppo'"),
        ("trl:grpo", {"objective__baseline": "leave_one_out"}, "baseline"),
        ("trl:grpo", {"objective__filter__dynamic_sampling": True}, "dynamic_sampling"),
        ("trl:rloo", {"objective__filter__drop_truncated": True}, "drop_truncated"),
        ("trl:rloo", {"objective__scale": "group_std"}, "scale"),
        ("trl:grpo", {"rollout__per_component": True}, "per_component"),
        ("trl:grpo", {"evaluation__patience": 2, "evaluation__every": 1}, "patience"),
        ("trl:grpo", {"evaluation__stop_kl": 1.0, "evaluation__every": 1}, "stop_kl"),
        ("trl:grpo", {"supervised__align_interval": 1}, "supervised"),
        ("trl:grpo", {"learner__micro_batch": 5}, "micro_batch"),
        ("trl:grpo", {"policy": "gru"}, "expected a transformers model"),
        ("trl:grpo", {"env": "rlalign/GuessNumber-v0"}, "turns"),
    ],
    ids=str,
)
def test_unsupported_settings_raise_an_error_with_the_reason(tmp_path, algorithm, changes, message) -> None:
    config = configuration("trl:grpo" if algorithm == "trl:ppo" else algorithm, tmp_path / "run", **changes)
    config = replace(config, algorithm=algorithm)
    with pytest.raises(UserError, match=message):
        train_trl(config, quiet=True)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_run_of_trl_ends_turns_at_all_stop_ids_and_keeps_the_eos_list_of_the_model(tmp_path) -> None:
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<eos>": 0, "<|end|>": 1, "a": 2, "b": 3}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.add_special_tokens(["<eos>", "<|end|>"])
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>").save_pretrained(tmp_path / "m")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, bos_token_id=2,
        eos_token_id=0, pad_token_id=None, tie_word_embeddings=False,
    )  # fmt: skip
    lm = LlamaForCausalLM(config)
    lm.generation_config.eos_token_id = [0, 1]
    lm.save_pretrained(tmp_path / "m")
    rows = [{"prompt": "a b", "split": split} for split in ("train", "validation", "test") for _ in range(4)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"env": str(tmp_path / "d.jsonl"), "rewards": ["length?target=3"], "policy": str(tmp_path / "m")}
    run = train_trl(configuration("trl:grpo", tmp_path / "run", **settings, steps=1), quiet=True)
    for name in ("config.json", "generation_config.json"):
        exported = json.loads((run.folder / "policy" / name).read_text())
        original = json.loads((tmp_path / "m" / name).read_text())
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            assert exported.get(key) == original.get(key), (name, key)
