"""Whole runs: `rlalign train`, then `rlalign export` of every form, for each family, full and LoRA.

Each export is loaded by its own loader in a fresh process, which gives the log-probs, the tokens and the chat prompts
of the policy; llama.cpp's chat endpoint reads the same ids. The default run has a sample.
"""

import json

import pytest

from rlalign import cli
from rlalign.errors import UserError
from rlalign.export.forms import check_form, find_form
from rlalign.export.whole_folder import read_export
from tests.export.models import FAMILIES, save

SLOW = pytest.mark.slow
FORMS = [
    ("hf", ""), ("hf", "int8"), ("hf", "int8_dynamic"),
    ("gguf", "f32"), ("gguf", "f16"), ("gguf", "q8_0"), ("gguf", "q4_0"),
]  # fmt: skip
SAMPLE = {("qwen3", "lora", "gguf", "q8_0"), ("gpt2", "full", "gguf", "f32"), ("llama", "full", "gguf", "f16")}
FINE = 0.02
"""Standard deviation of the weights of transformers, with which rounding moves log-probs as little as in a trained
model; that of the other tests is ten times as large, so that a layout error is large."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains a tiny model of a family for two steps by the command line, once, and returns the run."""
    runs = {}
    data = [{"prompt": [{"role": "user", "content": f"It's {i} o'clock, say  {i}."}]} for i in range(20)]

    def train(family, adapter):
        if (family, adapter) not in runs:
            folder = tmp_path_factory.mktemp(f"{family}-{adapter}")
            base = save(folder / "base", family, bos=family == "llama", deviation=FINE)
            (folder / "data.jsonl").write_text("\n".join(map(json.dumps, data)))
            words = [
                "train", "--env", str(folder / "data.jsonl"), "--policy", str(base), "--rewards", "length",
                "--output", str(folder / "run"), "--steps", "2", "--learner.lr", "0.01", "--rollout.prompts", "2",
                "--rollout.group-size", "2", "--rollout.max-new", "6", "--evaluation.prompts", "4",
                "--evaluation.samples", "1", "--model.adapter.kind", "none" if adapter == "full" else "lora",
            ]  # fmt: skip
            assert cli.main(words) == 0
            runs[family, adapter] = folder / "run"
        return runs[family, adapter]

    return train


@pytest.mark.parametrize(
    ("family", "adapter", "format", "quantize"),
    [
        pytest.param(*case, marks=() if case in SAMPLE else SLOW, id="-".join(case))
        for family in FAMILIES
        for adapter in ("full", "lora")
        for form in FORMS
        for case in [(family, adapter, *form)]
    ],
)
def test_a_run_becomes_every_form(family, adapter, format, quantize, trained, tmp_path, capsys):
    pytest.importorskip("xllamacpp" if format == "gguf" else "torchao")
    form = find_form(format, quantize)
    words = ["export", str(trained(family, adapter)), "--output", str(tmp_path / "out"), "--format", format]
    words += ["--quantize", quantize] if quantize else []
    if family == "gpt2" and quantize.startswith("int8"):
        with pytest.raises(UserError, match="Conv1D"):
            check_form(form, family)
        assert cli.main(words) != 0
        assert not (tmp_path / "out").exists()
        return
    assert cli.main(words) == 0, capsys.readouterr().err
    assert f"exported {form.name} to" in capsys.readouterr().out
    manifest = read_export(tmp_path / "out")
    assert manifest["compared_with"] == "the live policy"
    assert manifest["bound"] == {"kl": form.kl_bound, "nats": form.nats_bound}
    assert manifest["fidelity"]["kl"] <= form.kl_bound
    if form.nats_bound is not None:
        assert manifest["fidelity"]["nats"] <= form.nats_bound
    assert manifest["tokenizer"]["chats"] >= 1  # of gguf through the chat endpoint, BOS once
    assert ("adapter" in manifest) == (adapter == "lora" and form.name == "hf")
    assert cli.main(["export", str(tmp_path / "out"), "--check"]) == 0
