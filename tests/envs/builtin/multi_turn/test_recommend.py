"""Tests of Recommend: replies and rewards."""

import pytest

from rlalign.envs.registration import make_mdp
from rlalign.types import Task


def test_user_replies_with_a_preference(play):
    mdp = make_mdp("recommend")
    columns = {"titles": ["dark war", "odd love", "light space"], "order": [1, 2, 0], "answer": "b"}
    task = Task("a) dark war, b) odd love, c) light space\n", columns)
    assert play(mdp, task, "b")[0] == pytest.approx(1 + 1 - 0.1)
    assert play(mdp, task, "odd love")[0] == pytest.approx(1 + 1 - 0.1)
    total, text, over = play(mdp, task, "a", "war", "c")
    assert "more odd" in text
    assert "which?" in text
    assert (total, over) == (pytest.approx(1 / 2 - 0.3), True)
