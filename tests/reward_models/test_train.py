"""`train_reward_model`: folders, and what is in them."""

from __future__ import annotations

import pytest

from rlalign.errors import UserError
from rlalign.reward_models import Settings, train_reward_model
from rlalign.rewards.reward_model.folder import load_scorer


def test_folder_appears_complete_or_not_at_all(tmp_path, pairs_file, monkeypatch):
    from rlalign.reward_models import train

    monkeypatch.setattr(train, "_measured", lambda *_: (_ for _ in ()).throw(UserError("stopped")))
    with pytest.raises(UserError, match="stopped"):
        train_reward_model(pairs_file, tmp_path / "rm", Settings(model="linear"))
    assert list(tmp_path.iterdir()) == []


def test_existing_folders_are_kept(tmp_path, pairs_file):
    settings = Settings(model="linear")
    train_reward_model(pairs_file, tmp_path / "rm", settings)
    with pytest.raises(UserError, match="use --force to replace it"):
        train_reward_model(pairs_file, tmp_path / "rm", settings)
    train_reward_model(pairs_file, tmp_path / "rm", settings, force=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match="other files"):
        train_reward_model(pairs_file, tmp_path / "other", settings, force=True)
    assert (tmp_path / "other" / "thesis.txt").read_text() == "x"


def test_manifest_says_what_was_trained(tmp_path, pairs_file):
    result = train_reward_model(pairs_file, tmp_path / "rm", Settings(model="linear", regularization=2.0))
    _, manifest = load_scorer(tmp_path / "rm")
    assert manifest == result.manifest
    assert manifest.training["settings"]["regularization"] == 2.0
    assert manifest.training["train"] + manifest.training["held_out"] == 160
    assert manifest.training["metrics"]["accuracy"]["value"] == result.metrics.accuracy.value
    assert {"rlalign", "scikit-learn"} <= set(manifest.versions)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"epochs": 0}, "epochs"), ({"test": 1.0}, "test"), ({"how": "max"}, "how"), ({"lora_r": 4}, "linear")],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        Settings(model="linear", **settings)
