"""Kinds of adapters × dtypes × families × bases: a pairwise sample; `.ci/slow` and benchmarks/adapters.py try all."""

from __future__ import annotations

import importlib
import itertools
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
KINDS = ("lora", "rslora", "dora", "adalora", "ia3", "prefix", "prompt")
OTHERS = (("float32", "bfloat16"), ("llama", "qwen2", "gpt2"), ("none", "nf4", "int8"))
PAIRWISE = {
    ("lora", "float32", "gpt2", "nf4"),
    ("rslora", "bfloat16", "qwen2", "int8"),
    ("dora", "bfloat16", "llama", "nf4"),
    ("dora", "float32", "llama", "none"),
    ("adalora", "bfloat16", "gpt2", "int8"),
    ("ia3", "float32", "llama", "int8"),
    ("prefix", "bfloat16", "gpt2", "none"),
    ("prefix", "float32", "qwen2", "nf4"),
    ("prompt", "bfloat16", "llama", "int8"),
    ("prompt", "float32", "qwen2", "none"),
}
"""Each kind with both dtypes or two families, and each pair of dtype, family and base at least once."""


@pytest.fixture(scope="module")
def script() -> Any:
    """The script of benchmarks/, whose imports are relative to its folder."""
    pytest.importorskip("bitsandbytes")
    sys.path.insert(0, str(BENCHMARKS))
    before = set(sys.modules)
    try:
        yield importlib.import_module("adapters")
    finally:
        sys.path.remove(str(BENCHMARKS))
        for name in set(sys.modules) - before:
            if (BENCHMARKS / f"{name}.py").is_file():
                del sys.modules[name]


def test_the_sample_has_each_pair_of_dtype_family_and_base() -> None:
    for first, second in itertools.combinations(range(3), 2):
        pairs = set(itertools.product(OTHERS[first], OTHERS[second]))
        assert {(cell[first + 1], cell[second + 1]) for cell in PAIRWISE} == pairs
    assert {cell[0] for cell in PAIRWISE} == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "dtype", "family", "base"),
    [
        pytest.param(*cell, marks=() if cell in PAIRWISE else (pytest.mark.slow,))
        for cell in itertools.product(KINDS, *OTHERS)
    ],
)
def test_all_that_must_be_equal_is(script: Any, kind: str, dtype: str, family: str, base: str) -> None:
    result = script.measure(family, kind, dtype, base)
    assert not script.faults(result), result
