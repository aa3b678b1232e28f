"""TRL takes what is written, and the check says how many rows RewardTrainer keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlalign.preferences.check import check_preferences
from rlalign.preferences.formats import read_preferences, write_preferences
from rlalign.preferences.token_checks import TokenChecks
from tests.preferences.test_check import chats, clean, implicit
from tests.preferences.test_files import CONTAINERS

FORMS = {
    "standard explicit": clean(),
    "standard implicit": [{side: row["prompt"] + row[side] for side in ("chosen", "rejected")} for row in clean()],
    "conversational explicit": chats(),
    "conversational implicit": implicit(),
}
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} </s> {% endfor %}"


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of words in lower case, with a chat template."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word.lower().strip(".") for row in clean(22) for text in row.values() for word in text.split()}
    names = ["<unk>", "</s>", "<pad>", "<user>", "<assistant>", ".", *sorted(words)]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="<pad>", chat_template=TEMPLATE
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder


def loaded(path: Path) -> Any:
    """The data set as a user of TRL loads it."""
    import datasets

    cache = str(path.parent / "cache")
    if path.suffix == ".jsonl":
        return datasets.Dataset.from_json(str(path), cache_dir=cache)
    if path.suffix == ".parquet":
        return datasets.Dataset.from_parquet(str(path), cache_dir=cache)
    if path.suffix == ".csv":
        return datasets.Dataset.from_csv(str(path), cache_dir=cache)
    return datasets.load_from_disk(str(path))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONTAINERS)
def test_trl_sees_the_form_and_the_prompt(form: str, name: str, tmp_path: Path) -> None:
    from trl.data_utils import is_conversational, maybe_extract_prompt

    source = tmp_path / "in.jsonl"
    rows = FORMS[form]
    from rlalign.preferences.files import write_rows

    write_rows(rows, source)
    write_preferences(read_preferences(source), tmp_path / name)
    if name.endswith(".csv") and "conversational" in form:
        return  # a cell of CSV holds messages as JSON, which the reader of `datasets` leaves as a text
    data = loaded(tmp_path / name)
    assert data.to_list() == rows
    for row, preference in zip(data, read_preferences(tmp_path / name), strict=True):
        assert is_conversational(row) == form.startswith("conversational")
        explicit = maybe_extract_prompt(row)
        assert {name: explicit[name] for name in ("prompt", "chosen", "rejected")} == preference.explicit().row()


@pytest.mark.parametrize("form", ["standard explicit", "conversational explicit", "conversational implicit"])
def test_reward_trainer_trains_on_it_and_drops_what_the_check_names(
    form: str, tokenizer_folder: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    write_preferences(read_preferences(_written(FORMS[form], tmp_path)), tmp_path / "data")
    data = loaded(tmp_path / "data")
    limit = check_preferences(tmp_path / "data", tokenizer=str(tokenizer_folder)).statistics["longest_tokens"] - 1
    report = check_preferences(tmp_path / "data", tokenizer=str(tokenizer_folder), max_length=limit, first=100)
    (finding,) = report.findings
    assert finding.kind == "too-long"
    assert 0 < finding.count < len(data)

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, num_labels=1, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    settings = RewardConfig(
        output_dir=str(tmp_path / "out"), max_steps=2, per_device_train_batch_size=2, max_length=limit, bf16=False,
        use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = RewardTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer)
    assert len(trainer.train_dataset) == len(data) - finding.count
    checks = TokenChecks(str(tokenizer_folder), None)
    for side in ("chosen", "rejected"):
        whole = [
            (p.prompt or []) + getattr(p, side) if form != "standard explicit" else p.prompt + getattr(p, side)
            for p in read_preferences(tmp_path / "data")
        ]
        kept = list(trainer.train_dataset[f"{side}_ids"])
        assert [ids for ids in checks.token_ids(whole) if ids in kept] == kept
    longest = max(len(ids) for row in trainer.train_dataset for ids in (row["chosen_ids"], row["rejected_ids"]))
    assert longest <= limit < report.statistics["longest_tokens"]
    before = model.score.weight.detach().clone()
    trainer.train()
    assert not torch.equal(before, model.score.weight)


def _written(rows: list[dict[str, Any]], folder: Path) -> Path:
    from rlalign.preferences.files import write_rows

    write_rows(rows, folder / "rows.jsonl")
    return folder / "rows.jsonl"


def test_sides_that_are_equal_after_tokenizing(tokenizer_folder: Path, tmp_path: Path) -> None:
    rows = [*clean(2), {"prompt": "Tell me about ", "chosen": "Old Railways.", "rejected": "old railways."}]
    path = _written(rows, tmp_path)
    assert not check_preferences(path).findings
    (finding,) = check_preferences(path, tokenizer=str(tokenizer_folder)).findings
    assert (finding.kind, finding.rows) == ("equal-sides", [("rows.jsonl, line 3", "equal after tokenizing")])


def test_a_limit_below_every_row_is_an_error(tokenizer_folder: Path, tmp_path: Path) -> None:
    report = check_preferences(_written(clean(), tmp_path), tokenizer=str(tokenizer_folder), max_length=3)
    assert [f.kind for f in report.findings] == ["all-too-long", "too-long"]
    assert not report.passed
