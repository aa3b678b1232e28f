"""Custom advantages: what the function gets, what it may return, and that the loss reads its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

import rlalign.objective as rlo
from rlalign.errors import HookError, UserError
from rlalign.objective.registries import ADVANTAGES

Function = Callable[[torch.Tensor, rlo.Batch], Any]


@pytest.fixture
def register() -> Iterator[Callable[[Function], rlo.Objective]]:
    """Return a function that registers an advantage and returns an objective with it."""

    def add(function: Function, **axes: Any) -> rlo.Objective:
        rlo.advantage("under_test")(function)
        return rlo.Objective(advantage="under_test", **axes)

    yield add
    ADVANTAGES._items.pop("under_test", None)


def batch(**fields: Any) -> rlo.Batch:
    """Return two groups of two rows; row 1 has one token, row 3 is not valid."""
    ended = torch.ones(4, dtype=torch.bool)
    return rlo.Batch(
        action_mask=torch.tensor([[True, True], [True, False], [True, True], [True, True]]),
        rewards=torch.tensor([1.0, 0.0, 0.5, 9.0]),
        group_ids=torch.tensor([0, 0, 1, 1]),
        terminated=ended,
        truncated=~ended,
        valid=torch.tensor([True, True, True, False]),
        **fields,
    )


def test_the_result_replaces_the_advantages_and_masked_entries_are_zero(register: Any) -> None:
    objective = register(lambda advantages, batch: advantages + 7, baseline="group_mean")
    plain = rlo.compute_advantages(replace(objective, advantage="none"), batch())
    own = rlo.compute_advantages(objective, batch())
    mask = batch().action_mask & batch().valid[:, None]  # type: ignore[index]  # valid is set
    assert plain.advantages is not None
    assert own.advantages is not None
    torch.testing.assert_close(own.advantages, torch.where(mask, plain.advantages + 7, 0.0))
    assert torch.equal(own.returns, plain.returns)  # type: ignore[arg-type]  # the target of the value is not its advantage


def test_the_loss_reads_the_custom_advantages(register: Any) -> None:
    objective = register(lambda advantages, batch: 0 * advantages + 2)
    logprobs = torch.full((4, 2), -0.5, requires_grad=True)
    prepared = replace(rlo.compute_advantages(objective, batch()), logprobs=logprobs)
    loss = rlo.policy_loss(objective, prepared)
    (gradient,) = torch.autograd.grad(loss.total, logprobs)
    assert gradient.tolist() == [[-2, -2], [-2, 0], [-2, -2], [0, 0]]


def test_the_function_sees_the_fields_of_advantages_and_none_of_an_update(register: Any) -> None:
    seen: list[rlo.Batch] = []

    def look(advantages: torch.Tensor, batch: rlo.Batch) -> torch.Tensor:
        seen.append(batch)
        return advantages

    scores = torch.zeros(4, 2)
    full = batch(logprobs=scores, old_logprobs=scores, ref_logprobs=scores, sampler_logprobs=scores, entropies=scores)
    rlo.compute_advantages(register(look), full)
    (view,) = seen
    assert view.rewards.tolist() == [[0, 1], [0, 0], [0, 0.5], [0, 0]]  # on the last token; row 3 is not valid
    assert view.returns is not None
    assert view.sampler_logprobs is not None
    unset = ("logprobs", "old_logprobs", "ref_logprobs", "values", "old_values", "entropies", "greedy_rewards")
    assert [name for name in unset if getattr(view, name) is not None] == []
    rlo.compute_advantages(register(look, kl=rlo.KL("loss")), full)
    assert seen[-1].ref_logprobs is not None  # a KL term needs the reference


def test_the_function_may_change_its_advantages_in_place_and_nothing_else(register: Any) -> None:
    def clipped(advantages: torch.Tensor, batch: rlo.Batch) -> torch.Tensor:
        return advantages.clamp_(max=0.25)

    own = rlo.compute_advantages(register(clipped), batch())
    assert own.advantages is not None
    assert own.advantages[0].tolist() == [0.25, 0.25]

    def corrupting(advantages: torch.Tensor, batch: rlo.Batch) -> torch.Tensor:
        batch.group_ids.add_(1)
        return advantages

    with pytest.raises(HookError, match=r"advantage 'under_test': expected an unchanged batch, got group_ids changed"):
        rlo.compute_advantages(register(corrupting), batch())


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda a, b: a / 0, r"advantage 'under_test': expected a tensor \[4, 2\] of finite numbers, got NaN or inf"),
        (lambda a, b: a.sum(1), r"expected a tensor \[4, 2\], got shape \[4\]"),
        (lambda a, b: a.tolist(), r"expected a tensor \[4, 2\], got a list"),
        (lambda a, b: None, r"got a NoneType; return the advantages"),
        (lambda a, b: a > 0, r"of numbers, got bool"),
        (lambda a, b: b.entropies.sum(), r"advantage 'under_test' raised AttributeError: 'NoneType'"),
        (lambda a, b: a.to("meta"), r"on cpu, got one on meta"),
    ],
)
def test_an_unusable_result_is_refused_by_name(register: Any, function: Function, message: str) -> None:
    with pytest.raises(HookError, match=message):
        rlo.compute_advantages(register(function), batch())


def test_numbers_in_masked_entries_may_be_anything(register: Any) -> None:
    def dirty(advantages: torch.Tensor, batch: rlo.Batch) -> torch.Tensor:
        assert batch.valid is not None
        mask = batch.action_mask & batch.valid[:, None]
        return torch.where(mask, advantages, torch.nan)

    own = rlo.compute_advantages(register(dirty), batch())
    assert torch.isfinite(own.advantages).all()  # type: ignore[arg-type]  # they are set


def test_names_and_parameters_are_checked_before_a_run(tmp_path: Any) -> None:
    path = tmp_path / "own_advantage.py"
    path.write_text("def good(advantages, batch):\n    return advantages\ndef bad(x):\n    return x\nvalue = 3\n")
    rlo.Objective(advantage=f"{path}:good").validate()
    for name, message in (("bad", r"expected a function f\(advantages, batch\), got f\(x\)"), ("value", "got a int")):
        with pytest.raises(UserError, match=message):
            rlo.Objective(advantage=f"{path}:{name}").validate()
    with pytest.raises(UserError, match="unknown advantage 'absent'"):
        rlo.Objective(advantage="absent").validate()
    with pytest.raises(UserError, match=r"objective\.advantage .* has no meaning for loss dpo"):
        rlo.Objective(loss="dpo", kl=rlo.KL("reward", 0.1), advantage=f"{path}:good").validate()
