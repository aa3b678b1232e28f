"""The state of a loop: loop.json, which names the steps that are done and holds their results.

It is replaced atomically after each step. A kill between a step's output and this file repeats the step, which finds
its output or makes it again.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlalign.errors import UserError
from rlalign.storage.atomic import read_json, write_atomic

FILE = "loop.json"
FORMAT = 1
STEPS = ("sample", "vote", "reward_model", "train", "measure")
"""The steps of a round, in their order."""


@dataclass
class LoopState:
    """What a loop has done.

    Attributes:
        digest: of the plan.
        rounds: of each round, step -> its result.
    """

    digest: str
    rounds: list[dict[str, dict[str, Any]]] = field(default_factory=list)

    def next(self, rounds: int) -> tuple[int, str] | None:
        """Return the round, from 1, and the step to do next; None if all rounds are done."""
        for number in range(1, rounds + 1):
            done = self.rounds[number - 1] if number <= len(self.rounds) else {}
            for step in STEPS:
                if step not in done:
                    return number, step
        return None

    def record(self, number: int, step: str, result: dict[str, Any]) -> None:
        """Add the result of a step."""
        if number > len(self.rounds):
            self.rounds.append({})
        self.rounds[number - 1][step] = result

    def save(self, folder: Path) -> None:
        """Write loop.json atomically."""
        write_atomic(folder / FILE, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def load_state(folder: Path, digest: str) -> LoopState:
    """Return the state in a folder, or a new one.

    Raises:
        UserError: the folder holds a loop of another plan, or a newer or damaged state.
    """
    path = folder / FILE
    if not path.is_file():
        return LoopState(digest)
    content = read_json(path, "use another --output")
    if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("rounds"), list):
        raise UserError(f"'{path}': expected a state of format {FORMAT}, got another file; use another --output")
    if content.get("digest") != digest:
        raise UserError(
            f"'{folder}' holds a loop with other settings or prompts; use another --output, or restore study.toml "
            "(more rounds alone continue the loop)"
        )
    return LoopState(digest, content["rounds"])
