"""Tests of Dialogue: the scripted customer, rewards and real openings."""

import pytest

from rlalign.envs.builtin.multi_turn import dialogue
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.types import Task


def test_customer_answers_questions_and_accepts_the_correct_action(play):
    mdp = make_mdp("dialogue")
    task = Task("hi, my lamp is broken.\n", {"remedy": "refund", "order": 4})
    total, text, over = play(mdp, task, "sorry, which remedy and which order?", "thanks, refund order 4.")
    assert "refund order 4 ." in text
    assert (total, over) == (pytest.approx(1.1), True)
    total, text, _ = play(mdp, task, "help", "what?", "which order?", "refund 3")
    assert "please help" in text
    assert total == pytest.approx(0.5 - 0.05 * 2)
    assert "no , not that" in play(mdp, task, "repair 4", "replace 4")[1]
    # a list of all remedies is not an action
    assert play(mdp, task, "refund repair replace 4", *["help"] * 3)[0] == pytest.approx(-0.1)


def test_real_openings(monkeypatch, tmp_path):
    path = tmp_path / "dataset.json"
    path.write_text(
        '{"1": {"messages": [[{"text": "Good  day!"}]]}, "2": {"messages": []}, "3": {"messages": [[{"text": "%s"}]]}}'
        % ("x" * 99)
    )
    monkeypatch.setattr("rlalign.envs.builtin.multi_turn.dialogue.wheel_member", lambda name: path)
    assert dialogue.chitchat_openings() == ["Good day!"]
    assert make_mdp("dialogue?openings=chitchat").source.get("train", 0).prompt.startswith("Good day!\nmy ")
    with pytest.raises(UserError, match="unknown openings 'chat'"):
        make_mdp("dialogue?openings=chat")
