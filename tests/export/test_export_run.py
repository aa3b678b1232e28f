"""`rlalign export`: a run becomes files that other engines load, and what they compute is the policy."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

import rlalign
from rlalign import cli
from rlalign.errors import FaultError, UserError
from rlalign.escaping.shareable import places_in
from rlalign.export import export_run as door
from rlalign.export.compare_forms import compare_forms
from rlalign.export.forms import FORMS
from rlalign.export.source import open_source
from rlalign.export.whole_folder import read_export
from tests.export.models import save

IDS = torch.arange(20)[None]
SMALL = {
    "steps": 2, "rollout__prompts": 2, "rollout__group_size": 2, "evaluation__prompts": 4, "evaluation__samples": 2,
    "quiet": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A run of full fine-tuning: a small Llama over an alphabet."""
    folder = tmp_path_factory.mktemp("full") / "run"
    return rlalign.train("reverse", "tiny", output=folder, **SMALL)


@pytest.fixture(scope="module")
def lora(tmp_path_factory):
    """A run of LoRA on a Qwen2 with a chat template."""
    folder = tmp_path_factory.mktemp("lora")
    base = save(folder / "base", "qwen2")
    data = [
        {"prompt": [{"role": "user", "content": f"Say {word} please."}]} for word in ["one", "two", "three", "four"] * 5
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, data)))
    # a rate at which adapters move the log-probs far more than rounding does
    settings = {**SMALL, "rollout__max_new": 6, "learner__lr": 0.05}
    return rlalign.train(str(folder / "data.jsonl"), base, rewards=["length"], output=folder / "run", **settings)


@torch.no_grad()
def live_logprobs(run, ids):
    policy = open_source(run.folder, run.config).policy
    return policy.model(input_ids=ids).logits.log_softmax(-1)


@pytest.fixture(scope="module")
def folder(lora, tmp_path_factory):
    """The export of the LoRA run as a folder of transformers, in several weight files."""
    return lora.export(tmp_path_factory.mktemp("export") / "out", max_shard_size="50KB").folder


def test_a_transformers_folder_is_the_live_policy(lora, folder):
    manifest = read_export(folder)
    assert manifest["fidelity"]["nats"] < 1e-2
    assert manifest["adapter"]["kl"] < 1e-4
    for place in (folder, lora.folder / "policy"):
        modes = {path.stat().st_mode for path in place.rglob("*") if path.is_file()}
        assert len(modes) == 1, place
    assert manifest["tokenizer"]["chats"] >= 1
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    expected = live_logprobs(lora, IDS)
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        found = lm(IDS).logits.log_softmax(-1)
    assert torch.allclose(found, expected, atol=1e-3)
    base = AutoModelForCausalLM.from_pretrained(lora.config.policy)
    with torch.no_grad():
        assert (base(IDS).logits.log_softmax(-1) - expected).abs().max() > 0.1  # the run has trained something
    tok = AutoTokenizer.from_pretrained(folder)
    assert tok.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False).startswith("<|start|>user")
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    card = (folder / "README.md").read_text()
    assert card.count("## Loading") == card.count("## Export") == 1
    assert "Exported as hf: KL " in card
    assert "nats per token from the policy" in card
    assert "`adapter/` holds the adapter for peft, over the local folder `local/base`, which is not a part" in card
    assert "The merged weights of this folder need no base." in card
    assert "vllm serve FOLDER --dtype float32" in card
    beside = (folder / "adapter" / "README.md").read_text()
    assert "over a local folder, which `adapter_config.json` names and which is not a part" in beside


def test_no_text_but_the_place_of_the_base_names_a_folder_of_this_machine(lora, folder):
    paths = [lora.folder.parent, folder.parent, Path(lora.config.policy).parent]
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".md") and file.name != "adapter_config.json":  # peft loads the base from there
            assert not places_in(file.read_text(), paths), file
    manifest = read_export(folder)
    assert manifest["run"] == "run"
    assert manifest["adapter"]["base"].startswith("./")
    assert (lora.folder / "policy" / "policy.json").read_text().count(str(paths[2])) == 1  # the check can fail


def test_peft_loads_the_adapter_beside_it(lora, folder):
    from peft import AutoPeftModelForCausalLM

    model = AutoPeftModelForCausalLM.from_pretrained(folder / "adapter", dtype=torch.float32)
    with torch.no_grad():
        found = model(input_ids=IDS).logits.log_softmax(-1)
    assert torch.allclose(found, live_logprobs(lora, IDS), atol=1e-3)


@pytest.mark.parametrize("run", ["full", "lora"])
def test_llama_cpp_gives_the_log_probs_of_the_live_policy(run, request, tmp_path):
    pytest.importorskip("xllamacpp")
    export = request.getfixturevalue(run).export(tmp_path / "out", format="gguf")
    assert export.path.suffix == ".gguf"
    assert export.fidelity.kl < 1e-3
    manifest = read_export(tmp_path / "out")
    assert manifest["tokenizer"]["texts" if run == "full" else "chats"] >= 1
    card = ModelCard.load(export.folder / "README.md")
    assert card.data.library_name is None
    assert "gguf" in card.data.tags
    assert "llama-server --model run-f16.gguf" in card.text
    assert "transformers" not in card.text.partition("## Loading")[2]
    assert "adapter/" not in card.text


@pytest.mark.parametrize("quantize", ["int8", pytest.param("int8_dynamic", marks=pytest.mark.slow)])
def test_plain_transformers_loads_int8_without_pickle(quantize, lora, tmp_path):
    pytest.importorskip("torchao")
    export = lora.export(tmp_path / "out", quantize=quantize, kl_bound=1.0)  # the weights are far from trained ones
    assert {path.suffix for path in export.path.iterdir()} <= {".json", ".jinja", ".md", ".safetensors"}
    with safe_open(export.path / "model.safetensors", "pt") as file:
        assert any(file.get_tensor(name).dtype == torch.int8 for name in file.keys())  # noqa: SIM118
    lm = AutoModelForCausalLM.from_pretrained(export.path)
    with torch.no_grad():
        found = lm(IDS).logits.float().log_softmax(-1)
    assert (found.exp() * (found - live_logprobs(lora, IDS))).sum(-1).mean() < 0.2
    card = ModelCard.load(export.folder / "README.md")
    assert card.data.library_name == "transformers"
    assert "torchao (the extra `quant` of rlalign)" in card.text
    assert "adapter/" not in card.text


def test_a_file_outside_of_its_bound_is_not_kept(full, tmp_path, monkeypatch, capsys):
    pytest.importorskip("xllamacpp")
    lm = AutoModelForCausalLM.from_pretrained(full.folder / "policy")
    with torch.no_grad():
        lm.model.norm.weight.mul_(-10.0)
    shutil.copytree(full.folder / "policy", tmp_path / "other")
    lm.save_pretrained(tmp_path / "other")
    original = door.write_form
    monkeypatch.setattr(door, "write_form", lambda _, *args, **kwargs: original(tmp_path / "other", *args, **kwargs))
    with pytest.raises(FaultError, match=r"expected gguf-f16 within its bound .*, got a KL of .* nothing was"):
        full.export(tmp_path / "out", format="gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    stages = []
    with pytest.warns(UserWarning, match=r"gguf-f16 is .* nats per token .*; measure the reward with --compare"):
        full.export(tmp_path / "out", format="gguf", kl_bound=100.0, report=stages.append)
    assert stages[-2:] == ["loading it with llama.cpp in a fresh process", "comparing it with the policy"]
    assert cli.main(["generate", str(tmp_path / "out"), "abc>"]) == 2
    assert (
        "an export; use the run 'run' that it is of, or sample from the export with llama.cpp"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_layers_are_removed_by_their_cost(full, tmp_path):
    export = full.export(tmp_path / "out", drop_layers="1")
    manifest = read_export(tmp_path / "out")
    assert len(manifest["dropped"]["layers"]) == 1
    assert manifest["dropped"]["of"] == 2
    assert (
        export.fidelity.kl < 1e-4 < manifest["cost_of_dropping"]["kl"]
    )  # the file is the pruned model, not the policy
    lm = AutoModelForCausalLM.from_pretrained(export.path)
    assert lm.config.num_hidden_layers == 1
    source = AutoModelForCausalLM.from_pretrained(full.folder / "policy")
    kept = 1 - manifest["dropped"]["layers"][0]
    assert torch.equal(lm.model.layers[0].mlp.up_proj.weight, source.model.layers[kept].mlp.up_proj.weight)


def test_wrong_requests_are_refused_before_anything_is_loaded(full, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "a").write_text("")
    with pytest.raises(UserError, match="holds files"):
        full.export(tmp_path / "used")
    with pytest.raises(UserError, match="--quantize"):
        full.export(tmp_path / "out", quantize="q8_0")
    with pytest.raises(UserError, match="--drop-layers"):
        full.export(tmp_path / "out", drop_layers="some")
    with pytest.raises(UserError, match=r"--kl-bound: expected nats per token above 0, got 0"):
        full.export(tmp_path / "out", kl_bound=0.0)
    with pytest.raises(UserError, match="--max-shard-size"):
        full.export(tmp_path / "out", max_shard_size="5")
    gru = rlalign.train("reverse", "gru", output=tmp_path / "gru", **SMALL)
    with pytest.raises(UserError, match="a policy of kind gru"):
        gru.export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--compare", "--quantize", "int8"], "--quantize: expected none with --compare"),
        (["--compare", "--output", "out"], "--output: expected none with --compare"),
        (["--output", "out", "--forms", "hf"], "--forms: expected none with --output, .* got 'hf'; add --compare"),
        (["--output", "out", "--k", "2"], "--k: expected none"),
        (["--check", "--drop-layers", "1"], "--drop-layers: expected none with --check"),
        (["--check", "--compare"], "got both"),
        (["--check", "--trust-run"], "--trust-run: expected none with --check"),
        (["--compare", "--format", "hf"], "--format: expected none with --compare"),
        (["--output", "out", "--format", "gguf", "--max-shard-size", "5GB"], "--max-shard-size: expected none"),
        (["--output", "out", "--max-shard-size", "5"], "--max-shard-size: expected a size such as 5GB"),
        (["--output", "out", "--kl-bound", "-1"], "--kl-bound: expected nats per token above 0"),
        (["--output", "out", "--quantize", "q8"], "int4, f32, .* q4_0, got 'q8'; did you mean 'q8_0'"),
        (["--output", "out", "--drop-layers", "7"], "expected auto or a number from 1 to 1, .* got 7; use auto"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(words, message, full, capsys):
    assert cli.main(["export", str(full.folder), *words]) != 0
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_damaged_weights_of_a_run_are_named(full, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(full.folder, run)
    weights = run / "policy" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        rlalign.Run(run).export(tmp_path / "out")
    weights.unlink()
    with pytest.raises(UserError, match=r"model\.safetensors"):
        rlalign.Run(run).export(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_gguf_file_names_the_run_from_inside_its_folder(full, tmp_path, monkeypatch):
    pytest.importorskip("xllamacpp")
    from gguf import GGUFReader

    monkeypatch.chdir(full.folder)
    export = rlalign.Run(".").export(tmp_path / "out", format="gguf", drop_layers="1")  # weights of a temporary folder
    assert export.path.name == "run-f16.gguf"
    assert export.manifest["cost_of_dropping"]["kl"] > 1e-4
    assert GGUFReader(export.path).fields["general.name"].contents() == "run"


def test_forms_are_compared_in_one_table(full, capsys):
    pytest.importorskip("xllamacpp")
    forms = ["gguf-f32", "gguf-q8_0"]
    assert cli.main(["export", str(full.folder), "--compare", "--prompts", "4", "--k", "2", "--forms", *forms]) == 0
    assert "gguf-q8_0" in capsys.readouterr().out
    results = json.loads((full.folder / "report" / "forms.json").read_text())
    row = results["forms"]["gguf-q8_0"]
    assert row["metrics"]["reward"]["difference"]["n"] == 4
    assert results["forms"]["gguf-f32"]["fidelity"]["kl"] < row["fidelity"]["kl"] < 0.05
    assert row["excess"] == ""
    assert 0 < row["bytes"] < results["forms"]["gguf-f32"]["bytes"]
    assert row["memory"] > 1e7
    assert row["speed"]["64"] > 0
    assert set(row["metrics"]) == {"reward", "token_match", "exact_match"}
    # k1 of the tokens that llama.cpp has sampled from the same weights: each log-ratio is rounding
    assert abs(results["forms"]["gguf-f32"]["kl"]["mean"]) < 1e-3
    assert "| gguf-f32 |" in (full.folder / "report" / "forms.md").read_text()
    assert (full.folder / "report" / "forms.png").stat().st_size > 0
    # the figures are read back: nothing is measured again
    again = compare_forms(full.folder, full.config, prompts=4, samples=2, forms=["gguf-f32"])
    assert again["forms"] == results["forms"]


@pytest.mark.slow
def test_transformers_samples_from_the_policy_too(full):
    results = compare_forms(full.folder, full.config, prompts=4, samples=2, forms=["hf"])
    assert abs(results["forms"]["hf"]["kl"]["mean"]) < 1e-4


@pytest.mark.slow
def test_every_form_of_this_machine_is_written_and_within_its_bound(full, tmp_path):
    for form in FORMS:
        if form.name != "hf-int4":  # its kernels are CUDA's
            export = full.export(tmp_path / form.name, format=form.format, quantize=form.quantize)
            assert read_export(export.folder)["fidelity"]["kl"] <= form.kl_bound
