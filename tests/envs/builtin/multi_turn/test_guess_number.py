"""Tests of GuessNumber: replies, rewards, ranges and splits."""

import numpy as np
import pytest

from rlalign.envs.builtin.multi_turn.guess_number import GuessNumber, turns, won
from rlalign.envs.registration import make_vec
from rlalign.errors import UserError
from rlalign.rewards.function import RewardFunction
from rlalign.types import Task


def guess(number: int, *guesses: str) -> tuple[float, str, bool]:
    """Play a game; return the total reward, the text of the episode, and whether it terminated."""
    rewards = [(RewardFunction(f.__name__, f, timeout_s=None), w) for f, w in ((won, 1.0), (turns, -0.1))]
    env = make_vec("guessnumber", rewards=rewards)
    env.reset(seed=0, options={"tasks": [Task("guess 1-9\n", {"number": number})]})
    total = 0.0
    for text in guesses:
        ids = [*env.mdp.tokenizer.encode(text), env.mdp.tokenizer.eos_id][: env.mdp.max_new]
        total += float(env.step_tokens(np.array([ids]), np.array([len(ids)])).rewards.sum())
    return total, env.mdp.tokenizer.decode(env.contexts([0])[0]), bool(env.terminated[0])


def test_replies_and_rewards() -> None:
    reward, text, terminated = guess(7, "5", "8", "7")
    assert text == "guess 1-9\n5higher\n8lower\n7"
    assert terminated
    assert reward == pytest.approx(1 - 0.3)
    reward, text, terminated = guess(7, "", "77", "s", "-7")
    assert text.count("number?") == 2  # "77" is a number, and the last turn has no reply
    assert "lower" in text
    assert not terminated
    assert reward == pytest.approx(-0.4)


def test_bisection_always_wins() -> None:
    for number in range(1, 10):
        low = 1
        high = 9
        guesses: list[str] = []
        while not guesses or guesses[-1] != str(number):
            middle = (low + high) // 2
            guesses.append(str(middle))
            low, high = (middle + 1, high) if middle < number else (low, middle - 1)
        assert guess(number, *guesses)[0] >= 0.6 - 1e-9


def test_one_turn_and_short_ranges_raise_an_error() -> None:
    with pytest.raises(UserError, match="at least 2"):
        GuessNumber(max_turns=1)
    with pytest.raises(UserError, match=r"high: expected at least 6, got 5; .*three splits"):
        GuessNumber(high=5)


@pytest.mark.parametrize("high", [6, 9, 20])
def test_games_lie_within_their_range_and_in_one_split(high) -> None:
    mdp = GuessNumber(high=high)
    games: dict[str, set[tuple[str, int]]] = {}
    for split in ("train", "validation", "test"):
        for task in (mdp.source.get(split, index) for index in range(300)):
            first, last = map(int, task.prompt.split()[1].split("-"))
            assert 1 <= first <= task.columns["number"] <= last <= high
            assert first < last
            games.setdefault(split, set()).add((task.prompt, task.columns["number"]))
    assert min(map(len, games.values())) >= 6
    assert sum(map(len, games.values())) == len(set.union(*games.values()))
