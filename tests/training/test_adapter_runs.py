"""Runs whose policy is an adapter's folder: start, reference, resume, evaluation and export against peft's model."""

import json

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rlalign.config.defaults import default_config
from rlalign.config.serialize import fingerprint, update
from rlalign.config.unused_settings import unused_settings
from rlalign.envs.registration import make_mdp
from rlalign.policies.factory import make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.storage import checkpoint
from rlalign.training.experiment import train_run
from tests.faults.test_resume import assert_same_run
from tests.policies.test_causal import perturb

SETTINGS = {
    "steps": 3,
    "rollout.prompts": 4,
    "rollout.group_size": 4,
    "evaluation.prompts": 4,
    "model.dtype": "float32",
    "learner.lr": 3e-2,
    "objective.kl.coef": 0.05,
}


@pytest.fixture
def adapter(tmp_path):
    """Return the `policy/adapter` of a trained policy, whose base is a folder of its own."""
    tokenizer = make_mdp("rlalign/Reverse-v0").tokenizer
    make_policy("tiny", tokenizer=tokenizer, options=PolicyOptions(hidden_size=16)).save_pretrained(tmp_path / "base")
    policy = make_policy(str(tmp_path / "base"), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="float32"))
    perturb(policy, 0.2)
    policy.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy" / "adapter"


def config(folder, adapter, algorithm="grpo", **changes):
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    base = update(default_config("rlalign/Reverse-v0", str(adapter), algorithm), SETTINGS)
    return update(base, {"output": str(folder), **{k.replace("__", "."): v for k, v in changes.items()}})


@torch.no_grad()
def logprobs(model):
    ids = torch.arange(8)[None] % model.get_input_embeddings().weight.shape[0]
    return model(input_ids=ids).logits.log_softmax(-1)


def peft_model(adapter):
    base = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()


@pytest.mark.parametrize(
    "model",
    [
        {}, {"on_adapter": "merge"},
        pytest.param({"adapter__kind": "none"}, marks=pytest.mark.slow),
        pytest.param({"adapter__r": 2}, marks=pytest.mark.slow),
    ],
    ids=["continue", "merge", "full", "rank"],
)  # fmt: skip
def test_a_run_starts_from_the_adapter_and_exports_what_it_trained(model, adapter, tmp_path):
    changes = {f"model__{key}": value for key, value in model.items()}
    run = train_run(config(tmp_path / "run", adapter, **changes), quiet=True)
    initial = peft_model(adapter)
    assert abs(run.metrics["rollout/kl"][0]) < 1e-5
    assert abs(run.metrics["rollout/kl"][-1]) > 1e-4  # the reference is not the policy in training
    exported = logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy").eval())
    assert (exported - logprobs(initial)).abs().max() > 1e-2
    # the weights of the last checkpoint in a policy that is built as the run built its own
    options = update(config(tmp_path, adapter, **changes), {}).model
    trained = make_policy(str(adapter), options=options)
    assert (logprobs(trained.lm) - logprobs(initial)).abs().max() < 2e-5
    state, _ = checkpoint.load(checkpoint.latest(tmp_path / "run" / "checkpoints"))
    trained.load_trainable(state["policy"])
    assert (exported - logprobs(trained.lm)).abs().max() < 2e-5
    if model.get("adapter__kind") != "none":
        assert (logprobs(peft_model(tmp_path / "run" / "policy" / "adapter")) - exported).abs().max() < 2e-5
    card = json.loads((tmp_path / "run" / "policy" / "policy.json").read_text())
    assert card["measured"]["nats"] < 1e-4
    before = run.evaluate(split="validation").before
    assert before.metrics["kl"] == pytest.approx([0.0] * len(before.metrics["kl"]), abs=1e-4)


@pytest.mark.parametrize(
    "model",
    [{}, pytest.param({"model__on_adapter": "merge"}, marks=pytest.mark.slow)],
    ids=["continue", "merge"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(model, adapter, tmp_path):
    train_run(config(tmp_path / "complete", adapter, **model), quiet=True)
    train_run(config(tmp_path / "parts", adapter, **model, steps=1), quiet=True)
    train_run(config(tmp_path / "parts", adapter, **model, resume=True), quiet=True)
    assert_same_run(tmp_path / "complete", tmp_path / "parts")
    weights = [(tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in ("complete", "parts")]
    assert weights[0] == weights[1]


def test_a_run_says_what_it_does_with_the_adapter_and_what_it_saved(adapter, tmp_path, capsys):
    train_run(config(tmp_path / "run", adapter, steps=1))
    text = " ".join(capsys.readouterr().out.split())
    assert f"policy '{adapter}': its adapter (LoRA of rank 4) on '{tmp_path / 'base'}' is trained on" in text
    assert "saved policy/ in float32:" in text


def test_trl_trains_the_adapter_with_the_adapters_model_as_reference(adapter, tmp_path):
    settings = config(tmp_path / "run", adapter, "trl:grpo", steps=2)
    from rlalign.integrations.trl.train import train_trl

    run = train_trl(settings, quiet=True)
    assert abs(run.metrics["rollout/kl"][0]) < 1e-4
    exported = logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "policy").eval())
    assert (exported - logprobs(peft_model(adapter))).abs().max() > 1e-3
    assert (logprobs(peft_model(tmp_path / "run" / "policy" / "adapter")) - exported).abs().max() < 2e-5


def test_the_new_setting_leaves_the_fingerprint_of_other_runs(adapter, tmp_path):
    settings = config(tmp_path / "run", "tiny")
    # of the version before the setting
    assert fingerprint(settings) == "df2c6ea1c086b84827bb8a85c8a022dde49a5f0844b7f34a3e0064e87ee7497c"
    assert fingerprint(update(settings, {"model.on_adapter": "merge"})) != fingerprint(settings)


def test_settings_without_effect_on_an_adapter_are_reported(adapter, tmp_path):
    def unused(policy, **changes):
        return list(unused_settings(config(tmp_path, policy, **changes)))

    assert unused(adapter, model__adapter__alpha=32) == ["model.adapter.alpha"]
    assert unused(adapter, model__adapter__alpha=32, model__on_adapter="merge") == []
    assert unused(tmp_path / "base", model__on_adapter="merge") == ["model.on_adapter"]
    assert unused(adapter, model__adapter__alpha=32, model__adapter__kind="lora") == []  # it is merged
    assert unused(adapter, model__adapter__targets="all-linear", model__adapter__r=4) == ["model.adapter.targets"]


@pytest.mark.parametrize("inside", ["", "policy"])
def test_settings_without_effect_on_virtual_tokens_name_the_stored_kind(inside, tmp_path):
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    stored = {"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4}
    (folder / "adapter_config.json").write_text(json.dumps(stored))
    reasons = unused_settings(config(tmp_path, tmp_path, model__adapter__tokens=32))
    assert reasons == {
        "model.adapter.tokens": "the policy folder has an adapter of its own, prefix of 4 virtual tokens"
    }
    named = unused_settings(config(tmp_path, tmp_path, model__adapter__kind="prefix", model__adapter__alpha=64))
    assert named == {"model.adapter.alpha": "model.adapter.kind is prefix"}
