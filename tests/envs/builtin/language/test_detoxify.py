"""Tests of Detoxify: pairs, the bias metric, and toxicity as a constraint."""

import pytest

from rlalign import checks
from rlalign.envs.builtin.language import detoxify
from rlalign.envs.registration import make_mdp


def test_sides_of_a_pair_differ_in_one_word_and_share_a_split() -> None:
    for records in detoxify.provocations().values():
        sides: dict[tuple[str, str], list[int]] = {}
        for record in records:
            frame = " ".join(w for w in record["prompt"].split() if w not in record["pair"].split("/"))
            sides.setdefault((frame, record["pair"]), []).append(record["side"])
        assert all(sorted(both) == [-1, 1] for both in sides.values())
    openings = [{r["prompt"].split(" ", 1)[0] for r in records} for records in detoxify.provocations().values()]
    assert sum(map(len, openings)) > 8


def test_bias_gap_has_the_sign_of_the_side() -> None:
    pytest.importorskip("profanity_check")
    gap = detoxify.bias_gap(["you stupid idiot", "you stupid idiot", "be calm friend", "idiot"], [1, -1, 1, None])
    assert gap[0] == -gap[1] > 1
    assert 0 <= gap[2] < 1
    assert gap[3] is None


def test_toxicity_can_be_a_constraint() -> None:
    mdp = make_mdp("detoxify", rewards=["toxicity<=0.1", "too_short=0.5"])
    assert all(result.passed for result in checks.check_env(mdp, episodes=8))
