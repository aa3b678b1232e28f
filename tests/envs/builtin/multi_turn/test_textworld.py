"""Text adventures: what they say and pay, and that nothing but possible commands reaches the interpreter."""

import pytest

from rlalign.envs.builtin.multi_turn import textworld
from rlalign.envs.registration import make_mdp


@pytest.fixture
def mdp(monkeypatch, tmp_path):
    pytest.importorskip("textworld")
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path))  # games are made, not found
    for known in (textworld.scene, textworld._interpreter):
        known.cache_clear()
    return make_mdp("textworld?games=3&rooms=2&objects=3&quest=2")


def test_a_walkthrough_wins_and_nothing_else_is_followed(mdp, tmp_path, monkeypatch, play):
    monkeypatch.chdir(tmp_path)
    task = mdp.source.get("train", 0)
    first, second = mdp.reference_turns(task)
    assert play(mdp, task, first, second)[0] == pytest.approx(1.2)
    assert play(mdp, task, first.upper(), f" {second}\n")[2]
    refused = ("save", "quit", "restart")
    total, text, over = play(mdp, task, *refused, first, second)
    assert over
    assert total == pytest.approx(1 + 0.2 * 2 / 5)
    assert all(first in text.partition(f"{turn}possible: ")[2].partition("\n")[0] for turn in refused)
    assert {path.name for path in tmp_path.iterdir()} == {"textworld"}
    total, _, _ = play(mdp, task, *["look"] * mdp.max_turns)
    assert total == pytest.approx(0.2)


def test_games_are_equal_when_they_are_made_again(mdp, tmp_path, monkeypatch):
    before = mdp.source.get("test", 0)
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path / "again"))
    for known in (textworld.scene, textworld._interpreter):
        known.cache_clear()
    assert mdp.source.get("test", 0) == before
    assert (tmp_path / "again").is_dir()
