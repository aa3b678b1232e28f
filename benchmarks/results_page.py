"""Write the tables of docs/results.md from benchmarks/results/suite/results.json.

rlalign compare benchmarks/suite.toml          # runs/suite, then copied to benchmarks/results/suite
python benchmarks/results_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "suite" / "results.json"
PAGE = ROOT / "docs" / "results.md"


def main() -> None:
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in (("means", means(found)), ("claims", claims(found)), ("manifest", manifest(found))):
        begin, end = f"<!-- {name}: written by benchmarks/results_page.py -->\n", f"<!-- /{name} -->"
        before, rest = text.split(begin)
        text = before + begin + "\n".join(lines) + "\n" + end + rest.split(end, 1)[1]
    PAGE.write_text(text, encoding="utf-8")


def means(found: dict[str, Any]) -> list[str]:
    """Mean held-out reward with its 95 % interval, an algorithm a row."""
    envs = found["environments"]
    lines = ["| algorithm | " + " | ".join(envs) + " |", "|---|" + "---|" * len(envs)]
    for a in found["algorithms"]:
        cells = [envs[e]["algorithms"][a]["mean"] for e in envs]
        lines.append(
            f"| {a} | " + " | ".join(f"{_two(c['value'])} [{_two(c['low'])}, {_two(c['high'])}]" for c in cells) + " |"
        )
    return lines


def _two(value: float) -> str:
    return f"{round(value, 2) + 0.0:.2f}"  # no -0.00


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


if __name__ == "__main__":
    main()
