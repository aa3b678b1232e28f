"""Updates of the objective's state: once per rollout, after all updates of the policy from it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import rlalign
from rlalign.config.schema import LearnerConfig
from rlalign.errors import FaultError
from rlalign.objective import Batch, NonFiniteError, Objective, ObjectiveState, Value
from rlalign.policies.factory import make_policy
from rlalign.policies.options import PolicyOptions
from rlalign.policies.sampling.decode_batch import DecodeBatch
from rlalign.rollout.source import TokenRows
from rlalign.tokenizers import CharTokenizer
from rlalign.training import learner
from rlalign.training.update_buffer import UpdateBuffer
from rlalign.types import Sampling


@pytest.mark.parametrize("where", ["loss", "reward"])
def test_all_updates_of_a_rollout_use_the_kl_coefficient_from_before_the_rollout(tmp_path, monkeypatch, where):
    used = []
    policy_loss = learner.policy_loss

    def recording(objective, batch, *, state, finite):
        used.append(state.kl_coef)
        return policy_loss(objective, batch, state=state, finite=finite)

    monkeypatch.setattr(learner, "policy_loss", recording)
    run = rlalign.train(
        env="reverse",
        policy="gru",
        algorithm="grpo",
        steps=2,
        output=str(tmp_path / where),
        quiet=True,
        evaluation__prompts=4,
        learner__minibatches=2,
        objective__kl__where=where,
        objective__kl__coef=0.5,
        objective__kl__target=1.0,
        objective__kl__horizon=256,
    )
    logged = run.metrics["train/kl_coef"]
    assert used == [0.5, 0.5, logged[1], logged[1]]
    assert logged[0] == 0.5
    assert logged[1] == pytest.approx(0.45, abs=1e-3)  # the initial policy has zero KL: 0.5 · (1 - 0.2 · 128 / 256)


def test_a_batch_with_nan_counts_as_a_step_and_does_not_raise_at_the_end_of_its_rollout():
    """Its update was skipped and reported; the objective's state cannot be updated from the same batch either."""
    batch = Batch(
        action_mask=torch.ones(2, 3, dtype=torch.bool),
        rewards=torch.zeros(2),
        group_ids=torch.zeros(2, dtype=torch.int64),
        terminated=torch.ones(2, dtype=torch.bool),
        truncated=torch.zeros(2, dtype=torch.bool),
        sampler_logprobs=torch.full((2, 3), torch.nan),
    )
    unbuilt = learner.Learner.__new__(learner.Learner)
    unbuilt.objective, unbuilt.state = Objective(), ObjectiveState.start(Objective())

    rows = torch.arange(2)
    unbuilt.end_rollout(UpdateBuffer(rows, rows, batch.action_mask, batch, [rows]))
    assert unbuilt.state.steps == 1
    assert unbuilt.state.ema is None


def test_only_the_error_about_rewards_mentions_the_valid_mask():
    assert "valid" in str(NonFiniteError("rewards", [0]))
    assert "valid" not in str(NonFiniteError("ref_logprobs", [0]))


@pytest.mark.parametrize(("dtype", "shift"), [("float32", 2e-3), ("bfloat16", 0.1)])
def test_a_sampler_of_another_distribution_stops_the_run_in_each_precision(tmp_path, monkeypatch, dtype, shift):
    """The sampler reports log-probs of another distribution; without the check the run would end with success."""

    def run(name):
        return rlalign.train(
            env="reverse",
            policy="tiny",
            algorithm="grpo",
            steps=1,
            output=str(tmp_path / name),
            quiet=True,
            evaluation__prompts=32,
            rollout__prompts=2,
            model__dtype=dtype,
        )

    assert run("right").metrics["train/mismatch"][0] < shift / 2
    samples = DecodeBatch.samples

    def shifted(self):
        result = samples(self)
        return replace(result, logprobs=result.logprobs - shift)

    monkeypatch.setattr(DecodeBatch, "samples", shifted)
    with pytest.raises(
        FaultError, match=f"sampled and scored log-probs to agree, .* in the evaluation in {dtype}; use "
    ):
        run("wrong")
    monkeypatch.setattr("rlalign.evaluation.evaluate.check_rollout", lambda *_: None)
    with pytest.raises(
        FaultError, match=f"sampled and scored log-probs to agree, .* in the first update in {dtype}; use "
    ):
        run("update")


def learner_of(policy, objective, sampling):
    return learner.Learner(
        policy, objective, LearnerConfig(max_grad_norm=0.5), sampling=sampling, total_updates=1,
        generator=torch.Generator(), max_length=4,
    )  # fmt: skip


def test_the_gradient_of_the_value_is_clipped_with_that_of_the_policy():
    policy = make_policy("gru", tokenizer=CharTokenizer("abc"), options=PolicyOptions(value="head"))
    ours = learner_of(policy, Objective(baseline="value", value=Value("head")), Sampling())
    assert len(ours.body) < len(ours.parameters)
    for parameter in ours.parameters:
        parameter.grad = torch.ones_like(parameter)
    before = float(ours._clip_gradient())
    assert before == pytest.approx(sum(p.numel() for p in ours.parameters) ** 0.5)
    assert float(torch.cat([p.grad.flatten() for p in ours.parameters]).norm()) == pytest.approx(0.5, rel=1e-4)


def test_supervised_updates_use_the_distribution_of_the_model_at_every_sampling_temperature():
    policy = make_policy("gru", tokenizer=CharTokenizer("abc"))
    tokens, lengths = torch.tensor([[2, 3, 4, 1]]), torch.tensor([4])
    mask = torch.tensor([[False, True, True, True]])
    with torch.no_grad():
        expected = -policy.score(tokens, lengths, mask, Sampling()).logprobs.sum() / 3
    ours = learner_of(policy, Objective(), Sampling(temperature=0.3))
    metrics = ours.supervised_update(TokenRows(tokens, lengths, mask), 1.0)
    assert metrics["supervised/nll"] == pytest.approx(float(expected), rel=1e-5)
