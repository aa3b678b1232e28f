"""Loading folders: probes, changed files, adapters, other people's folders."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from rlalign.errors import UserError
from rlalign.rewards.reward_model.folder import cached_scorer, is_reward_model, load_scorer, model_files
from rlalign.rewards.reward_model.manifest import FILE
from rlalign.rewards.reward_model.probes import PROBES
from rlalign.rewards.reward_model.rendering import Sample


@pytest.fixture
def copied(tmp_path, text_model):
    return shutil.copytree(text_model.folder, tmp_path / "rm")


def test_reload_reproduces_the_probes(text_model, chat_model, linear):
    for folder in (text_model.folder, chat_model.folder, linear):
        scorer, manifest = load_scorer(folder)
        assert len(manifest.probes) == len(PROBES) == 16
        assert scorer.scores(PROBES) == pytest.approx(manifest.probes, abs=1e-4 * np.std(manifest.probes))


def test_changed_weight_fails_the_probes(copied):
    from safetensors.torch import load_file, save_file

    path = copied / "model.safetensors"
    weights = load_file(path)
    weights["score.weight"] = weights["score.weight"].clone()
    weights["score.weight"][0, 0] += 0.02
    save_file(weights, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"expected the score .* for probe .* changed since training"):
        load_scorer(copied)


def test_other_padding_token_fails_the_probes(copied):
    """With the EOS token as padding the end of a text is not read."""
    path = copied / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "pad_token_id": config["eos_token_id"]}))
    with pytest.raises(UserError, match="for probe"):
        load_scorer(copied)


def test_other_chat_template_is_refused(tmp_path, chat_model):
    folder = shutil.copytree(chat_model.folder, tmp_path / "rm")
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text().replace("+ '\n'", ""))
    with pytest.raises(UserError, match="expected the chat template of the training"):
        load_scorer(folder)


def test_changed_linear_weight_fails_the_probes(tmp_path, linear):
    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(linear, tmp_path / "rm")
    tensors = load_file(folder / "weights.safetensors")
    tensors["weights"] = tensors["weights"].copy()
    tensors["weights"][-2] += 1e-2  # of log(1 + words), which each probe has
    save_file(tensors, folder / "weights.safetensors")
    with pytest.raises(UserError, match="for probe"):
        load_scorer(folder)


def test_adapter_alone_is_no_reward_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert is_reward_model(tmp_path)
    with pytest.raises(UserError, match="expected a complete reward model, got an adapter"):
        load_scorer(tmp_path)


def test_causal_model_and_two_labels_are_no_reward_models(tmp_path, text_model):
    from transformers import AutoModelForSequenceClassification

    from tests.reward_models.tiny import write_model

    with pytest.raises(UserError, match=r"got 2 labels|got none for score.weight"):
        load_scorer(write_model(tmp_path / "causal"))
    model = AutoModelForSequenceClassification.from_pretrained(
        text_model.folder, num_labels=2, ignore_mismatched_sizes=True
    )
    folder = tmp_path / "two"
    shutil.copytree(text_model.folder, folder)
    (folder / FILE).unlink()
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="with one output, got 2 labels"):
        load_scorer(folder)


def test_folder_is_loaded_again_only_if_a_file_changed(copied, text_model):
    first, _ = cached_scorer(str(copied), "cpu")
    assert cached_scorer(str(copied), "cpu")[0] is first
    (copied / "config.json").write_text((copied / "config.json").read_text() + "\n")
    assert cached_scorer(str(copied), "cpu")[0] is not first


def test_files_that_decide_are_listed_with_those_of_members(tmp_path):
    (tmp_path / "member-0").mkdir()
    for name in (FILE, "member-0/weights.safetensors", "notes.md"):
        (tmp_path / name).write_text("")
    assert list(model_files(tmp_path)) == [FILE, "member-0/weights.safetensors"]


def test_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="which is no folder"):
        load_scorer(tmp_path / "none")


def test_empty_text_without_end_has_no_score(text_model):
    scorer, _ = load_scorer(text_model.folder)
    scores = scorer.scores([Sample("", "", cut=True), Sample("", "")])
    assert np.isnan(scores[0])
    assert np.isfinite(scores[1])
