"""A folder that TRL's own RewardTrainer saved is a reward as it is, with TRL's scores."""

from __future__ import annotations

import warnings

import pytest

from rlalign.rewards import compose
from rlalign.rewards.reward_model.folder import load_scorer
from rlalign.rewards.reward_model.rendering import Sample
from tests.reward_models.tiny import CHATML, notes, write_model


def trained_by_trl(root, *, chat: bool, pad_is_eos: bool):
    """Return the folder that RewardTrainer.save_model writes, and the trained model."""
    import datasets
    from transformers import AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    base = write_model(root / "base", pad_is_eos=pad_is_eos, template=CHATML if chat else None)
    data = datasets.Dataset.from_list([{k: v for k, v in r.items() if k != "annotator"} for r in notes(16, chat=chat)])
    config = RewardConfig(
        output_dir=str(root / "out"), bf16=False, use_cpu=True, max_steps=2, per_device_train_batch_size=8,
        report_to="none", save_strategy="no", learning_rate=1e-2, disable_tqdm=True,
    )  # fmt: skip
    trainer = RewardTrainer(
        str(base), args=config, train_dataset=data, processing_class=AutoTokenizer.from_pretrained(str(base))
    )
    trainer.train()
    trainer.save_model(str(root / "rm"))
    return root / "rm", trainer


def test_scores_are_those_of_the_trainer(tmp_path):
    import torch

    folder, trainer = trained_by_trl(tmp_path, chat=True, pad_is_eos=False)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer, manifest = load_scorer(folder)
    assert manifest is None
    rows = notes(16, chat=True)
    samples = [Sample(row["prompt"], row["chosen"]) for row in rows]
    ids = [example["chosen_ids"] for example in trainer.train_dataset]
    assert [scorer.renderer.ids(sample) for sample in samples] == ids  # TRL's own tokens
    model = trainer.model.eval()
    with torch.no_grad():
        expected = [float(model(input_ids=torch.tensor([row])).logits) for row in ids]
    assert scorer.scores(samples) == pytest.approx(expected, abs=2e-5)
    with compose(str(folder)) as total:
        prompts, texts = [row["prompt"] for row in rows], [row["chosen"][0]["content"] for row in rows]
        values = total.score("episode", prompts, texts, [[1]] * 16, truncated=[False] * 16).total
    assert values == pytest.approx(expected, abs=2e-5)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(("stated", "limit"), [(None, 256), (64, 64)])
def test_conversations_are_read_up_to_the_limit_of_the_model(tmp_path, stated, limit):
    """The tiny model has 256 positions; RewardTrainer's default, 1024, is more than it can read."""
    import json

    folder, _ = trained_by_trl(tmp_path, chat=False, pad_is_eos=False)
    if stated:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": stated}))
    scorer, _ = load_scorer(folder)
    assert scorer.renderer.max_length == limit
    long = Sample("Judge the meal:" * 200, " clear")
    assert scorer.renderer.ids(long) == scorer.renderer.all_ids(long)[-limit:]
    assert abs(float(scorer.scores([long])[0])) < float("inf")


def test_padding_with_eos_is_named(tmp_path):
    folder, _ = trained_by_trl(tmp_path, chat=False, pad_is_eos=True)
    with pytest.warns(UserWarning, match="its padding token is its EOS token"):
        scorer, _ = load_scorer(folder)
    finished, cut = scorer.scores([Sample("Judge the meal:", " clear"), Sample("Judge the meal:", " clear", cut=True)])
    assert finished == pytest.approx(cut, abs=1e-5)  # the flaw that the warning names
