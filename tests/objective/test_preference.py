"""Preference losses against numbers computed by hand: values, gradients, metrics, rows of the loss, and refusals."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.algorithms import algorithm, recorded_presets
from rlalign.errors import UserError
from rlalign.objective import (
    KL,
    Batch,
    Credit,
    Filter,
    Objective,
    ObjectiveState,
    OffPolicy,
    Preference,
    Regularizer,
    Trust,
    Value,
    compute_advantages,
    loss_count,
    policy_loss,
    reference_point,
)

PAIRS = ("dpo", "ipo", "simpo")
LOSSES = (*PAIRS, "kto")
BETA = 0.5

# Two pairs: the rejected row of the first and the chosen row of the second come first. Log-ratios are the sums over the
# tokens: rows 0 to 3 have 2, 1, 3 and 1 tokens.
LENGTHS = torch.tensor([2, 1, 3, 1])
LOGPROBS = torch.tensor([[-1.0, -1.0, 9.0], [-0.5, 9.0, 9.0], [-0.5, -0.5, -0.5], [-2.5, 9.0, 9.0]])
REFERENCE = torch.tensor([[-1.5, -1.5, 9.0], [-1.5, 9.0, 9.0], [-1.0, -1.0, -1.0], [-2.0, 9.0, 9.0]])
LOG_RATIOS = (1.0, 1.0, 1.5, -0.5)


def rows(**changes: Any) -> Batch:
    """Return the batch of the two pairs, float64, without sampler's and old log-probs."""
    b = Batch(
        action_mask=torch.arange(3) < LENGTHS[:, None],
        rewards=torch.tensor([0.0, 1.0, 1.0, 0.0]),
        group_ids=torch.tensor([7, 7, 3, 3]),
        terminated=torch.ones(4, dtype=torch.bool),
        truncated=torch.zeros(4, dtype=torch.bool),
        logprobs=LOGPROBS.double().requires_grad_(),
        ref_logprobs=REFERENCE.double(),
        reference_point=torch.full((4,), 0.5, dtype=torch.float64),
    )
    return replace(b, **changes)


def objective(loss: str, **settings: Any) -> Objective:
    """Return the objective of a preference loss."""
    kl = KL() if loss == "simpo" else KL("reward", BETA)
    return Objective(loss=loss, kl=kl, preference=Preference(**settings))


def mean_loss(o: Objective, batch: Batch) -> Tensor:
    """Return the loss after division by the count."""
    loss = policy_loss(o, compute_advantages(o, batch))
    return loss.total / loss.count


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def logistic(margin: float, smoothing: float = 0.0) -> float:
    return -(1 - smoothing) * math.log(sigmoid(margin)) - smoothing * math.log(sigmoid(-margin))


# ---- values ----


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_matches_hand_computed_numbers(smoothing: float) -> None:
    # chosen minus rejected: 1 - 1 and 1.5 - (-0.5)
    expected = (logistic(0.0, smoothing) + logistic(BETA * 2.0, smoothing)) / 2
    assert mean_loss(objective("dpo", label_smoothing=smoothing), rows()).item() == pytest.approx(expected)


def test_ipo_matches_hand_computed_numbers() -> None:
    target = 1 / (2 * BETA)
    # per token: 1/1 - 1/2 and 1.5/3 - (-0.5)/1
    expected = ((0.5 - target) ** 2 + (1.0 - target) ** 2) / 2
    assert mean_loss(objective("ipo"), rows()).item() == pytest.approx(expected)
    expected = ((0.0 - target) ** 2 + (2.0 - target) ** 2) / 2
    assert mean_loss(objective("ipo", length_normalized=False), rows()).item() == pytest.approx(expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_simpo_matches_hand_computed_numbers(smoothing: float) -> None:
    # mean log-probs: -0.5 - (-1) and -0.5 - (-2.5)
    margins = (2.5 * 0.5 - 0.75, 2.5 * 2.0 - 0.75)
    expected = sum(logistic(m, smoothing) for m in margins) / 2
    settings = {"scale": 2.5, "margin": 0.75, "label_smoothing": smoothing}
    assert mean_loss(objective("simpo", **settings), rows(ref_logprobs=None)).item() == pytest.approx(expected)


def test_kto_matches_hand_computed_numbers() -> None:
    signs = (-1, 1, 1, -1)
    weights = (0.5, 2.0, 2.0, 0.5)
    expected = sum(
        w * (1 - sigmoid(sign * BETA * (h - 0.5))) for w, sign, h in zip(weights, signs, LOG_RATIOS, strict=True)
    )
    o = objective("kto", desirable_weight=2.0, undesirable_weight=0.5)
    single = rows(group_ids=torch.arange(4))
    assert mean_loss(o, single).item() == pytest.approx(expected / 4)


def test_the_reference_point_is_the_mean_log_ratio_of_a_completion_and_at_least_0() -> None:
    mask = rows().action_mask
    logprobs = LOGPROBS.clone().requires_grad_()
    z0 = reference_point(logprobs, REFERENCE, mask)
    assert z0.item() == pytest.approx(sum(LOG_RATIOS) / 4)
    assert not z0.requires_grad
    assert reference_point(REFERENCE, LOGPROBS, mask).item() == 0


def test_the_reference_point_has_no_gradient() -> None:
    z0 = torch.full((4,), 0.25, dtype=torch.float64, requires_grad=True)
    loss = mean_loss(objective("kto"), rows(reference_point=z0, group_ids=torch.arange(4)))
    assert torch.autograd.grad(loss, z0, allow_unused=True)[0] is None


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_equals_finite_differences(loss: str) -> None:
    settings = {"label_smoothing": 0.1} if loss in ("dpo", "simpo") else {}

    def f(logprobs: Tensor) -> Tensor:
        return mean_loss(objective(loss, **settings), rows(logprobs=logprobs))

    assert torch.autograd.gradcheck(f, LOGPROBS.double().requires_grad_())


# ---- the rows of the loss ----


@pytest.mark.parametrize("loss", PAIRS)
def test_a_pair_with_an_invalid_row_leaves_the_loss(loss: str) -> None:
    o = objective(loss)
    b = compute_advantages(o, rows(valid=torch.tensor([True, False, True, True])))
    assert b.valid is not None
    assert b.in_baseline is not None
    assert b.valid.tolist() == [False, False, True, True]
    assert b.in_baseline.tolist() == [True, False, True, True]
    assert loss_count(o, b) == 2
    part = rows()[torch.tensor([2, 3])]
    assert mean_loss(o, b).item() == pytest.approx(mean_loss(o, part).item())
    gradient = torch.autograd.grad(policy_loss(o, b).total, b.need("logprobs", "the test"))[0]
    assert (gradient[:2] == 0).all()
    assert (gradient[~b.action_mask] == 0).all()


@pytest.mark.parametrize("loss", PAIRS)
def test_a_pair_of_equal_rewards_leaves_the_loss(loss: str) -> None:
    b = compute_advantages(objective(loss), rows(rewards=torch.tensor([0.5, 0.5, 3.0, 2.0])))
    assert b.valid is not None
    assert b.valid.tolist() == [False, False, True, True]  # the larger reward is the chosen one


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_without_an_action_leaves_the_loss(loss: str) -> None:
    empty = rows().action_mask & torch.tensor([True, False, True, True])[:, None]
    b = compute_advantages(objective(loss), rows(action_mask=empty))
    assert b.valid is not None
    assert b.valid.tolist() == [loss == "kto", False, True, True]


@pytest.mark.parametrize("ids", [[7, 7, 7, 3], [7, 7, 3, 4], [7, 7, 7, 7]])
def test_groups_of_other_sizes_are_refused(ids: list[int]) -> None:
    with pytest.raises(UserError, match="expected two rows in each group"):
        compute_advantages(objective("dpo"), rows(group_ids=torch.tensor(ids)))


@pytest.mark.parametrize("part", [[0], [1, 2], [0, 1, 2]])
def test_a_part_that_divides_a_pair_is_refused(part: list[int]) -> None:
    batch = compute_advantages(objective("dpo"), rows())
    with pytest.raises(UserError, match="both rows of each pair in one part"):
        policy_loss(objective("dpo"), batch[torch.tensor(part)])


def test_labels_other_than_0_and_1_are_refused() -> None:
    with pytest.raises(UserError, match=r"got 0\.5"):
        compute_advantages(objective("kto"), rows(rewards=torch.tensor([0.0, 1.0, 0.5, 1.0])))


@pytest.mark.parametrize(("loss", "field"), [("dpo", "ref_logprobs"), ("kto", "reference_point")])
def test_error_names_the_missing_tensor(loss: str, field: str) -> None:
    with pytest.raises(UserError, match=f"loss {loss} needs {field}"):
        mean_loss(objective(loss), rows(**{field: None}))


def test_the_state_counts_steps_and_reads_no_log_probs() -> None:
    for loss in LOSSES:
        o = objective(loss)
        state = ObjectiveState.start(o)
        state.update(o, rows(logprobs=None, ref_logprobs=None))
        assert (state.steps, state.ema, state.kl_coef) == (1, None, o.kl.coef)


# ---- invariances ----


def many(seed: int, dtype: torch.dtype = torch.float64) -> Batch:
    """Return six random pairs in random order, one with an invalid row, with holes in the mask."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype, generator=g)

    n, width = 12, 5
    mask = torch.rand(n, width, generator=g) < 0.6
    mask[:, 0] = True
    valid = torch.ones(n, dtype=torch.bool)
    valid[0] = False
    order = torch.randperm(n, generator=g)
    return Batch(
        action_mask=mask,
        rewards=torch.tensor([1.0, 0.0]).repeat(n // 2)[order],
        group_ids=torch.arange(n // 2).repeat_interleave(2)[order],
        terminated=valid,
        truncated=~valid,
        logprobs=(normal(n, width) - 1.5).requires_grad_(),
        ref_logprobs=normal(n, width) - 1.5,
        reference_point=torch.full((n,), 0.3, dtype=dtype),
        valid=valid,
    )


def value_and_gradient(o: Objective, batch: Batch, leaf: Tensor) -> tuple[Tensor, Tensor]:
    loss = mean_loss(o, batch)
    return loss, torch.autograd.grad(loss, leaf)[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("junk", [0.0, -1e30, math.inf, math.nan])
def test_padding_has_no_effect(loss: str, junk: float) -> None:
    o, b = objective(loss), many(0)
    leaf = b.need("logprobs", "the test")
    tensors = {}
    for name, x in b.tensors().items():
        if x.ndim == 2:
            x = x if x.dtype == torch.bool else x.where(b.action_mask, junk)
            x = torch.nn.functional.pad(x, (2, 1), value=False if x.dtype == torch.bool else junk)
        tensors[name] = x
    plain, wide = value_and_gradient(o, b, leaf), value_and_gradient(o, replace(b, **tensors), leaf)
    torch.testing.assert_close(plain, wide, rtol=1e-12, atol=1e-14)
    assert (wide[1][~b.action_mask] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_the_order_of_rows_and_the_numbers_of_groups_have_no_effect(loss: str) -> None:
    o, b = objective(loss), many(1)
    leaf = b.need("logprobs", "the test")
    shuffled = b[torch.randperm(12, generator=torch.Generator().manual_seed(0))]
    relabeled = replace(shuffled, group_ids=100 - 7 * shuffled.group_ids)
    expected = value_and_gradient(o, b, leaf)
    torch.testing.assert_close(expected, value_and_gradient(o, relabeled, leaf), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES)
def test_sums_and_metrics_of_parts_equal_those_of_the_batch(loss: str) -> None:
    o, b = objective(loss), many(2)
    leaf = b.need("logprobs", "the test")
    batch = compute_advantages(o, b)
    batch = batch[batch.group_ids.argsort(stable=True)]
    parts = [policy_loss(o, batch[i:j]) for i, j in pairwise((0, 2, 8, 12))]
    whole = policy_loss(o, batch)
    total = torch.stack([p.total for p in parts]).sum()
    torch.testing.assert_close(total, whole.total)
    gradients = [torch.autograd.grad(x, leaf, retain_graph=True)[0] for x in (total, whole.total)]
    torch.testing.assert_close(*gradients)
    assert sum(float(p.count) for p in parts) == float(whole.count) == float(loss_count(o, batch))
    for key, (summed, count) in whole.metrics.items():
        assert sum(float(p.metrics[key][0]) for p in parts) == pytest.approx(float(summed))
        assert sum(float(p.metrics[key][1]) for p in parts) == float(count)


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_agrees_with_float64(loss: str) -> None:
    o = objective(loss)
    double = mean_loss(o, many(3))
    torch.testing.assert_close(mean_loss(o, many(3)).float(), double.float())
    single = {n: x.detach().float() if x.is_floating_point() else x for n, x in many(3).tensors().items()}
    loss32 = mean_loss(o, Batch(**single))  # type: ignore[arg-type]  # fields by name
    assert loss32.dtype == torch.float32
    assert loss32.item() == pytest.approx(double.item(), rel=1e-5)


# ---- metrics ----


def metrics(o: Objective, batch: Batch) -> dict[str, float]:
    """Return the metrics of the preference loss, divided by their counts."""
    sums = policy_loss(o, compute_advantages(o, batch)).metrics
    return {k.removeprefix("preference/"): float(s / n) for k, (s, n) in sums.items() if k.startswith("preference/")}


def test_metrics_of_pairs_match_hand_computed_numbers() -> None:
    assert metrics(objective("dpo"), rows()) == pytest.approx(
        {
            "chosen_reward": BETA * (1 + 1.5) / 2,
            "rejected_reward": BETA * (1 - 0.5) / 2,
            "chosen_logprob": (-0.5 - 1.5) / 2,
            "rejected_logprob": (-2 - 2.5) / 2,
            "margin": BETA * (0 + 2) / 2,
            "accuracy": 0.75,  # a tie and a win
        }
    )
    assert metrics(objective("simpo", scale=2.0, margin=1.0), rows())["margin"] == pytest.approx(2 * (0.5 + 2.0) / 2)
    swapped = rows(rewards=torch.tensor([1.0, 0.0, 0.0, 1.0]))
    assert metrics(objective("dpo"), swapped)["accuracy"] == 0.25


def test_metrics_of_labels_match_hand_computed_numbers() -> None:
    single = rows(group_ids=torch.arange(4))
    values = metrics(objective("kto"), single)
    assert values["accuracy"] == 0.75  # row 0 is undesirable and above the reference point
    assert values["reference_point"] == 0.5
    assert values["chosen_reward"] == pytest.approx(BETA * 1.25)
    assert "margin" not in values


def test_the_log_ratio_of_recorded_completions_is_not_reported_as_kl() -> None:
    assert "kl" not in policy_loss(objective("dpo"), compute_advantages(objective("dpo"), rows())).metrics


# ---- the specification ----

REFUSED: list[tuple[str, Objective]] = [
    ("objective.baseline group_mean has no meaning", Objective(baseline="group_mean")),
    ("objective.scale whiten has no meaning", Objective(scale="whiten")),
    ("objective.credit.kind reward_to_go has no meaning", Objective(credit=Credit("reward_to_go"))),
    ("objective.ratio token has no meaning", Objective(ratio="token")),
    ("objective.trust.kind clip has no meaning", Objective(trust=Trust("clip"))),
    ("objective.off_policy.kind tis has no meaning", Objective(off_policy=OffPolicy("tis"))),
    ("objective.filter.dynamic_sampling True has no meaning", Objective(filter=Filter(dynamic_sampling=True))),
    ("objective.value.kind head has no meaning", Objective(value=Value("head"))),
    ("objective.regularizer.nll_coef 0.1 has no meaning", Objective(regularizer=Regularizer(nll_coef=0.1))),
    ("objective.aggregation token_global has no meaning", Objective(aggregation="token_global")),
    ("objective.ema_decay 0.5 has no meaning", Objective(ema_decay=0.5)),
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("reason", "changed"), REFUSED, ids=[r[0].split()[0] for r in REFUSED])
def test_an_axis_without_meaning_is_refused_with_the_reason(loss: str, reason: str, changed: Objective) -> None:
    with pytest.raises(UserError, match=reason) as error:
        replace(changed, loss=loss, kl=objective(loss).kl).validate()
    assert "--objective.loss surrogate" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("reason", "refused"),
    [
        ("expected kl.where reward with kl.coef above 0, got kl.where none", Objective(loss="dpo")),
        ("got kl.where loss", Objective(loss="kto", kl=KL("loss", 0.1))),
        ("with kl.coef 0;", Objective(loss="ipo", kl=KL("reward", 0.0))),
        ("kl.estimator k3 has no meaning", Objective(loss="dpo", kl=KL("reward", 0.1, "k3"))),
        ("kl.target 6.0 has no meaning", Objective(loss="dpo", kl=KL("reward", 0.1, target=6.0))),
        (
            "kl.where reward has no meaning for loss simpo: the loss has no ref",
            Objective(loss="simpo", kl=KL("reward")),
        ),
        ("preference.margin is not read by loss dpo", objective("dpo", margin=2.0)),
        ("preference.scale is read by loss simpo alone", Objective(preference=Preference(scale=1.0))),
        ("is read by loss dpo, simpo alone", Objective(preference=Preference(label_smoothing=0.1))),
        ("label_smoothing: expected .* below 0.5", objective("dpo", label_smoothing=0.5)),
        ("preference.scale: expected above 0", objective("simpo", scale=0.0)),
        ("preference.margin: expected at least 0", objective("simpo", margin=-1.0)),
        ("desirable_weight: expected at least 0", objective("kto", desirable_weight=-1.0)),
    ],
)
def test_settings_that_contradict_the_loss_are_refused(reason: str, refused: Objective) -> None:
    with pytest.raises(UserError, match=reason):
        refused.validate()


@pytest.mark.parametrize("loss", PAIRS)
def test_a_loss_of_pairs_has_groups_of_two(loss: str) -> None:
    objective(loss).validate(group_size=2)
    with pytest.raises(UserError, match="expected group_size 2, got 8"):
        objective(loss).validate(group_size=8)
    objective("kto").validate(group_size=1)


def test_properties_that_the_learner_reads() -> None:
    properties = {
        loss: (o.is_preference, o.needs_pairs, o.needs_reference_point, o.needs_reference)
        for loss in LOSSES
        for o in [objective(loss)]
    }
    assert properties == {
        "dpo": (True, True, False, True),
        "ipo": (True, True, False, True),
        "simpo": (True, True, False, False),
        "kto": (True, False, True, True),
    }
    assert not Objective().is_preference
    assert not Objective().needs_pairs


def test_presets_on_recorded_data_have_their_kind_of_data() -> None:
    kinds = {name: algorithm(name).data for name in recorded_presets()}
    assert kinds == {"sft": "demonstrations", "dpo": "pairs", "ipo": "pairs", "simpo": "pairs", "kto": "labels"}
    for name in recorded_presets():
        o = algorithm(name).objective
        assert o.needs_pairs == (kinds[name] == "pairs")
        assert o.needs_reference_point == (kinds[name] == "labels")
