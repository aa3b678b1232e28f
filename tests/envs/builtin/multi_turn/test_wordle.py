"""Tests of Wordle: marks, rewards and splits."""

import numpy as np
import pytest

from rlalign.envs.builtin.multi_turn import wordle
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.types import Task


@pytest.mark.parametrize(
    ("guess", "word", "expected"),
    [("abc", "abc", "+++"), ("abc", "cab", "---"), ("aab", "abb", "+.+"), ("bba", "abc", ".+-"), ("ddd", "abc", "...")],
)  # fmt: skip
def test_marks(guess, word, expected):
    assert wordle.marks(guess, word) == expected


def test_rewards_for_word_information_and_form(play):
    mdp = make_mdp("wordle")
    task = Task("3 of abcd\n", {"answer": "abc"})
    assert play(mdp, task, "abc") == (pytest.approx(1.7), "3 of abcd\nabc", True)
    total, text, over = play(mdp, task, "dd", "ddd", "abc")
    assert text == "3 of abcd\nddword?\nddd...\nabc"
    assert (total, over) == (pytest.approx(1 + 0.5 + 0.2 * 2 / 3), True)
    total, _, over = play(mdp, task, *["ddd"] * 5)  # 27 of 64 words have no d
    assert (total, over) == (pytest.approx(0.5 * np.log(64 / 27) / np.log(64) + 0.2), True)


def test_first_guess_of_the_prompt_gains_information(play):
    mdp = make_mdp("wordle")
    task = Task("3 of abcd\nddd...\n", {"answer": "abc", "first": "ddd"})
    total, _, over = play(mdp, task, *["ddd"] * 5)
    assert (total, over) == (pytest.approx(0.5 * np.log(64 / 27) / np.log(64) + 0.2), True)
    total, _, _ = play(mdp, task, *["dda"] * 5)
    left = sum(wordle.marks("dda", w) == wordle.marks("dda", "abc") for w in wordle.words_of("abc", 3))
    assert total == pytest.approx(0.5 * np.log(64 / left) / np.log(64) + 0.2)


def test_held_out_games_are_many_and_share_words_with_training():
    mdp = make_mdp("wordle")
    tasks = [mdp.source.get("train", i) for i in range(50)]
    assert all(wordle.marks(t.columns["first"], t.columns["answer"]) in t.prompt for t in tasks)
    held_out = {mdp.source.get("test", i).prompt for i in range(200)}
    assert len(held_out) > 60
    assert {mdp.source.get("test", i).columns["answer"] for i in range(200)} & {t.columns["answer"] for t in tasks}


def test_too_many_words_raise_an_error():
    with pytest.raises(UserError, match="use fewer letters"):
        make_mdp("wordle?alphabet=abcdefghij&length=5")
