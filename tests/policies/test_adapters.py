"""Policy folders that are PEFT adapters: initial policy, reference, training and saving, against peft's model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, PromptEncoderConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from rlalign.errors import UserError
from rlalign.policies.factory import load, make_policy
from rlalign.policies.options import AdapterOptions, PolicyOptions
from rlalign.policies.pretrained import check_pretrained
from rlalign.policies.tokenizer_facts import TOKENIZER_FILES
from rlalign.types import Sampling
from tests.policies.test_causal import CONTEXTS, Ids, batch_of, perturb

V = 20
SHAPE = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
COMPLETIONS = [[5, 6, 7], [8], [9, 10], [5], [6, 7, 8, 9], [5], [2, 2]]
ATTENTION = ["q_proj", "v_proj"]

# name -> settings of peft's adapter, on a Llama with an untied head unless the name begins with another family
LORA = {
    "lora": LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION),
    "dropout": LoraConfig(r=4, lora_alpha=16, lora_dropout=0.5, target_modules="all-linear"),
    "rslora": LoraConfig(r=4, lora_alpha=8, use_rslora=True, target_modules=ATTENTION),
    "patterns": LoraConfig(
        r=4, rank_pattern={"v_proj": 2}, alpha_pattern={"q_proj": 32}, target_modules=ATTENTION, layers_to_transform=[1]
    ),
    "dora": LoraConfig(r=4, lora_alpha=16, use_dora=True, target_modules=ATTENTION),
    "b-bias": LoraConfig(r=4, lora_alpha=16, lora_bias=True, target_modules=ATTENTION),
    "head": LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "lm_head"]),
    "embedding": LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "embed_tokens"]),
    "modules": LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION, modules_to_save=["lm_head", "embed_tokens"]),
    "tokens": LoraConfig(r=4, lora_alpha=16, target_modules=ATTENTION, trainable_token_indices=[3, 5]),
    "gpt2": LoraConfig(r=4, lora_alpha=16, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
    "mistral": LoraConfig(r=4, lora_alpha=16, target_modules="all-linear"),
}
OTHERS = {
    "bias": LoraConfig(r=4, lora_alpha=16, bias="lora_only", target_modules=ATTENTION),
    "loha": LoHaConfig(r=4, target_modules=ATTENTION),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


def build_base(name: str):
    torch.manual_seed(7)
    gated = {**SHAPE, "intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}
    if name == "gpt2":
        return GPT2LMHeadModel(
            GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.2)
        )
    if name == "mistral":
        return MistralForCausalLM(MistralConfig(**gated, sliding_window=4))
    return LlamaForCausalLM(LlamaConfig(**gated, attention_bias=True, tie_word_embeddings=False))


def perturb_all(model) -> None:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)


def write(folder: Path, name: str, settings) -> None:
    """Write `base` and `adapter` to a folder; the adapter is trained already."""
    base = build_base(name)
    base.save_pretrained(folder / "base")
    settings.task_type = "CAUSAL_LM"
    settings.inference_mode = False
    settings.base_model_name_or_path = None
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base"), settings)
    perturb_all(model)
    model.save_pretrained(folder / "adapter")


def peft_model(folder: Path):
    """Return peft's own model of an adapter."""
    settings = json.loads((folder / "adapter_config.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(settings["base_model_name_or_path"], dtype=torch.float32)
    return PeftModel.from_pretrained(base, folder).eval()


@torch.no_grad()
def row_logprobs(model) -> torch.Tensor:
    """Return the log-probs of COMPLETIONS under a transformers or peft model, row by row without padding."""
    tokens, lengths, mask = batch_of(CONTEXTS, COMPLETIONS)
    scores = torch.zeros(tokens.shape)
    for i, n in enumerate(lengths.tolist()):
        logp = model(input_ids=tokens[i : i + 1, :n]).logits[0].log_softmax(-1)
        scores[i, 1:n] = logp[:-1].gather(-1, tokens[i, 1:n, None]).squeeze(-1)
    return scores * mask


def build(folder: Path, vocab_size: int = V, **options):
    return make_policy(
        str(folder), tokenizer=Ids(vocab_size), options=PolicyOptions(**{"dtype": "float32", **options}), seed=1
    )


def score(policy):
    return policy.score(*batch_of(CONTEXTS, COMPLETIONS), Sampling()).logprobs


def reference(policy):
    return policy.reference_logprobs(*batch_of(CONTEXTS, COMPLETIONS), Sampling())


def next_logprobs(policy):
    policy.begin_rollout()
    return policy.prefill(CONTEXTS, [1] * len(CONTEXTS))[1].log_softmax(-1)


def next_of(model):
    with torch.no_grad():
        rows = [model(input_ids=torch.tensor([c])).logits[0, -1].log_softmax(-1) for c in CONTEXTS]
    return torch.stack(rows)


def check_policy(policy, expected, tolerance: float = 2e-5):
    """Check the scores, the reference and the decoder of a policy that has not been trained against peft's model."""
    assert (score(policy) - row_logprobs(expected)).abs().max() < tolerance
    assert (reference(policy) - row_logprobs(expected)).abs().max() < tolerance
    assert (next_logprobs(policy) - next_of(expected)).abs().max() < tolerance


@pytest.mark.parametrize("name", LORA)
def test_a_continued_adapter_is_pefts_model_before_and_after_training(name, tmp_path):
    write(tmp_path, name, LORA[name])
    initial = peft_model(tmp_path / "adapter")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    assert (row_logprobs(initial) - row_logprobs(base)).abs().max() > 0.05  # the adapter is not without effect
    policy = build(tmp_path / "adapter")
    assert "trained on" in policy.notes[0]
    check_policy(policy, initial)
    score(policy).sum().backward()
    for parameter_name, parameter in policy.trainable().items():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
    perturb(policy)
    trained = score(policy)
    assert (trained - row_logprobs(initial)).abs().max() > 0.05
    assert (reference(policy) - row_logprobs(initial)).abs().max() < 2e-5  # the starting adapter, not the base
    policy.save_pretrained(tmp_path / "policy")
    saved = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    assert (row_logprobs(saved) - trained).abs().max() < 2e-5
    adapted = peft_model(tmp_path / "policy" / "adapter")
    assert (row_logprobs(adapted) - trained).abs().max() < 2e-5
    # the saved adapter is a policy itself: continued, and loaded
    again = build(tmp_path / "policy" / "adapter")
    assert again.trainable().keys() == policy.trainable().keys()
    check_policy(again, adapted)
    assert (score(load(tmp_path / "policy" / "adapter", tokenizer=Ids())) - trained).abs().max() < 2e-5


@pytest.mark.parametrize(
    ("name", "lora_r"),
    [(name, 0) for name in [*LORA, *OTHERS]]
    # a new adapter over the merged one
    + [
        pytest.param(name, 3, marks=() if name in ("lora", "gpt2", "loha") else (pytest.mark.slow,))
        for name in [*LORA, *OTHERS]
    ],
)
def test_a_merged_adapter_is_pefts_model_before_and_after_training(name, lora_r, tmp_path):
    write(tmp_path, name, {**LORA, **OTHERS}[name])
    initial = peft_model(tmp_path / "adapter")
    policy = build(tmp_path / "adapter", on_adapter="merge", adapter=AdapterOptions.lora(lora_r))
    assert "is merged into" in policy.notes[0]
    check_policy(policy, initial)
    perturb(policy, 0.05)
    trained = score(policy)
    assert (reference(policy) - row_logprobs(initial)).abs().max() < 2e-5
    policy.save_pretrained(tmp_path / "policy")
    assert (row_logprobs(AutoModelForCausalLM.from_pretrained(tmp_path / "policy")) - trained).abs().max() < 2e-5
    if lora_r:  # the new adapter is over the merged model, which is written beside it
        assert (row_logprobs(peft_model(tmp_path / "policy" / "adapter")) - trained).abs().max() < 2e-5
        check_policy(build(tmp_path / "policy" / "adapter"), peft_model(tmp_path / "policy" / "adapter"))
    else:
        assert not (tmp_path / "policy" / "adapter").exists()


@pytest.mark.parametrize("name", ["lora", "dora", "gpt2", "embedding"])
def test_a_continued_adapter_in_bfloat16_differs_by_rounding_only(name, tmp_path):
    write(tmp_path, name, LORA[name])
    policy = build(tmp_path / "adapter", dtype="bfloat16")
    assert {p.dtype for p in policy.trainable().values()} == {torch.float32}
    initial = peft_model(tmp_path / "adapter")
    check_policy(policy, initial, tolerance=0.15)
    assert torch.equal(score(policy), reference(policy))  # the first KL is 0


def test_the_default_continues_unless_the_options_rule_it_out(tmp_path):
    write(tmp_path, "lora", LORA["lora"])
    folder = tmp_path / "adapter"
    for options, trained in (
        ({}, 4),
        ({"adapter": AdapterOptions(r=4)}, 4),
        ({"adapter": AdapterOptions(r=2)}, 2),
        ({"adapter": AdapterOptions.lora(0)}, 0),
    ):
        policy = build(folder, **options)
        ranks = {p.shape[0] for n, p in policy.trainable().items() if "lora_A" in n}
        assert ranks == ({trained} if trained else set())
        assert ("is merged" in policy.notes[0]) is (trained != 4)
    for lora_r, reason in ((0, "kind none"), (2, "r 2")):
        with pytest.raises(UserError, match=rf"rank 4 with adapter.{reason}; use --model.on-adapter merge"):
            check_pretrained(
                str(folder), PolicyOptions(adapter=AdapterOptions.lora(lora_r), on_adapter="continue"), Ids()
            )


@pytest.mark.parametrize(
    ("requested", "reason"),
    [
        ({"alpha": 64}, "adapter.alpha 64"),
        ({"targets": "q_proj"}, "adapter.targets q_proj"),
        ({"alpha": 64, "r": 4}, "adapter.alpha 64"),
    ],
)
def test_an_adapter_is_merged_if_a_named_kind_has_other_settings(requested, reason, tmp_path):
    write(tmp_path, "lora", LORA["lora"])
    policy = build(tmp_path / "adapter", adapter=AdapterOptions("lora", **requested))
    assert f"is merged into '{tmp_path / 'base'}', because it is LoRA of rank 4 with {reason}" in policy.notes[0]
    layers = {n.split(".lora_")[0].rpartition(".")[2] for n in policy.trainable()}
    assert layers == ({"q_proj"} if "targets" in requested else layers)
    assert policy.model.peft_config["default"].lora_alpha == requested.get("alpha", 16)
    same = AdapterOptions("lora", r=4, targets="v_proj, q_proj")
    assert "is trained on" in build(tmp_path / "adapter", adapter=same).notes[0]


def test_modules_that_train_as_a_whole_are_not_continued_in_bfloat16(tmp_path):
    write(tmp_path, "modules", LORA["modules"])
    assert build(tmp_path / "adapter", dtype="auto").compute_dtype == torch.float32
    with pytest.raises(UserError, match="float32 only"):
        build(tmp_path / "adapter", dtype="bfloat16", on_adapter="continue")
    merged = build(tmp_path / "adapter", dtype="bfloat16")
    assert "is merged" in merged.notes[0]
    check_policy(merged, peft_model(tmp_path / "adapter"), tolerance=0.15)


ADDED = {
    "frozen": {},
    "whole modules": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "whole embedding": {"modules_to_save": ["embed_tokens"]},
    "token rows": {"trainable_token_indices": [V, V + 1, V + 2, V + 3]},
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("case", ADDED)
def test_an_adapter_with_added_tokens_resizes_its_base(case, tied, tmp_path):
    torch.manual_seed(7)
    shape = {**SHAPE, "intermediate_size": 48, "tie_word_embeddings": tied}
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(V + 4, mean_resizing=False)
    settings = LoraConfig(r=4, target_modules=ATTENTION, task_type="CAUSAL_LM", **ADDED[case])
    model = get_peft_model(base, settings)
    perturb_all(model)
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    policy = build(tmp_path / "adapter", V + 4)
    assert policy.input_embeddings().shape[0] == V + 4
    assert (score(policy) - row_logprobs(model.eval())).abs().max() < 2e-5
    policy.save_pretrained(tmp_path / "policy")
    assert (row_logprobs(load_model(tmp_path / "policy")) - row_logprobs(model)).abs().max() < 2e-5
    check_policy(build(tmp_path / "policy" / "adapter", V + 4), model)


def load_model(folder: Path):
    return AutoModelForCausalLM.from_pretrained(folder)


def test_a_run_folder_that_was_moved_finds_its_base(tmp_path):
    policy = make_policy("tiny", tokenizer=Ids(), options=PolicyOptions(adapter=AdapterOptions.lora(4)))
    perturb(policy)
    policy.save_pretrained(tmp_path / "run" / "policy")
    expected = score(policy)
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert (score(build(tmp_path / "moved" / "policy" / "adapter")) - expected).abs().max() < 2e-5


def break_settings(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def break_weights(folder: Path, change) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    save_file(change(weights), path, {"format": "pt"})


REFUSED = {
    "another task": (lambda f: break_settings(f, task_type="SEQ_CLS"), "SEQ_CLS"),
    "no base": (lambda f: break_settings(f, base_model_name_or_path=None), "base_model_name_or_path"),
    "a base that is gone": (lambda f: break_settings(f, base_model_name_or_path="/gone/model"), "/gone/model"),
    "no weights": (lambda f: (f / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
    "an unknown kind": (lambda f: break_settings(f, peft_type="MAGIC"), "MAGIC"),
    "a rank that is no number": (lambda f: break_settings(f, r="four"), "expected a number for r"),
    "repeated layers": (lambda f: break_settings(f, layer_replication=[[0, 2], [0, 2]]), "layer_replication"),
    "an invocation": (lambda f: break_settings(f, alora_invocation_tokens=[5]), "alora_invocation_tokens"),
    "a cut configuration": (
        lambda f: (f / "adapter_config.json").write_text('{"r": '),
        "expected JSON in adapter_config.json",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_adapter_that_cannot_be_used_is_refused_before_weights_are_loaded(case, tmp_path):
    write(tmp_path, "lora", LORA["lora"])
    change, words = REFUSED[case]
    change(tmp_path / "adapter")
    with pytest.raises(UserError, match=words):
        check_pretrained(str(tmp_path / "adapter"), PolicyOptions(), Ids())


def test_an_adapter_with_an_encoder_of_prompts_is_refused(tmp_path):
    build_base("llama").save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    settings = PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=2, encoder_hidden_size=8)
    get_peft_model(base, settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="P_TUNING"):
        check_pretrained(str(tmp_path / "adapter"), PolicyOptions(), Ids())


def test_an_adapter_of_an_adapter_is_refused(tmp_path):
    write(tmp_path, "lora", LORA["lora"])
    shutil.copytree(tmp_path / "adapter", tmp_path / "second")
    break_settings(tmp_path / "second", base_model_name_or_path=str(tmp_path / "adapter"))
    with pytest.raises(UserError, match="expected a model as the base"):
        check_pretrained(str(tmp_path / "second"), PolicyOptions(), Ids())


WRONG_BASE = {
    "a missing tensor": lambda w: dict(list(w.items())[1:]),
    "a tensor too many": lambda w: w | {next(iter(w)).replace("layers.0", "layers.7"): next(iter(w.values())).clone()},
    "another shape": lambda w: {k: v[..., :-1].contiguous() if "lora_A" in k else v for k, v in w.items()},
}


@pytest.mark.parametrize("case", WRONG_BASE)
def test_an_adapter_of_another_base_is_refused(case, tmp_path):
    write(tmp_path, "lora", LORA["lora"])
    break_weights(tmp_path / "adapter", WRONG_BASE[case])
    with pytest.raises(UserError, match="is not an adapter of"):
        build(tmp_path / "adapter")


@pytest.mark.parametrize("use", ["continue", "merge"])
def test_an_adapter_that_is_not_finite_is_refused(use, tmp_path):
    write(tmp_path, "lora", LORA["lora"])
    break_weights(tmp_path / "adapter", lambda w: {k: v * torch.nan if "layers.1" in k else v for k, v in w.items()})
    with pytest.raises(UserError, match=rf"policy '{tmp_path}/adapter': expected finite .* in .*layers\.1\..*lora_A"):
        build(tmp_path / "adapter", on_adapter=use)


def test_the_tokenizer_is_the_adapters_own_or_its_bases(tmp_path):
    from rlalign.tokenizers import CharTokenizer

    alphabet = CharTokenizer("abcdefgh")
    policy = make_policy("tiny", tokenizer=alphabet, options=PolicyOptions(adapter=AdapterOptions.lora(2)))
    policy.save_pretrained(tmp_path / "policy")
    adapter = tmp_path / "policy" / "adapter"
    assert make_policy(str(adapter)).tokenizer.spec == alphabet.spec
    make_policy("tiny", tokenizer=alphabet).save_pretrained(tmp_path / "base")
    over_base = make_policy(
        str(tmp_path / "base"), options=PolicyOptions(adapter=AdapterOptions.lora(2), dtype="float32")
    )
    over_base.save_pretrained(tmp_path / "second")
    for file in ("policy.json", *TOKENIZER_FILES):
        (tmp_path / "second" / "adapter" / file).unlink(missing_ok=True)
    assert make_policy(str(tmp_path / "second" / "adapter")).tokenizer.spec == alphabet.spec


def test_an_unknown_use_is_refused():
    with pytest.raises(UserError, match=r"unknown on_adapter 'merged'. Did you mean 'merge'"):
        PolicyOptions(on_adapter="merged")
