"""The proof of a path: wrong paths are seen, thresholds are crossed, and a verdict is computed once."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CTRLConfig,
    CTRLLMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from rlalign.errors import UserError
from rlalign.policies.causal import CausalPolicy
from rlalign.policies.factory import make_sampler
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.path_check import measure, prove, rows
from rlalign.policies.pretrained import pretrained
from rlalign.policies.sampling.library_decoder import LibraryDecoder
from rlalign.policies.scoring.positions import switch_length, thresholds
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Sampling

TOKENIZER = CharTokenizer("abcdefghijklmnopqrstuvwxyz")
SHAPE = {
    "vocab_size": TOKENIZER.vocab_size,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
RAGGED = [[3, 4, 5, 6, 7]] * 2 + [[8]] + [list(range(2, 20))] + [list(range(2, 14))]


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    """An empty cache of verdicts."""
    monkeypatch.setenv("RLALIGN_HOME", str(tmp_path))
    return tmp_path


def llama(**more):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SHAPE, **more}))


def phi3(original=16):
    torch.manual_seed(0)
    factors = {"short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [3.0, 5.0, 9.0, 20.0]}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, **factors, "original_max_position_embeddings": original}
    settings = {"max_position_embeddings": 64, "original_max_position_embeddings": original, "rope_parameters": rope}
    return Phi3ForCausalLM(Phi3Config(**SHAPE, **settings, bos_token_id=2, eos_token_id=1))


def policy_of(lm, **options):
    return CausalPolicy(
        lm, TOKENIZER, options=PolicyOptions(**{"adapter": AdapterOptions.lora(0), "dtype": "float32", **options})
    )


@torch.no_grad()
def check_rollout(policy, max_new=12, sampler="decode"):
    """Compare sampled and scored log-probs with those of each prefix alone: one forward pass per token."""
    samples = make_sampler(sampler, policy).sample(
        RAGGED,
        max_new=max_new,
        stop_ids=frozenset({1}),
        sampling=Sampling(),
        generator=torch.Generator().manual_seed(0),
    )
    contexts = [[*c, *t[:n]] for c, t, n in zip(RAGGED, samples.tokens.tolist(), samples.lengths.tolist(), strict=True)]
    tokens = torch.zeros(len(contexts), max(map(len, contexts)), dtype=torch.int64)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    for i, context in enumerate(contexts):
        tokens[i, : len(context)] = torch.tensor(context)
        mask[i, len(RAGGED[i]) : len(context)] = True
    scored = policy.score(tokens, torch.tensor([len(c) for c in contexts]), mask, Sampling()).logprobs
    for i, context in enumerate(contexts):
        for column in range(len(RAGGED[i]), len(context)):
            logits = policy.lm(input_ids=torch.tensor([context[:column]])).logits[0, -1]
            expected = logits.log_softmax(-1)[context[column]]
            assert abs(samples.logprobs[i, column - len(RAGGED[i])] - expected) < 1e-4
            assert abs(scored[i, column] - expected) < 1e-4


def test_the_verdict_is_computed_once(home, monkeypatch):
    first = policy_of(llama())
    assert (first.paths.scoring, first.paths.decoding) == ("packed", "optimized")
    assert len(list((home / "paths").iterdir())) == 1
    monkeypatch.setattr(prove._Proof, "run", lambda _: pytest.fail("proven again"))
    second = policy_of(llama())
    assert second.path_verdict == first.path_verdict
    assert second.packs
    assert "scored packed" in second.path_summary


def test_another_configuration_or_an_unreadable_file_is_proven_again(home):
    policy_of(llama())
    policy_of(llama(rms_norm_eps=1e-4))
    policy_of(llama(), adapter=AdapterOptions.lora(2))
    files = sorted((home / "paths").iterdir())
    assert len(files) == 3
    files[0].write_text("{")
    files[1].write_text(json.dumps({"paths": {"unknown": 1}, "trials": [], "refusal": ""}))
    for options in ({}, {"adapter": AdapterOptions.lora(2)}):
        assert policy_of(llama(), **options).packs


def test_code_from_outside_is_proven_each_time(home):
    lm = llama()

    class Changed(torch.nn.SiLU):
        pass

    lm.model.layers[0].mlp.act_fn = Changed()
    policy = policy_of(lm)
    assert not (home / "paths").exists()
    assert policy.paths.decoding != "optimized"


def test_a_cache_that_loses_rows_is_not_used(monkeypatch):
    """The first decoding path selects the wrong rows; the proof takes another one, and rollouts stay right."""
    from transformers import DynamicCache

    settings = {**SHAPE, "sliding_window": None}
    correct = DynamicCache.batch_select_indices
    monkeypatch.setattr(DynamicCache, "batch_select_indices", lambda self, rows: correct(self, rows.flip(0)))
    policy = policy_of(MistralForCausalLM(MistralConfig(**settings)))
    assert policy.paths.rows == "reorder"
    check_rollout(policy)


@pytest.mark.parametrize("fails", ["padded", "every cache"])
def test_decoding_falls_back_to_what_is_right(fails, monkeypatch):
    correct = LibraryDecoder._step

    def step(self, group, tokens):
        wrong = fails == "every cache" or self.backbone.paths.decoding == "padded"
        return correct(self, group, tokens) + 0.1 * wrong * torch.randn(32)

    monkeypatch.setattr(LibraryDecoder, "_step", step)
    policy = policy_of(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)))
    assert policy.paths.decoding == ("equal" if fails == "padded" else "reread")
    check_rollout(policy)


@pytest.mark.parametrize(
    ("decoding", "rows_operation"), [("padded", "select"), ("equal", "select"), ("reread", "keep")]
)
def test_generate_takes_the_proven_way(decoding, rows_operation, monkeypatch):
    monkeypatch.setattr(prove, "_DECODING", ((decoding, rows_operation),))
    policy = policy_of(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)))
    check_rollout(policy, sampler="generate")
    check_rollout(policy, sampler="generate", max_new=[9, 2, 5, 0, 7])


@pytest.mark.parametrize("rows_operation", ["select", "reorder", "keep"])
@pytest.mark.parametrize("decoding", ["padded", "equal", "reread"])
def test_each_way_to_decode_is_equal(decoding, rows_operation, monkeypatch):
    if (decoding, rows_operation) == ("padded", "keep"):
        pytest.skip("not a candidate")
    monkeypatch.setattr(prove, "_DECODING", ((decoding, rows_operation),))
    policy = policy_of(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)))
    assert (policy.paths.decoding, policy.paths.rows) == (decoding, rows_operation)
    check_rollout(policy)


@pytest.mark.parametrize("scoring", ["padded", "equal", "alone"])
def test_each_layout_is_equal(scoring, monkeypatch):
    monkeypatch.setattr(prove, "_SCORING", (scoring,))
    policy = policy_of(llama())
    assert policy.paths.scoring == scoring
    check_rollout(policy)


@pytest.mark.parametrize("budget", [2048, 60], ids=["crossed by the proof", "beyond the proof"])
def test_rows_on_both_sides_of_the_switch_of_longrope(budget, monkeypatch):
    """Each token is predicted with the factors of its own context, for every mixture of rows."""
    monkeypatch.setattr(prove, "_LONGEST", budget)
    policy = policy_of(phi3())
    assert switch_length(policy.lm.config) == 16
    assert policy.paths.proven == (None if budget > 100 else 16)
    check_rollout(policy, max_new=20)


@pytest.mark.parametrize("lora_r", [0, 2])
def test_rows_beyond_what_the_proof_could_afford_are_read_alone(lora_r, monkeypatch):
    monkeypatch.setattr(prove, "_LONGEST", 60)
    policy = policy_of(
        MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=14)), adapter=AdapterOptions.lora(lora_r)
    )
    assert policy.paths.proven == 14
    assert "beyond 14 tokens" in policy.path_summary
    check_rollout(policy, max_new=20)


def test_a_bidirectional_model_is_refused():
    torch.manual_seed(0)
    lm = BertLMHeadModel(BertConfig(**SHAPE, is_decoder=False))
    with pytest.raises(UserError, match=r"'BertLMHeadModel': a later token .*; set is_decoder to true in its config"):
        policy_of(lm)


def test_a_proof_computes_the_gradient_where_the_caller_does_not():
    with torch.no_grad():
        assert policy_of(llama()).paths.scoring == "packed"


def test_a_refusal_is_not_stored(home):
    broken = llama()
    broken.model.norm.weight.data[0] = float("nan")
    with pytest.raises(UserError, match="its logits are not finite; use finite weights"):
        policy_of(broken)
    assert not (home / "paths").exists()
    assert policy_of(llama()).packs


def test_weights_that_a_forward_pass_changes_are_refused():
    lm = llama()

    def scale(module, _):
        module.mlp.up_proj.weight.data.mul_(0.9)

    lm.model.layers[0].register_forward_pre_hook(scale)
    with pytest.raises(UserError, match="a forward pass changes its weights"):
        policy_of(lm)


def test_a_table_that_a_forward_pass_rounds_is_refused_in_that_precision(home):
    """CTRL rounds its table of positions to the dtype of its weights: the policy would differ from its files."""
    torch.manual_seed(0)
    shape = {"vocab_size": SHAPE["vocab_size"], "n_embd": 32, "dff": 48, "n_layer": 2, "n_head": 4, "n_positions": 128}
    lm = CTRLLMHeadModel(CTRLConfig(**shape, pad_token_id=0))
    lm.save_pretrained(home / "ctrl")
    with pytest.raises(UserError, match=r"rounds 'transformer.pos_encoding' to torch.bfloat16; use --model.dtype flo"):
        pretrained(str(home / "ctrl"), TOKENIZER, PolicyOptions(adapter=AdapterOptions.lora(4), dtype="bfloat16"))
    with pytest.raises(
        UserError, match=rf"policy '{home}/ctrl': expected a causal language model, got 'CTRLLMHeadModel'"
    ):
        pretrained(str(home / "ctrl"), TOKENIZER, PolicyOptions(adapter=AdapterOptions.lora(4), dtype="bfloat16"))
    automatic = pretrained(str(home / "ctrl"), TOKENIZER, PolicyOptions(adapter=AdapterOptions.lora(4)))
    assert automatic.compute_dtype == torch.float32
    assert torch.equal(automatic.input_embeddings(), lm.transformer.w.weight)  # not rounded when they were loaded


def test_a_value_head_has_the_width_of_the_hidden_states():
    """The hidden states of OPT-350m are narrower than hidden_size."""
    torch.manual_seed(0)
    sizes = {"vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "word_embed_proj_dim": 16, "ffn_dim": 48}
    lm = OPTForCausalLM(OPTConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, do_layer_norm_before=False))
    policy = policy_of(lm, value="head")
    tokens, mask = torch.tensor([[3, 4, 5]]), torch.tensor([[False, True, True]])
    scores = policy.score(tokens, torch.tensor([3]), mask, Sampling(), values=True)
    assert scores.values.shape == (1, 3)


def test_gradient_checkpointing_drops_nothing():
    """OPT calls dropout with a rate of its own, in the training mode that checkpointing needs."""
    torch.manual_seed(0)
    sizes = {"vocab_size": TOKENIZER.vocab_size, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48}
    lm = OPTForCausalLM(OPTConfig(**sizes, num_hidden_layers=2, num_attention_heads=4, dropout=0.5))
    policy = policy_of(lm, gradient_checkpointing=True)
    batch = torch.tensor([[3, 4, 5]]), torch.tensor([3]), torch.tensor([[False, True, True]])
    with torch.no_grad():
        expected = policy.score(*batch, Sampling()).logprobs
    torch.testing.assert_close(policy.score(*batch, Sampling()).logprobs, expected)


def test_padding_need_not_be_a_token_of_the_model():
    """Padding ids and added tokens may lie past the end of the embedding; no layout reads them."""
    policy = policy_of(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8)))
    tokens = torch.tensor([[3, 4, 5, 6], [3, 4, 999, 999]])
    mask = torch.tensor([[False, True, True, True], [False, True, False, False]])
    assert policy.paths.scoring == "padded"
    assert policy.score(tokens, torch.tensor([4, 2]), mask, Sampling()).logprobs.isfinite().all()


def test_thresholds_of_a_configuration():
    config = MistralConfig(**SHAPE, sliding_window=9)
    assert thresholds(config) == [9]
    assert thresholds(llama().config) == []
    assert thresholds(phi3().config) == [16]


def test_the_rows_cross_what_they_can_afford():
    config = MistralConfig(**SHAPE, sliding_window=9)
    proof = rows.proof_rows(config, 28, budget=100, limit=64)
    assert proof.crossed == (9,)
    assert proof.proven is None
    assert [(int(p), int(n)) for p, n in zip(proof.prompts, proof.lengths, strict=True)][-2:] == [(7, 12), (10, 12)]
    assert rows.proof_rows(config, 28, budget=10, limit=64).proven == 9
    assert rows.proof_rows(config, 28, budget=10, limit=8).crossed == ()
    assert 0 in proof.row(0)  # the id of padding, as an ordinary token
    assert rows.proof_rows(SimpleNamespace(to_dict=dict), 28, budget=10, limit=None).proven is None


def test_what_the_library_froze_stays_frozen():
    """A sinusoid table that moves is no rotation any more, and a trained correction bias is another router."""
    from transformers import RoFormerConfig, RoFormerForCausalLM

    shape = {name: value for name, value in SHAPE.items() if name != "num_key_value_heads"}
    policy = policy_of(RoFormerForCausalLM(RoFormerConfig(**shape, is_decoder=True)))
    assert not [name for name in policy.trainable() if "embed_positions" in name]
    assert any("query" in name for name in policy.trainable())


def test_the_closest_path_is_taken_if_none_is_exact(monkeypatch):
    """Rounding of deep models may exceed the limit: the best path within the wider one is taken, not the first."""
    correct = LibraryDecoder._step

    def step(self, group, tokens):
        size = {"padded": 3e-4, "equal": 1e-4}[self.backbone.paths.decoding]
        return correct(self, group, tokens) * (1 + size)

    monkeypatch.setattr(LibraryDecoder, "_step", step)
    monkeypatch.setattr(prove, "_DECODING", (("padded", "select"), ("equal", "select")))
    monkeypatch.setattr(prove, "_EXACT", 1e-5)
    assert policy_of(MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=8))).paths.decoding == "equal"


def test_a_position_where_the_reference_is_unstable_is_not_judged_in_float32():
    """The model multiplies rounding at one token by 1e5; a right path must not be refused for it, a wrong one must."""
    lm = llama()
    row = rows.proof_rows(lm.config, TOKENIZER.vocab_size, budget=2048, limit=64)
    expected = measure.plain_logprobs(lm, row, None)
    assert measure.stable_positions(lm, row, None, expected).keys() == expected.keys()

    def amplify(_, inputs):
        hidden = inputs[0].clone()
        hidden[:, 18:] += 1e4 * (hidden[:, 18:] - hidden[:, 18:].to(torch.float16))  # grows with a change of 1e-6
        return hidden, *inputs[1:]

    lm.model.layers[0].register_forward_pre_hook(amplify)
    expected = measure.plain_logprobs(lm, row, None)
    stable = measure.stable_positions(lm, row, None, expected)
    assert stable.keys() < expected.keys()
    assert len(stable) >= 0.8 * len(expected)


def test_full_fine_tuning_of_a_model_that_peft_froze_trains_it():
    assert policy_of(llama().requires_grad_(False)).trainable()
