"""Write the tables of docs/speed.md from benchmarks/results/.

python benchmarks/speed_page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import RESULTS
from pages import fill, table
from shapes import LENGTHS, SIZES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"
AXES = ("size", "dtype", "lengths")
AGAINST = ("TRL s (micro-batch)", "TRL / ours", "pairs")


def main() -> None:
    parts = {"kept": kept(), "profile": profile(), "memory": memory(), "scaling": scaling(), "env": env()}
    for name, (columns, line) in TABLES.items():
        parts[name] = table([*AXES, *columns], ([*(c[a] for a in AXES), *line(c)] for c in cells(name)))
    fill(PAGE, parts)


def read(name: str) -> dict[str, Any]:
    """A file of results."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


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
        [name, *(c[a] for a in AXES), f"{c['ours_s']:.2f}", *against(c)]
        for name in ("update", "step")
        for c in cells(name, "kept")
    ]
    return table(["", *AXES, "ours s", *AGAINST], rows)


def profile() -> str:
    """The shares of an update's time, a column for each cell."""
    found = read("profile_update")["cells"]
    heads = ["", *(f"{c['size']}, {c['dtype']}, {c['lengths']}" for c in found)]
    return table(heads, ([kind, *(f"{100 * c['shares'][kind]:.0f} %" for c in found)] for kind in found[0]["shares"]))


def cells(name: str, malloc: str = "as it comes") -> list[dict[str, Any]]:
    """The cells of a file that were measured on a CPU, by wall clock, in the order of the axes."""
    found = read(name)["cells"]
    here = [c for c in found if c["device"] == "cpu" and c.get("clock", "wall") == "wall"]
    here = [c for c in here if c.get("memory", malloc) == malloc]
    return sorted(here, key=lambda c: (SIZES.index(c["size"]), c["dtype"] != "float32", LENGTHS.index(c["lengths"])))


def update(c: dict[str, Any]) -> list[str]:
    """What the update's table says of a cell."""
    return [f"{c['ours_s']:.2f}", *against(c), f"{c['floor_s']:.2f}", f"{c['gradient_difference']:.0e}"]


def step(c: dict[str, Any]) -> list[str]:
    """What the step's table says of a cell."""
    return [f"{c['ours_s']:.2f} ({c['ours_rollout_s']:.2f} + {c['ours_update_s']:.2f})", *against(c)]


def rollout(c: dict[str, Any]) -> list[str]:
    """What the rollout's table says of a cell."""
    speed, wall = c["tokens_per_s"], c["wall"]
    told = f"{speed['rlalign']:,}, {speed['generate']:,}"
    return [told, ratio(*wall["ratio"]), str(len(wall["seconds"]["rlalign"]))]


def against(c: dict[str, Any]) -> list[str]:
    """TRL's seconds, their ratio to ours and the number of pairs: what stands under `AGAINST`."""
    trl = f"{c['trl_s']:.2f} ({c['trl_micro_batch']})"
    return [trl, ratio(c["ratio"], *c["ratio_range"]), str(len(c["runs"]["ours"]))]


def ratio(middle: float, low: float, high: float) -> str:
    """Median and range."""
    return f"**{middle:.1f}** [{low:.1f}, {high:.1f}]"


TABLES: dict[str, tuple[list[str], Callable[[dict[str, Any]], list[str]]]] = {
    "update": (["ours s", *AGAINST, "floor s", "distance of gradients"], update),
    "step": (["ours s (rollout + update)", *AGAINST], step),
    "rollout": (["tokens/s ours, generate", "generate / ours", "pairs"], rollout),
}


if __name__ == "__main__":
    main()
