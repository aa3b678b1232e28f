"""Runs with each kind of adapter: reference at the start, exact resume, saved folders, and a second run from them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from rlalign.api import check_config
from rlalign.config.defaults import default_config
from rlalign.config.instantiate import build_mdp, build_policy
from rlalign.config.serialize import update
from rlalign.errors import UserError
from rlalign.policies.adapter_kinds.rank_schedule import RankSchedule
from rlalign.policies.factory import load, make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.training.experiment import train_run
from tests.faults.test_resume import assert_same_run, stop_after

KINDS = [
    "adalora",
    "prefix",
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("rslora", "dora", "ia3", "prompt")),
]
SETTINGS = {
    "steps": 4,
    "rollout.prompts": 4,
    "rollout.group_size": 4,
    "rollout.max_new": 6,
    "evaluation.prompts": 4,
    "learner.lr": 3e-2,
    "model.hidden_size": 16,
    "model.adapter.r": 2,
    "model.adapter.tokens": 3,
    "objective.kl.coef": 0.05,
}


def config(folder, kind, policy="tiny", **changes):
    """Return the configuration of a small run; `__` in the name of a change is a dot."""
    settings = {**SETTINGS, "model.adapter.kind": kind, "output": str(folder)}
    if kind not in ("rslora", "dora", "adalora"):
        del settings["model.adapter.r"]
    base = update(default_config("rlalign/Reverse-v0", policy, "grpo"), settings)
    return update(base, {key.replace("__", "."): value for key, value in changes.items()})


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_and_resumed_run_is_bitwise_the_uninterrupted_one(kind, tmp_path, monkeypatch):
    whole = train_run(config(tmp_path / "whole", kind), quiet=True)
    assert abs(whole.metrics["rollout/kl"][0]) < 1e-5  # the reference is the initial policy
    assert abs(whole.metrics["rollout/kl"][-1]) > 1e-5
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        stopped = train_run(config(tmp_path / "stopped", kind), quiet=True)
    assert stopped.exit_status
    train_run(config(tmp_path / "stopped", kind, resume=True), quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.parametrize("kind", ["prompt", pytest.param("adalora", marks=pytest.mark.slow)])
def test_a_run_continues_the_adapter_of_another_run(kind, tmp_path):
    first = train_run(config(tmp_path / "a", kind), quiet=True)
    folder = tmp_path / "a" / "policy"
    source = folder if kind == "prompt" else folder / "adapter"
    changes = {"model__adapter__kind": None, "model__adapter__r": None}
    second = train_run(config(tmp_path / "b", kind, str(source), **changes), quiet=True)
    assert abs(second.metrics["rollout/kl"][0]) < 1e-5
    before, after = first.comparison.after, second.comparison.before
    assert before.mean("reward") == after.mean("reward")
    measured = json.loads((tmp_path / "b" / "policy" / "policy.json").read_text())["measured"]
    assert measured["adapter"]["nats"] < 1e-4
    assert load(tmp_path / "b" / "policy").compute_dtype == torch.float32


@pytest.mark.parametrize("base", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_a_run_continues_an_adapter_over_a_quantized_base(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    train_run(config(tmp_path / "a", "lora", model__base=base), quiet=True)
    changes = {"model__adapter__kind": None, "model__adapter__r": None, "model__base": base}
    source = str(tmp_path / "a" / "policy" / "adapter")
    second = train_run(config(tmp_path / "b", "lora", source, **changes), quiet=True)
    assert abs(second.metrics["rollout/kl"][0]) < 1e-5
    assert abs(second.metrics["rollout/kl"][-1]) > 1e-5
    measured = json.loads((tmp_path / "b" / "policy" / "policy.json").read_text())["measured"]
    assert measured["adapter"]["nats"] < 1e-4
    assert measured["cosine"] > 0.99  # of the change from the reference, which holds codes


def test_virtual_tokens_are_not_merged(tmp_path):
    settings = config(tmp_path, "prefix")
    build_policy(settings, build_mdp(settings))[0].save_pretrained(tmp_path / "policy")
    folder = str(tmp_path / "policy")
    for options, words in (
        (PolicyOptions(on_adapter="merge"), "PREFIX_TUNING"),
        (PolicyOptions(adapter=AdapterOptions("none")), "PREFIX_TUNING with adapter.kind none"),
        (PolicyOptions(adapter=AdapterOptions("prefix", tokens=5)), "PREFIX_TUNING with adapter.tokens 5"),
    ):
        with pytest.raises(UserError, match=f"can be merged into weights, got one of kind {words}"):
            make_policy(folder, options=options)


@pytest.mark.parametrize("kind", ["adalora", "prefix"])
def test_trl_does_not_train_what_its_trainers_do_not_know(kind, tmp_path):
    settings = update(config(tmp_path, kind), {"algorithm": "trl:grpo", "rewards": ["length?target=3"]})
    with pytest.raises(UserError, match=f"adapter.kind {kind}: expected an adapter that trl:grpo trains"):
        check_config(settings)


def schedule(tmp_path, updates):
    settings = config(tmp_path, "adalora")
    policy, _ = build_policy(settings, build_mdp(settings))
    return policy, RankSchedule(policy.model, updates)


def ranks(policy):
    return sum(int((p != 0).sum()) for name, p in policy.trainable().items() if "lora_E" in name)


def test_the_ranks_fall_to_the_target_and_stay(tmp_path):
    updates = 20
    policy, ranks_of_run = schedule(tmp_path, updates)
    generator = torch.Generator().manual_seed(0)
    layers = sum("lora_E" in name for name in policy.trainable())
    history = []
    for update_number in range(1, updates + 1):
        for parameter in policy.trainable().values():
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            parameter.data += 0.01 * parameter.grad
        ranks_of_run.after_step(update_number)
        history.append(ranks(policy))
    assert history[1] == 3 * layers  # r₀ is 1.5 times the mean rank at the end, 2
    assert history == sorted(history, reverse=True)
    assert history[15:] == [2 * layers] * 5  # the last fifth
    for parameter in policy.trainable().values():
        parameter.data += 0.01
    ranks_of_run.after_other_step()
    assert ranks(policy) == 2 * layers


def test_the_penalty_of_adalora_is_part_of_the_loss(tmp_path):
    run = train_run(config(tmp_path / "a", "adalora", steps=1), quiet=True)
    values = {name: run.metrics[f"train/{name}"][0] for name in ("loss", "pg_loss", "orthogonality")}
    _, ranks_of_run = schedule(tmp_path, 1)
    assert values["orthogonality"] == pytest.approx(ranks_of_run.penalty().item(), rel=1e-5)
    assert values["loss"] == pytest.approx(values["pg_loss"] + values["orthogonality"], abs=1e-5)


def test_a_stored_adapter_has_the_ranks_that_are_left(tmp_path):
    train_run(config(tmp_path / "a", "adalora", steps=6), quiet=True)
    stored = load_file(tmp_path / "a" / "policy" / "adapter" / "adapter_model.safetensors")
    left = sum(len(tensor) for name, tensor in stored.items() if name.endswith("lora_E"))
    layers = sum(name.endswith("lora_E") for name in stored)
    assert layers <= left < 3 * layers


def test_a_value_model_over_a_quantized_base_is_continued(tmp_path):
    pytest.importorskip("bitsandbytes")
    settings = {
        **SETTINGS, "steps": 1, "model.adapter.kind": "lora", "model.base": "nf4", "objective.value.kind": "model"
    }  # fmt: skip
    del settings["model.adapter.r"]
    for name, policy in (("a", "tiny"), ("b", str(tmp_path / "a"))):
        base = default_config("rlalign/Reverse-v0", policy, "ppo")
        train_run(update(base, {**settings, "output": str(tmp_path / name)}), quiet=True)
    assert (tmp_path / "b" / "policy" / "value_body.safetensors").is_file()
