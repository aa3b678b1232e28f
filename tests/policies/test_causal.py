"""Causal and recurrent policies: sampled log-probs equal the scored ones, without effect of padding."""

import copy
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rlalign.errors import UserError
from rlalign.policies.base import Policy
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import load, make_policy, make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.types import Sampling

V = 20
CONTEXTS = [[3, 4, 5]] * 3 + [[6, 7]] * 2 + [[8, 2, 3, 4, 9]] + [[3, 4, 5]]
SAMPLINGS = [Sampling(), Sampling(temperature=0.6), Sampling(0.9, 6, 1.0), Sampling(1.2, 0, 0.8), Sampling(0.7, 8, 0.9)]


@dataclass
class Ids:
    """A tokenizer whose texts are token ids in decimal, and whose pad id is EOS."""

    vocab_size: int = V
    eos_id: int = 1
    pad_id: int = 1

    def encode(self, text):
        return [int(t) for t in text.split()]

    encode_prompt = encode

    def decode(self, ids):
        return " ".join(map(str, ids))


def build_lm(family: str, dropout: float = 0.0):
    shape = {
        "vocab_size": V,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "initializer_range": 0.2,
    }
    gated = dict(**shape, intermediate_size=48, num_key_value_heads=2, attention_dropout=dropout, head_dim=8)
    torch.manual_seed(7)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**gated))
    if family == "llama-tied":
        return LlamaForCausalLM(LlamaConfig(**gated, tie_word_embeddings=True))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**gated))
    if family == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**gated))
    drops = {"tie_word_embeddings": False, "attn_pdrop": dropout, "embd_pdrop": dropout, "resid_pdrop": dropout}
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2, **drops)
    )


def build(kind: str, *, dropout: float = 0.0, **options) -> Policy:
    family, _, lora = kind.partition("+")
    if family == "gru":
        return make_policy("gru", tokenizer=Ids(), options=PolicyOptions(hidden_size=32, **options), seed=3)
    policy = CausalPolicy(
        build_lm(family, dropout),
        Ids(),
        options=PolicyOptions(adapter=AdapterOptions.lora(4 if lora else 0), dtype="float32", **options),
        seed=1,
    )
    if lora:
        perturb(policy)
    return policy


def perturb(policy: Policy, size: float = 0.1) -> None:
    """Change the trainable parameters as an optimizer would: LoRA's B is no longer zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += size * torch.randn(parameter.shape, generator=generator)


KINDS = ["llama", "llama+lora", "llama-tied+lora", "qwen2+lora", "qwen3", "gpt2", "gpt2+lora", "gru"]


def batch_of(contexts, continuations, pad: int = 1, extra: int = 0):
    """Return tokens, lengths and action_mask, right-padded with `extra` more columns than needed."""
    rows = [[*c, *t] for c, t in zip(contexts, continuations, strict=True)]
    width = max(map(len, rows)) + extra
    tokens = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, context) in enumerate(zip(rows, contexts, strict=True)):
        tokens[i, : len(row)] = torch.tensor(row)
        mask[i, len(context) : len(row)] = True
    return tokens, torch.tensor([len(r) for r in rows]), mask


def rollout(policy, sampling, sampler="decode", seed=0, **more):
    """Return samples of the policy for CONTEXTS; `more` overrides the settings."""
    settings = {
        "max_new": 6,
        "stop_ids": frozenset({1}),
        "sampling": sampling,
        "generator": torch.Generator().manual_seed(seed),
    }
    policy.begin_rollout()
    return make_sampler(sampler, policy).sample(CONTEXTS, **{**settings, **more})


def continuations(samples):
    return [row[:n].tolist() for row, n in zip(samples.tokens, samples.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_sampled_logprobs_equal_scored_logprobs(kind, sampling):
    policy = build(kind)
    for sampler in ("decode",) if kind == "gru" else ("decode", "generate"):
        samples = rollout(policy, sampling, sampler)
        batch = batch_of(CONTEXTS, continuations(samples))
        with torch.no_grad():
            scored = policy.score(*batch, sampling).logprobs
        sampled = samples.logprobs[torch.arange(samples.tokens.shape[1]) < samples.lengths[:, None]]
        assert (scored[batch[2]] - sampled).abs().max() < 1e-5
        assert (scored[~batch[2]] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scores_equal_a_forward_pass_per_row(kind):
    """The forward pass has one unpadded row, so shared prompts and padding must have no effect."""
    policy = build(kind, value="head")
    perturb(policy)
    completions = continuations(rollout(policy, Sampling()))
    tokens, lengths, mask = batch_of(CONTEXTS, completions)
    scores = policy.score(tokens, lengths, mask, Sampling(), entropy=True, values=True)
    for i, n in enumerate(lengths.tolist()):
        row = tokens[i : i + 1, :n]
        if kind == "gru":
            hidden = policy.body.read(row)
            logits = policy.body.head(hidden)
        else:
            out = policy.lm(input_ids=row, output_hidden_states=True)
            logits, hidden = out.logits, out.hidden_states[-1]
        logp = logits[0].log_softmax(-1)
        value = policy.value_head(hidden)[0]
        for t in mask[i].nonzero().flatten().tolist():
            assert scores.logprobs[i, t].item() == pytest.approx(logp[t - 1, row[0, t]].item(), abs=1e-5)
            assert scores.entropies[i, t].item() == pytest.approx(
                -(logp[t - 1].exp() * logp[t - 1]).sum().item(), abs=1e-5
            )
            assert scores.values[i, t].item() == pytest.approx(value[t - 1].item(), abs=1e-5)
        assert scores.final_values[i].item() == pytest.approx(value[-1].item(), abs=1e-5)


@pytest.mark.parametrize("kind", ["llama+lora", "gpt2", "gru"])
def test_scores_do_not_depend_on_padding(kind):
    policy = build(kind)
    completions = continuations(rollout(policy, Sampling()))
    with torch.no_grad():
        least = batch_of(CONTEXTS, completions)
        expected = policy.score(*least, Sampling()).logprobs
        for pad, extra in ((1, 7), (0, 0), (13, 30)):
            scored = policy.score(*batch_of(CONTEXTS, completions, pad, extra), Sampling()).logprobs
            assert (scored[:, : expected.shape[1]] - expected).abs().max() < 1e-6
        single = [
            policy.score(*batch_of([c], [s]), Sampling()).logprobs[0]
            for c, s in zip(CONTEXTS, completions, strict=True)
        ]
        for i, row in enumerate(single):
            assert (expected[i, : len(row)] - row).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gru"])
def test_padding_gets_a_gradient_of_exactly_zero(kind):
    policy = build(kind, value="head")
    perturb(policy, 0.01)
    completions = [[5, 6, 7], [8], [9, 10], [5], [6, 7, 8, 9], [5], [2, 2]]  # no token is 15, the pad id
    tokens, lengths, mask = batch_of(CONTEXTS, completions, pad=15, extra=3)
    scores = policy.score(tokens, lengths, mask, Sampling(), entropy=True, values=True)
    (scores.logprobs.sum() + scores.values.sum() + scores.final_values.sum() + scores.entropies.sum()).backward()
    table = policy.body.embedding if kind == "gru" else policy.lm.get_input_embeddings()
    assert (table.weight.grad[15] == 0).all()
    assert (table.weight.grad[5] != 0).any()
    for parameter in policy.trainable().values():
        assert parameter.grad.isfinite().all()


def test_an_eos_that_is_the_pad_id_is_trained(tmp_path):
    """EOS is read in a multi-turn context. That it is the pad id of the configuration must not freeze its embedding."""
    lm = LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=1, pad_token_id=1)
    )
    pretrained = CausalPolicy(lm, Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(0)))
    for policy in (pretrained, make_policy("tiny", tokenizer=Ids())):
        policy.score(*batch_of([[3, 1, 4]], [[5, 6]]), Sampling()).logprobs.sum().backward()
        assert policy.lm.get_input_embeddings().weight.grad[1].any()
    assert make_policy("tiny", tokenizer=Ids()).input_embeddings()[1].any()


@pytest.mark.parametrize("kind", ["llama", "llama+lora", "gpt2+lora"])
def test_the_gradient_equals_that_of_a_plain_forward_pass(kind):
    """Shared prompts, gathered positions and the fused LoRA product do not change the gradient."""
    policy = build(kind)
    completions = [[5, 6, 7], [8], [9, 10], [5], [6, 7, 8, 9], [5], [2, 2]]
    tokens, lengths, mask = batch_of(CONTEXTS, completions)
    policy.score(tokens, lengths, mask, Sampling()).logprobs.square().sum().backward()
    gradients = {n: p.grad.clone() for n, p in policy.trainable().items()}
    policy.zero_grad()
    plain = copy.deepcopy(policy)
    for module in plain.modules():
        for base in type(module).__mro__:
            if (
                type(module).__module__ == "rlalign.policies.scoring.linear"
                and base.__module__ != "rlalign.policies.scoring.linear"
            ):
                module.__class__ = base  # back to stock torch and peft layers
                break
    logp = plain.lm(input_ids=tokens).logits.log_softmax(-1)[:, :-1].gather(-1, tokens[:, 1:, None]).squeeze(-1)
    (logp * mask[:, 1:]).square().sum().backward()
    expected = {n: p.grad for n, p in plain.trainable().items()}
    assert gradients.keys() == expected.keys()
    for name in expected:
        assert (gradients[name] - expected[name]).abs().max() <= 1e-5 * expected[name].abs().max() + 1e-6, name


def test_a_chunked_head_gives_the_same_scores_and_gradient(monkeypatch):
    policy = build("llama")
    batch = batch_of(CONTEXTS, [[5, 6, 7], [8], [9, 10], [5], [6, 7, 8, 9], [5], [2, 2]])
    results = []
    for limit in (1 << 28, 4 * V * 3):
        monkeypatch.setattr("rlalign.policies.scoring.token_scores._LOGIT_BYTES", limit)
        policy.zero_grad()
        scores = policy.score(*batch, Sampling(0.8), entropy=True)
        (scores.logprobs.square().sum() + scores.entropies.sum()).backward()
        results.append([scores.logprobs.detach(), *(p.grad.clone() for p in policy.trainable().values())])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["llama", "gpt2+lora"])
def test_dropout_of_the_configuration_is_disabled(kind):
    policy = build(kind, dropout=0.5)
    policy.train()
    batch = batch_of(CONTEXTS, [[5, 6, 7]] * len(CONTEXTS))
    first, second = (policy.score(*batch, Sampling()).logprobs for _ in range(2))
    assert torch.equal(first, second)
    assert not any(m.training for m in policy.modules())
    a, b = rollout(policy, Sampling(), seed=4), rollout(policy, Sampling(), seed=4)
    assert torch.equal(a.tokens, b.tokens)


@pytest.mark.parametrize("kind", ["llama+lora", "llama", "gru"])
def test_the_reference_remains_the_initial_policy(kind):
    if kind == "llama+lora":
        policy = CausalPolicy(build_lm("llama"), Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(4)), seed=1)
    else:
        policy = build(kind)
    batch = batch_of(CONTEXTS, [[5, 6, 7]] * len(CONTEXTS))
    with torch.no_grad():
        initial = policy.score(*batch, Sampling(0.8)).logprobs
    perturb(policy)
    current = policy.score(*batch, Sampling(0.8)).logprobs
    reference = policy.reference_logprobs(*batch, Sampling(0.8))
    assert (current - initial).abs().max() > 1e-2
    assert torch.equal(reference, initial)
    assert not reference.requires_grad
    rescored = policy.score(*batch, Sampling(0.8))  # the adapter is enabled again
    assert torch.equal(rescored.logprobs, current)
    assert rescored.logprobs.requires_grad


def test_without_a_reference_the_error_names_the_fix():
    policy = make_policy("gru", tokenizer=Ids(), keep_reference=False)
    with pytest.raises(UserError, match="keep_reference"):
        policy.reference_logprobs(*batch_of([[3]], [[4]]), Sampling())


def test_initial_values_are_zero_and_need_a_head():
    batch = batch_of([[3]], [[4, 5]])
    for kind in ("llama", "gru"):
        assert (build(kind, value="head").score(*batch, Sampling(), values=True).values == 0).all()
        with pytest.raises(UserError, match=r"value\.kind"):
            build(kind).score(*batch, Sampling(), values=True)


def test_a_detached_value_head_gives_the_body_no_gradient():
    for detached in (False, True):
        policy = build("llama", value="head", value_detached=detached)
        torch.nn.init.ones_(policy.value_head.linear.weight)
        policy.score(*batch_of([[3]], [[4, 5]]), Sampling(), values=True).values.sum().backward()
        body = [p.grad for n, p in policy.trainable().items() if "layers.0.mlp" in n]
        assert all(g is None or not g.any() for g in body) is detached
        assert policy.value_head.linear.weight.grad.any()


def test_only_adapters_and_value_head_train_and_they_are_float32():
    policy = CausalPolicy(
        build_lm("llama"), Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(4), dtype="bfloat16", value="head")
    )
    assert all("lora_" in n or n.startswith("value_head") for n in policy.trainable())
    assert {p.dtype for p in policy.trainable().values()} == {torch.float32}
    assert policy.input_embeddings().dtype == torch.bfloat16


@pytest.mark.parametrize("lora", [0, 4])
def test_bfloat16_samples_and_scores_agree_to_its_precision(lora):
    torch.manual_seed(0)
    lm = LlamaForCausalLM(
        LlamaConfig(vocab_size=V, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    )
    policy = CausalPolicy(lm, Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(lora), dtype="bfloat16"))
    for _ in range(2):
        samples = rollout(policy, Sampling())
        batch = batch_of(CONTEXTS, continuations(samples))
        scored = policy.score(*batch, Sampling()).logprobs
        assert scored.dtype == torch.float32
        inside = torch.arange(samples.tokens.shape[1]) < samples.lengths[:, None]
        assert (scored[batch[2]] - samples.logprobs[inside]).abs().max() < 5e-2
        scored.sum().backward()
        perturb(policy, 0.05)  # begin_rollout must detect this


@pytest.mark.parametrize("kind", ["llama+lora", "gpt2+lora", "qwen2+lora", "gru", "bf16"])
def test_decoding_uses_the_current_weights(kind):
    """Merged or rounded copies must never be stale, with or without a call of begin_rollout."""
    if kind == "bf16":
        policy = CausalPolicy(
            build_lm("llama"), Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(0), dtype="bfloat16")
        )
    else:
        policy = build(kind)
    _, first = policy.prefill([[3, 4]], [1])
    perturb(policy)
    _, second = policy.prefill([[3, 4]], [1])
    for parameter in policy.trainable().values():
        parameter.data.mul_(0.5)  # does not increase autograd's version counters
    policy.begin_rollout()
    _, third = policy.prefill([[3, 4]], [1])
    assert (first - second).abs().max() > 1e-2
    assert (second - third).abs().max() > 1e-2
    scored = policy.score(*batch_of([[3, 4]], [[5]]), Sampling()).logprobs[0, 2]
    assert third[0].log_softmax(-1)[5].item() == pytest.approx(scored.item(), abs=5e-2 if kind == "bf16" else 1e-5)


def test_decoding_adds_and_changes_no_parameter():
    policy = build("llama+lora")
    before = {n: p.clone() for n, p in policy.named_parameters()}
    policy.begin_rollout()
    rollout(policy, Sampling())
    after = dict(policy.named_parameters())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)


def test_seeds_determine_the_initial_policy_and_do_not_change_the_global_generator():
    state = torch.get_rng_state()
    for make in (
        lambda seed: make_policy("tiny", tokenizer=Ids(), seed=seed),
        lambda seed: make_policy("gru", tokenizer=Ids(), seed=seed),
        lambda seed: make_policy(
            "tiny", tokenizer=Ids(), seed=seed, options=PolicyOptions(adapter=AdapterOptions.lora(2))
        ),
    ):
        a, b, c = (list(make(seed).trainable().values()) for seed in (1, 1, 2))
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        assert not all(torch.equal(x, y) for x, y in zip(a, c, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", ["llama-tied+lora", "llama", "gpt2+lora", "qwen3"])
def test_transformers_loads_a_saved_policy(kind, tmp_path):
    policy = build(kind, value="head")
    perturb(policy, 0.05)
    policy.save_pretrained(tmp_path)
    assert not list(tmp_path.rglob("*.bin"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    with torch.no_grad():
        assert (plain(ids).logits - policy.lm(ids).logits).abs().max() < 1e-4
    if "+lora" in kind:
        from peft import PeftModel

        adapted = PeftModel.from_pretrained(build_lm(kind.split("+")[0]).eval(), tmp_path / "adapter")
        with torch.no_grad():
            assert (adapted(ids).logits - policy.lm(ids).logits).abs().max() < 1e-4
    loaded = load(tmp_path, tokenizer=Ids())
    batch = batch_of([[3, 4]], [[5, 6]])
    expected, scores = (p.score(*batch, Sampling(), values=True) for p in (policy, loaded))
    assert (expected.logprobs - scores.logprobs).abs().max() < 1e-4
    assert (expected.values - scores.values).abs().max() < 1e-4
    assert expected.values.abs().max() > 0
    # saving changed no weight
    assert torch.equal(policy.score(*batch, Sampling(), values=True).logprobs, expected.logprobs)


def test_a_saved_gru_loads(tmp_path):
    policy = build("gru", value="head")
    perturb(policy)
    policy.save_pretrained(tmp_path)
    batch = batch_of([[3, 4]], [[5, 6]])
    for loaded in (
        load(tmp_path, tokenizer=Ids()),
        make_policy(str(tmp_path), tokenizer=Ids(), options=PolicyOptions(value="head")),
    ):
        assert torch.equal(
            loaded.score(*batch, Sampling(), values=True).values, policy.score(*batch, Sampling(), values=True).values
        )
    with pytest.raises(UserError, match="tokenizer"):
        load(tmp_path)


def test_unknown_names_raise_an_error(tmp_path):
    with pytest.raises(UserError, match="smollm2"):
        make_policy("smolm2", tokenizer=Ids())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty"):
        make_policy(str(tmp_path / "empty"), tokenizer=Ids())
    with pytest.raises(UserError, match="tokenizer"):
        make_policy("tiny")


def test_a_pickle_raises_an_error(tmp_path):
    lm = build_lm("llama")
    lm.config.save_pretrained(tmp_path)
    torch.save(lm.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        make_policy(str(tmp_path), tokenizer=Ids())


def test_a_model_with_its_own_code_raises_an_error_by_default(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}'
    )
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match="trust-remote-code"):
        make_policy(str(tmp_path), tokenizer=Ids())


def test_contexts_longer_than_the_positions_raise_an_error():
    policy = build("gpt2")
    with pytest.raises(UserError, match="64 positions"):
        policy.prefill([[3] * 65], [1])
    with pytest.raises(UserError, match="64 positions"):
        make_sampler("decode", policy).sample(
            [[3] * 62], max_new=8, stop_ids=frozenset(), sampling=Sampling(), generator=torch.Generator().manual_seed(0)
        )


def test_an_action_without_context_raises_an_error():
    tokens, lengths, mask = batch_of([[]], [[4, 5]])
    for kind in ("llama", "gru"):
        with pytest.raises(UserError, match="BOS"):
            build(kind).score(tokens, lengths, mask, Sampling())


def test_an_unreachable_hub_is_requested_once(monkeypatch) -> None:
    """Fails if transformers makes its six attempts: they take half a minute, and the name is usually misspelled."""
    from huggingface_hub import constants

    requests = []

    class Silent(BaseHTTPRequestHandler):
        def handle_one_request(self):
            requests.append(self.rfile.readline().decode())
            self.close_connection = True

    with ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        with pytest.raises(UserError, match=r"no policy 'gtp2': expected a folder, a name .* cannot be reached"):
            make_policy("gtp2")
        server.shutdown()
    # huggingface_hub may make a request of its own, for the names of agents, once per process
    assert len([line for line in requests if "gtp2" in line]) == 1
