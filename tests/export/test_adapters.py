"""Exports of runs with adapters: over quantized bases, and virtual tokens."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import rlalign
from rlalign.errors import UserError
from rlalign.export.export_run import _adapter
from rlalign.export.fidelity import make_probe
from rlalign.export.source import open_source
from rlalign.export.whole_folder import read_export
from tests.export.models import save

IDS = torch.arange(20)[None]


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """A function that trains an adapter for two steps, far enough that rounding is small beside it."""
    folder = tmp_path_factory.mktemp("adapters")
    base = save(folder / "base", "llama")
    data = [{"prompt": [{"role": "user", "content": f"Say {i} times {i}."}]} for i in range(20)]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, data)))

    def run(name, **settings):
        return rlalign.train(
            str(folder / "data.jsonl"), base, rewards=["length"], output=folder / name, steps=2, learner__lr=0.05,
            rollout__prompts=2, rollout__group_size=2, rollout__max_new=6, evaluation__prompts=4,
            evaluation__samples=2, quiet=True, **settings,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_an_adapter_over_a_quantized_base_is_compared_over_that_base(kind, train, tmp_path):
    pytest.importorskip("bitsandbytes")
    run = train(kind, model__base=kind)
    source = open_source(run.folder, run.config)
    with torch.no_grad():
        expected = source.policy.model(input_ids=IDS).logits.log_softmax(-1)
        merged = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32)(IDS).logits.log_softmax(-1)
    assert torch.allclose(merged, expected, atol=1e-3)
    probe = make_probe(source.policy, source.contexts(source.tasks("test", 2)), max_new=4, seed=0)
    adapter = _adapter(source, tmp_path, tmp_path, probe)
    assert adapter["quantization"] == kind
    assert adapter["kl"] < 1e-4 < adapter["over_plain_base"]["kl"]
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert card == (source.folder / "adapter" / "README.md").read_text()
    assert f"{kind}.\n" in card
    assert "Over the base before quantization the adapter gives another policy" in card


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_a_run_over_a_quantized_base_becomes_every_format(kind, train, tmp_path):
    pytest.importorskip("bitsandbytes")
    run = train(f"whole-{kind}", model__base=kind)
    assert read_export(run.export(tmp_path / "hf").folder)["adapter"]["quantization"] == kind
    pytest.importorskip("xllamacpp")
    assert run.export(tmp_path / "gguf", format="gguf").fidelity.kl < 1e-3


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_are_refused(kind, train, tmp_path):
    run = train(kind, model__adapter__kind=kind)
    with pytest.raises(UserError, match=r"virtual tokens.*use policy/ with peft"):
        run.export(tmp_path / "out")
    with pytest.raises(UserError, match="virtual tokens"):
        run.compare_forms(prompts=2, samples=1)
    assert not (tmp_path / "out").exists()
