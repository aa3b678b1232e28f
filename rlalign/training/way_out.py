"""The one way out of the training loop: however a run ends, its state is saved, and one line tells how to continue.

An error, a signal, a closed output, `sys.exit` in a user's code: each leaves the trainer in the state before the work
that it interrupted (`TrainerState.undone_on_error`), which is saved as at the end of a run. Weights that are not
finite, or of an interrupted optimizer step, are not saved; the last checkpoint stays.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from rlalign.errors import FaultError, HookError, OutputError, RewardError, RLAlignError
from rlalign.policies.memory import is_out_of_memory
from rlalign.storage import checkpoint
from rlalign.storage.atomic import write_atomic
from rlalign.training.out_of_memory import MemoryFailure, memory_failure, save_without_memory
from rlalign.training.stop_request import StopRequest
from rlalign.training.trainer_state import TrainerState

_TRACEBACK = Path("faults") / "traceback.txt"


@dataclass(frozen=True)
class Ending:
    """What ended a run.

    Attributes:
        error: the exception; None when memory ran out, because its traceback holds tensors.
        memory: what was computed when memory ran out, else None.
    """

    error: BaseException | None
    memory: MemoryFailure | None = None

    @classmethod
    def of(cls, error: BaseException) -> Ending:
        """Return the ending of an exception."""
        if isinstance(error, Exception) and is_out_of_memory(error):
            return cls(None, memory_failure(error))
        return cls(error)


def leave(state: TrainerState, stop: StopRequest, ending: Ending) -> None:
    """Save the run and raise the error that ends it; return after an interruption that a signal requested.

    Raises:
        KeyboardInterrupt: no signal had requested a stop.
        RLAlignError: every other ending, with what became of the run's state.
    """
    if ending.memory is not None:
        raise save_without_memory(state, ending.memory)
    error = ending.error
    assert error is not None
    saved = _save(state)
    if isinstance(error, KeyboardInterrupt | OutputError) and stop and saved.startswith("saved"):
        return  # a second signal, or a terminal that is lost with SIGHUP
    raise clear_error(error, state.folder, saved) from error


def _save(state: TrainerState) -> str:
    """Save the run; return whether that succeeded, and how it continues."""
    run = state.folder
    try:
        state.save()
    except Exception as error:  # also of a reward's `state_dict`: the error that ended the run must not be lost
        reason = str(error) if isinstance(error, RLAlignError) else f"{type(error).__name__}: {error}"
        earlier = checkpoint.complete(run / "checkpoints")
        rest = f"{earlier[-1].name} stays: continue from it with rlalign train --resume {run}" if earlier else ""
        return f"not saved: {reason}" + (f"; {rest}" if rest else "")
    return f"saved at step {state.step}: continue with rlalign train --resume {run}"


def clear_error(error: BaseException, folder: Path, saved: str) -> BaseException:
    """Return the error that tells a user why a run ended and what became of its state.

    Args:
        error: the exception that ended the run.
        folder: the run folder; the traceback of an unexpected exception is written to `faults/traceback.txt` of it.
        saved: what became of the state; empty: there was none yet.
    """
    # an error of the training has its suffix when it passes the evaluation around it
    suffix = f" ({saved})" if saved and f"--resume {folder}" not in str(error) else ""
    if isinstance(error, RewardError | HookError) and suffix.startswith(" (saved"):
        thing = "reward" if isinstance(error, RewardError) else "function"
        suffix = (
            f" (saved: repair the {thing}, then rlalign train --resume {folder}, with --allow-change if its file has "
            "changed)"
        )
    # of an error that passes twice, the cause is the error itself
    if isinstance(error, HookError) and error.__cause__ not in (None, error) and _TRACEBACK.name not in str(error):
        suffix = f"{_traceback(error.__cause__, folder)}{suffix}"
    if isinstance(error, RLAlignError):
        # the same exception, so that its class, its attributes and its notes stay
        error.args = (f"{error}{suffix}", *error.args[1:])
        return error
    if isinstance(error, KeyboardInterrupt):
        return error
    words = str(error).strip().splitlines() or ["no message"]
    what = f"{type(error).__name__}: {words[0]}"
    if isinstance(error, SystemExit):
        what = f"sys.exit({error.code!r}) was called in the code of the environment or of a reward"
    return FaultError(f"the run ended with {what}{_traceback(error, folder)}{suffix}")


def _traceback(error: BaseException, folder: Path) -> str:
    """Write a traceback to the run folder and return where it is, as a suffix; empty if it cannot be written."""
    try:
        path = write_atomic(folder / _TRACEBACK, "".join(traceback.format_exception(error)))
    except FaultError:  # the disk is full: --debug prints the traceback
        return ""
    return f" [traceback in {path}]"
