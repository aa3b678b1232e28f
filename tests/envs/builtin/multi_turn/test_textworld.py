"""Tests of TextWorld: replies and rewards, and that only possible commands reach the interpreter."""

import pytest

from rlalign.envs.builtin.multi_turn import textworld
from rlalign.envs.registration import make_mdp


def clear_caches():
    for function in (textworld.replay, textworld._interpreter):
        function.cache_clear()


@pytest.fixture
def mdp(monkeypatch, tmp_path):
    pytest.importorskip("textworld")
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path))  # an empty cache: games are made here
    clear_caches()
    return make_mdp("textworld?games=3&rooms=2&objects=3&quest=2")


def test_walkthrough_wins_and_impossible_commands_have_no_effect(mdp, tmp_path, monkeypatch, play):
    monkeypatch.chdir(tmp_path)
    task = mdp.source.get("train", 0)
    first, second = mdp.reference_turns(task)
    assert play(mdp, task, first, second)[0] == pytest.approx(1.2)
    assert play(mdp, task, first.upper(), f" {second}\n")[2]
    rejected = ("save", "quit", "restart")
    total, text, over = play(mdp, task, *rejected, first, second)
    assert over
    assert total == pytest.approx(1 + 0.2 * 2 / 5)
    assert all(first in text.partition(f"{turn}possible: ")[2].partition("\n")[0] for turn in rejected)
    assert {path.name for path in tmp_path.iterdir()} == {"textworld"}
    total, _, _ = play(mdp, task, *["look"] * mdp.max_turns)
    assert total == pytest.approx(0.2)


def test_games_are_equal_when_they_are_made_again(mdp, tmp_path, monkeypatch):
    before = mdp.source.get("test", 0)
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "again"))
    clear_caches()
    assert mdp.source.get("test", 0) == before
    assert (tmp_path / "again").is_dir()
