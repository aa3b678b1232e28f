"""One pass over the data of an environment: each prompt is rendered and tokenized, each record is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlalign.envs.encoded_prompts import BadRecord, encoded_chunks
from rlalign.envs.episode import Episode
from rlalign.envs.initial_context import check_columns, check_length, place_of, shown_prompt
from rlalign.envs.longest_prompt import limit_of_data
from rlalign.envs.mdp import TextMDP
from rlalign.envs.records.splits import SPLITS
from rlalign.errors import RecordError, UserError
from rlalign.types import Split, Task, TaskSource

_HELD = 200_000  # tasks in memory at once
_REPLIES = 4  # tasks per split whose first environment message is made: a call of `reply` may cost time or money


class _Reread(Sequence[Task]):
    """Tasks of a source that are read again whenever they are used."""

    def __init__(self, source: TaskSource) -> None:
        self._source = source
        self._places: list[tuple[Split, int]] = []

    def append(self, task: Task) -> None:
        """Add a task."""
        self._places.append((task.split, task.index))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        return self._source.get(*self._places[number])


@dataclass(slots=True)
class DataReport:
    """The result of the pass.

    Attributes:
        sizes: split -> number of records.
        bad: records that cannot be used, in the order of splits and tasks.
        longest: number of tokens of the longest prompt that can be used.
    """

    sizes: dict[Split, int] = field(default_factory=dict)
    bad: list[BadRecord] = field(default_factory=list)
    longest: int = 0


def check_data(
    mdp: TextMDP,
    *,
    positions: int | None = None,
    supervised: bool = False,
    check_references: Callable[[Sequence[Task]], dict[int, str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> DataReport:
    """Check every task: its columns, its prompt in the template and in tokens, its reference.

    The first environment message is made for four tasks per split.

    Args:
        mdp: the environment, bound to the policy's tokenizer.
        positions: longest context of the policy in tokens; None: without a limit.
        supervised: training tasks need a reference trajectory whose turns fit into `max_new`.
        check_references: returns number -> reason, of the tasks that the rewards cannot score.
        progress: called with the number of checked tasks and of all tasks after each chunk.

    Raises:
        UserError: a reward needs a column that no task has.
    """
    report = DataReport({split: mdp.source.size(split) or 0 for split in SPLITS})
    total = sum(report.sizes.values())
    # Beyond some size a second reading is better than all tasks in memory.
    usable: list[Task] | _Reread = [] if total <= _HELD else _Reread(mdp.source)
    own_ids = type(mdp).prompt_ids is not TextMDP.prompt_ids
    replies = dict.fromkeys(SPLITS, _REPLIES if mdp.max_turns > 1 and type(mdp).reply is not TextMDP.reply else 0)
    for chunk, encoded in encoded_chunks(mdp, report.bad):
        for task, ids in zip(chunk, encoded, strict=True):
            try:
                if isinstance(ids, RecordError) and not own_ids:
                    raise ids
                known = None if own_ids or isinstance(ids, RecordError) else ids
                count = check_task(mdp, task, known, positions=positions, supervised=supervised)
                if replies[task.split]:
                    replies[task.split] -= 1
                    _check_reply(mdp, task)
            except RecordError as error:
                _record(report, task, error.reason, error.needed)
            except Exception as error:  # of a method that a user wrote, such as reference_turns
                _record(report, task, f"the environment failed: {type(error).__name__}: {error}")
            else:
                usable.append(task)
                report.longest = max(report.longest, count)
        if progress is not None:
            progress(len(usable) + len(report.bad), total)
    for number, reason in (check_references(usable) if check_references else {}).items():
        _record(report, usable[number], reason)
    order = {split: number for number, split in enumerate(SPLITS)}
    report.bad.sort(key=lambda record: (order[record.split], record.index))
    return report


def _record(report: DataReport, task: Task, reason: str, needed: int = 0) -> None:
    report.bad.append(BadRecord(task.split, task.index, place_of(task), reason, needed))


def check_task(
    mdp: TextMDP, task: Task, ids: list[int] | None = None, *, positions: int | None = None, supervised: bool = False
) -> int:
    """Return the number of tokens of a task's prompt.

    Args:
        mdp: the environment, bound to the policy's tokenizer.
        task: one of its tasks.
        ids: of its prompt; None: the prompt is encoded.
        positions: longest context of the policy in tokens; None: without a limit.
        supervised: a training task needs a reference trajectory whose turns fit into `max_new`.

    Raises:
        RecordError: the task cannot be used.
    """
    check_columns(task)
    if ids is None:
        ids = mdp.prompt_ids(task)
    elif not (ids and limit_of_data(mdp)):  # the limit of data is the longest prompt, which is being measured
        check_length(task, ids, mdp.max_prompt, mdp.id)
    if positions is not None and len(ids) >= positions:
        raise RecordError(
            place_of(task),
            f"expected a prompt within the {positions} positions of the policy, got {len(ids)} tokens "
            f"({shown_prompt(task)}); use a shorter prompt",
        )
    if not 0 <= min(ids) <= max(ids) < mdp.tokenizer.vocab_size:
        raise RecordError(
            place_of(task),
            f"expected token ids of the prompt below {mdp.tokenizer.vocab_size}, got {max(ids)}; use another tokenizer",
        )
    if supervised and task.split == "train":
        check_reference_length(mdp, task)
    return len(ids)


def check_reference_length(mdp: TextMDP, task: Task) -> None:
    """Raise RecordError unless each turn of a task's reference trajectory fits into `max_new` with its end."""
    turns = mdp.reference_turns(task)
    if not turns:
        raise RecordError(
            place_of(task),
            "expected an answer to imitate (column 'answer'), got none; use --supervised.align-interval 0",
        )
    for turn in turns:
        count = len(mdp.tokenizer.encode(turn)) + 1
        if count > mdp.max_new:
            raise RecordError(place_of(task), too_long(mdp, count), count)


def too_long(mdp: TextMDP, count: int) -> str:
    """Return the reason why a reference turn of `count` tokens, with its end, cannot be imitated."""
    return (
        f"expected an answer of at most {mdp.max_new} tokens (max_new) with its end, got {count}, so that the end "
        f"would not be imitated; use --rollout.max-new {count}"
    )


def _check_reply(mdp: TextMDP, task: Task) -> None:
    """Raise RecordError if the first environment message fails, after the reference turn or an empty one."""
    turns = mdp.reference_turns(task)
    ids = mdp.tokenizer.encode(turns[0])[: mdp.max_new - 1] if turns else []
    episode: Episode = mdp.begin(task, 0, 0)
    try:
        mdp.end_turn(episode, [*ids, mdp.tokenizer.eos_id], True)
    except UserError as error:
        raise RecordError(place_of(task), str(error)) from error


def summary_of(bad: Sequence[BadRecord], total: int) -> str:
    """Return the bad records in one line: the reason of the first one, their number and the places of some more."""
    first = bad[0]
    if len(bad) == 1:
        return f"{first.place}: {first.reason}"
    others = "; ".join(record.place for record in bad[1:6])
    more = " ..." if len(bad) > 6 else ""
    largest = max(record.needed for record in bad)
    needed = f"; the longest needs {largest}" if largest > first.needed > 0 else ""
    return f"{first.place}: {first.reason} ({len(bad)} of {total} records cannot be used, also {others}{more}{needed})"
