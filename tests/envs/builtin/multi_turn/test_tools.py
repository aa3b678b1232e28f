"""Tests of Tools: results of calls and rewards."""

import pytest

from rlalign.envs.registration import make_mdp
from rlalign.types import Task


def test_tools_return_results_and_needless_calls_cost(play):
    mdp = make_mdp("tools")
    columns = {"prices": {"lamp": 7}, "answer": "21", "tools": ["find lamp", "calc 3*7"]}
    task = Task("3*lamp?\n", columns)
    total, text, over = play(mdp, task, "find lamp", "calc 3*7", "21")
    assert (total, text, over) == (pytest.approx(1.1), "3*lamp?\nfind lamp7\ncalc 3*721\n21", True)
    assert play(mdp, task, "find", "calc (3", "calc 3*7", "21")[0] == pytest.approx(1.1 - 0.05)
    assert play(mdp, task, "21")[0] == pytest.approx(1.1)  # an answer without calls is not penalized
    assert play(mdp, task, "20")[0] == pytest.approx(0.1)
    total, text, _ = play(mdp, task, *["calc 9/7"] * 4)
    assert text == "3*lamp?\n" + "calc 9/71.28571\n" * 3 + "calc 9/7"
    assert total == pytest.approx(-0.1)
