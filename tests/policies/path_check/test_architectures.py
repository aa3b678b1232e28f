"""A dozen architectures of different kinds against plain rows of transformers and peft; benchmarks/ has all of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"

KINDS = {
    "llama": "packed rows, optimized decoder",
    "mistral": "sliding window",
    "cohere": "factor of the logits",
    "gemma2": "soft cap of the logits",
    "mixtral": "experts",
    "phimoe": "a router that is a linear layer by class",
    "deepseek_v2": "latent attention, complex rotations",
    "opt": "learned positions, dropout inside its layers",
    "mamba": "state space, with neither positions nor masks in decoding",
    "falcon_h1": "state space and attention in one cache, multiplied logits",
    "qwen3_next": "linear and full attention",
    "minimax": "lightning attention with a cache of its own",
    "rwkv": "a state that its library cannot continue",
    "llama4_text": "attention in chunks, a body under another name",
}


@pytest.fixture(scope="module")
def script() -> Any:
    """The script of benchmarks/, whose imports are relative to its folder."""
    sys.path.insert(0, str(BENCHMARKS))
    before = set(sys.modules)
    try:
        yield importlib.import_module("architectures")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if (BENCHMARKS / f"{name}.py").is_file():
                del sys.modules[name]


IN_HALF = ("llama", "falcon_h1")
"""Kinds that each run of the tests tries in bfloat16 too, without an adapter; .ci/slow tries all."""


@pytest.mark.parametrize(
    ("name", "dtype", "lora_r"),
    [(name, "float32", 4) for name in KINDS]
    + [pytest.param(name, "bfloat16", 0, marks=() if name in IN_HALF else (pytest.mark.slow,)) for name in KINDS],
)
def test_all_numbers_are_those_of_plain_rows(script: Any, name: str, dtype: str, lora_r: int) -> None:
    result = script.measure(name, dtype, lora_r)
    assert "refused" not in result, result
    assert script.is_right(result, dtype), result
    if dtype == "float32":
        assert result["sampled"]["largest"] < 1e-4
        assert result["scored"]["largest"] < 1e-4


@pytest.mark.parametrize(
    ("name", "reason"), [("xlnet", "a later token changes earlier logits"), ("xlm", "nats from plain rows")]
)
def test_a_model_without_a_right_path_is_refused_by_name(script: Any, name: str, reason: str) -> None:
    refusal = script.measure(name, "float32", 0)["refused"]
    assert reason in refusal
    assert "XL" in refusal
    assert "use another architecture" in refusal
