"""The error of a run that does not fit into memory: what was computed, what fits, and how the run continues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlalign.config.schema import TrainConfig
from rlalign.errors import FaultError
from rlalign.policies.base import Policy
from rlalign.policies.memory import empty_cache, free_bytes, is_out_of_memory, release_buffers
from rlalign.training.micro_batches import MicroBatcher
from rlalign.training.trainer_state import TrainerState

_GIB = 1 << 30
_PHASE = "computed when memory ran out: "


@dataclass(frozen=True)
class MemoryFailure:
    """What was computed when memory ran out, and the message of the error. It holds no tensor."""

    phase: str
    reason: str


@contextmanager
def during(phase: str) -> Iterator[None]:
    """Note on an error that leaves the block what was computed there, for `memory_failure`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        error.add_note(_PHASE + phase)
        raise


def memory_failure(error: Exception) -> MemoryFailure:
    """Return the description of an error for a lack of memory; raise every other error again."""
    if not is_out_of_memory(error):
        raise error
    notes = [note.removeprefix(_PHASE) for note in getattr(error, "__notes__", []) if note.startswith(_PHASE)]
    return MemoryFailure(notes[0] if notes else "run", str(error))


def save_without_memory(state: TrainerState, failure: MemoryFailure) -> FaultError:
    """Free the memory that is not part of a run's state, save the run, and return the error that ends it."""
    longest = state.collector.mdp.max_context
    if state.experience is not None:
        longest = int(state.experience.buffer.lengths.max())
    state.learner.optimizer.zero_grad(set_to_none=True)
    release_buffers()
    empty_cache()
    run = state.save().parents[1]
    return out_of_memory(failure, state.config, state.policy, state.learner.micro_batcher, longest, run)


def out_of_memory(
    failure: MemoryFailure,
    config: TrainConfig,
    policy: Policy,
    batcher: MicroBatcher,
    longest: int,
    run: Path | None,
) -> FaultError:
    """Return the error for a run whose memory ran out.

    Call it after the memory of the failed computation is free: it reads how much that is.

    Args:
        failure: what was computed: rollout, update, supervised update, validation or another name.
        config: the run's configuration.
        policy: the run's policy.
        batcher: scores its rows.
        longest: tokens of the longest context of the rollout or of the environment.
        run: the run folder, if its state is saved; else None.
    """
    phase = failure.phase
    weights = sum(p.numel() * p.element_size() for p in policy.parameters())
    moments = sum(3 * p.numel() * p.element_size() for p in policy.trainable().values())  # and the gradient
    parts = [f"the weights take {_gib(weights)}, gradients and moments {_gib(moments)}"]
    free = free_bytes(policy.device)
    if free is not None:
        parts.append(f"{_gib(free)} are free now")
    fixes: list[str] = []
    per_token = batcher.bytes_per_token
    if phase in ("update", "supervised update") and per_token:
        parts.append(f"the gradient of one sequence of {longest} tokens takes about {_gib(longest * per_token)}")
        fixes.append("--model.gradient-checkpointing")
        fitting = 0 if free is None else free // per_token
        if 0 < fitting < longest:
            parts.append(f"about {fitting} tokens fit")
    if phase in ("update", "supervised update", "rollout"):
        fixes.append("a smaller --rollout.max-new")
        if config.rollout.sampler == "generate":
            fixes.append("a smaller --rollout.prompts")  # only the decode loop samples in several passes
    if phase in ("validation", "evaluation"):
        fixes.append("a smaller --evaluation.samples")
    if config.model.adapter.kind == "none" and phase != "validation":
        fixes.append("adapters in a new run (--model.adapter.kind lora)")
    fixes.append("a device with more memory")
    saved = ""
    if run is not None:
        saved = (
            f"; the run is saved: continue with rlalign train --resume {run}, with --allow-change for another setting"
        )
    first_line = (failure.reason.strip().splitlines() or ["no message"])[0]
    return FaultError(
        f"out of memory in the {phase} on {policy.device} ({first_line}): {'; '.join(parts)}; use {' or '.join(fixes)}"
        f"{saved}"
    )


def _gib(count: int) -> str:
    return f"{count / _GIB:.2g} GiB"
