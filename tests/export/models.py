"""Tiny models of the four families of GGUF, with a byte-level BPE and a chat template, as folders of transformers."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXTS = ["The film was good, and 12 people liked it.", "She didn't like the ending.\n\nIt was 3 hours long!"] * 8
TEMPLATE = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES = ("llama", "qwen2", "qwen3", "gpt2")


def tokenizer(family: str, *, bos: bool = False) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with the pre-tokenizer of a family."""
    from tokenizers import Regex

    core = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if family == "llama":  # SmolLM's
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif family == "gpt2":
        core.pre_tokenizer = byte_level
    else:
        split = pre_tokenizers.Split(Regex(QWEN), "isolated")
        core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    names = ["<|eos|>", "<|start|>", "<|end|>", "<|bos|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(name, special=True, normalized=False) for name in names],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(TEXTS, trainer)
    special = {"eos_token": "<|end|>", "pad_token": "<|eos|>"}
    template = TEMPLATE
    if bos:
        from tokenizers.processors import TemplateProcessing

        special["bos_token"] = "<|bos|>"
        core.post_processor = TemplateProcessing("<|bos|> $A", special_tokens=[("<|bos|>", 3)])
        template = "{{ bos_token }}" + TEMPLATE
    return PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **special)


def model(family: str, rows: int = 330, *, tied: bool = True, deviation: float = 0.2):
    """Build a model with random weights. Biases and norms are random too, so that a tensor left out changes it."""
    torch.manual_seed(0)
    common = {"vocab_size": rows, "tie_word_embeddings": tied, "bos_token_id": None, "eos_token_id": 2}
    rotary = {
        **common,
        **SHAPE,
        "num_key_value_heads": 2,
        "initializer_range": deviation,
        "max_position_embeddings": 256,
    }
    if family == "llama":
        lm = LlamaForCausalLM(LlamaConfig(**rotary))
    elif family == "qwen2":
        lm = Qwen2ForCausalLM(Qwen2Config(**rotary))
    elif family == "qwen3":
        lm = Qwen3ForCausalLM(Qwen3Config(**rotary, head_dim=32))
    else:
        shape = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": deviation}
        lm = GPT2LMHeadModel(GPT2Config(**common, **shape))
    with torch.no_grad():
        for parameter in lm.parameters():
            if parameter.dim() == 1:
                parameter.add_(1.5 * deviation * torch.randn_like(parameter))
    return lm.eval()


def save(
    folder: Path, family: str, *, tied: bool = True, bos: bool = False, dtype=torch.float32, deviation: float = 0.2
) -> Path:
    """Write a model and its tokenizer; return the folder."""
    model(family, tied=tied, deviation=deviation).to(dtype).save_pretrained(folder)
    tokenizer(family, bos=bos).save_pretrained(folder)
    return folder
