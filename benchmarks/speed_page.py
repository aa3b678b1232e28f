"""Write the tables of docs/speed.md from benchmarks/results/.

python benchmarks/speed_page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from machine import RESULTS
from pages import fill
from shapes import LENGTHS, SIZES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"


def main() -> None:
    parts = {"kept": kept(), "profile": profile(), "memory": memory(), "scaling": scaling(), "env": env()}
    for name, (columns, line) in TABLES.items():
        lines = ["| size | dtype | lengths | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
        lines += [f"| {c['size']} | {c['dtype']} | {c['lengths']} | {line(c)} |" for c in cells(name)]
        parts[name] = "\n".join(lines)
    fill(PAGE, parts)


def read(name: str) -> dict[str, Any]:
    """A file of results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def table(heads: list[str], rows: Iterable[list[str]]) -> str:
    """Rows under their heads."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, ["---"] * len(heads), *rows])


def memory() -> str:
    """Peaks of the head and of the plain way."""
    heads = ["", "rows", "fused head", "log-softmax of whole logits", "share"]
    cells = read("memory")["cells"]
    peaks = [[f"{c[way]['mib']:,.0f} MiB" for way in ("fused", "log_softmax")] for c in cells]
    rows = [[c["dtype"], f"{c['rows']:,}", *peak, f"{c['share']:.2f}"] for c, peak in zip(cells, peaks, strict=True)]
    return table(heads, rows)


def scaling() -> str:
    """Microseconds per token at multiples of the base, by more rows and by longer ones."""
    lines = read("scaling")["lines"]
    each = {(c["what"], c["factor"]): c["us_per_token"] for c in lines}
    heads = ["times", "rollout, more rows", "gradient, more rows", "rollout, longer", "gradient, longer"]
    rows = [
        [str(n), *(f"{each[what, n][part]:.0f}" for what in ("samples", "tokens") for part in ("rollout", "gradient"))]
        for n in sorted({c["factor"] for c in lines})
    ]
    return table(heads, rows)


def env() -> str:
    """Microseconds per token of each way to step, in parentheses with the reset."""
    found = read("env")["microseconds_per_token"]
    names = ("step_tokens", "step", "SyncVectorEnv")
    heads = ["`step_tokens` (whole turns)", "`step` (a column of tokens)", "Gymnasium's `SyncVectorEnv`"]
    return table(heads, [[f"{found[n]['step']:.3g} ({found[n]['with_reset']:.3g})" for n in names]])


def kept() -> str:
    """The cells in which glibc kept freed memory for both, update and step together."""
    rows = [
        [name, c["size"], c["dtype"], c["lengths"], f"{c['ours_s']:.2f}", f"{c['trl_s']:.2f} ({c['trl_micro_batch']})",
         ratio(c["ratio"], *c["ratio_range"]), str(len(c["runs"]["ours"]))]
        for name in ("update", "step")
        for c in cells(name, "kept")
    ]  # fmt: skip
    return table(["", "size", "dtype", "lengths", "ours s", "TRL s (micro-batch)", "TRL / ours", "pairs"], rows)


def profile() -> str:
    """The shares of an update's time, a column for each cell."""
    found = read("profile_update")["cells"]
    heads = ["", *(f"{c['size']}, {c['dtype']}, {c['lengths']}" for c in found)]
    return table(heads, ([kind, *(f"{100 * c['shares'][kind]:.0f} %" for c in found)] for kind in found[0]["shares"]))


def cells(name: str, memory: str = "as it comes") -> list[dict[str, Any]]:
    """The cells of a file that were measured on a CPU, by wall clock, in the order of the axes."""
    found = read(name)["cells"]
    here = [c for c in found if c["device"] == "cpu" and c.get("clock", "wall") == "wall"]
    here = [c for c in here if c.get("memory", memory) == memory]
    return sorted(here, key=lambda c: (SIZES.index(c["size"]), c["dtype"] != "float32", LENGTHS.index(c["lengths"])))


def update(c: dict[str, Any]) -> str:
    """A line of the update's table."""
    trl = f"{c['trl_s']:.2f} ({c['trl_micro_batch']})"
    last = f"{len(c['runs']['ours'])} | {c['floor_s']:.2f} | {c['gradient_difference']:.0e}"
    return f"{c['ours_s']:.2f} | {trl} | {ratio(c['ratio'], *c['ratio_range'])} | {last}"


def step(c: dict[str, Any]) -> str:
    """A line of the step's table."""
    own = f"{c['ours_s']:.2f} ({c['ours_rollout_s']:.2f} + {c['ours_update_s']:.2f})"
    trl = f"{c['trl_s']:.2f} ({c['trl_micro_batch']})"
    return f"{own} | {trl} | {ratio(c['ratio'], *c['ratio_range'])} | {len(c['runs']['ours'])}"


def rollout(c: dict[str, Any]) -> str:
    """A line of the rollout's table."""
    pairs, speed = len(c["wall"]["seconds"]["rlalign"]), c["tokens_per_s"]
    told = f"{speed['rlalign']:,}, {speed['generate']:,}"
    return f"{told} | {ratio(*c['wall']['ratio'])} | {pairs}"


def ratio(middle: float, low: float, high: float) -> str:
    """Median and range."""
    return f"**{middle:.1f}** [{low:.1f}, {high:.1f}]"


TABLES: dict[str, tuple[list[str], Callable[[dict[str, Any]], str]]] = {
    "update": (["ours s", "TRL s (micro-batch)", "TRL / ours", "pairs", "floor s", "distance of gradients"], update),
    "step": (["ours s (rollout + update)", "TRL s (micro-batch)", "TRL / ours", "pairs"], step),
    "rollout": (["tokens/s ours, generate", "generate / ours", "pairs"], rollout),
}


if __name__ == "__main__":
    main()
