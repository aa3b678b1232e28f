"""Best-of-n of a policy: samples in parts, the kept completion, refusals, and enumeration of all completions."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.evaluation.best_of_n import best_of_n
from rlalign.evaluation.best_of_n_curve import (
    best_of_n_curve,
    check_best_of,
    kept_completions,
    plain_evaluation,
    sample,
)
from rlalign.evaluation.enumeration import (
    all_completions,
    completion_probabilities,
    exact_kl_of,
    num_completions,
)
from rlalign.evaluation.evaluate import evaluate
from rlalign.policies.base import Policy
from rlalign.policies.factory import make_policy
from rlalign.types import Sampling, Task

Small = tuple[Policy, TextMDP, list[Task]]


@pytest.fixture(scope="module")
def small() -> Small:
    """Return a policy of a few hundred completions per prompt, its environment and two prompts."""
    mdp = make_mdp("parity?max_length=4").with_limits(max_new=2)
    policy = make_policy("gru", tokenizer=mdp.tokenizer, seed=1)
    return policy, mdp, [mdp.source.get("test", i) for i in range(2)]


def test_many_samples_are_drawn_in_parts_that_do_not_repeat(small: Small) -> None:
    policy, mdp, tasks = small
    drawn = sample(policy, mdp, tasks, samples=150, sampling=Sampling(), seed=0)
    assert {values.shape for values in drawn.metrics.values()} == {(2, 150)}
    assert [len(texts) for texts in drawn.completions] == [150, 150]
    first, second = drawn.completions[0][:64], drawn.completions[0][64:128]
    assert first != second
    one = evaluate(policy, mdp, tasks, samples=64, sampling=Sampling(), seed=0)
    assert one.completions[0] == first  # the first part is the evaluation of the seed


def test_the_curve_begins_with_the_policy_itself_and_ends_with_what_is_kept(small: Small) -> None:
    policy, mdp, tasks = small
    drawn = sample(policy, mdp, tasks, samples=32, sampling=Sampling(), seed=0)
    curve = best_of_n_curve(drawn, 8, policy=policy, mdp=mdp, tasks=tasks, sampling=Sampling())
    assert curve.numbers == [1, 2, 4, 8]
    assert curve.metrics["reward"][0] == pytest.approx(drawn.metrics["reward"].mean(1))
    assert curve.mean("length", 1) == pytest.approx(plain_evaluation(drawn).mean("length"))
    kept = kept_completions(drawn, 8)
    assert kept.mean("reward") == pytest.approx(curve.mean("reward", 8))
    for row, texts in enumerate(kept.completions):
        place = drawn.completions[row][:8].index(texts[0])
        assert drawn.metrics["reward"][row, place] == drawn.metrics["reward"][row, :8].max()
    assert not {"kl", "entropy"} & curve.metrics.keys()


def test_a_failed_reward_is_never_kept(small: Small) -> None:
    policy, mdp, tasks = small
    drawn = sample(policy, mdp, tasks, samples=8, sampling=Sampling(), seed=0)
    drawn.metrics["reward"][:] = np.arange(8.0)
    drawn.metrics["reward"][:, 1] = math.nan
    assert kept_completions(drawn, 2).completions == [[texts[0]] for texts in drawn.completions]
    assert best_of_n(drawn.metrics["reward"], drawn.metrics["reward"], 7) == pytest.approx([7.0, 7.0])


def test_impossible_numbers_and_rewards_are_refused(small: Small) -> None:
    _, mdp, _ = small
    assert check_best_of(mdp, 4, None) == 16
    assert check_best_of(mdp, 4, 40) == 40
    with pytest.raises(UserError, match="2 or more"):
        check_best_of(mdp, 1, None)
    with pytest.raises(UserError, match="at least 4"):
        check_best_of(mdp, 4, 15)


def test_all_completions_are_counted_and_different() -> None:
    completions = all_completions(5, {0, 3}, 3)
    assert len(set(completions)) == len(completions) == num_completions(5, 2, 3)
    assert all(ids[-1] in (0, 3) or len(ids) == 3 for ids in completions)
    assert not any(set(ids[:-1]) & {0, 3} for ids in completions)


def test_the_probabilities_of_all_completions_are_those_of_samples(small: Small) -> None:
    """Compare the share of ended completions: a z-test at 5 sigma, a false alarm in 1,700,000."""
    policy, mdp, tasks = small
    completions = all_completions(mdp.tokenizer.vocab_size, mdp.stop_ids, mdp.max_new)
    p = completion_probabilities(policy, mdp.prompt_ids(tasks[0]), completions, Sampling())
    assert p.sum() == pytest.approx(1.0, abs=1e-5)
    ended = sum(value for value, ids in zip(p, completions, strict=True) if ids[-1] in mdp.stop_ids)
    drawn = sample(policy, mdp, tasks[:1], samples=512, sampling=Sampling(), seed=3)
    share = 1 - float(drawn.metrics["truncated"].mean())
    assert abs(share - ended) < 5 * math.sqrt(ended * (1 - ended) / 512)


def test_too_many_completions_or_several_turns_have_no_exact_kl(small: Small) -> None:
    policy, mdp, tasks = small
    assert exact_kl_of(policy, mdp, tasks, [1, 4], Sampling()) is not None
    assert exact_kl_of(policy, mdp.with_limits(max_new=9), tasks, [4], Sampling()) is None
    assert exact_kl_of(policy, mdp.with_limits(max_new=1000), tasks, [4], Sampling()) is None
    assert exact_kl_of(policy, mdp, tasks * 1000, [4], Sampling()) is None
