"""Write the tables of docs/speed.md that compare with others from benchmarks/results/{update,step,rollout}.json.

python benchmarks/speed_page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import RESULTS
from pages import fill
from shapes import LENGTHS, SIZES

PAGE = Path(__file__).resolve().parent.parent / "docs" / "speed.md"


def main() -> None:
    parts = {"kept": kept()}
    for name, (columns, line) in TABLES.items():
        lines = ["| size | dtype | lengths | " + " | ".join(columns) + " |", "|---" * (3 + len(columns)) + "|"]
        lines += [f"| {c['size']} | {c['dtype']} | {c['lengths']} | {line(c)} |" for c in cells(name)]
        parts[name] = "\n".join(lines)
    fill(PAGE, parts)


def kept() -> str:
    """The cells in which glibc kept freed memory for both, update and step together."""
    lines = ["| | size | dtype | lengths | ours s | TRL s (micro-batch) | TRL / ours | pairs |", "|---" * 8 + "|"]
    for name in ("update", "step"):
        for c in cells(name, "kept"):
            trl, told = f"{c['trl_s']:.2f} ({c['trl_micro_batch']})", ratio(c["ratio"], *c["ratio_range"])
            what = f"| {name} | {c['size']} | {c['dtype']} | {c['lengths']} "
            lines.append(f"{what}| {c['ours_s']:.2f} | {trl} | {told} | {len(c['runs']['ours'])} |")
    return "\n".join(lines)


def cells(name: str, memory: str = "as it comes") -> list[dict[str, Any]]:
    """The cells of a file that were measured on a CPU, by wall clock, in the order of the axes."""
    found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["cells"]
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
