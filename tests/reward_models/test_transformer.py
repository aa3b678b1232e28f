"""Training of transformers: the folder scores in plain transformers as in training, finished and cut answers apart."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rlalign.envs.builtin.reward_hacking.preference import gold_of
from rlalign.errors import UserError
from rlalign.reward_models import Settings, train_reward_model
from rlalign.reward_models.data import pairs_of, read_pairs
from rlalign.reward_models.transformer import train_transformer
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.rendering import Sample
from tests.reward_models.tiny import notes, write_model, write_rows

TEXTS = [" clear", " rude vague", " kind useful honest warm", " note " * 30]


def plain_scores(folder, texts, *, batch: bool) -> np.ndarray:
    """Return scores as a user of plain transformers computes them."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    assert model.config.num_labels == 1
    assert model.dtype == torch.float32
    with torch.no_grad():
        if batch:
            inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            return model(**inputs).logits[:, 0].numpy()
        rows = [tokenizer(text, return_tensors="pt", add_special_tokens=False) for text in texts]
        return np.array([float(model(**row).logits) for row in rows])


def test_text_model_scores_equally_in_plain_transformers_alone_and_in_a_batch(text_model):
    scorer, _ = load_scorer(text_model.folder)
    samples = [Sample("Judge the meal:", text, cut) for text in TEXTS for cut in (False, True)]
    ours = scorer.scores(samples)
    rendered = ["Judge the meal:" + s.completion + ("" if s.cut else "<|im_end|>") for s in samples]
    assert ours == pytest.approx(plain_scores(text_model.folder, rendered, batch=False), abs=2e-5)
    assert ours == pytest.approx(plain_scores(text_model.folder, rendered, batch=True), abs=2e-5)


def test_chat_model_scores_equally_in_plain_transformers(chat_model):
    """LoRA on a bf16 base, merged in float32; the template ends in a newline, which is part of what is scored."""
    from transformers import AutoTokenizer

    scorer, manifest = load_scorer(chat_model.folder)
    assert (manifest.form, manifest.read_token) == ("chat", "\n")
    samples = [Sample("Judge the meal:", text.strip()) for text in TEXTS]
    tokenizer = AutoTokenizer.from_pretrained(str(chat_model.folder))
    rendered = [tokenizer.apply_chat_template(s.messages(), tokenize=False) for s in samples]
    ours = scorer.scores(samples)
    assert ours == pytest.approx(plain_scores(chat_model.folder, rendered, batch=True), abs=2e-5)
    # without the newline, as in the ids of a policy, the scores are others
    stripped = plain_scores(chat_model.folder, [text.rstrip("\n") for text in rendered], batch=True)
    assert np.abs(ours - stripped).max() > 100 * 2e-5


def test_finished_and_cut_answers_score_apart(text_model, chat_model):
    """The padding token of both bases is their EOS token, with which transformers would skip the end of a text."""
    for model in (text_model, chat_model):
        scorer, manifest = load_scorer(model.folder)
        finished, cut = scorer.scores([Sample("Judge the meal:", " clear"), Sample("Judge the meal:", " clear", True)])
        assert abs(finished - cut) > 1e-3 * manifest.spread
        assert manifest.pad_id != manifest.eos_id


def test_training_separates_the_sides(text_model, chat_model):
    """On 160 pairs without noise; a model at random has 0.5 ± 0.09 on the 32 held-out pairs."""
    assert text_model.metrics.accuracy.value > 0.7
    assert chat_model.metrics.accuracy.value > 0.7
    assert text_model.losses[-1] < text_model.losses[0]


def test_merged_folder_has_no_adapter(chat_model):
    names = {path.name for path in chat_model.folder.iterdir()}
    assert {"model.safetensors", "config.json", "reward_model.json", "tokenizer.json"} <= names
    assert not any("adapter" in name for name in names)
    assert json.loads((chat_model.folder / "config.json").read_text())["dtype"] == "float32"


def test_pairs_that_are_too_long_are_named(tmp_path):
    rows = notes(12)
    rows[3]["chosen"] = " clear" * 40
    base = write_model(tmp_path / "base")
    pairs = [
        replace(p, place=f"row {i}") for i, p in enumerate(read_pairs(write_rows(tmp_path / "d.jsonl", rows)).rows)
    ]
    (tmp_path / "rm").mkdir()
    trained = train_transformer(
        pairs, Settings(model=str(base), max_length=32, batch_size=8), tmp_path / "rm", 0, quiet=True
    )
    assert trained.too_long == ["row 3"]
    with pytest.raises(UserError, match="expected rows of at most 8 tokens, got none"):
        train_transformer(pairs, Settings(model=str(base), max_length=8), tmp_path / "rm", 0, quiet=True)


def test_margin_enters_the_loss(tmp_path):
    """-log sigmoid(difference - margin) before the first step, from a head whose scores are almost 0."""
    base = write_model(tmp_path / "base")
    rows = [{**row, "margin": 3.0} for row in notes(16)]
    pairs = read_pairs(write_rows(tmp_path / "d.jsonl", rows)).rows
    losses = {}
    for margin in (False, True):
        folder = tmp_path / f"rm{margin}"
        folder.mkdir()
        settings = Settings(model=str(base), batch_size=16, margin=margin, center_coef=0.0)
        losses[margin] = train_transformer(pairs, settings, folder, 0, quiet=True).losses[0]
    assert losses[False] == pytest.approx(np.log(2), abs=0.1)
    assert losses[True] == pytest.approx(np.log1p(np.exp(3.0)), abs=0.2)
    without = read_pairs(write_rows(tmp_path / "e.jsonl", notes(16))).rows
    with pytest.raises(UserError, match="expected a margin, got none"):
        train_transformer(without, Settings(model=str(base), margin=True), tmp_path / "rmTrue", 0, quiet=True)


def test_cut_completions_are_trained_without_the_end_mark(tmp_path):
    """Sides that differ by their end alone: the finished one is chosen, and the model learns that."""
    base = write_model(tmp_path / "base")
    rows = []
    for i, row in enumerate(notes(96)):
        text = row["chosen"] + (" note" if i % 2 else "")
        rows.append({**row, "chosen": text, "rejected": text, "rejected_cut": True, "chosen_cut": False})
    from rlalign.preferences.pairs import preference_of

    pairs = pairs_of(preference_of(row) for row in rows)
    assert [p.rejected.cut for p in pairs] == [True] * 96
    settings = Settings(model=str(base), epochs=2, batch_size=16, learning_rate=3e-3)
    result = train_reward_model(pairs, tmp_path / "rm", settings)
    assert result.metrics.accuracy.value == 1.0


def test_ratings_train_a_regression(tmp_path):
    base = write_model(tmp_path / "base", pad_is_eos=False)
    rows = []
    for row in notes(80, seed=3):
        for side in ("chosen", "rejected"):
            points = 3 + 4 * gold_of(str(row[side]).split())
            rows.append({"prompt": row["prompt"], "completion": row[side], "rating": points})
    settings = Settings(model=str(base), objective="ratings", epochs=8, batch_size=16, learning_rate=5e-3)
    result = train_reward_model(write_rows(tmp_path / "r.jsonl", rows), tmp_path / "rm", settings)
    assert result.metrics.rmse < result.metrics.baseline
    assert result.metrics.correlation > 0.5
    points = [float(row["rating"]) for row in rows]
    assert result.manifest.rating_mean == pytest.approx(np.mean(points), abs=0.3)


def test_data_of_messages_needs_a_template(tmp_path):
    base = write_model(tmp_path / "base")
    data = write_rows(tmp_path / "d.jsonl", notes(20, chat=True))
    with pytest.raises(UserError, match="expected a chat template for data of messages"):
        train_reward_model(data, tmp_path / "rm", Settings(model=str(base)))
    assert not (tmp_path / "rm").exists()
    assert not list(tmp_path.glob(".tmp*"))


def test_a_training_is_in_float32(tmp_path, monkeypatch):
    """RewardConfig's default is bf16, with which the saved model scores otherwise than the trained one."""
    import torch
    import trl

    seen = []
    original = trl.RewardTrainer.compute_loss

    def compute_loss(self, model, inputs, *arguments, **keywords):
        seen.append((self.args.bf16, torch.is_autocast_enabled("cpu"), model.score.weight.dtype))
        return original(self, model, inputs, *arguments, **keywords)

    monkeypatch.setattr(trl.RewardTrainer, "compute_loss", compute_loss)
    base = write_model(tmp_path / "base", dtype="bfloat16")
    pairs = read_pairs(write_rows(tmp_path / "d.jsonl", notes(8))).rows
    (tmp_path / "rm").mkdir()
    train_transformer(pairs, Settings(model=str(base)), tmp_path / "rm", 0, quiet=True)
    assert set(seen) == {(False, False, torch.float32)}
