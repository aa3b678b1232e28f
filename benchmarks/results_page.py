"""Tables of docs/results/study.md and docs/results/trl.md from the studies in benchmarks/results/.

rlalign compare benchmarks/suite.toml          # runs/suite, then copied to benchmarks/results/suite
rlalign compare benchmarks/trl_beside.toml --jobs 1
python benchmarks/results_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import DOCS, Parts, fill

STUDIES = Path(__file__).resolve().parent / "results"


def parts() -> Parts:
    """Return the tables and claims of both pages."""
    suite, beside = read("suite"), read("trl_beside")
    blocks = {
        "study.md": {"means": means(suite), "claims": claims(suite), "manifest": manifest(suite)},
        "trl.md": {"beside": trainers(beside), "claims": claims(beside), "manifest": manifest(beside)},
    }
    return {
        DOCS / "results" / page: {name: "\n".join(lines) for name, lines in texts.items()}
        for page, texts in blocks.items()
    }


def read(study: str) -> dict[str, Any]:
    """Return the results.json of a study."""
    path = STUDIES / study / "results.json"
    results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return results


def means(results: dict[str, Any]) -> list[str]:
    """Return the table of mean held-out rewards with 95 % intervals, one algorithm per row."""
    envs = results["environments"]
    rows = [[a, *(_interval(envs[e]["algorithms"][a]["mean"]) for e in envs)] for a in results["algorithms"]]
    return ["| algorithm | " + " | ".join(envs) + " |", "|---|" + "---|" * len(envs), *map(_row, rows)]


def trainers(results: dict[str, Any]) -> list[str]:
    """Return the table of rewards before and after, and of tokens and seconds, one trainer per row."""
    lines = [
        "| trainer | reward before | after | normalized area under the curve | KL, nats | tokens per run "
        "| seconds per run |",
        "|---|---:|---|---|---:|---:|---:|",
    ]
    (env,) = results["environments"].values()  # a study of one environment
    for name, a in env["algorithms"].items():
        initial_rewards: list[float] = []
        for row in a["start"]:
            initial_rewards += row
        spent = {b: [curve[b][-1] for curve in a["curves"]] for b in ("tokens", "seconds")}
        seconds = f"{_mean(spent['seconds']):.1f} ({min(spent['seconds']):.1f} to {max(spent['seconds']):.1f})"
        cells = [f"{_mean(initial_rewards):.2f}", _interval(a["mean"]), _interval(a["auc"]["samples"])]
        cells += [f"{a['metrics']['kl']['value']:.1f}", f"{_mean(spent['tokens']):,.0f}".replace(",", " "), seconds]
        lines.append(_row([name, *cells]))
    return lines


def claims(results: dict[str, Any]) -> list[str]:
    """Return the verdict, one sentence per item."""
    return [f"- {sentence}" for sentence in results["verdict"]]


def manifest(results: dict[str, Any]) -> list[str]:
    """Return the command, machine, versions and size of the study."""
    m = results["manifest"]
    versions = ", ".join(f"{k} {v}" for k, v in m["versions"].items())
    machine = f"{m['machine']['cpu']}, {m['machine']['cores']} cores, Python {m['machine']['python']}"
    size = f"{len(results['seeds'])} seeds; {len(results['failures'])} cells failed"
    return [f"`{m['command']}`, {machine}, {versions}; commit {m['commit']}. {size}."]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _interval(c: dict[str, Any]) -> str:
    value, low, high = (f"{round(c[k], 2) + 0.0:.2f}" for k in ("value", "low", "high"))  # no -0.00
    return f"{value} [{low},\u00a0{high}]"  # a line may break before the interval, not inside it


if __name__ == "__main__":
    fill(parts())
