"""Tiny models with a word tokenizer for the tests of reward models: built in a moment, without a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from rlalign.envs.builtin.reward_hacking.preference import _MAX_NOTE, _OPENINGS, _TOPICS, _VOCABULARY, gold_of

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Ends in a newline, as the template of SmolLM2, Qwen and many others."""


def write_tokenizer(folder: Path, *, pad_is_eos: bool = True, template: str | None = None) -> None:
    """Write a byte-level tokenizer whose EOS token is <|im_end|>."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {word for text in (*_OPENINGS, *_TOPICS, *_VOCABULARY) for word in text.split()}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|im_end|>", "<|im_start|>", "<pad>"]
    vocabulary = {token: i for i, token in enumerate([*specials, *alphabet])}
    merges = []
    for word in sorted(words):  # each word with its space is one token after a few merges
        token = "\u0120"
        for char in word:
            if token + char not in vocabulary:
                vocabulary[token + char] = len(vocabulary)
                merges.append((token, char))
            token += char
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    pad = "<|im_end|>" if pad_is_eos else "<pad>"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token=pad)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    if template:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(str(folder))


def write_model(
    folder: Path, *, pad_is_eos: bool = True, template: str | None = None, dtype: str = "float32", seed: int = 0
) -> Path:
    """Write a causal Llama of about 60,000 random weights with its tokenizer, and return the folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, pad_is_eos=pad_is_eos, template=template)
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(getattr(torch, dtype)).save_pretrained(str(folder))
    return folder


def notes(number: int, seed: int = 0, *, chat: bool = False, flips: float = 0.0) -> list[dict[str, object]]:
    """Return rows of preferences of the gold reward of Preference-v0 between two random notes of different value."""
    rng = np.random.default_rng(seed)
    prompts = [f"{opening} {topic}:" for opening in _OPENINGS for topic in _TOPICS]
    rows: list[dict[str, object]] = []
    while len(rows) < number:
        pair = [[str(w) for w in rng.choice(_VOCABULARY, size=rng.integers(1, _MAX_NOTE + 1))] for _ in range(2)]
        gold = [gold_of(note) for note in pair]
        if gold[0] == gold[1]:
            continue
        best = int(gold[1] > gold[0]) ^ int(rng.random() < flips)
        chosen, rejected = " " + " ".join(pair[best]), " " + " ".join(pair[1 - best])
        prompt: object = str(rng.choice(prompts))
        row = {"prompt": prompt, "chosen": chosen, "rejected": rejected, "annotator": f"p{len(rows) % 3}"}
        if chat:
            row["prompt"] = [{"role": "user", "content": prompt}]
            for side in ("chosen", "rejected"):
                row[side] = [{"role": "assistant", "content": str(row[side]).strip()}]
        rows.append(row)
    return rows


def write_rows(path: Path, rows: list[dict[str, object]]) -> Path:
    """Write rows as JSON lines, and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
