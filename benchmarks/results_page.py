"""Write the tables of docs/results.md and docs/trl.md from the studies in benchmarks/results/.

rlalign compare benchmarks/suite.toml          # runs/suite, then copied to benchmarks/results/suite
rlalign compare benchmarks/trl_beside.toml --jobs 1
python benchmarks/results_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import fill

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    suite, beside = read("suite"), read("trl_beside")
    results = {"means": means(suite), "claims": claims(suite), "manifest": manifest(suite)}
    trl = {"beside": trainers(beside), "claims": claims(beside), "manifest": manifest(beside)}
    for page, blocks in (("results.md", results), ("trl.md", trl)):
        fill(ROOT / "docs" / page, {name: "\n".join(lines) for name, lines in blocks.items()})


def read(study: str) -> dict[str, Any]:
    """The results.json of a study."""
    path = ROOT / "benchmarks" / "results" / study / "results.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def means(found: dict[str, Any]) -> list[str]:
    """Mean held-out reward with its 95 % interval, an algorithm a row."""
    envs = found["environments"]
    rows = [[a, *(_interval(envs[e]["algorithms"][a]["mean"]) for e in envs)] for a in found["algorithms"]]
    return ["| algorithm | " + " | ".join(envs) + " |", "|---|" + "---|" * len(envs), *map(_row, rows)]


def trainers(found: dict[str, Any]) -> list[str]:
    """Held-out reward before and after, and what a run spent, a trainer a row."""
    lines = [
        "| trainer | reward before | after | mean height of the curve | KL, nats | tokens a run | seconds a run |",
        "|---|---:|---|---|---:|---:|---:|",
    ]
    (env,) = found["environments"].values()
    for name, a in env["algorithms"].items():
        starts = [v for row in a["start"] for v in row]
        spent = {b: [curve[b][-1] for curve in a["curves"]] for b in ("tokens", "seconds")}
        seconds = f"{_mean(spent['seconds']):.1f} ({min(spent['seconds']):.1f} to {max(spent['seconds']):.1f})"
        cells = [f"{_mean(starts):.2f}", _interval(a["mean"]), _interval(a["auc"]["samples"])]
        cells += [f"{a['metrics']['kl']['value']:.1f}", f"{_mean(spent['tokens']):,.0f}".replace(",", " "), seconds]
        lines.append(_row([name, *cells]))
    return lines


def claims(found: dict[str, Any]) -> list[str]:
    """The verdict, sentence by sentence."""
    return [f"- {sentence}" for sentence in found["verdict"]]


def manifest(found: dict[str, Any]) -> list[str]:
    """Where and how it was run."""
    m = found["manifest"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    where = f"{m['machine']['cpu']}, {m['machine']['cores']} cores, Python {m['machine']['python']}"
    how_many = f"{len(found['seeds'])} seeds; {len(found['failures'])} cells failed"
    return [f"`{m['command']}`, {where}, {versions}; commit {m['commit']}. {how_many}."]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _interval(c: dict[str, Any]) -> str:
    value, low, high = (f"{round(c[k], 2) + 0.0:.2f}" for k in ("value", "low", "high"))  # no -0.00
    return f"{value} [{low}, {high}]"


if __name__ == "__main__":
    main()
