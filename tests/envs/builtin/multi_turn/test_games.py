"""Tests of Games: isolated random states, and errors of unsuitable games."""

import random

import pytest

from rlalign.envs.builtin.multi_turn import games
from rlalign.envs.registration import make_mdp
from rlalign.errors import UnknownNameError, UserError


def test_simultaneous_games_do_not_influence_each_other():
    pytest.importorskip("textarena")
    alone = [games.Game("GuessTheNumber-v0", seed) for seed in (1, 2)]
    for game in alone:
        for turn in ("[3]", "[7]", "[12]"):
            game.act(turn)
    before = random.getstate()
    interleaved = [games.Game("GuessTheNumber-v0", seed) for seed in (1, 2)]
    for turn in ("[3]", "[7]", "[12]"):
        for game in interleaved:
            game.act(turn)
    assert random.getstate() == before
    assert [g.text for g in interleaved] == [g.text for g in alone]


def test_unknown_and_two_player_games_raise_an_error():
    pytest.importorskip("textarena")
    with pytest.raises(UnknownNameError, match=r"unknown game of TextArena 'FrozenLake'. Did you mean 'FrozenLake-v0'"):
        make_mdp("games?name=FrozenLake")
    with pytest.raises(UserError, match=r"got 'TicTacToe-v0' \(.*use another name"):
        make_mdp("games?name=TicTacToe-v0")
