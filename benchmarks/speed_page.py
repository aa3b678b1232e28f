"""Tables of docs/speed.md from benchmarks/results/.

python benchmarks/speed_page.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from machine import RESULTS, described
from pages import DOCS, Parts, fill, table
from shapes import LENGTHS, SIZES

KINDS = {
    "layers' products": "matrix products of the layers",
    "head's products": "matrix products of the head",
    "attention's products": "matrix products of attention",
    "element by element": "elementwise operations",
}
"""Names on the page of the kinds of operations in profile_update.json."""
AXES = ("size", "dtype", "lengths")
TRL_COLUMNS = ("TRL s (micro-batch)", "TRL / ours", "pairs")


def parts() -> Parts:
    """Return the tables of the page."""
    texts = {"kept": kept(), "profile": profile(), "memory": memory(), "scaling": scaling(), "env": env()}
    texts |= {"recorded": recorded(), "recorded_machine": f"Machine: {described(read('recorded_step')['machine'])}."}
    texts |= {"machine": machines(), "ranges": ranges("as it comes"), "kept_ranges": ranges("kept")}
    for name, (columns, line) in TABLES.items():
        texts[name] = table([*AXES, *columns], ([*(c[a] for a in AXES), *line(c)] for c in cells(name)))
    return {DOCS / "speed.md": texts}


def read(name: str) -> dict[str, Any]:
    """Return a file of results."""
    results: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return results


def machines() -> str:
    """Return the machine of the tables."""
    names = ("update", "step", "profile_update", "rollout", "memory", "scaling", "env")
    texts = {name: described(read(name)["machine"]) for name in names}
    (common,) = {text for name, text in texts.items() if name != "scaling"}
    return f"Machine: {common}; the table of scaling: {texts['scaling']}."


def ranges(malloc: str) -> str:
    """Return the least and the largest ratio of the tables of update and step, by lengths."""
    parts = []
    for name in ("update", "step"):
        for lengths in LENGTHS:
            ratios = [c["ratio"] for c in cells(name, malloc) if c["lengths"] == lengths]
            parts.append(f"{min(ratios):.1f} to {max(ratios):.1f} times as fast at {lengths} lengths")
    update_texts, step_texts = parts[:2], parts[2:]
    return f"The update is {' and '.join(update_texts)}. The step is {' and '.join(step_texts)}."


def memory() -> str:
    """Return the table of peak memory of the fused head and of log-softmax."""
    heads = ["", "rows", "fused head", "log-softmax of all logits", "share"]
    cells = read("memory")["cells"]
    peaks = [[f"{c[variant]['mib']:,.0f} MiB" for variant in ("fused", "log_softmax")] for c in cells]
    rows = [[c["dtype"], f"{c['rows']:,}", *peak, f"{c['share']:.2f}"] for c, peak in zip(cells, peaks, strict=True)]
    return table(heads, rows)


def scaling() -> str:
    """Return the table of microseconds per token at multiples of the base: more rows, and longer rows."""
    lines = read("scaling")["lines"]
    per_token = {(c["what"], c["factor"]): c["us_per_token"] for c in lines}
    heads = ["times", "rollout, more rows", "gradient, more rows", "rollout, longer", "gradient, longer"]
    columns = [("samples", "rollout"), ("samples", "gradient"), ("tokens", "rollout"), ("tokens", "gradient")]

    def row(n: int) -> list[str]:
        return [str(n), *(f"{per_token[what, n][part]:.0f}" for what, part in columns)]

    return table(heads, map(row, sorted({c["factor"] for c in lines})))


def env() -> str:
    """Return the table of microseconds per token of each method to step, in parentheses with the reset."""
    costs = read("env")["microseconds_per_token"]
    names = ("step_tokens", "step", "SyncVectorEnv")
    heads = ["`step_tokens` (whole turns)", "`step` (a column of tokens)", "Gymnasium's `SyncVectorEnv`"]
    return table(heads, [[f"{costs[n]['step']:.3g} ({costs[n]['with_reset']:.3g})" for n in names]])


def kept() -> str:
    """Return the table of the cells in which glibc kept freed memory for both sides, of update and step."""
    rows = []
    for name in ("update", "step"):
        rows += [[name, *(c[a] for a in AXES), f"{c['ours_s']:.2f}", *trl_columns(c)] for c in cells(name, "kept")]
    return table(["", *AXES, "ours s", *TRL_COLUMNS], rows)


def recorded() -> str:
    """Return the table of steps on recorded data: SFT and DPO beside TRL's trainers."""
    heads = ["", "size", "lengths", "ours s", "TRL s (micro-batch)", "TRL / ours", "ours MiB", "TRL MiB"]
    kinds = ("sft", "dpo")
    measured = sorted(cells("recorded_step"), key=lambda c: kinds.index(c["kind"]))
    return table(heads, [
        [c["kind"], c["size"], c["lengths"], f"{c['ours_s']:.2f}", f"{c['trl_s']:.2f} ({c['trl_micro_batch']})",
         ratio(c["ratio"], *c["ratio_range"]), f"{c['ours_mib']:,}", f"{c['trl_mib']:,}"]
        for c in measured
    ])  # fmt: skip


def profile() -> str:
    """Return the table of the shares of an update's time, one column per cell."""
    profiles = read("profile_update")["cells"]
    heads = ["", *(f"{c['size']}, {c['dtype']}, {c['lengths']}" for c in profiles)]

    def row(kind: str) -> list[str]:
        return [KINDS.get(kind, kind), *(f"{100 * c['shares'][kind]:.0f} %" for c in profiles)]

    return table(heads, map(row, profiles[0]["shares"]))


def cells(name: str, malloc: str = "as it comes") -> list[dict[str, Any]]:
    """Return the cells of a file that were measured on a CPU by wall clock, in the order of the axes."""
    measured = read(name)["cells"]
    selected = [c for c in measured if c["device"] == "cpu" and c.get("clock", "wall") == "wall"]
    selected = [c for c in selected if c.get("memory", malloc) == malloc]
    return sorted(
        selected, key=lambda c: (SIZES.index(c["size"]), c["dtype"] != "float32", LENGTHS.index(c["lengths"]))
    )


def update(c: dict[str, Any]) -> list[str]:
    """Return the columns of a cell in the table of the update."""
    above_floor = f"{c['ours_s'] / c['floor_s']:.1f}"
    return [f"{c['ours_s']:.2f}", *trl_columns(c), above_floor, f"{c['gradient_difference']:.0e}"]


def step(c: dict[str, Any]) -> list[str]:
    """Return the columns of a cell in the table of the step."""
    return [f"{c['ours_s']:.2f} ({c['ours_rollout_s']:.2f} + {c['ours_update_s']:.2f})", *trl_columns(c)]


def rollout(c: dict[str, Any]) -> list[str]:
    """Return the columns of a cell in the table of the rollout."""
    speed = c["tokens_per_s"]
    wall = c["wall"]
    speeds = f"{speed['rlalign']:,}, {speed['generate']:,}"
    return [speeds, ratio(*wall["ratio"]), str(len(wall["seconds"]["rlalign"]))]


def trl_columns(c: dict[str, Any]) -> list[str]:
    """Return the columns `TRL_COLUMNS` of a cell."""
    trl = f"{c['trl_s']:.2f} ({c['trl_micro_batch']})"
    return [trl, ratio(c["ratio"], *c["ratio_range"]), str(len(c["runs"]["ours"]))]


def ratio(middle: float, low: float, high: float) -> str:
    """Return median and range as text."""
    return f"**{middle:.1f}** [{low:.1f},\u00a0{high:.1f}]"


TABLES: dict[str, tuple[list[str], Callable[[dict[str, Any]], list[str]]]] = {
    "update": (["ours s", *TRL_COLUMNS, "ours / floor", "distance of gradients"], update),
    "step": (["ours s (rollout + update)", *TRL_COLUMNS], step),
    "rollout": (["tokens/s ours, generate", "generate / ours", "pairs"], rollout),
}


if __name__ == "__main__":
    fill(parts())
