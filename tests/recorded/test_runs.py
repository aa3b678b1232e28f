"""Runs on recorded data: what they learn, how they resume, which settings they refuse, and their files."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

import rlalign
from rlalign.config.defaults import ENV_OF_DATA, default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import fingerprint, update
from rlalign.config.unused_settings import unused_settings
from rlalign.errors import UserError
from rlalign.recorded.held_out import held_out_values
from rlalign.recorded.importance import with_importance_weights
from rlalign.storage import checkpoint
from rlalign.training import recorded_run
from tests.recorded.conftest import talk, write

SMALL = {"model__hidden_size": 16, "rollout__prompts": 4, "evaluation__prompts": 4, "quiet": True}
RNG = random.Random(0)
PROMPTS = sorted({f"{a}{b}{c}>" for a in "abcd" for b in "abcd" for c in "abcd"})
ROWS = {
    "demonstrations": [{"prompt": p, "completion": p[-2::-1]} for p in PROMPTS],
    "pairs": [{"prompt": p, "chosen": p[-2::-1], "rejected": p[:-1]} for p in PROMPTS if p[0] != p[2]],
    "labels": [
        {"prompt": p, "completion": p[-2::-1] if i % 2 else "dd", "label": bool(i % 2)} for i, p in enumerate(PROMPTS)
    ],
    "rewards": [
        {"prompt": p, "completion": c, "reward": float(c == p[-2::-1])} for p in PROMPTS for c in (p[-2::-1], p[:-1])
    ],
}
KIND = {
    "ppo": "rewards",
    "sft": "demonstrations",
    "dpo": "pairs",
    "ipo": "pairs",
    "simpo": "pairs",
    "kto": "labels",
    "rloo": "rewards",
}


def train(folder, algorithm, rows=None, **settings):
    """Return a run on the data that the algorithm learns from."""
    data = write(folder, *(rows or ROWS[KIND[algorithm]]), name=f"{algorithm}.jsonl")
    settings = {"output": folder / "run", "steps": 3, **SMALL, **settings}
    return rlalign.train("reverse", "gru", algorithm, data=data, **settings)


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "ipo", "simpo", "kto", "rloo"])
def test_a_resumed_run_is_bitwise_equal(tmp_path, algorithm) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        folder.mkdir()
    # several passes over ten rows, so that the position and the order of a pass matter
    rows = ROWS[KIND[algorithm]][:10]
    train(whole, algorithm, rows, steps=5)
    train(cut, algorithm, rows, steps=3)
    train(cut, algorithm, rows, steps=5, resume=True, allow_change=True)
    states = [checkpoint.load(checkpoint.latest(folder / "run" / "checkpoints"))[0] for folder in (whole, cut)]
    for part in ("policy", "optimizer"):
        for a, b in zip(_tensors(states[0][part]), _tensors(states[1][part]), strict=True):
            assert torch.equal(a, b)


def _tensors(state):
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, list) else []
    return [tensor for value in values for tensor in _tensors(value)]


@pytest.mark.parametrize("algorithm", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("policy", ["gru", "tiny"])
def test_the_weights_do_not_depend_on_the_micro_batch(tmp_path, algorithm, policy) -> None:
    weights = []
    for micro_batch in (0, 2):
        folder = tmp_path / f"{micro_batch}"
        folder.mkdir()
        data = write(folder, *ROWS[KIND[algorithm]])
        run = rlalign.train("reverse", policy, algorithm, data=data, steps=2, output=folder / "run",
                            learner__micro_batch=micro_batch, **SMALL)  # fmt: skip
        weights.append(torch.cat([p.detach().flatten() for p in run.policy.state_dict().values()]))
    # Adam's first steps divide by the size of the gradient, which turns rounding of small gradients into steps
    assert (weights[0] - weights[1]).abs().median() < 1e-7
    assert torch.nn.functional.cosine_similarity(*weights, dim=0) > 0.9999


def test_sft_learns_the_task_that_the_demonstrations_show(tmp_path) -> None:
    run = train(tmp_path, "sft", steps=60, rollout__prompts=32, learner__lr=0.02, model__hidden_size=32)
    report = json.loads((tmp_path / "run" / "report" / "held_out.json").read_text())
    nll = report["metrics"]["nll"]
    assert nll["after"] < 0.5 * nll["before"]
    assert nll["difference"]["high"] < 0
    assert "held-out data: nll" in run.held_out["verdict"]
    assert run.comparison is not None
    assert run.comparison.differences["reward"].mean > 0  # the environment's own


def test_preferences_are_learned_on_held_out_prompts(tmp_path) -> None:
    run = train(tmp_path, "dpo", steps=20, rollout__prompts=16, learner__lr=0.01, evaluation__every=10)
    accuracy = json.loads((tmp_path / "run" / "report" / "held_out.json").read_text())["metrics"]["accuracy"]
    assert (accuracy["before"], accuracy["after"]) == (0.5, pytest.approx(1.0, abs=0.3))
    assert [row is not None for row in run.metrics["held_out/accuracy"]] == [i in (9, 19) for i in range(20)]
    assert run.metrics["preference/accuracy"][0] == 0.5  # the policy is the reference
    assert run.metrics["data/passes"][-1] == pytest.approx(20 * 16 / 44, rel=0.1)


def test_without_env_the_prompts_of_the_data_are_evaluated(tmp_path) -> None:
    data = write(tmp_path, *({"messages": talk(f"{a} and {b}?", f"{a}{b}")} for a in "abcdefgh" for b in "ijklmnop"))
    config = default_config(None, "tiny", "sft", data)
    assert config.env.partition("?")[0] == ENV_OF_DATA
    run = rlalign.train(policy="tiny", algorithm="sft", data=data, steps=1, output=tmp_path / "run", **SMALL)
    assert run.comparison is not None
    assert run.comparison.before.size.startswith("3 ")  # half of the 6 held-out prompts
    assert " and " in str(run.comparison.before.prompts[0])
    again = rlalign.Run(tmp_path / "run").evaluate(split="test", prompts=2)
    assert again.before.prompts != run.comparison.before.prompts
    # a policy gradient without --env on logged rewards does the same; other trainers keep their environment
    assert default_config(None, "tiny", "rloo", data).env.partition("?")[0] == ENV_OF_DATA
    assert default_config(None, "tiny", "trl:grpo", data).env == default_config().env


@pytest.mark.parametrize(
    ("algorithm", "settings", "message"),
    [
        ("rloo", {"objective__filter__dynamic_sampling": True}, "--data: filter.dynamic_sampling samples again"),
        ("rloo", {"objective__baseline": "greedy"}, "--data: baseline greedy samples a completion"),
        ("rloo", {"rollout__per_component": True}, "--data: rollout.per_component reads reward components"),
        ("rloo", {"supervised__align_interval": 2}, "--data: supervised updates read answers"),
        ("rloo", {"evaluation__stop_kl": 1.0, "objective__kl__where": "loss", "objective__kl__coef": 0.1},
         "--data: evaluation.stop_kl reads the KL of samples"),
        ("rloo", {"objective__kl__where": "loss", "objective__kl__coef": 0.1, "objective__kl__target": 1.0},
         "--data: objective.kl.target adapts to the KL of samples"),
        ("rloo", {"objective__off_policy__kind": "tis"}, "off_policy.kind tis reads the log-probs"),
        ("ppo", {"learner__old_logprobs": "sampler"}, "learner.old_logprobs sampler reads the log-probs"),
        ("sft", {"objective__baseline": "ema"}, "every demonstration has the reward 1"),
        ("sft", {"objective__scale": "whiten"}, "every demonstration has the reward 1"),
        ("kto", {"rollout__prompts": 1}, "expected rollout.prompts of 2 or more, got 1"),
        ("sft", {"recorded__held_out": 1.0}, "recorded.held_out"),
        ("sft", {"recorded__kind": "pairs"}, "--as pairs: expected demonstrations"),
    ],
)  # fmt: skip
def test_settings_that_recorded_data_cannot_have_are_refused(tmp_path, algorithm, settings, message) -> None:
    with pytest.raises(UserError, match=message):
        train(tmp_path, algorithm, **{"learner__minibatches": 1, **settings})
    assert not (tmp_path / "run" / "config.json").exists()


def test_the_prompts_of_data_without_held_out_rows_cannot_be_evaluated(tmp_path) -> None:
    data = write(tmp_path, *ROWS["demonstrations"][:10])
    with pytest.raises(UserError, match="expected held-out rows, whose prompts are evaluated"):
        rlalign.train(
            policy="tiny", algorithm="sft", data=data, recorded__held_out=0.0, output=tmp_path / "run", **SMALL
        )


def test_held_out_prompts_that_the_initial_policy_learned_from_are_reported(tmp_path, capsys) -> None:
    data = write(tmp_path, *({"prompt": f"{a} {b}", "completion": "x"} for a in "abcdefgh" for b in "ijklmnop"))
    train = dict(policy="tiny", algorithm="sft", data=data, steps=1, output=tmp_path / "sft", **SMALL)
    env = rlalign.train(**train).config.env
    settings = {**SMALL, "steps": 1, "rewards": ["length"], "quiet": False}
    rlalign.train(data, tmp_path / "sft", "rloo", output=tmp_path / "other", **settings)
    assert "held-out prompts are prompts of" in " ".join(capsys.readouterr().out.split())
    rlalign.train(env, tmp_path / "sft", "rloo", output=tmp_path / "same", **settings)
    assert "held-out prompts are prompts of" not in " ".join(capsys.readouterr().out.split())


def test_a_run_can_be_evaluated_from_another_folder_and_says_that_nothing_scores_it(tmp_path, monkeypatch) -> None:
    write(tmp_path, *ROWS["demonstrations"])
    monkeypatch.chdir(tmp_path)
    rlalign.train(policy="tiny", algorithm="sft", data="data.jsonl", steps=1, output="run", **SMALL)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    comparison = rlalign.Run("../run").evaluate(prompts=2)
    assert comparison.verdict.startswith("nothing scores these prompts")


def test_the_columns_are_checked_before_the_prompts_are_read(tmp_path) -> None:
    data = write(tmp_path, {"question": "a", "answer": "b"})
    with pytest.raises(UserError, match="expected the columns messages, or prompt and completion, which sft"):
        rlalign.train(policy="tiny", algorithm="sft", data=data, output=tmp_path / "run", **SMALL)
    data = write(tmp_path, *ROWS["demonstrations"])
    with pytest.raises(UserError, match="distill learns from samples and a teacher"):
        rlalign.train("reverse", "tiny", "distill", data=data, teacher="tiny", output=tmp_path / "run", **SMALL)


def test_an_algorithm_on_recorded_data_needs_data(tmp_path) -> None:
    with pytest.raises(UserError, match="sft learns from recorded data: expected a file, got none; use --data FILE"):
        rlalign.train("reverse", "gru", "sft", output=tmp_path / "run", **SMALL)


def test_a_group_baseline_needs_two_completions_of_a_prompt(tmp_path) -> None:
    with pytest.raises(UserError, match="no prompt of the data has two; use --algorithm reinforce"):
        train(tmp_path, "rloo", ROWS["rewards"][::2])


def test_prompts_with_one_completion_are_counted(tmp_path, capsys) -> None:
    train(tmp_path, "rloo", [*ROWS["rewards"][:8], *ROWS["rewards"][8::2]], steps=1, quiet=False)
    shown = capsys.readouterr().out
    assert "prompts have one completion, which baseline leave_one_out compares with no other" in shown


def test_some_rows_with_log_probs_are_none_and_said(tmp_path, capsys) -> None:
    rows = [{**row, "logprobs": [-1.5] * (len(row["completion"]) + 1)} for row in ROWS["rewards"]]
    train(tmp_path, "rloo", [*rows[:-1], ROWS["rewards"][-1]], steps=1, quiet=False, recorded__held_out=0.0)
    assert "importance weights: none, because 1 of 128 rows have no 'logprobs'" in capsys.readouterr().out


def test_steps_of_different_sizes_have_the_configured_number_of_updates(tmp_path) -> None:
    # a step of 5 rows in 4 minibatches; chunks of 2 rows would be 3 updates, and the schedule would not reach 0
    rows = [row for i, row in enumerate(ROWS["rewards"]) if i % 4 == 0][:20]
    run = train(tmp_path, "ppo", rows, steps=4, rollout__prompts=5, rollout__group_size=1, learner__minibatches=4,
                learner__epochs=1, learner__lr_schedule="linear", recorded__held_out=0.0)  # fmt: skip
    state = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))[0]
    assert state["learner"]["updates"] == 16
    assert run.metrics["train/lr"][-1] < run.config.learner.lr / 4


@pytest.mark.parametrize("algorithm", ["sft", "kto", "dpo"])
def test_settings_that_recorded_data_does_not_read_are_named(algorithm) -> None:
    config = default_config("reverse", "gru", algorithm, "data.jsonl")
    group_size = config.rollout.group_size
    unused = unused_settings(update(config, {"rollout.group_size": 4 - group_size, "learner.old_logprobs": "sampler"}))
    assert ("rollout.group_size" in unused) == (algorithm != "dpo")
    assert ("learner.old_logprobs" in unused) == (algorithm != "sft")


def test_recorded_data_of_the_hub_that_changed_is_refused_at_resume(tmp_path, monkeypatch) -> None:
    from rlalign.training import experiment

    monkeypatch.setattr(experiment, "hub_identity", lambda data: {"hub data a/b": {"sha256": digest, "path": "a/b"}})
    digest = "0" * 64
    train(tmp_path, "sft", steps=1)
    digest = "1" * 64
    with pytest.raises(UserError, match="hub data a/b would make the continuation another experiment"):
        train(tmp_path, "sft", steps=2, resume=True)


def test_logged_rewards_say_which_importance_weights_they_have(tmp_path, capsys) -> None:
    train(tmp_path, "rloo", quiet=False)
    assert "importance weights: none, because the data has no column 'logprobs'" in capsys.readouterr().out
    rows = [{**row, "logprobs": [-1.5] * (len(row["completion"]) + 1)} for row in ROWS["rewards"]]
    other = tmp_path / "other"
    other.mkdir()
    run = train(other, "rloo", rows, quiet=False)
    assert "importance weights: pi / recorded policy of each sequence, at most 2" in capsys.readouterr().out
    assert run.config.objective.off_policy.kind == "tis"
    # the first step's weights, by hand: exp(Σ log pi - Σ log mu), at most 2
    assert all(0 < value <= 2 for value in run.metrics["train/off_policy_weight"])
    # grpo has a ratio, whose denominator is the recorded policy
    ratio = tmp_path / "ratio"
    ratio.mkdir()
    data = write(ratio, *rows)
    run = rlalign.train("reverse", "gru", "grpo", data=data, steps=1, output=ratio / "run", **SMALL)
    assert abs(run.metrics["train/ratio"][0] - 1) > 1e-3
    assert run.config.learner.old_logprobs == "sampler"


def test_a_kl_in_the_reward_beside_a_ratio_to_the_recorded_policy_is_refused() -> None:
    class Data:
        has_logprobs = True

    config = update(default_config("reverse", "tiny", "ppo"), {"objective.kl.coef": 0.05})
    with pytest.raises(UserError, match="expected the KL in the loss or none"):
        with_importance_weights(config, Data())


def test_early_stopping_on_logged_rewards_needs_an_environment_with_a_reward(tmp_path) -> None:
    data = write(tmp_path, *ROWS["rewards"])
    with pytest.raises(UserError, match=r"evaluation\.patience: expected an environment with a reward"):
        rlalign.train(policy="tiny", algorithm="rloo", data=data, output=tmp_path / "run", evaluation__patience=1,
                      evaluation__every=1, **SMALL)  # fmt: skip


def test_early_stopping_reads_the_held_out_data_where_nothing_scores_the_prompts(tmp_path, capsys) -> None:
    data = write(tmp_path, *({"prompt": f"{a} {b}", "completion": "x"} for a in "abcdef" for b in "ghijkl"))
    run = rlalign.train(policy="tiny", algorithm="sft", data=data, steps=6, output=tmp_path / "run",
                        evaluation__every=1, evaluation__patience=1, learner__lr=1.0,
                        **{**SMALL, "quiet": False})  # fmt: skip
    assert f"with the weights of step {int(np.argmin(run.metrics['held_out/nll'])) + 1}: held_out/nll" in (
        capsys.readouterr().out
    )
    losses = run.metrics["held_out/nll"]
    best = int(np.argmin(losses))
    assert len(losses) == min(best + 2, 6)


def test_early_stopping_selects_and_reports_on_different_rows(tmp_path, monkeypatch) -> None:
    measured = []
    monkeypatch.setattr(
        recorded_run,
        "held_out_values",
        lambda policy, groups, *rest: (
            measured.append({row.place for group in groups for row in group}) or held_out_values(policy, groups, *rest)
        ),
    )
    data = write(tmp_path, *({"prompt": f"{a} {b}", "completion": "x"} for a in "abcdef" for b in "ghijkl"))
    settings = {"evaluation__every": 1, "recorded__held_out": 0.5, **SMALL}
    rlalign.train(policy="tiny", algorithm="sft", data=data, steps=1, output=tmp_path / "a", evaluation__patience=1,
                  **settings)  # fmt: skip
    before, validation, after = measured
    assert before == after
    assert validation
    assert not before & validation
    rlalign.train(policy="tiny", algorithm="sft", data=data, steps=1, output=tmp_path / "b", **settings)
    assert measured[3] == measured[4] == measured[5] == before | validation


def test_kto_needs_two_rows(tmp_path) -> None:
    rows = [{"prompt": "abc>", "completion": "cba", "label": True}]
    with pytest.raises(UserError, match="expected two rows or more, got 1"):
        train(tmp_path, "kto", rows, recorded__held_out=0.0)


def test_settings_of_recorded_data_decide_the_result_and_older_runs_keep_their_fingerprint() -> None:
    config = default_config("reverse", "gru", "rloo")
    assert fingerprint(update(config, {"recorded.turns": "last"})) != fingerprint(config)
    assert fingerprint(config) == fingerprint(
        update(config, {"recorded.turns": "all", "objective.preference.margin": 1.0})
    )


@pytest.mark.parametrize("lora_r", [0, 4])
def test_a_policy_gradient_on_an_sft_policy_begins_at_kl_0_with_that_policy_as_reference(tmp_path, lora_r) -> None:
    data = write(tmp_path, *ROWS["demonstrations"])
    first = rlalign.train("reverse", "tiny", "sft", data=data, steps=5, output=tmp_path / "sft", learner__lr=0.02,
                          model__lora_r=lora_r, **SMALL)  # fmt: skip
    kl = {"objective__kl__where": "loss", "objective__kl__coef": 0.1}
    run = rlalign.train("reverse", str(tmp_path / "sft"), "grpo", steps=2, output=tmp_path / "grpo", **kl, **SMALL)
    assert abs(run.metrics["rollout/kl"][0]) < 1e-5
    tokens = torch.tensor([[2, 3, 6, 3, 2, 1]])
    rows = (
        tokens,
        torch.tensor([6]),
        torch.tensor([[False, False, False, True, True, True]]),
        rlalign.types.Sampling(),
    )
    trainer_policy, _ = build_policy(run.config, build_mdp(run.config))
    reference = trainer_policy.reference_logprobs(*rows)
    assert torch.allclose(reference, first.policy.score(*rows).logprobs.detach(), atol=1e-5)
    untrained = rlalign.train("reverse", "tiny", "sft", data=data, steps=1, output=tmp_path / "other",
                              model__lora_r=lora_r, learner__lr=1e-9, **SMALL).policy  # fmt: skip
    assert (reference - untrained.score(*rows).logprobs).abs().max() > 0.01
