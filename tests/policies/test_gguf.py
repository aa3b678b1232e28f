"""Conversion of a GGUF file, run by transformers."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlalign.errors import UserError
from rlalign.policies.gguf import convert
from rlalign.tokenizers import HFTokenizer

BYTES = [chr(c) for c in [*range(33, 127), *range(161, 173), *range(174, 256)]] + [chr(256 + i) for i in range(68)]
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *BYTES, "he", "Ġhe"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
HEADS, KV_HEADS, WIDTH = 4, 2, 32


def rotated(weight, heads):
    """Return a weight in llama.cpp's order of rotary dimensions, as its converter writes it."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    lm = LlamaForCausalLM(config).eval()
    for parameter in lm.parameters():
        parameter.data = parameter.data.bfloat16().float()  # exact in the file and in the folder
    return lm


def write(path, model, arch="llama"):
    from gguf import GGUFWriter

    writer = GGUFWriter(path, arch)
    writer.add_block_count(2)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(48)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(1000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(["h e", "Ġ he"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, weight in model.state_dict().items():
        w = weight.float()
        if name.startswith("model.layers."):
            _, _, layer, part = name.removesuffix(".weight").split(".", 3)
            if part.endswith(("q_proj", "k_proj")):
                w = rotated(w, HEADS if "q_proj" in part else KV_HEADS)
            writer.add_tensor(f"blk.{layer}.{names[part]}.weight", w.numpy())
        elif name != "lm_head.weight":
            writer.add_tensor("token_embd.weight" if "embed" in name else "output_norm.weight", w.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_converted_model_has_the_logits_of_the_original(model, tmp_path):
    write(tmp_path / "m.gguf", model)
    convert(tmp_path / "m.gguf", tmp_path)
    assert AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto").dtype == torch.bfloat16
    converted = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ids = torch.tensor([[3, 40, 100, 7, 9]])
    with torch.no_grad():
        assert torch.equal(converted(ids).logits, model(ids).logits)
    assert (tmp_path / "model.safetensors").is_file()


def test_its_tokenizer_merges_splits_digits_and_has_special_tokens(model, tmp_path):
    write(tmp_path / "m.gguf", model)
    convert(tmp_path / "m.gguf", tmp_path)
    tokenizer = HFTokenizer(AutoTokenizer.from_pretrained(tmp_path), vocab_size=300)
    he, space_he = len(TOKENS) - 2, len(TOKENS) - 1
    assert tokenizer.encode("he he") == [he, space_he]
    assert len(tokenizer.encode("12")) == 2
    assert (tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (2, 2, 300)
    text = "he é\n 12"
    assert tokenizer.decode([*tokenizer.encode(text), 2, 299]) == text
    assert tokenizer.encode_prompt("he") == [he]
    assert tokenizer.encode_prompt("") == [1]
    assert tokenizer.encode_prompt([{"role": "user", "content": "he"}]) == [1, he, 2]


def test_other_architectures_raise_an_error(model, tmp_path):
    write(tmp_path / "m.gguf", model, arch="gpt2")
    with pytest.raises(UserError, match="gpt2"):
        convert(tmp_path / "m.gguf", tmp_path)
