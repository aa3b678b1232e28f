"""`rlalign feedback loop`: rounds of pairs of the present policy, votes, a reward model and policy-gradient steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from rlalign.escaping.terminal import print_text

WAITING = 3
"""Exit status of a loop that waits for votes of people."""


@dataclass(frozen=True)
class Loop:
    """Train on feedback in rounds: sample pairs of the present policy, collect votes, train a reward model on all votes
    so far, take some policy-gradient steps, measure. The same command continues an interrupted loop; it ends with the
    status 3 while it waits for people.
    """

    study: tyro.conf.Positional[Path]
    """study.toml with a table [loop]."""
    output: Path | None = None
    """Folder of the rounds; None: a folder `loop` beside study.toml."""
    enough: bool = False
    """End the present vote with the votes that are there."""


def run_loop_command(arguments: Loop) -> int:
    """Run or continue the loop and print its rounds; return the exit status."""
    from rlalign.feedback.loop.plan import read_plan
    from rlalign.feedback.loop.rounds import Stopped, Waiting
    from rlalign.feedback.loop.run import run_loop

    plan = read_plan(arguments.study)
    output = arguments.output or arguments.study.parent / "loop"

    def show(number: int, step: str, result: dict[str, Any]) -> None:
        print_text(f"round {number}  {step:12}  {_line(result)}")

    try:
        state = run_loop(plan, output, enough=arguments.enough, quiet=False, on_step=show)
    except Waiting as waiting:
        print_text(str(waiting))
        return WAITING
    except Stopped as stopped:
        print_text("stopped; the same command continues the loop")
        return stopped.status
    print_text(f"\n{len(state.rounds)} rounds are done; the policy is {output}/round-{len(state.rounds)}/run/policy")
    return 0


def _line(result: dict[str, Any]) -> str:
    """Return the numbers of a step in one line."""
    parts = []
    for name, value in result.items():
        if name in ("proxy", "gold") and value is not None:
            low, high = (f"{value[end]:+.3f}" if value[end] is not None else "–" for end in ("low", "high"))
            parts.append(f"{name} {value['before']:+.3f} -> {value['after']:+.3f} (change in [{low}, {high}])")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.3f}")
        elif not isinstance(value, dict):
            parts.append(f"{name} {value}")
        elif name == "metrics" and value.get("accuracy") is not None:
            accuracy = value["accuracy"]
            parts.append(f"accuracy {accuracy['value'] if isinstance(accuracy, dict) else accuracy:.3f}")
    return "  ".join(parts)
