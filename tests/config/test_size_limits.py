"""Sizes and numbers that no machine can compute: refused with the numbers, before anything is allocated."""

import math
import resource

import pytest

from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp
from rlalign.config.serialize import update
from rlalign.config.size_limits import check_evaluation, check_sizes, memory_bytes
from rlalign.config.validate import validate
from rlalign.errors import UserError
from rlalign.training.experiment import build_checked_mdp, check_run


def changed(policy="gru", **changes):
    """Return a configuration; `__` in the name of a change is a dot."""
    return update(default_config("reverse", policy, "rloo"), {k.replace("__", "."): v for k, v in changes.items()})


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        ("gru", {"rollout__prompts": 10**9}, r"rollout\.prompts 1000000000 × rollout\.group_size \d+ = \d"),
        ("gru", {"rollout__group_size": 10**9}, r"sequences of up to \d+ tokens need at least .* and this machine has"),
        ("gru", {"rollout__max_new": 10**15}, r"up to 1,000,000,000,000,\d+ tokens"),
        ("gru", {"evaluation__prompts": 2**62}, r"evaluation\.prompts 4611686018427387904 × evaluation\.samples 1"),
        ("gru", {"evaluation__samples": 10**12}, r"use fewer prompts or samples of the evaluation"),
        ("gru", {"model__hidden_size": 16 * 10**8}, r"model\.hidden_size 1600000000 with 1 layers is a policy of 15,3"),
        ("tiny", {"model__layers": 10**12}, r"with 1000000000000 layers .* use a smaller --model\.hidden-size"),
    ],
)
def test_sizes_beyond_the_memory_are_refused_with_the_numbers_and_allocate_nothing(policy, settings, message):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = changed(policy, **settings)
    with pytest.raises(UserError, match=message):
        check_run(config)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_usual_sizes_are_accepted():
    for policy in ("gru", "tiny", "tabular"):
        config = changed(policy, rollout__prompts=64, evaluation__prompts=1000, evaluation__samples=8)
        check_sizes(config, build_mdp(config))


def test_an_evaluation_is_limited_by_the_prompts_that_there_are():
    config = update(default_config("reverse", "gru"), {})
    mdp = build_mdp(config, env=build_mdp(config))
    with pytest.raises(UserError, match="evaluation"):
        check_evaluation(mdp, "test", 10**12, 1)
    mdp.source = type("Few", (), {"size": lambda self, split: 4})()
    check_evaluation(mdp, "test", 10**12, 1)


def test_the_limit_of_a_container_counts(tmp_path):
    (tmp_path / "memory.max").write_text("1048576\n")
    assert memory_bytes(tmp_path / "memory.max") == 1048576
    (tmp_path / "memory.max").write_text("max\n")
    assert 2**28 < memory_bytes(tmp_path / "memory.max") < math.inf


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner__lr": 1e308}, r"learner\.lr: expected 0 or a number from 1.2e-38 to 3.4e\+38, .* got 1e\+308"),
        ({"learner__lr": 1e-300}, r"learner\.lr: expected 0 or a number"),
        ({"learner__lr": 100.0}, r"learner\.lr: expected at most 10, got 100"),
        ({"objective__value__lr": 1e9}, r"objective\.value\.lr: expected at most 10"),
        ({"learner__weight_decay": 1e6}, r"learner\.weight_decay 1e\+06 = 3000: expected at most 1"),
        ({"learner__max_bad_updates": -1}, r"learner\.max_bad_updates: expected at least 1, got -1"),
        (
            {"rollout__prompts": 10**12, "learner__minibatches": 7},
            r"minibatches; use --learner\.minibatches 4 or 5 or 8$",
        ),
        ({"rollout__prompts": 15, "learner__minibatches": 7}, r"use --learner\.minibatches \d+"),
    ],
)
def test_numbers_that_nothing_can_compute_with_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        validate(changed(**settings))


@pytest.mark.parametrize("name", ["seed", "steps", "rollout.prompts", "rollout.top_k", "model.hidden_size"])
def test_integers_beyond_64_bits_are_refused(name):
    with pytest.raises(UserError, match=f"{name}: expected an integer of 64 bits, got 9223372036854775808"):
        changed(**{name.replace(".", "__"): 2**63})


def test_an_adapter_of_scale_0_and_an_absurd_rank_are_refused():
    with pytest.raises(
        UserError, match=r"adapter.alpha: expected at least 1, got 0; an adapter of scale 0 has no effect"
    ):
        changed(model__adapter__alpha=0)
    with pytest.raises(UserError, match=r"adapter.r: expected at least 1 and at most 65536, got 1000000000"):
        changed(model__adapter__r=10**9)


def test_rewards_of_weight_0_alone_are_refused():
    with pytest.raises(UserError, match=r"each reward of rlalign/Reverse-v0 has the weight 0 \(length\)"):
        build_checked_mdp(changed(rewards=["length=0"]))
    build_checked_mdp(changed(rewards=["length=0", "exact_match"]))
    build_checked_mdp(changed(rewards=["length=0@0:1@9"]))  # a schedule that begins at 0
    build_checked_mdp(changed(rewards=["length=0"], supervised__align_interval=1))
