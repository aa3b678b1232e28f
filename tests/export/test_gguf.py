"""GGUF files of the four families: llama.cpp itself gives the log-probs and the tokens of transformers."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, MistralConfig

from rlalign.errors import FaultError, UserError
from rlalign.export.engine import Engine
from rlalign.export.export_run import write_form
from rlalign.export.fidelity import Probe, model_logprobs
from rlalign.export.forms import FORMS, check_form, find_form
from rlalign.export.gguf_families import find_family, interleave_rotary
from rlalign.export.gguf_tokenizer import gguf_tokenizer
from rlalign.export.prompt_check import check_text
from rlalign.export.transformers_engine import TransformersEngine
from rlalign.policies.export_tokenizer import as_transformers
from rlalign.policies.gguf import _unrotate
from rlalign.policies.logits import process
from rlalign.tokenizers import ByteTokenizer, CharTokenizer, HFTokenizer
from rlalign.types import Sampling
from tests.export.models import FAMILIES, TEXTS, save, tokenizer

pytest.importorskip("xllamacpp")
SLOW = pytest.mark.slow


def probe(folder):
    tok = AutoTokenizer.from_pretrained(folder)
    rows = [tok(text)["input_ids"][:20] for text in TEXTS[:2]]
    positions = [[0, 5, len(row) - 1] for row in rows]
    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return Probe(rows, positions, model_logprobs(lm, rows, positions))


def distance(folder, form, tmp_path):
    target = tmp_path / form.name
    target.mkdir()
    path = write_form(folder, target, form, name="m")
    expected = probe(folder)
    with Engine(path, form.loader, dtype="auto", context=64) as engine:
        return expected.compare(engine.logprobs(expected.rows, expected.positions))


@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_gives_the_log_probs_of_transformers(family, tmp_path):
    folder = save(tmp_path / "model", family, tied=family != "qwen2")
    form = find_form("gguf", "f32")
    found = distance(folder, form, tmp_path)
    assert found.excess(form) == ""
    assert found.nats < 3e-3
    assert found.agreement == 1


@pytest.mark.parametrize(
    "quantize", ["bf16", "q8_0", "q5_0", "q4_0", *(pytest.param(t, marks=SLOW) for t in ("f16", "q5_1", "q4_1"))]
)
def test_each_type_is_within_its_bound(quantize, tmp_path):
    form = find_form("gguf", quantize)
    found = distance(save(tmp_path / "model", "llama"), form, tmp_path)
    assert found.kl > 0  # some rounding, so this is another file than that of f32
    assert found.kl < 4 * form.kl_bound  # the layers of this model are far more random than trained ones


def test_the_scaled_positions_of_llama_3_are_written(tmp_path):
    folder = save(tmp_path / "model", "llama")
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig.from_pretrained(folder)
    config.rope_parameters = {**rope, "original_max_position_embeddings": 32}
    torch.manual_seed(1)
    LlamaForCausalLM(config).save_pretrained(folder)
    assert distance(folder, find_form("gguf", "f32"), tmp_path).nats < 1e-3


@pytest.mark.parametrize(
    ("family", "bos"),
    [
        ("llama", True),
        ("qwen2", False),
        ("gpt2", False),
        *(pytest.param(*case, marks=SLOW) for case in (("llama", False), ("qwen2", True), ("gpt2", True))),
    ],
)
def test_llama_cpp_reads_the_ids_of_the_policy(family, bos, tmp_path):
    folder = save(tmp_path / "model", family, bos=bos)
    path = write_form(folder, tmp_path, find_form("gguf", "f16"), name="m")
    tok = HFTokenizer(folder)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "It's 12 o'clock\n\n  now"}]
    prompts = [*TEXTS[:2], "  two blanks", "12345", "naïve 好", chat]
    with Engine(path, "llama.cpp", context=128) as engine:
        assert check_text(engine, tok, prompts) == {"texts": 5, "chats": 1}
        ids = tok.encode_prompt(chat)
        assert ids.count(3) == int(bos)  # BOS once
        with pytest.raises(FaultError, match="ids of"):
            check_text(engine, HFTokenizer(tokenizer("gpt2" if family != "gpt2" else "llama", bos=not bos)), prompts)


def test_messages_for_a_policy_without_a_template_are_one_text(tmp_path):
    folder = save(tmp_path / "model", "llama")
    as_transformers(ByteTokenizer()).save_pretrained(folder)
    path = write_form(folder, tmp_path, find_form("gguf", "f16"), name="m")
    chat = [{"role": "user", "content": "naïve"}]
    with Engine(path, "llama.cpp", context=128) as engine:
        assert check_text(engine, ByteTokenizer(), [chat, "a", ""]) == {"texts": 2, "chats": 0}


def test_a_changed_tokenizer_of_a_transformers_folder_is_found(tmp_path):
    folder = save(tmp_path / "model", "llama")
    policy = HFTokenizer(folder)
    chat = [{"role": "user", "content": "It's 12 o'clock"}]

    class InThisProcess:
        loader = "transformers"
        text = TransformersEngine(str(folder), None, "float32").text

    assert check_text(InThisProcess(), policy, [*TEXTS[:2], chat]) == {"texts": 2, "chats": 1}
    continued = [*chat, {"role": "assistant", "content": "It is"}]
    assert check_text(InThisProcess(), policy, [continued]) == {"texts": 0, "chats": 1}
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    with pytest.raises(FaultError, match=r"from transformers, got .*tokenizer's files in policy/"):
        check_text(InThisProcess(), policy, [chat])
    tokenizer("gpt2", bos=True).save_pretrained(folder)
    with pytest.raises(FaultError, match=r"ids of 'The film .* from transformers"):
        check_text(InThisProcess(), policy, TEXTS[:2])


def test_eos_ends_a_completion_and_has_a_log_prob(tmp_path):
    folder = save(tmp_path / "model", "llama")
    lm = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        lm.model.embed_tokens.weight[2] *= 3.0  # a tied head: EOS becomes likely
    lm.save_pretrained(folder)
    path = write_form(folder, tmp_path, find_form("gguf", "f32"), name="m")
    rows = [[5, 6, 7], [9, 8]] * 8
    with Engine(path, "llama.cpp", context=64, parallel=4) as engine:
        tokens, logprobs = engine.sample(
            rows, max_new=[12] * 16, stop_ids=[2], temperature=1.0, top_k=0, top_p=1.0, greedy=False, seed=3
        )
    assert any(row[-1] == 2 for row in tokens)
    assert any(row[-1] != 2 for row in tokens)
    for context, row, values in zip(rows, tokens, logprobs, strict=True):
        expected = model_logprobs(lm, [[*context, *row]], [list(range(len(context) - 1, len(context) + len(row) - 1))])
        assert 2 not in row[:-1]
        assert len(row) == len(values)
        assert np.allclose(expected[np.arange(len(row)), row], values, atol=1e-3)


@pytest.mark.parametrize("engine", ["llama.cpp", pytest.param("transformers", marks=SLOW)])
def test_both_engines_sample_from_the_distribution_of_the_run(engine, tmp_path):
    folder = save(tmp_path / "model", "llama")
    lm = AutoModelForCausalLM.from_pretrained(folder)
    sampling = {"temperature": 0.7, "top_k": 6, "top_p": 0.8}
    rows = [[40, 50, 60], [70, 71]] * 4
    with torch.no_grad():  # with a tied head and top_k, special tokens and parts of characters are not drawn
        lm.model.embed_tokens.weight[:4] = 0
        lm.model.embed_tokens.weight[98:260] = 0
    lm.save_pretrained(folder)
    path = write_form(folder, tmp_path, find_form("gguf", "f32"), name="m") if engine == "llama.cpp" else folder
    with Engine(path, engine, context=64, parallel=4) as loaded:
        tokens, logprobs = loaded.sample(rows, max_new=[3] * 8, stop_ids=[2], greedy=False, seed=3, **sampling)
    for context, row, values in zip(rows, tokens, logprobs, strict=True):
        positions = list(range(len(context) - 1, len(context) + len(row) - 1))
        raw = torch.from_numpy(model_logprobs(lm, [[*context, *row]], [positions]))
        expected = process(raw, Sampling(**sampling)).log_softmax(-1)[torch.arange(len(row)), torch.tensor(row)]
        assert torch.allclose(expected, torch.tensor(values), atol=2e-3)


def test_parts_of_characters_have_log_probs_in_every_sampling(tmp_path):
    folder = save(tmp_path / "model", "llama")
    lm = AutoModelForCausalLM.from_pretrained(folder)
    sampling = {"temperature": 2.0, "top_k": 100, "top_p": 0.95}
    rows = [[40, 50, 60], [70, 71]] * 4
    path = write_form(folder, tmp_path, find_form("gguf", "f32"), name="m")
    with Engine(path, "llama.cpp", context=64, parallel=4) as loaded:
        tokens, logprobs = loaded.sample(rows, max_new=[4] * 8, stop_ids=[2], greedy=False, seed=3, **sampling)
    parts = [
        token for row in tokens for token in row if "\ufffd" in AutoTokenizer.from_pretrained(folder).decode([token])
    ]
    assert parts  # llama.cpp gives no log-prob of these
    for context, row, values in zip(rows, tokens, logprobs, strict=True):
        positions = list(range(len(context) - 1, len(context) + len(row) - 1))
        raw = torch.from_numpy(model_logprobs(lm, [[*context, *row]], [positions]))
        expected = process(raw, Sampling(**sampling)).log_softmax(-1)[torch.arange(len(row)), torch.tensor(row)]
        assert torch.allclose(expected, torch.tensor(values), atol=5e-3)


def test_the_order_of_rotary_dimensions_is_the_inverse_of_the_reader():
    weight = torch.randn(48, 5)
    assert torch.equal(_unrotate(interleave_rotary(weight, 3), 3), weight)


def test_other_families_and_settings_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"expected a model of gpt2, llama, qwen2, qwen3, got mistral.*convert_hf_to"):
        find_family(MistralConfig())
    with pytest.raises(UserError, match="mistral"):
        check_form(find_form("gguf", ""), "mistral")
    config = LlamaConfig()
    config.rope_parameters = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(UserError, match="rope_type yarn"):
        find_family(config)
    with pytest.raises(UserError, match=r"one of f32, f16.* got 'int8'"):
        find_form("gguf", "int8")
    assert len({form.name for form in FORMS}) == len(FORMS)


def test_a_pre_tokenizer_that_llama_cpp_does_not_have_is_refused():
    from tokenizers import pre_tokenizers

    other = tokenizer("gpt2")
    other.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    with pytest.raises(UserError, match="the pre-tokenizer ByteLevel"):
        gguf_tokenizer(other, 330, {})


def test_settings_that_llama_cpp_ignores_are_refused():
    from tokenizers import AddedToken, normalizers

    other = tokenizer("qwen2")
    other.backend_tokenizer.normalizer = normalizers.NFC()  # of Qwen itself
    assert gguf_tokenizer(other, 330, {}).pre == "qwen2"
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    with pytest.raises(UserError, match="the normalizer Lowercase"):
        gguf_tokenizer(other, 330, {})
    other = tokenizer("qwen2")
    other.backend_tokenizer.model.ignore_merges = True
    with pytest.raises(UserError, match="ignore_merges with the pre-tokenizer qwen2"):
        gguf_tokenizer(other, 330, {})
    other = tokenizer("gpt2")
    other.add_tokens([AddedToken("<mask>", lstrip=True)])
    with pytest.raises(UserError, match=r"the token '<mask>', which takes blanks"):
        gguf_tokenizer(other, 330, {})
    other = tokenizer("gpt2")
    other.eos_token = None
    with pytest.raises(UserError, match="no token that ends a text"):
        gguf_tokenizer(other, 330, {})


def test_an_alphabet_without_any_letter_is_written(tmp_path):
    digits = gguf_tokenizer(as_transformers(CharTokenizer("0123456789")), 12, {})
    assert not digits.add_bos
    assert set("0123456789") < set(digits.tokens)
