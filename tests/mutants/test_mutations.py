"""The changes that are planted at random: each is valid Python, and texts and annotations are left alone."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.mutants.mutations import mutations
from tests.mutants.plant import ROOT

SOURCE = '''"""A text with 1 < 2."""
def f(x: int = 1, *, deep: bool = True) -> float:
    """Return 3 - 2."""
    if x <= 2 and deep:
        x += 1
        x.step()
    assert x > 0, "1 + 1"
    return torch.where(x, (x - 1).abs(), -x.sum(0)) + min(x, 0.5)
'''


def test_mutations_of_each_kind_and_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text(SOURCE)
    source = SOURCE.encode()
    changes = [m.describe(source).partition(": ")[2] for m in mutations(tmp_path, "f.py")]
    assert sorted(changes) == sorted(
        [
            "1 -> 2", "True -> False", "x <= 2 and deep -> not (x <= 2 and deep)", "<= -> <", "2 -> 3", "and -> or",
            "+= -> -=", "1 -> 2", "x.step() -> pass", "(x - 1).abs(), -x.sum(0) -> -x.sum(0), (x - 1).abs()",
            "- -> +", "1 -> 2", ".abs() -> (nothing)", "- -> (nothing)", "sum -> mean", "0 -> 1", "+ -> -",
            "min -> max", "0.5 -> 1.0",
        ]
    )  # fmt: skip


def test_each_mutation_of_a_source_file_is_valid_python() -> None:
    for file in ("rlalign/objective/trust.py", "policies/scoring/packing.py"):
        source = (ROOT / file).read_bytes()
        original = ast.dump(ast.parse(source))
        for mutation in mutations(ROOT, file):
            assert ast.dump(ast.parse(mutation.apply(source))) != original, mutation
