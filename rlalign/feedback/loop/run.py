"""The loop over rounds and steps, which continues where an earlier call ended."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlalign.feedback.loop.plan import Plan
from rlalign.feedback.loop.rounds import STEPS, Round
from rlalign.feedback.loop.state import LoopState, load_state
from rlalign.storage.run_folder import RunLock

OnStep = Callable[[int, str, dict[str, Any]], None]


def run_loop(
    plan: Plan, output: Path, *, enough: bool = False, quiet: bool = True, on_step: OnStep | None = None
) -> LoopState:
    """Run the rounds of a plan from the first step that is not done, and return the state.

    Args:
        plan: the plan.
        output: folder of the loop.
        enough: end the present vote with the votes that are there.
        quiet: print nothing.
        on_step: called with the round, the step and its result after each step, before it is recorded.

    Raises:
        Waiting: people still have to vote.
        Stopped: a signal ended a training.
        UserError: the folder holds another loop, or is in use by another process.
    """
    with RunLock(output):
        state = load_state(output, plan.digest())
        while (following := state.next(plan.loop.rounds)) is not None:
            number, step = following
            result = STEPS[step](Round(plan, output, number, enough=enough, quiet=quiet))
            enough = enough and step != "vote"  # of one vote, not of those of later rounds
            if on_step is not None:
                on_step(number, step, result)
            state.record(number, step, result)
            state.save(output)
    return state
