"""A tiny model whose tokenizer splits at blanks and has a chat template, and preferences for it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|> ' + m.content + ' <|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
MARKED_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m.role + '|> ' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + ' <|end|>' }}{% endgeneration %}{% else %}{{ m.content + ' <|end|>' }}{% endif %}"
    "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|> ' }}{% endif %}"
)
"""The same template, with the marks from which TRL learns which tokens are the assistant's."""


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def word_model(folder: Path, template: str = TEMPLATE) -> Path:
    """Write a model whose tokenizer splits at blanks and has a chat template that writes a line break after its end."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<eos>", "<|end|>", "<|user|>", "<|assistant|>", *"abcdef", "<unk>"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(words[:4])
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<unk>", chat_template=template
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, eos_token_id=0, pad_token_id=None, tie_word_embeddings=False, max_position_embeddings=64,
    )  # fmt: skip
    lm = LlamaForCausalLM(config)
    lm.generation_config.eos_token_id = [0, 1]
    lm.save_pretrained(folder)
    return folder


def words(rng: random.Random, alphabet: str, length: int) -> str:
    """Return words of an alphabet."""
    return " ".join(rng.choices(alphabet, k=length))


def preference_rows(chat: bool, count: int = 24) -> list[dict[str, Any]]:
    """Return preferences over words, each sixth one held out."""
    rng = random.Random(1)
    rows = []
    for i in range(count):
        prompt = words(rng, "abc", 1 + i % 4)
        chosen, rejected = (words(rng, "abcdef", rng.randint(1, 5)) for _ in range(2))
        if chat:
            message = {"role": "user", "content": prompt}
            sides = ([{"role": "assistant", "content": side}] for side in (chosen, rejected))
            rows.append({"prompt": [message], **dict(zip(("chosen", "rejected"), sides, strict=True))})
        else:
            rows.append({"prompt": prompt, "chosen": f" {chosen}", "rejected": f" {rejected}"})
    return [{**row, "split": "test" if i % 6 == 5 else "train"} for i, row in enumerate(rows)]


def label_rows(count: int = 24) -> list[dict[str, Any]]:
    """Return labeled completions of words, each sixth one held out."""
    rng = random.Random(2)
    return [
        {
            "prompt": words(rng, "abc", 1 + i % 4),
            "completion": f" {words(rng, 'abcdef', rng.randint(1, 5))}",
            "label": rng.random() < 0.6,
            "split": "test" if i % 6 == 5 else "train",
        }
        for i in range(count)
    ]


def chat_rows(count: int = 24) -> list[dict[str, Any]]:
    """Return conversations of one to three turns, each sixth one held out."""
    rng = random.Random(3)
    rows = []
    for i in range(count):
        turns = [
            {"role": role, "content": words(rng, "abcdef", rng.randint(1, 4))}
            for _ in range(1 + i % 3)
            for role in ("user", "assistant")
        ]
        rows.append({"messages": turns, "split": "test" if i % 6 == 5 else "train"})
    return rows


def environment(folder: Path) -> Path:
    """Write prompts of words, which no other file has."""
    prompts = [{"prompt": p, "split": split} for split in ("train", "validation", "test") for p in ("d e", "f d", "e")]
    return write(folder / "env.jsonl", prompts)
