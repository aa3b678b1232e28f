"""The runs of docs/concepts/environments.md: a file of tasks, an environment of one turn and one of several.

OMP_NUM_THREADS=1 python benchmarks/own_environments.py    # a minute; writes benchmarks/results/own_environments.json
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import write

PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "environments.md"


def processor_seconds() -> float:
    """Return the processor time of all processes that have ended; other work on the machine has little effect on it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run(command: str, folder: Path) -> dict[str, Any]:
    """Return command, processor seconds, verdict and means of a training run."""
    words = shlex.split(command)[1:]
    start = processor_seconds()
    subprocess.run([sys.executable, "-m", "rlalign", *words], cwd=folder, env=os.environ, check=True)
    seconds = processor_seconds() - start
    output = folder / words[words.index("--output") + 1]
    evaluation = json.loads((output / "report" / "evaluation.json").read_text(encoding="utf-8"))
    first = json.loads((output / "metrics.jsonl").read_text(encoding="utf-8").partition("\n")[0])
    return {
        "command": command,
        "cpu_seconds": round(seconds, 1),
        "verdict": evaluation["verdict"],
        "reward of step 1": round(first["reward/mean"], 3),
        "rewards": {name: evaluation["metrics"][name] for name in ("exact_match", "token_match", "reward")
                    if name in evaluation["metrics"]},
    }  # fmt: skip


def main() -> None:
    text = PAGE.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for block in re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
            if file := re.match(r"# (\w+\.py)\n", block):
                (folder / file[1]).write_text(block, encoding="utf-8")
            elif "jsonl" in block:
                subprocess.run([sys.executable, "-c", block], cwd=folder, check=True)
        commands = re.findall(r"^\$ (rlalign train .*)$", text, flags=re.MULTILINE)
        runs = {shlex.split(command)[-1].rpartition("/")[2]: run(command, folder) for command in commands}
        # the first command with one reward of the two
        half = commands[0].replace(" --reward token_match", "").replace("runs/digits", "runs/exact")
        runs["exact_match alone"] = run(half, folder)
    print(write("own_environments", runs))


if __name__ == "__main__":
    main()
