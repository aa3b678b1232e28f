"""Single axes on numbers small enough to check by hand, bad input, state, and axis values of a user's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rlalign.errors import UserError
from rlalign.objective import (
    KL,
    Batch,
    Credit,
    Filter,
    NonFiniteError,
    Objective,
    ObjectiveState,
    Regularizer,
    Trust,
    TrustInput,
    Value,
    advantages,
    baseline,
    custom_loss,
    likelihood_count,
    likelihood_loss,
    loss_count,
    policy_loss,
    trust_region,
    value_loss,
)
from rlalign.objective.trust import divergence_mask, log_clip, soft_gate
from rlalign.oracle import TokenMDP, report


def tiny(**changes: Any) -> Batch:
    """Two groups of two, three columns, lengths 3 1 2 3."""
    lengths = torch.tensor([3, 1, 2, 3])
    b = Batch(
        action_mask=torch.arange(3) < lengths[:, None],
        rewards=torch.tensor([1.0, 0.0, 0.5, 0.5]),
        group_ids=torch.tensor([4, 4, 9, 9]),
        terminated=torch.tensor([True, True, False, True]),
        truncated=torch.tensor([False, False, True, False]),
        logprobs=torch.full((4, 3), -1.0, requires_grad=True),
        old_logprobs=torch.full((4, 3), -1.0),
        sampler_logprobs=torch.full((4, 3), -1.0),
        ref_logprobs=torch.full((4, 3), -1.5),
        entropies=torch.full((4, 3), 0.7),
        max_length=4,
    )
    return replace(b, **changes)


def first_column(objective: Objective, b: Batch, **k: Any) -> list[float]:
    a = advantages(objective, b, **k).advantages
    assert a is not None
    return [round(x, 6) for x in a[:, 0].tolist()]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("none", [1, 0, 0.5, 0.5]),
        ("batch_mean", [0.5, -0.5, 0, 0]),
        ("group_mean", [0.5, -0.5, 0, 0]),
        ("leave_one_out", [1, -1, 0, 0]),
        ("length_weighted_group_mean", [0.25, -0.75, 0, 0]),
        ("ema", [1 - 1 / 3, -2 / 3, 0, 0]),
    ],
)
def test_baselines_by_hand(name: str, expected: list[float]) -> None:
    assert first_column(Objective(baseline=name), tiny()) == pytest.approx(expected, abs=1e-6)


def test_scales_by_hand() -> None:
    assert first_column(Objective(baseline="group_mean", scale="group_std", scale_eps=0.0), tiny()) == pytest.approx(
        [0.5**0.5, -(0.5**0.5), 0, 0], abs=1e-6
    )
    assert first_column(Objective(baseline="group_mean", scale="group_mean"), tiny()) == [1, -1, 0, 0]
    with pytest.raises(UserError, match="0 or more"):
        advantages(Objective(baseline="group_mean", scale="group_mean"), tiny(rewards=-torch.ones(4)))
    nothing = tiny(rewards=torch.zeros(4))
    assert first_column(Objective(baseline="group_mean", scale="group_mean"), nothing) == [0, 0, 0, 0]


def test_a_large_offset_of_the_reward_leaves_the_spread_alone() -> None:
    # E[x²] - mean² in float32 would be off by thousands here
    objective = Objective(baseline="group_mean", scale="group_std", scale_eps=0.0)
    b = tiny()
    assert first_column(objective, replace(b, rewards=b.rewards + 4096)) == first_column(objective, b)


def test_kl_in_the_reward_lands_on_its_tokens() -> None:
    objective = Objective(credit=Credit("reward_to_go"), kl=KL("reward", 0.1))
    found = advantages(objective, tiny()).advantages
    assert found is not None
    expected = [[0.85, 0.9, 0.95], [-0.05, 0, 0], [0.4, 0.45, 0], [0.35, 0.4, 0.45]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_overlong_shaping_falls_linearly_to_the_limit() -> None:
    objective = Objective(filter=Filter(overlong=0.5))  # L_max 4, buffer 2: lengths 2, 3, 4 lose 0, 0.5, 1
    assert first_column(objective, tiny(rewards=torch.zeros(4))) == [-0.5, 0, 0, -0.5]
    with pytest.raises(UserError, match="max_length"):
        advantages(objective, tiny(max_length=0))


def test_dynamic_sampling_drops_groups_of_equal_rewards_from_the_count() -> None:
    objective = Objective(baseline="group_mean", filter=Filter(dynamic_sampling=True))
    found = advantages(objective, tiny())
    assert found.valid is not None
    assert found.valid.tolist() == [True, True, False, False]
    assert loss_count(objective, found) == 2


def test_a_dropped_truncated_sample_still_votes() -> None:
    objective = Objective(baseline="group_mean", filter=Filter(drop_truncated=True))
    found = advantages(objective, tiny(rewards=torch.tensor([1.0, 0.0, 1.0, 0.0])))
    assert found.valid is not None
    assert found.advantages is not None
    assert found.valid.tolist() == [True, True, False, True]
    assert found.advantages[3, 0] == -0.5
    assert loss_count(objective, found) == 3
    again = advantages(objective, found)  # computing them anew is the same
    torch.testing.assert_close(again.advantages, found.advantages)


def test_rows_that_are_not_valid_leave_total_and_count() -> None:
    objective = Objective(baseline="leave_one_out")
    b = tiny(valid=torch.tensor([True, True, False, True]))
    found = advantages(objective, b)
    assert found.advantages is not None
    assert (found.advantages[2:] == 0).all()  # the failed row, and its companion that is alone now
    loss = policy_loss(objective, found)
    assert loss.count == 3
    assert b.logprobs is not None
    assert (torch.autograd.grad(loss.total, b.logprobs)[0][2] == 0).all()


@pytest.mark.parametrize(
    ("aggregation", "total", "count"),
    [("sequence_sum", 9, 4), ("sequence_mean", 4, 4), ("token_global", 9, 9), ("constant", 9, 16)],
)
def test_aggregations_by_hand(aggregation: Any, total: float, count: float) -> None:
    b = replace(tiny(rewards=torch.ones(4)), advantages=torch.ones(4, 3))
    loss = policy_loss(Objective(aggregation=aggregation), b)
    assert loss.total.item() == total  # log pi = -1 and A = 1
    assert loss.count.item() == count
    weighted = policy_loss(Objective(aggregation=aggregation), replace(b, weights=torch.full((4,), 0.5)))
    assert weighted.total.item() == total / 2
    assert weighted.count.item() == count


def test_entropy_and_nll_enter_the_loss() -> None:
    b = replace(tiny(), advantages=torch.zeros(4, 3))
    assert policy_loss(Objective(regularizer=Regularizer(entropy_coef=0.1)), b).total.item() == pytest.approx(-0.07 * 9)
    # rewards above 0.4: rows 0, 2, 3 with 3 + 2 + 3 tokens of log pi = -1, and those tokens are the denominator
    likely = Objective(regularizer=Regularizer(nll_coef=0.1, nll_above=0.4))
    found = likelihood_loss(likely, b)
    assert (found.total.item(), found.count.item()) == (pytest.approx(0.8), 8)
    assert likelihood_count(likely, b).item() == 8
    assert policy_loss(likely, b).total.item() == 0.0


def test_trust_regions_by_hand() -> None:
    log_ratio = torch.log(torch.tensor([[1.5, 0.5, 1.0]]))
    mask = torch.ones(1, 3, dtype=torch.bool)
    for sign in (1.0, -1.0):
        a = torch.full((1, 3), sign)
        logprobs = torch.log(torch.tensor([[0.6, 0.3, 0.4]]))
        x = TrustInput(log_ratio.exp(), log_ratio, a, logprobs, mask, plain=False)
        _, cut = divergence_mask(x, Trust(delta=0.15))  # |0.6 - 0.4| = 0.2, |0.3 - 0.6| = 0.3, 0
        assert cut.tolist() == [[sign > 0, sign < 0, False]]
        gain, _ = log_clip(x, Trust(low=0.4, high=0.4))
        clipped = log_ratio.clamp(max=0.4) if sign > 0 else log_ratio.clamp(min=-0.4)
        torch.testing.assert_close(gain, (sign * clipped.mean().exp()).expand(1, 3))
        gate, _ = soft_gate(x, Trust())
        tau = 1.0 if sign > 0 else 1.05
        torch.testing.assert_close(gate, 4 / tau * torch.sigmoid(tau * (x.ratio - 1)) * sign)


def test_k3_is_clamped_and_counted() -> None:
    b = replace(tiny(ref_logprobs=torch.full((4, 3), 200.0)), advantages=torch.zeros(4, 3))
    loss = policy_loss(Objective(kl=KL("loss", 1.0, "k3")), b)
    assert torch.isfinite(loss.total)
    total, count = loss.metrics["kl_clamped"]
    assert (total, count) == (9, 9)


def test_maxima_are_apart_from_the_means() -> None:
    b = replace(tiny(), advantages=torch.ones(4, 3), old_logprobs=torch.tensor([-1.0, -2.0, -1.0]).expand(4, 3))
    loss = policy_loss(Objective(ratio="token", trust=Trust("clip")), b)
    assert loss.maxima["ratio_max"].item() == pytest.approx(2.718282, rel=1e-6)
    clipped, tokens = loss.metrics["clip_fraction"]
    assert (clipped, tokens) == (3, 9)


# ---- bad input ----


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logprobs": torch.zeros(4, 2)}, r"logprobs must have shape \[4, 3\], and has \[4, 2\]"),
        ({"rewards": torch.zeros(3)}, r"rewards must have shape \[4\] or \[4, 3\], and has \[3\]"),
        ({"group_ids": torch.zeros(5, dtype=torch.int64)}, r"group_ids must have shape \[4\], and has \[5\]"),
        ({"valid": torch.ones(4, 3, dtype=torch.bool)}, r"valid must have shape \[4\], and has \[4, 3\]"),
        ({"action_mask": torch.ones(4, 3)}, r"action_mask must be bool \[N, T\], and is float32 \[4, 3\]"),
        ({"rewards": torch.tensor([1.0, float("nan"), 0, 0])}, "rewards holds NaN or inf.*rows 1"),
        ({"old_logprobs": torch.full((4, 3), float("nan"))}, "old_logprobs holds NaN or inf.*rows 0, 1, 2, 3"),
    ],
)
def test_bad_tensors_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        advantages(Objective(), tiny(**changes))


@pytest.mark.parametrize(
    ("objective", "missing"),
    [
        (Objective(kl=KL("reward")), "ref_logprobs"),
        (Objective(baseline="greedy"), "greedy_rewards"),
        (Objective(baseline="value", value=Value("head"), credit=Credit("gae")), "old_values"),
    ],
)
def test_missing_tensors_are_named(objective: Objective, missing: str) -> None:
    with pytest.raises(UserError, match=f"no {missing}"):
        advantages(objective, tiny(ref_logprobs=None))


def test_missing_old_logprobs_fail_loudly() -> None:
    b = replace(tiny(), advantages=torch.ones(4, 3), old_logprobs=None)
    with pytest.raises(UserError, match="old_logprobs"):
        policy_loss(Objective(ratio="token"), b)


def test_a_diverged_policy_is_told_from_a_wrong_shape() -> None:
    b = replace(tiny(logprobs=torch.full((4, 3), float("nan"))), advantages=torch.ones(4, 3))
    with pytest.raises(NonFiniteError) as error:
        policy_loss(Objective(), b)
    assert error.value.tensor == "logprobs"


# ---- state ----


def test_state_survives_a_round_trip() -> None:
    objective = Objective(baseline="ema", kl=KL("reward", 0.1, target=1.0, horizon=8))
    state = ObjectiveState.start(objective)
    state.update(objective, tiny())
    other = ObjectiveState.start(objective)
    other.load_state_dict(state.state_dict())
    assert other == state
    assert state.kl_coef == pytest.approx(0.1 * (1 + 0.125 * 4 / 8))  # KL 4.5 / 4 nats against a target of 1
    baseline_of = replace(objective, kl=KL())
    assert first_column(baseline_of, tiny(), state=ObjectiveState(0.0, ema=0.25)) == [0.75, -0.25, 0.25, 0.25]


def test_the_moving_average_moves() -> None:
    objective, state = Objective(baseline="ema", ema_decay=0.9), ObjectiveState(0.0)
    state.update(objective, tiny())
    assert state.ema == 0.5
    state.update(objective, tiny(rewards=torch.ones(4)))
    assert state.ema == pytest.approx(0.55)
    state.update(objective, tiny(valid=torch.zeros(4, dtype=torch.bool)))
    assert state.ema == pytest.approx(0.55)
    assert state.steps == 3


def test_value_pretraining_lasts_as_many_steps_as_said() -> None:
    objective = Objective(baseline="value", credit=Credit("gae"), value=Value("head", pretrain_steps=2))
    state, seen = ObjectiveState.start(objective), []
    for _ in range(4):
        seen.append(state.pretraining(objective))
        state.update(objective, tiny())
    assert seen == [True, True, False, False]
    assert not ObjectiveState.start(Objective()).pretraining(Objective())


def test_value_clip_keeps_the_worse_error() -> None:
    b = replace(
        tiny(),
        values=torch.full((4, 3), 1.0),
        old_values=torch.zeros(4, 3),
        returns=torch.full((4, 3), 1.0),
    )
    clipped = value_loss(Objective(value=Value("head", coef=1.0, clip=0.2)), b)
    assert (clipped.total / clipped.count).item() == pytest.approx(0.5 * 0.8**2)
    assert value_loss(Objective(value=Value("head", coef=1.0)), b).total.item() == 0


# ---- a user's own ----

OWN = '''
from rlalign.objective import baseline

def half(returns, batch):
    """A constant: exact."""
    return 0.5 + 0 * returns

def cheat(returns, batch):
    """Looks at the own sample: biased."""
    return returns ** 2

def squash(x, trust):
    return x.ratio.clamp(max=1 + trust.high) * x.advantages

def halved(objective, batch):
    return -0.5 * batch.advantages * batch.logprobs
'''


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own_axis.py"
    path.write_text(OWN)
    return path


def test_functions_of_a_file_go_through_the_oracle(own: Path) -> None:
    verdicts = {
        name: report(f"{own}:{name}", horizon=2)[0].graded.verdict for name in ("half", "cheat", "squash", "halved")
    }
    assert verdicts["half"] == "exact"
    assert verdicts["cheat"].startswith("biased")
    assert verdicts["squash"] == "exact"
    assert verdicts["halved"] == "exact × 0.5"


def test_own_values_are_valid_in_a_spec(own: Path) -> None:
    Objective(baseline=f"{own}:half").validate()
    Objective(ratio="token", trust=Trust(f"{own}:squash")).validate()
    with pytest.raises(UserError, match=r"has no 'hafl'.*Did you mean 'half'"):
        Objective(baseline=f"{own}:hafl").validate()


def test_registered_functions_are_found_by_name() -> None:
    @baseline("test-median")
    def median(returns: torch.Tensor, batch: Batch) -> torch.Tensor:
        return returns.median().expand_as(returns)

    @trust_region("test-open")
    def unbounded(x: TrustInput, trust: Trust) -> torch.Tensor:
        return x.ratio * x.advantages

    @custom_loss("test-nothing")
    def nothing(objective: Objective, batch: Batch) -> torch.Tensor:
        return 0 * batch.need("logprobs", "the test")

    Objective(baseline="test-median", ratio="token", trust=Trust("test-open")).validate()
    assert first_column(Objective(baseline="test-median"), tiny()) == [0.5, -0.5, 0, 0]
    found = advantages(Objective(loss="test-nothing"), tiny())
    assert policy_loss(Objective(loss="test-nothing"), found).total.item() == 0
    assert report("test-open", horizon=2)[0].graded.verdict == "exact"


def test_oracle_refuses_what_is_no_axis_value(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f(a, b):\n    return a\n\nx = 3\n")
    with pytest.raises(UserError, match="name its parameters"):
        report(f"{path}:f")
    with pytest.raises(UserError, match="is a int"):
        report(f"{path}:x")


def test_the_oracle_takes_an_objective() -> None:
    row = report(Objective(aggregation="constant"), horizon=2)[0]
    assert row.graded.verdict == "exact × 0.5"
    assert TokenMDP(horizon=2).tokens.shape == (7, 2)
