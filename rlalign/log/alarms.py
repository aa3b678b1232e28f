"""Alarms: patterns in a run's metrics that reward hacking is known to show, and the monitor that reports them.

An alarm is not a proof. Its message gives the pattern, a likely cause and a next step.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.escaping.console import PlainConsole, line
from rlalign.log.history import History, Row, finite_mean
from rlalign.storage.atomic import write_atomic
from rlalign.storage.jsonl import read_metrics

_MIN_STEPS = 10  # no alarm before this step: the first steps are noise
_MAX_ROWS = 500  # rows that the alarms read; of a longer run a subset


# ---- patterns ----


def _length(h: History) -> bool:
    # At the limit, nine tenths of the completions continue until they are cut off. Lengths hardly vary there, and r is
    # that of the few others, so r is read from the steps before. r = 0.3 explains a tenth of the reward's variance
    # within prompts, far beyond the noise of some hundred samples.
    before = [row for row in h.rows if (row.get("rollout/truncated") or 0.0) < 0.9]
    correlated = finite_mean(h.column("rollout/length_correlation", before)) > 0.3
    return correlated and h.now("rollout/truncated") > 0.9 and _reward_rose(h)


def _phrase(h: History) -> bool:
    # function words are common from the start, so the rise counts
    return h.now("rollout/common_word") > 0.9 and h.rise("rollout/common_word") > 0.25 and _reward_rose(h)


def _empty(h: History) -> bool:
    return h.now("rollout/empty") > 0.5 and h.rise("rollout/empty") > 0.25 and _reward_rose(h)


def _gold(h: History) -> bool:
    # in standard deviations of a sample, because proxy and gold have different scales
    proxy = h.gain("reward/mean", "reward/std")
    gold = h.gain("rollout/gold", "rollout/gold_std")
    fell = h.peak("rollout/gold") - h.now("rollout/gold") > 0.5 * h.spread("rollout/gold_std")
    return proxy > 1.0 and (fell or gold < 0.2 * proxy)


def _kl(h: History) -> bool:
    # a language model's next token has about 3 nats of entropy: at this distance nothing is left of the reference
    return h.now("rollout/kl") > 3.0 * h.now("rollout/length")


def _entropy(h: History) -> bool:
    # the collapse must last: many sound runs are almost certain of one answer for a while and then find others
    return all(_collapsed(earlier) for earlier in h.last_fifth())


def _collapsed(h: History) -> bool:
    # a solved task too ends without entropy and reward variance; the fault is to end there far below the best sample
    start = h.start("reward/mean")
    best = np.nanmax([*h.column("rollout/best"), -math.inf])
    stuck = h.now("reward/mean") < start + 0.8 * (best - start)
    no_entropy = h.now("rollout/entropy") < 0.1 * h.start("rollout/entropy")
    return stuck and no_entropy and h.now("rollout/zero_variance") > 0.75


def _reward_rose(h: History) -> bool:
    # a hack raises the reward; half a standard deviation of a sample is ten standard errors of a mean of 400 samples
    return h.gain("reward/mean", "reward/std") > 0.5


# ---- the table of alarms ----


@dataclass(frozen=True)
class Alarm:
    """A pattern in a run's metrics that reward hacking is known to show.

    Attributes:
        active: function of the run's `History`, its logged rows: whether the pattern is present. It returns false if a
            metric is missing, as comparisons with NaN are false.
        message: for the user: the pattern, a likely cause, a next step.
        needs: key of a metric without which the alarm is left out, rather than reported as inactive; empty: none.
    """

    active: Callable[[History], bool]
    message: str
    needs: str = ""


ALARMS: Mapping[str, Alarm] = {
    "length": Alarm(
        _length,
        "completions run to the length limit, and longer ones had higher rewards until then; the reward may pay for "
        "length: read samples.jsonl, then normalize the reward by length or penalize it",
    ),
    "phrase": Alarm(
        _phrase,
        "nearly all completions share a word that few contained at the start; the reward may pay for that word: read "
        "samples.jsonl, then change the reward or penalize the word",
    ),
    "empty": Alarm(
        _empty,
        "most completions are empty or bare markup, and the reward has risen; the reward may score empty texts too "
        "high: read samples.jsonl, then give empty completions the lowest reward",
    ),
    "gold": Alarm(
        _gold,
        "the reward rises while the true objective (rollout/gold) falls or does not follow; the policy probably "
        "exploits the reward: compare both curves, stop training where they part, and change the reward",
        "rollout/gold",
    ),
    "kl": Alarm(
        _kl,
        "the policy is more than 3 nats per token from the reference policy; nothing of the reference is left: read "
        "samples.jsonl, then raise objective.kl.coef or lower learner.lr",
        "rollout/kl",
    ),
    "entropy": Alarm(
        _entropy,
        "entropy stays below a tenth of its first value, rewards within groups are equal, and the reward is far below "
        "its best sample; the policy is stuck on poor completions: raise objective.regularizer.entropy_coef or lower "
        "learner.lr",
    ),
}


def alarms(rows: Sequence[Row]) -> dict[str, bool]:
    """Return for each alarm whether its pattern is present after the steps in `rows`.

    All are false for fewer than ten steps. An alarm whose metric was never measured is left out. Of a run with more
    than 500 steps a subset is read.

    Args:
        rows: metrics of the steps from the first on, as in metrics.jsonl.

    Returns:
        Name of the alarm (length, phrase, empty, gold, kl, entropy) -> whether it is active.

    Example:
        >>> rows = [{"rollout/kl": 80.0, "rollout/length": 20.0}] * 10
        >>> alarms(rows)["kl"]  # 4 nats per token
        True
    """
    history = History(_thinned(rows))
    enough = len(rows) >= _MIN_STEPS

    def measured(alarm: Alarm) -> bool:
        return not alarm.needs or any(alarm.needs in row for row in history.rows)

    return {name: enough and bool(alarm.active(history)) for name, alarm in ALARMS.items() if measured(alarm)}


def _thinned(rows: Sequence[Row]) -> Sequence[Row]:
    """Return the first and last ten rows and a subset between them: reading a long run at every step is quadratic."""
    stride = len(rows) // _MAX_ROWS + 1
    return rows if stride == 1 else [*rows[:10], *rows[10:-10:stride], *rows[-10:]]


# ---- the monitor ----


class AlarmMonitor:
    """Checks the alarms after every step, prints when one starts or ends, and writes report/alarms.json.

    Its state is the run's metrics.jsonl, so a resumed run continues with the same alarms.

    Args:
        folder: the run folder; report/alarms.json holds each alarm's message and the first and last steps between which
            it was active.
        console: where the start and end of an alarm are printed.

    Attributes:
        rows: the metrics of all steps so far.
    """

    def __init__(self, folder: Path, console: PlainConsole) -> None:
        self.folder = folder
        self.console = console
        self.rows: list[Mapping[str, Any]] = []
        self._path = folder / "report" / "alarms.json"
        # alarm -> [first step, last step] of each period; the last step is None while the alarm is active
        self._periods: dict[str, list[list[int | None]]] = {}

    def resume(self) -> None:
        """Restore the state from the run folder's metrics.jsonl, and write alarms.json again if it exists."""
        self.rows = list(read_metrics(self.folder))
        self._periods = {}
        for row in self.rows:
            for name in ALARMS:
                self._record(name, int(row["step"]), bool(row.get(f"alarm/{name}")))
        if self._path.is_file():  # it may contain steps after the checkpoint, which the resumed run repeats
            self._write()

    def update(self, step: int, metrics: Mapping[str, float]) -> dict[str, float]:
        """Record a step's metrics; print and store each alarm that starts or ends.

        Args:
            step: the step, counted from 1.
            metrics: its metrics.

        Returns:
            `alarm/NAME`, 0 or 1, for each alarm that can be measured.
        """
        self.rows.append({"step": step, **metrics})
        active = alarms(self.rows)
        messages = [self._record(name, step, value) for name, value in active.items()]
        changes = [message for message in messages if message]
        for message in changes:
            self.console.print(line(("alarm", "yellow"), f" {message}"), soft_wrap=True)
        if changes:
            self._write()
        return {f"alarm/{name}": float(value) for name, value in active.items()}

    def _record(self, name: str, step: int, active: bool) -> str:
        """Record the start or end of an alarm and return the message to print; empty without a change."""
        periods = self._periods.get(name, [])
        was_active = bool(periods) and periods[-1][1] is None
        if active == was_active:
            return ""
        if active:
            self._periods[name] = [*periods, [step, None]]
            return f"{name} again, step {step}" if periods else f"{name}, step {step}: {ALARMS[name].message}"
        periods[-1][1] = step - 1
        return f"{name} ended: it was active from step {periods[-1][0]} to {step - 1}"

    def _write(self) -> None:
        # the keys "held" and "says" are part of the file's format
        report = {name: {"held": periods, "says": ALARMS[name].message} for name, periods in self._periods.items()}
        write_atomic(self._path, json.dumps(report, indent=1) + "\n")
