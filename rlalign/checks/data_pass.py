"""The data of a run before its first step: one pass that checks every record, and what becomes of the bad ones.

The result is stored in `data.json` of the run folder (`data-NAME.json` of each environment of a mixture) with a digest
of everything that it depends on. A resumed run whose digest is the same reads the result and does not repeat the pass.
"""

from __future__ import annotations

import copy
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from rlalign.config.schema import TrainConfig
from rlalign.envs.data_check import DataReport, check_data, check_task, summary_of
from rlalign.envs.encoded_prompts import BadRecord, is_finite
from rlalign.envs.initial_context import check_columns, check_prompt, task_at
from rlalign.envs.kept_tasks import KeptTasks, RedrawnTasks
from rlalign.envs.longest_prompt import limit_of_data, remember_longest
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.parts import parts_of
from rlalign.envs.records.splits import SPLITS
from rlalign.errors import RecordError, UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.base import Policy
from rlalign.rewards.references import clashes, unusable_tasks
from rlalign.storage.atomic import write_atomic
from rlalign.storage.identity import code_files, digest_of_file, digest_of_tasks
from rlalign.types import Split, Task

FILE = "data.json"
_EARLY = 20_000  # records per split that are read before the weights are loaded
_QUIET_S = 2.0  # seconds until the progress of the pass is printed
_INTERVAL_S = 5.0  # seconds between two lines of progress


def checked_mdp(
    config: TrainConfig,
    mdp: TextMDP,
    policy: Policy,
    *,
    folder: Path | None = None,
    console: PlainConsole | None = None,
    name: str = "",
) -> TextMDP:
    """Return the environment of a run after the pass over its data, without the records that are dropped.

    Args:
        config: of the run; `on_bad_record` decides what becomes of a bad record.
        mdp: bound to the policy's tokenizer.
        policy: limits the length of a context.
        folder: of the run, which stores the result, and from which a resumed run reads it; None: nothing is stored.
        console: prints progress and warnings; None: nothing is printed.
        name: of the environment in a mixture, each of which has a result of its own.

    Raises:
        RecordError: a record cannot be used and `on_bad_record` is fail; names file, line and value.
        UserError: no training record is left, or a reward needs a column that no task has.
    """
    if isinstance(mdp, Mixture):
        parts = {
            name: checked_mdp(config, part, policy, folder=folder, console=console, name=name)
            for name, part in mdp.parts.items()
        }
        return mdp.with_parts(parts)
    console = console or PlainConsole(quiet=True)
    file = f"data-{name}.json" if name else FILE
    supervised = bool(config.supervised.align_interval)
    positions = getattr(policy, "max_positions", None)
    if not is_finite(mdp):
        return _checked_on_arrival(config, mdp, positions)
    key = data_digest(config, mdp, positions)
    report = _stored(folder / file, key) if config.resume and folder is not None else None
    if report is None:
        report = check_data(
            mdp,
            positions=positions,
            supervised=supervised,
            check_references=partial(_check_rewards, mdp, console),
            progress=_progress(console),
        )
    checked = copy.copy(mdp)
    checked.drop_failed_replies = config.on_bad_record == "drop"
    if report.bad:
        checked.source = _without(config, mdp, report, console, file)
    if limit_of_data(checked):
        remember_longest(checked, report.longest or 1)
    if folder is not None:
        write_atomic(folder / file, json.dumps({"digest": key, **asdict(report)}, indent=1) + "\n")
    return checked


def refuse_bad_records(config: TrainConfig, mdp: TextMDP) -> None:
    """Refuse splits without tasks, and records that no policy could use: a prompt without text, a reserved column.

    It needs neither policy nor tokenizer, so it comes before the weights are loaded. It reads the first 20,000 records
    of each split; the pass reads all.

    Args:
        config: of the run; no record is refused if bad records are dropped.
        mdp: under any tokenizer.

    Raises:
        RecordError: names the first of these records.
        UserError: there are no tasks to train on, or none to evaluate on.
    """
    if isinstance(mdp, Mixture):
        for part in mdp.parts.values():
            refuse_bad_records(config, part)
        return
    check_splits(config, mdp)
    if config.on_bad_record == "drop":
        return
    bad: list[BadRecord] = []
    read = 0
    for split in SPLITS:
        for index in range(min(mdp.source.size(split) or 0, _EARLY)):
            read += 1
            try:
                task = task_at(mdp.source, split, index)
                check_columns(task)
                check_prompt(task)
            except RecordError as error:
                bad.append(BadRecord(split, index, error.place, error.reason))
    if bad:
        raise _refusal(bad, read)


def check_splits(config: TrainConfig, mdp: TextMDP) -> None:
    """Raise UserError if a split that the run reads has no tasks."""
    for part in parts_of(mdp).values():
        for split in _splits_of(config):
            if part.source.size(split) == 0:
                raise UserError(
                    f"{part.id}: expected {split} tasks, got none; add more data (three different prompts or more are "
                    "divided into splits), or name the splits"
                )


def _splits_of(config: TrainConfig) -> list[Split]:
    """Return the splits that a run reads: of training, validation, and final evaluation if validations select."""
    evaluated: tuple[Split, ...] = ("test",) if config.evaluation.patience else ()
    return ["train", config.evaluation.split, *evaluated]


def _refusal(bad: Sequence[BadRecord], total: int) -> RecordError:
    return RecordError("", f"{summary_of(bad, total)}; correct it, or leave it out with --on-bad-record drop")


def data_digest(config: TrainConfig, mdp: TextMDP, positions: int | None) -> str:
    """Return the sha256 of all that the result of the pass depends on: tasks, tokenizer, limits, rewards, user code."""
    tokenizer = mdp.tokenizer
    sample = tokenizer.encode_prompt("") if hasattr(tokenizer, "encode_prompt") else []
    hf = getattr(tokenizer, "hf", None)
    parts = {
        "tasks": digest_of_tasks(mdp.source, places=True),
        "tokenizer": [type(tokenizer).__name__, getattr(tokenizer, "spec", ""), tokenizer.vocab_size, sample],
        "template": getattr(hf, "chat_template", None),
        "limits": [None if limit_of_data(mdp) else mdp.max_prompt, mdp.max_new, mdp.max_turns, mdp.max_reply],
        "chat": mdp.chat,
        "positions": positions,
        "rewards": dict(mdp.reward.weights),
        "code": {role: digest_of_file(path) for role, path in code_files(config).items()},
        "supervised": bool(config.supervised.align_interval),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def _stored(path: Path, key: str) -> DataReport | None:
    """Return the result that a file of the run folder stores, if it is of the same data."""
    try:
        stored = json.loads(path.read_text("utf-8"))
        if stored.pop("digest") != key:
            return None
        stored["bad"] = [BadRecord(**record) for record in stored["bad"]]
        return DataReport(**stored)
    except (OSError, ValueError, KeyError, TypeError):  # no file, or a damaged one: the pass is repeated
        return None


def _without(config: TrainConfig, mdp: TextMDP, report: DataReport, console: PlainConsole, file: str) -> KeptTasks:
    """Return the source without the bad records. Raises RecordError unless the configuration permits it."""
    total = sum(report.sizes.values())
    if config.on_bad_record == "fail":
        raise _refusal(report.bad, total)
    summary = summary_of(report.bad, total)
    source = KeptTasks(mdp.source, [(record.split, record.index) for record in report.bad])
    for split in _splits_of(config):
        if not source.size(split):
            raise UserError(f"expected {split} records that can be used, got none: {summary}")
    console.warn(f"{len(report.bad)} of {total} records are left out ({file} lists them): {summary}")
    return source


def _checked_on_arrival(config: TrainConfig, mdp: TextMDP, positions: int | None) -> TextMDP:
    """Return an environment whose unbounded source draws again instead of a bad task, if bad records are dropped."""
    if config.on_bad_record == "fail":
        return mdp  # `begin` and `prompt_ids` check each task
    checked = copy.copy(mdp)
    checked.drop_failed_replies = True
    checked.source = RedrawnTasks(
        mdp.source,
        partial(check_task, mdp, positions=positions, supervised=bool(config.supervised.align_interval)),
    )
    return checked


def _check_rewards(mdp: TextMDP, console: PlainConsole, tasks: Sequence[Task]) -> dict[int, str]:
    """Return number -> reason of the tasks that the rewards cannot score, and print columns that look like options."""
    for sentence in clashes(mdp.reward, tasks):
        console.warn(sentence)
    # In an environment of several turns a reward reads what `reply` has left, which is not known yet.
    return unusable_tasks(mdp.reward, tasks, mdp.tokenizer.encode) if mdp.max_turns == 1 else {}


def _progress(console: PlainConsole) -> Callable[[int, int], None]:
    """Return a function that prints a line now and then, once the pass has taken some seconds."""
    began = time.monotonic()
    due = began + _QUIET_S

    def show(done: int, total: int) -> None:
        nonlocal due
        now = time.monotonic()
        if now < due or done >= total:
            return
        due = now + _INTERVAL_S
        left = (now - began) * (total - done) / max(done, 1)
        console.print(f"data: {done:,} of {total:,} records are checked, {left:.0f} s left", soft_wrap=True)

    return show
