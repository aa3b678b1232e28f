"""Built-in and custom baselines, trust regions and losses: their names, their checks, and the oracle."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlalign.errors import UserError
from rlalign.objective import (
    BASELINES,
    LOSSES,
    TRUSTS,
    Batch,
    Objective,
    Trust,
    TrustInput,
    baseline,
    compute_advantages,
    custom_loss,
    policy_loss,
    trust_region,
)
from rlalign.objective.registries import BUILT_IN_BASELINES, BUILT_IN_LOSSES, BUILT_IN_TRUSTS, GROUP_BASELINES
from rlalign.oracle import TokenMDP, report

CUSTOM = '''
from rlalign.objective import baseline

def half(returns, batch):
    """A constant: exact."""
    return 0.5 + 0 * returns

def cheat(returns, batch):
    """Depends on the own return: biased."""
    return returns ** 2

def squash(x, trust):
    return x.ratio.clamp(max=1 + trust.high) * x.advantages

def halved(objective, batch):
    return -0.5 * batch.advantages * batch.logprobs
'''


@pytest.fixture
def custom(tmp_path: Path) -> Path:
    path = tmp_path / "custom_axis.py"
    path.write_text(CUSTOM)
    return path


# ---- built-in ----


def test_names_of_built_in_functions_are_read_from_their_files() -> None:
    assert list(BUILT_IN_BASELINES) == [
        "none", "ema", "batch_mean", "value", "greedy", "group_mean", "leave_one_out", "length_weighted_group_mean",
    ]  # fmt: skip
    assert list(BUILT_IN_TRUSTS) == [
        "none", "clip", "dual_clip", "stopgrad_cap", "soft_gate", "log_clip", "divergence_mask",
    ]  # fmt: skip
    assert list(BUILT_IN_LOSSES) == ["surrogate", "dpo", "ipo", "kto", "simpo"]
    assert {"group_mean", "leave_one_out", "length_weighted_group_mean"} <= GROUP_BASELINES


@pytest.mark.parametrize(
    ("registry", "names"), [(BASELINES, BUILT_IN_BASELINES), (TRUSTS, BUILT_IN_TRUSTS), (LOSSES, BUILT_IN_LOSSES)]
)
def test_every_built_in_name_loads_its_function(registry, names) -> None:
    for name in names:
        assert registry.get(name).__name__ == name


def test_a_replaced_built_in_function_survives_the_import_of_its_file() -> None:
    code = """
from rlalign.objective.registries import BASELINES, baseline
@baseline("none")
def mine(returns, batch):
    return returns
import rlalign.objective.baselines as built_in
assert BASELINES.get("none") is mine
assert BASELINES.get("ema") is built_in.ema
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- custom ----


def test_functions_of_a_file_go_through_the_oracle(custom: Path) -> None:
    verdicts = {
        name: report(f"{custom}:{name}", horizon=2)[0].graded.verdict for name in ("half", "cheat", "squash", "halved")
    }
    assert verdicts["half"] == "exact"
    assert verdicts["cheat"].startswith("biased")
    assert verdicts["squash"] == "exact"
    assert verdicts["halved"] == "exact × 0.5"


def test_functions_of_a_file_are_valid_in_a_spec(custom: Path) -> None:
    Objective(baseline=f"{custom}:half").validate()
    Objective(ratio="token", trust=Trust(f"{custom}:squash")).validate()
    with pytest.raises(UserError, match=r"has no 'hafl'.*Did you mean 'half'"):
        Objective(baseline=f"{custom}:hafl").validate()


def test_registered_functions_have_names(small_batch, first_column) -> None:
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
    assert first_column(Objective(baseline="test-median"), small_batch()) == [0.5, -0.5, 0, 0]
    batch = compute_advantages(Objective(loss="test-nothing"), small_batch())
    assert policy_loss(Objective(loss="test-nothing"), batch).total.item() == 0
    assert report("test-open", horizon=2)[0].graded.verdict == "exact"


def test_a_custom_baseline_can_require_groups() -> None:
    @baseline("test-group", compares_group=True)
    def group(returns: torch.Tensor, batch: Batch) -> torch.Tensor:
        return torch.zeros_like(returns)

    assert Objective(baseline="test-group").needs_group
    with pytest.raises(UserError, match="group_size is 1"):
        Objective(baseline="test-group").validate(group_size=1)


def test_oracle_rejects_objects_that_are_not_axis_values(tmp_path: Path) -> None:
    path = tmp_path / "wrong.py"
    path.write_text("def f(a, b):\n    return a\n\nx = 3\n")
    with pytest.raises(UserError, match="use these names for its parameters"):
        report(f"{path}:f")
    with pytest.raises(UserError, match="got a int"):
        report(f"{path}:x")


def test_oracle_takes_an_objective() -> None:
    row = report(Objective(aggregation="constant"), horizon=2)[0]
    assert row.graded.verdict == "exact × 0.5"
    assert TokenMDP(horizon=2).tokens.shape == (7, 2)
