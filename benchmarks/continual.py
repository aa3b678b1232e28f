"""Sort, then reverse: how much of the first task is forgotten, with and without replay, anchors of the KL, and EWC.

    python benchmarks/continual.py --seeds 0 1 2 3 4 5 6 7 8 9     # about 4 minutes per seed on one core
    python benchmarks/continual.py --page        # table and figure of docs/concepts/continual.md, from stored seeds

A GRU from scratch learns to sort strings of a, b, c and d, and then, from that policy, to reverse strings of e, f, g
and h. The letters tell the tasks apart, so that one policy can do both. Each arm of a seed continues the same first
run. The rewards are those of `rlalign evaluate RUN --env sort,reverse`, on 64 held-out prompts per task. Seeds that
are stored already are replaced; the figures of all stored seeds are summed up.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import RESULTS, described, merge
from pages import DOCS, Parts, fill, table

import rlalign
from rlalign.compare.analysis.two_way import t_interval

NAME = "continual"
PAGE = DOCS / "concepts" / "continual.md"
FIGURE = DOCS / "images" / "continual.png"
LETTERS = "tokenizer=chars:abcdefgh>"
SORT = f"sort?alphabet=abcd&{LETTERS}"
REVERSE = f"reverse?alphabet=efgh&{LETTERS}"
ARMS: dict[str, dict[str, Any]] = {
    "none": {},
    "replay 0.2": {"continual__replay": 0.2},
    "anchor new": {"objective__kl__coef": 0.005},
    "anchor previous": {"objective__kl__coef": 0.005, "continual__anchor": "previous"},
    "ewc": {"continual__ewc": 1.0},
}
"""Arm -> its settings. An arm without objective.kl.coef has no KL term."""


def measure(seed: int, steps: tuple[int, int], prompts: int) -> list[dict[str, Any]]:
    """Return the figures of each arm of a seed.

    Args:
        seed: of all runs.
        steps: of the run on sort, and of those on reverse.
        prompts: held-out prompts per task.
    """
    shared: dict[str, Any] = {
        "seed": seed, "quiet": True, "rollout__prompts": 16, "rollout__group_size": 8, "learner__lr": 3e-3,
        "evaluation__prompts": 8, "objective__kl__where": "reward",
    }  # fmt: skip
    cells = []
    with tempfile.TemporaryDirectory() as scratch:
        first = Path(scratch) / "sort"
        rlalign.train(SORT, "gru", "rloo", steps=steps[0], output=first, **shared | {"objective__kl__coef": 0.0})
        for arm, settings in ARMS.items():
            output = Path(scratch) / arm.replace(" ", "-")
            changes = shared | {"objective__kl__coef": 0.0} | settings
            run = rlalign.train(REVERSE, first, "rloo", steps=steps[1], output=output, **changes)
            matrix = run.transfer_matrix([SORT, REVERSE], prompts=prompts)
            of_sort, of_reverse = matrix.cells
            cells.append(
                {
                    "seed": seed,
                    "arm": arm,
                    "steps": list(steps),
                    "prompts": prompts,
                    "sort": [cell.mean for cell in of_sort],
                    "reverse": [cell.mean for cell in of_reverse],
                    "forgetting": matrix.forgetting[0].mean,
                    "backward_transfer": matrix.backward_transfer[0].mean,
                }
            )
            print(seed, arm, json.dumps(cells[-1]["sort"]), json.dumps(cells[-1]["reverse"]), flush=True)
    return cells


def summary(cells: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return arm -> means over seeds with 95 % t-intervals, and the paired difference in forgetting from `none`."""

    def values(arm: str, of: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        rows = sorted((cell for cell in cells if cell["arm"] == arm), key=lambda cell: cell["seed"])
        return np.array([cell[of][-1] if isinstance(cell[of], list) else cell[of] for cell in rows])

    rows = {}
    for arm in ARMS:
        entry: dict[str, Any] = {"seeds": len(values(arm, "forgetting"))}
        for of in ("forgetting", "backward_transfer", "sort", "reverse"):
            entry[of] = _bounds(values(arm, of))
        if arm != "none":
            entry["less forgetting than none"] = _bounds(values("none", "forgetting") - values(arm, "forgetting"))
        rows[arm] = entry
    return rows


def _bounds(x: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    interval = t_interval(x)
    return [round(value, 4) for value in (interval.value, interval.low, interval.high)]


def draw(cells: list[dict[str, Any]], path: Path) -> None:
    """Draw forgetting of the first task and reward on the second one by arm: seeds, means and intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 3.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    rows = summary(cells)
    arms = list(ARMS)
    for panel, of, title in (
        (panels[0], "forgetting", "forgetting of sort (reward)"),
        (panels[1], "reverse", "reward on reverse at the end"),
    ):
        for place, arm in enumerate(arms):
            points = [cell[of][-1] if of == "reverse" else cell[of] for cell in cells if cell["arm"] == arm]
            panel.plot(points, [place] * len(points), "o", color="#888888", alpha=0.5, ms=4)
            mean, low, high = rows[arm][of]
            if np.isfinite(low):
                panel.plot([low, high], [place, place], color="#1f77b4", lw=2)
            panel.plot([mean], [place], "D", color="#1f77b4", ms=6)
        panel.axvline(0, color="#888888", lw=1, ls=":")
        panel.set_title(title, fontsize=10)
        panel.grid(axis="x", color="#888888", alpha=0.2)
    panels[0].set_yticks(range(len(arms)), arms)
    panels[0].invert_yaxis()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def parts() -> Parts:
    """Return the generated part of the page."""
    stored = json.loads((RESULTS / f"{NAME}.json").read_text())
    cells = stored["cells"]
    rows = summary(cells)
    first, second = cells[0]["steps"]
    seeds = rows["none"]["seeds"]
    lines = [
        [
            arm,
            *(_shown(row[of], sign) for of, sign in (("sort", ""), ("forgetting", "+"), ("reverse", ""))),
            _shown(row["less forgetting than none"], "+") if arm != "none" else "",
        ]
        for arm, row in rows.items()
    ]
    text = (
        f"A GRU learned to sort strings of a to d ({first} steps of 128 samples), and then to reverse strings of e to "
        f"h ({second} steps), at {seeds} seeds: mean reward (at most 2) on {cells[0]['prompts']} held-out prompts per "
        "task, with 95 % t-intervals over seeds. The coefficients of the arms were chosen on another seed. The letters "
        "tell the tasks apart, so that one policy can do both.\n\n"
        + table(["arm", "sort at the end", "forgetting", "reverse at the end", "less forgotten than none"], lines)
        + "\n\nThe arms: no KL term and nothing of the parent but its weights; `--continual.replay 0.2`; a KL term "
        f"with coefficient {_coef('anchor new'):g} to the sorting policy (`new`) or to the untrained one (`previous`); "
        f"`--continual.ewc {ARMS['ewc']['continual__ewc']:g}`. {described(stored['machine'])}."
    )
    return {PAGE: {"continual": text}}


def _coef(arm: str) -> float:
    return float(ARMS[arm]["objective__kl__coef"])


def _shown(bounds: list[float], sign: str) -> str:
    mean, low, high = bounds
    interval = f" [{low:{sign}.2f}, {high:{sign}.2f}]" if np.isfinite(low) else ""
    return f"{mean:{sign}.2f}{interval}"


def main() -> None:
    """Measure the seeds of the command line, store them, and print the means of all stored seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="seeds to measure")
    parser.add_argument("--steps", type=int, nargs=2, default=(300, 250), help="steps on sort and on reverse")
    parser.add_argument("--prompts", type=int, default=64, help="held-out prompts per task")
    parser.add_argument("--page", action="store_true", help="write the table and the figure of the page")
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        merge(NAME, measure(seed, tuple(arguments.steps), arguments.prompts), key=("seed", "arm"))
    cells = json.loads((RESULTS / f"{NAME}.json").read_text())["cells"]
    for arm, row in summary(cells).items():
        print(arm, json.dumps(row))
    if arguments.page:
        draw(cells, FIGURE)
        fill(parts())


if __name__ == "__main__":
    main()
