"""The two examples of README and docs/get_started.md: a reward of vowels, and PPO against RLOO on Sort.

python benchmarks/get_started.py    # a few minutes; writes benchmarks/results/get_started.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import write

VOWELS = """def vowels(prompts, completions, **columns):
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in completions]
"""
TRAIN = "train --env sentiment --policy gru --reward my.py:vowels --steps 60 --output runs/vowels"
COMPARE = "compare --algorithms rloo,ppo --envs sort --seeds 8 --steps 100 --output runs/cmp"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "my.py").write_text(VOWELS, encoding="utf-8")
        for command in (TRAIN, COMPARE):
            subprocess.run([sys.executable, "-m", "rlalign", *command.split()], cwd=folder, env=os.environ, check=True)
        evaluation = json.loads((folder / "runs/vowels/report/evaluation.json").read_text(encoding="utf-8"))
        results = json.loads((folder / "runs/cmp/results.json").read_text(encoding="utf-8"))
    samples = [sample["after"] for sample in evaluation["samples"]]
    print(write("get_started", {
        "vowels": {"command": TRAIN, "verdict": evaluation["verdict"], "samples": samples},
        "compare": {"command": COMPARE, "verdict": results["verdict"]},
    }))  # fmt: skip


if __name__ == "__main__":
    main()
