"""A policy folder without this library: transformers and peft load it, with equal logits and texts."""

import pytest
import torch

from rlalign.policies.export_tokenizer import as_transformers
from rlalign.policies.factory import load, make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.tokenizers import ByteTokenizer, CharTokenizer, WordTokenizer

_TEXTS = ["", "a", "abba", "ab\nba", " a  b "]


def saved(folder, tokenizer, **options):
    policy = make_policy("tiny", tokenizer=tokenizer, options=PolicyOptions(**options))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # as training would: the initial adapter is zero
        for parameter in policy.trainable().values():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    policy.save_pretrained(folder)
    return policy


def test_an_adapter_on_a_policy_from_scratch_finds_its_base(tmp_path):
    from peft import AutoPeftModelForCausalLM, PeftModel
    from transformers import AutoModelForCausalLM

    saved(tmp_path / "policy", ByteTokenizer(), adapter=AdapterOptions.lora(4))
    ids = torch.tensor([[258, 97, 98, 99]])
    folder = tmp_path / "policy"
    merged = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    initial = base(ids).logits
    adapted = PeftModel.from_pretrained(base, folder / "adapter")(ids).logits
    assert (initial - merged).abs().max() > 1e-2
    torch.testing.assert_close(adapted, merged, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(AutoPeftModelForCausalLM.from_pretrained(folder / "adapter")(ids).logits, adapted)


def test_an_adapter_on_a_folder_refers_to_it_without_a_copy(tmp_path, monkeypatch):
    from peft import PeftConfig

    saved(tmp_path / "start", ByteTokenizer())
    monkeypatch.chdir(tmp_path)
    options = PolicyOptions(
        adapter=AdapterOptions.lora(4), dtype="float32"
    )  # in bfloat16 the frozen weights would be others than the stored
    make_policy("start", options=options).save_pretrained(tmp_path / "policy")
    base = PeftConfig.from_pretrained(tmp_path / "policy" / "adapter").base_model_name_or_path
    assert base == str(tmp_path / "start")
    assert not (tmp_path / "policy" / "base").exists()


@pytest.mark.parametrize(
    ("ours", "texts"),
    [(ByteTokenizer(), [*_TEXTS, "né 中文 🙂"]), (CharTokenizer("ab \n"), _TEXTS)],
    ids=["bytes", "chars"],
)
def test_the_exported_tokenizer_equals_ours(tmp_path, ours, texts):
    from transformers import AutoTokenizer

    saved(tmp_path, ours)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.pad_token_id, len(theirs)) == (ours.eos_id, ours.pad_id, ours.vocab_size)
    for text in texts:
        assert theirs(text)["input_ids"] == ours.encode_prompt(text)
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text)
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):  # invalid UTF-8 and special tokens among them
        ids = torch.randint(ours.vocab_size, (12,), generator=generator).tolist()
        assert theirs.decode(ids, skip_special_tokens=True) == ours.decode(ids)
    assert load(tmp_path).tokenizer.spec == ours.spec


def test_a_transformers_pipeline_continues_a_text(tmp_path):
    from transformers import pipeline

    saved(tmp_path, CharTokenizer("abc>"))
    (result,) = pipeline("text-generation", str(tmp_path), device="cpu")("abc>", max_new_tokens=5)
    assert result["generated_text"].startswith("abc>")


def test_a_word_tokenizer_is_not_exported():
    assert as_transformers(WordTokenizer(["a", "b"])) is None
