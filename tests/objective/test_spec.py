"""The specification of an objective: valid values, invalid combinations, and the properties that the learner reads."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from typing import Any

import pytest

from rlalign.algorithms import (
    ALGORITHMS,
    Algorithm,
    algorithm,
    diff,
    recorded_presets,
    register_algorithm,
    sampling_presets,
    teacher_presets,
)
from rlalign.errors import UnknownNameError, UserError
from rlalign.objective import KL, Credit, Filter, Objective, OffPolicy, Regularizer, Trust, Value
from rlalign.oracle.formula import formula

GAE: dict[str, Any] = {"baseline": "value", "credit": Credit("gae"), "value": Value("head")}

REFUSED: list[tuple[str, Objective, int]] = [
    ("explodes", Objective(baseline="leave_one_out", scale="group_std"), 8),
    ("gae needs values", Objective(credit=Credit("gae")), 8),
    ("has the value as its baseline", Objective(credit=Credit("gae"), value=Value("head")), 8),
    ("baseline value needs values", Objective(baseline="value"), 8),
    ("never uses it", Objective(value=Value("head")), 8),
    ("group_size is 1", Objective(baseline="group_mean"), 1),
    ("group_size is 1", Objective(baseline="leave_one_out"), 1),
    ("group_size is 1", Objective(filter=Filter(dynamic_sampling=True)), 1),
    ("gae advantages are per token", Objective(**{**GAE, "scale": "batch_std"}), 8),
    ("goes with baseline group_mean", Objective(baseline="ema", scale="group_mean"), 8),
    ("ratio is none", Objective(trust=Trust("clip")), 8),
    ("geometric mean", Objective(ratio="token", trust=Trust("log_clip")), 8),
    ("probabilities of tokens", Objective(ratio="sequence_geomean", trust=Trust("divergence_mask")), 8),
    ("once per token", Objective(ratio="sequence_product"), 8),
    ("in the loss", Objective(kl=KL("reward", importance="token")), 8),
    ("not used", Objective(kl=KL(target=6.0)), 8),
    ("away from the reference", Objective(kl=KL("reward", -1.0)), 8),
    (r"credit.gamma: expected at least 0 and at most 1, got 1.5", Objective(credit=Credit(gamma=1.5)), 8),
    ("lambda_actor", Objective(**{**GAE, "credit": Credit("gae", lambda_actor=2.0)}), 8),
    ("trust.dual", Objective(ratio="token", trust=Trust("dual_clip", dual=1.0)), 8),
    ("off_policy.low", Objective(off_policy=OffPolicy("mis", low=3.0)), 8),
    ("filter.overlong", Objective(filter=Filter(overlong=1.0)), 8),
    ("expected a finite number", Objective(kl=KL(coef=float("nan"))), 8),
    ("expected a finite number", Objective(kl=KL(coef="a lot")), 8),  # type: ignore[arg-type]  # wrong on purpose
]


@pytest.mark.parametrize(("reason", "objective", "group_size"), REFUSED, ids=[r[0] for r in REFUSED])
def test_errors_of_invalid_combinations_name_the_reason(reason: str, objective: Objective, group_size: int) -> None:
    with pytest.raises(UserError, match=reason) as error:
        objective.validate(group_size=group_size)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("objective", "suggestion"),
    [
        (Objective(baseline="leave_one_uot"), "leave_one_out"),
        (Objective(trust=Trust("clipp")), "clip"),
        (Objective(loss="surogate"), "surrogate"),
        (Objective(scale="group_sdt"), "group_std"),  # type: ignore[arg-type]  # wrong on purpose
        (Objective(kl=KL("rewards")), "reward"),  # type: ignore[arg-type]  # wrong on purpose
        (Objective(credit=Credit("gea")), "gae"),  # type: ignore[arg-type]  # wrong on purpose
    ],
)
def test_unknown_values_have_a_suggestion(objective: Objective, suggestion: str) -> None:
    with pytest.raises(UserError, match=f"Did you mean '{suggestion}'"):
        objective.validate()


def test_unknown_preset_has_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'grpo'"):
        algorithm("grop")


def test_every_preset_is_valid_and_plain_data() -> None:
    assert (len(sampling_presets()), len(recorded_presets()), len(teacher_presets())) == (20, 5, 2)
    assert {*sampling_presets(), *recorded_presets(), *teacher_presets()} == set(ALGORITHMS)
    for name in ALGORITHMS:
        a = algorithm(name)
        a.objective.validate(group_size=a.group_size)
        assert a.name == name
        assert a.description
        assert a.bias
        assert json.loads(json.dumps(dataclasses.asdict(a.objective))) == dataclasses.asdict(a.objective)
        assert all(formula(a.objective))
        assert a.epochs == 1 or a.objective.reuses


def test_diff_names_only_the_axes_that_differ() -> None:
    differences = diff(algorithm("grpo").objective, algorithm("dr_grpo").objective)
    assert differences["scale"] == ("group_std", "none")
    assert differences["aggregation"] == ("sequence_mean", "constant")
    assert {key.split(".")[0] for key in differences} == {"scale", "aggregation", "kl"}
    assert diff(Objective(), Objective()) == {}


def test_properties_that_the_learner_reads() -> None:
    ppo, rloo, remax = (algorithm(n).objective for n in ("ppo", "rloo", "remax"))
    assert (ppo.needs_values, ppo.needs_reference, ppo.needs_group) == (True, True, False)
    assert (rloo.needs_values, rloo.needs_group) == (False, True)
    assert remax.needs_greedy
    assert Objective(regularizer=Regularizer(entropy_coef=0.01)).needs_entropy
    assert not Objective().needs_reference


def test_an_invalid_algorithm_cannot_be_registered() -> None:
    with pytest.raises(UserError, match="explodes"):
        register_algorithm(Algorithm("broken", REFUSED[0][1], "", "", "", ""))
    assert "broken" not in ALGORITHMS


def test_presets_are_listed_without_torch() -> None:
    code = "import sys, rlalign.algorithms as a; list(a.ALGORITHMS); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
