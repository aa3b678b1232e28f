"""Tests of Reasoning: the screening of data sets."""

import pytest

from rlalign.envs.builtin.language import reasoning
from rlalign.envs.registration import make_mdp
from rlalign.errors import UnknownNameError, UserError


@pytest.mark.parametrize("task", ["gcd", "chain_sum", "syllogism"])
def test_data_sets_that_pass_the_screening(task):
    pytest.importorskip("reasoning_gym")
    reasoning.screen(task)
    mdp = make_mdp(f"reasoning?task={task}")
    assert mdp.source.get("train", 3).columns["answer"]


def test_data_sets_that_fail_raise_an_error_with_the_reason(monkeypatch):
    pytest.importorskip("reasoning_gym")
    with pytest.raises(UserError, match="'propositional_logic': expected reference answers, got none"):
        make_mdp("reasoning?task=propositional_logic")
    with pytest.raises(UnknownNameError, match=r"unknown set of reasoning-gym 'chainsum'. Did you mean 'chain_sum'"):
        make_mdp("reasoning?task=chainsum")
    with pytest.raises(UserError, match="got 'max_terms=0'"):
        make_mdp("reasoning", config="max_terms=0")
    with pytest.raises(UserError, match="use a larger max_prompt"):
        make_mdp("reasoning?task=gcd&max_prompt=10")

    class DataSet:
        def __init__(self, score):
            self.score_answer = score

        def __getitem__(self, index):
            return {"question": "?", "answer": "1", "metadata": {}}

    for score, reason in [
        (lambda answer, entry: 0.5, "expected a score of 1 for its own answer '1', got 0.5"),
        (lambda answer, entry: float(answer) / int(entry["answer"]), "ValueError"),
        (lambda answer, entry: 1.0 if answer == "1" else -1.0, "expected scores from 0 to 1, got -1.0"),
    ]:
        monkeypatch.setattr(reasoning, "dataset", lambda task, config, score=score: DataSet(score))
        with pytest.raises(UserError, match=reason):
            reasoning.screen("gcd")
