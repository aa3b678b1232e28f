"""Measure the pass over the data before the first step: 10,000 prompts of 100 tokens.

    python benchmarks/data_pass.py [--prompts 10000] [--tokens 100]

Prints processor seconds of this process, which another process on the machine does not change as it changes the clock,
and writes benchmarks/results/data_pass.json. `pass` is `checked_mdp` of a new run; `resume` is the same call in a
resumed run, which compares the digest; `read` is the file as a task source, `digest` a part of both calls.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, machine
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlalign.checks.data_pass import checked_mdp, data_digest
from rlalign.config.schema import TrainConfig
from rlalign.envs.registration import make_mdp
from rlalign.policies.factory import make_policy
from rlalign.tokenizers import ByteTokenizer, HFTokenizer

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
WORDS = [*range(1_000), *(f"word{i}" for i in range(200))]


def bpe() -> HFTokenizer:
    """Return a byte-level BPE tokenizer of transformers that has the words as tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2_000,
        special_tokens=["<eos>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator([" ".join(map(str, WORDS))] * 50, trainer)
    hf = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")
    hf.chat_template = TEMPLATE
    return HFTokenizer(hf)


def seconds(work: Callable[[], Any]) -> float:
    """Return processor seconds of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def rows(count: int, tokens: int, tokenizer: Any, *, chat: bool) -> list[dict[str, Any]]:
    """Return records whose prompts have `tokens` tokens, besides those of the template."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(count):
        text = " ".join(rng.choice(WORDS, tokens))
        text = tokenizer.decode(tokenizer.encode(text)[:tokens])
        records.append({"prompt": [{"role": "user", "content": text}] if chat else text, "answer": str(i)})
    return records


def measure(count: int, tokens: int, name: str) -> dict[str, float]:
    """Return processor seconds of the parts for one kind of prompts."""
    tokenizer = ByteTokenizer() if name == "bytes" else bpe()
    policy = make_policy("gru", tokenizer=tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.jsonl"
        records = rows(count, tokens, tokenizer, chat=name == "chat template")
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        made: list[Any] = []
        read = seconds(lambda: made.append(make_mdp(str(path), rewards="exact_match", tokenizer=tokenizer)))
        mdp = made[0]
        config = TrainConfig()
        return {
            "read": read,
            "digest": seconds(lambda: data_digest(config, mdp, None)),
            "pass": seconds(lambda: checked_mdp(config, mdp, policy, folder=Path(folder))),
            "resume": seconds(lambda: checked_mdp(replace(config, resume=True), mdp, policy, folder=Path(folder))),
            "longest": float(mdp.max_prompt),
        }


def main() -> None:
    """Measure and print all kinds of prompts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--output", type=Path, default=RESULTS / "data_pass.json")
    options = parser.parse_args()
    results = {name: measure(options.prompts, options.tokens, name) for name in ("bytes", "bpe", "chat template")}
    print(f"{options.prompts:,} prompts of about {options.tokens} tokens, processor seconds")
    print(f"{'':16}" + "".join(f"{part:>10}" for part in next(iter(results.values()))))
    for name, parts in results.items():
        print(f"{name:16}" + "".join(f"{value:10.2f}" for value in parts.values()))
    summary = {"machine": machine(), "prompts": options.prompts, "tokens": options.tokens, "seconds": results}
    options.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
