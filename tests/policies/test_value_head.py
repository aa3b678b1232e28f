"""Value models with their own body: independent of the policy's body in gradients and in files."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rlalign.config.defaults import default_config
from rlalign.config.schema import LearnerConfig
from rlalign.config.serialize import update
from rlalign.config.validate import resolve, validate
from rlalign.errors import UserError
from rlalign.objective import Credit, Objective, Value
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import load, make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.quantized_base import QuantizedLinear
from rlalign.rollout.collect import Rollout
from rlalign.tokenizers import CharTokenizer
from rlalign.training.learner import Learner
from rlalign.types import Sampling

TOKENIZER = CharTokenizer("abcdefgh")
V = TOKENIZER.vocab_size
KINDS = ["gru", "llama", "llama-tied", "llama+lora", "gpt2+lora"]
TOKENS = torch.tensor([[3, 4, 5, 6, 7, 0], [3, 4, 6, 2, 0, 0], [3, 4, 2, 2, 8, 3], [5, 7, 1, 3, 0, 0]]) % V
LENGTHS = torch.tensor([5, 4, 6, 4])
MASK = (torch.arange(6) >= 2) & (torch.arange(6) < LENGTHS[:, None])
BATCH = (TOKENS, LENGTHS, MASK)


def build(kind, value="model", dtype="float32", **options):
    if kind == "gru":
        return make_policy("gru", tokenizer=TOKENIZER, options=PolicyOptions(hidden_size=16, value=value, **options))
    family, _, lora = kind.partition("+")
    torch.manual_seed(7)
    if family == "gpt2":
        lm = GPT2LMHeadModel(GPT2Config(vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=16))
    else:
        shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
        lm = LlamaForCausalLM(LlamaConfig(vocab_size=V, tie_word_embeddings=family == "llama-tied", **shape))
    chosen = PolicyOptions(adapter=AdapterOptions.lora(2 if lora else 0), dtype=dtype, value=value, **options)
    return CausalPolicy(lm, TOKENIZER, options=chosen, seed=1)


def parts(policy):
    """Return the policy's trained parameters and the value's."""
    value = policy.value_trainable()
    return {n: p for n, p in policy.trainable().items() if n not in value}, value


def move(parameters, size=0.1):
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


def score(policy, **kwargs):
    return policy.score(*BATCH, Sampling(), values=True, **kwargs)


@pytest.mark.parametrize("kind", KINDS)
def test_each_body_changes_without_the_other(kind):
    policy = build(kind)
    body, value = parts(policy)
    move(value, 0.3)
    a = score(policy)
    move(body, 0.3)
    b = score(policy)
    move(value, 0.3)
    c = score(policy)
    assert torch.equal(a.values, b.values)
    assert torch.equal(a.final_values, b.final_values)
    assert torch.equal(b.logprobs, c.logprobs)
    assert not torch.allclose(a.logprobs, b.logprobs, atol=1e-3)
    assert not torch.allclose(b.values, c.values, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_passes_between_the_bodies(kind):
    policy = build(kind)
    body, value = parts(policy)
    move({**body, **value})
    scores = score(policy, entropy=True)
    loss = (scores.values - 1).square().sum() + scores.final_values.square().sum()
    grads = torch.autograd.grad(loss, [*body.values()], allow_unused=True, retain_graph=True)
    assert all(g is None for g in grads)
    grads = torch.autograd.grad(scores.logprobs.sum() + scores.entropies.sum(), [*value.values()], allow_unused=True)
    assert all(g is None for g in grads)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in value.values())


@pytest.mark.parametrize("kind", KINDS)
def test_an_initial_value_model_is_a_copy_of_the_policy(kind):
    """With the policy's weights the values are those of a head on the policy's body."""
    policy, headed = build(kind), build(kind, "head")
    body, value = parts(policy)
    names = {n.removeprefix("value_body.") for n in value if n.startswith("value_body.")}
    assert names
    assert all(any(b.endswith(n) for b in body) for n in names)
    assert {n for n in value if n.startswith("value_head.")} == {"value_head.linear.weight", "value_head.linear.bias"}
    for p in (policy, headed):
        torch.nn.init.normal_(p.value_head.linear.weight, generator=torch.Generator().manual_seed(0))
    a, b = score(policy), score(headed)
    assert a.values.any()
    torch.testing.assert_close(a.values, b.values)
    torch.testing.assert_close(a.final_values, b.final_values)
    assert torch.equal(a.values != 0, MASK)


def test_adapters_share_the_frozen_weights():
    policy = build("llama+lora")
    assert all(".lora_" in n or n.startswith("value_head.") for n in policy.trainable())
    bodies = policy.lm.base_model, policy.value_body
    frozen = [{p.data_ptr() for p in b.parameters() if not p.requires_grad} for b in bodies]
    assert frozen[0] == frozen[1]
    with torch.no_grad():
        reference = policy.reference_logprobs(*BATCH, Sampling())
    move(policy.value_trainable())
    assert torch.equal(policy.reference_logprobs(*BATCH, Sampling()), reference)


@pytest.mark.parametrize("value", ["head", "model"])
@pytest.mark.parametrize("kind", ["llama", "llama+lora"])
def test_values_are_float32_in_bfloat16(kind, value):
    policy = build(kind, value, dtype="bfloat16")
    scores = score(policy)
    assert scores.values.dtype == scores.final_values.dtype == torch.float32
    scores.values.sum().backward()
    assert {p.dtype for p in policy.value_trainable().values()} == {torch.float32}


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_value_model_loads(kind, tmp_path):
    policy = build(kind)
    move(policy.trainable(), 0.05)
    policy.save_pretrained(tmp_path)
    expected = score(policy)
    assert expected.values.any()
    lora = 2 if kind.endswith("+lora") else None if kind == "gru" else 0
    options = PolicyOptions(hidden_size=16, adapter=AdapterOptions.lora(lora), dtype="float32", value="model")
    for loaded in (
        load(tmp_path, tokenizer=TOKENIZER),
        make_policy(str(tmp_path), tokenizer=TOKENIZER, options=options),
    ):
        scores = score(loaded)
        torch.testing.assert_close(scores.values, expected.values, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores.final_values, expected.final_values, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores.logprobs, expected.logprobs, atol=1e-5, rtol=1e-5)
        move(parts(loaded)[0])  # the bodies are still separate
        assert torch.equal(score(loaded).values, scores.values)
    assert torch.equal(score(policy).values, expected.values)


@pytest.mark.parametrize("kind", ["gru", "llama"])
@pytest.mark.parametrize(("saved", "requested"), [("head", "model"), ("model", "head"), ("none", "model")])
def test_a_value_of_another_kind_is_initialized_from_the_loaded_policy(kind, saved, requested, tmp_path):
    policy = build(kind, saved)
    move(policy.trainable())
    policy.save_pretrained(tmp_path)
    options = PolicyOptions(
        hidden_size=16, adapter=AdapterOptions.lora(None if kind == "gru" else 0), dtype="float32", value=requested
    )
    loaded = make_policy(str(tmp_path), tokenizer=TOKENIZER, options=options)
    assert not score(loaded).values.any()
    if requested == "model":
        expected = dict(policy.named_parameters())
        prefix = "body." if kind == "gru" else "model.model."
        for name, parameter in loaded.value_body.named_parameters():
            assert torch.equal(parameter, expected[prefix + name])
    loaded.save_pretrained(tmp_path)
    assert load(tmp_path, tokenizer=TOKENIZER).options.value == requested


def test_a_card_with_only_a_flag_for_the_head_is_read(tmp_path):
    policy = build("gru", "head")
    move(policy.trainable())
    policy.save_pretrained(tmp_path)
    card = tmp_path / "policy.json"
    card.write_text(card.read_text().replace('"value": "head"', '"value_head": true'))
    assert torch.equal(score(load(tmp_path, tokenizer=TOKENIZER)).values, score(policy).values)


# ---- the learner ----


def rollout(policy):
    with torch.no_grad():
        logprobs = policy.score(*BATCH, Sampling()).logprobs
    rewards = torch.zeros(TOKENS.shape)
    rewards[torch.arange(4), LENGTHS - 1] = torch.tensor([1.0, 0.0, 0.5, 2.0])
    return Rollout(
        tasks=[],
        prompts=[],
        completions=[],
        messages=[],
        extra=[],
        tokens=TOKENS,
        lengths=LENGTHS,
        action_mask=MASK,
        sampler_logprobs=logprobs,
        rewards=rewards,
        group_ids=torch.arange(4),
        terminated=torch.ones(4, dtype=torch.bool),
        truncated=torch.zeros(4, dtype=torch.bool),
        valid=torch.ones(4, dtype=torch.bool),
        components={},
    )


def learner(policy, value, **settings):
    objective = Objective(baseline="value", credit=Credit("gae"), value=value)
    generator = torch.Generator().manual_seed(0)
    config = LearnerConfig(lr=1e-2, **settings)
    return Learner(policy, objective, config, sampling=Sampling(), total_updates=9, generator=generator, max_length=4)


def step(learner):
    buffer = learner.prepare(rollout(learner.policy))
    learner.update(buffer)
    learner.end_rollout(buffer)  # counts the step, on which the end of the pretraining depends


def copies(parameters):
    return {n: p.detach().clone() for n, p in parameters.items()}


def changed_names(before, after):
    return {n for n in before if not torch.equal(before[n], after[n])}


@pytest.mark.parametrize("detached", [False, True])
@pytest.mark.parametrize("kind", ["gru", "llama+lora"])
@pytest.mark.parametrize("value", ["head", "model"])
def test_pretraining_changes_only_the_values_parameters(value, kind, detached):
    """With weight decay too. The optimizer has no moments of the policy's parameters before their first update."""
    policy = build(kind, value, value_detached=detached)
    body, _ = parts(policy)
    trainer = learner(policy, Value(value, pretrain_steps=2), weight_decay=0.1)
    before, trainable = copies(policy.trainable()), set(policy.trainable())
    for _ in range(2):
        step(trainer)
        assert set(policy.trainable()) == trainable
        assert not changed_names(before, policy.trainable()) & set(body)
    changed = changed_names(before, policy.trainable())
    assert {"value_head.linear.weight", "value_head.linear.bias"} <= changed
    if value == "model" and not detached:
        assert any(n.startswith("value_body.") for n in changed)
    assert not any(id(p) in {id(q) for q in body.values()} for p in trainer.optimizer.state)
    step(trainer)
    assert changed_names(before, policy.trainable()) & set(body)


def test_a_failed_update_of_the_pretraining_unfreezes_the_policy(monkeypatch):
    policy = build("gru", "head")
    trainable = set(policy.trainable())
    trainer = learner(policy, Value("head", pretrain_steps=2))
    buffer = trainer.prepare(rollout(policy))
    monkeypatch.setattr(policy, "score", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.update(buffer)
    assert set(policy.trainable()) == trainable


@pytest.mark.parametrize("kind", ["gru", "llama"])
def test_the_value_can_have_its_own_learning_rate(kind):
    """Adam's first step is lr · sign(gradient): at most 0.01 for the policy's parameters, and 0.1 for the value's."""
    for value in ("head", "model"):
        policy = build(kind, value)
        move(policy.trainable())
        body, value_parameters = parts(policy)
        before = copies(policy.trainable())
        trained = learner(policy, Value(value, lr=0.1), max_grad_norm=0.0, warmup=2)
        assert [g["lr"] for g in trained.optimizer.param_groups] == pytest.approx([0.005, 0.05])  # one schedule
        step(trained)
        for group, lr in ((body, 0.005), (value_parameters, 0.05)):
            distance = max((p.detach() - before[n]).abs().max().item() for n, p in group.items())
            assert distance == pytest.approx(lr, rel=1e-2)
        assert len(learner(policy, Value(value)).optimizer.param_groups) == 1


def test_the_policys_update_does_not_depend_on_the_values_learning_rate():
    """The advantages of the first update are from values of 0 in both cases."""
    weights = []
    for lr in (0.0, 0.5):
        policy = build("gru")
        step(learner(policy, Value("model", lr=lr), max_grad_norm=0.0))
        weights.append(parts(policy)[0])
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0])


# ---- the configuration ----


def test_the_objective_determines_the_policys_value():
    base = default_config("rlalign/Reverse-v0", "gru", "ppo")
    assert resolve(base).model.value == "head"
    assert resolve(update(base, {"objective.value.kind": "model"})).model.value == "model"
    assert resolve(default_config(algorithm="rloo")).model.value == "none"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Value("modle"), r"unknown objective\.value\.kind 'modle'.*Did you mean 'model'"),
        (Value("model", lr=-1.0), "objective.value.lr: expected at least 0, got -1.0"),
        (Value("model", lr=math.nan), r"value\.lr: expected a finite number, got nan"),
    ],
)
def test_invalid_values_raise_an_error(value, message):
    with pytest.raises(UserError, match=message):
        Objective(baseline="value", credit=Credit("gae"), value=value).validate()


def test_pretraining_without_a_value_and_unknown_options_raise_an_error():
    with pytest.raises(UserError, match=r"pretrain_steps is 3, and no value is trained"):
        validate(update(default_config(algorithm="rloo"), {"objective.value.pretrain_steps": 3}))
    with pytest.raises(UserError, match=r"unknown value 'heda'.*Did you mean 'head'"):
        PolicyOptions(value="heda")


def test_a_copy_of_a_policy_keeps_its_bodies_separate():
    policy = build("llama+lora")
    duplicate = copy.deepcopy(policy)
    move(duplicate.value_trainable())
    assert not score(policy).values.any()
    assert score(duplicate).values.any()


@pytest.mark.parametrize("base", ["nf4", "int8"])
@pytest.mark.parametrize("kind", ["llama+lora", "gpt2+lora"])
def test_a_loaded_value_model_over_a_quantized_base_has_the_trained_weights_quantized_again(kind, base, tmp_path):
    pytest.importorskip("bitsandbytes")
    policy = build(kind, base=base)
    move(policy.trainable(), 0.5)
    policy.save_pretrained(tmp_path)
    options = PolicyOptions(adapter=AdapterOptions.lora(2), dtype="float32", value="model", base=base)
    loaded = make_policy(str(tmp_path), tokenizer=TOKENIZER, options=options)
    stored = load_file(tmp_path / "value_body.safetensors")
    layers = {n: m for n, m in loaded.value_body.named_modules() if isinstance(m, QuantizedLinear)}
    bodies = loaded.lm.base_model, loaded.value_body
    assert len(layers) == sum(isinstance(m, QuantizedLinear) for m in bodies[0].modules()) >= 8
    for name, layer in layers.items():
        plain = name.removesuffix(".base_layer")
        expected = layer.to_plain()
        expected.weight.data = stored[f"{plain}.weight"]
        assert torch.equal(layer.dequantized(), QuantizedLinear(expected, base).dequantized())
        if layer.bias is not None:
            assert torch.equal(layer.bias, stored[f"{plain}.bias"])
    # the policy's body has codes of its own, and the values are the trained ones but for their rounding
    codes = [{m.weight.data_ptr() for m in body.modules() if isinstance(m, QuantizedLinear)} for body in bodies]
    assert not codes[0] & codes[1]
    before, after = score(policy).values, score(loaded).values
    assert (after - before).abs().mean() < (0.5 if base == "nf4" else 0.1) * before.abs().mean()
