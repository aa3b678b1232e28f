"""Checks that competitors were measured alike: held-out prompts, initial policies, numbers of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from rlalign.algorithms import OUTSIDE, UNTRAINED
from rlalign.compare.records.run_records import Record
from rlalign.compare.results.schema import EnvResult
from rlalign.errors import UserError

_NOTABLE_RATIO = 1.05  # of samples drawn; smaller differences are not reported


def check_prompts(records: Sequence[Record]) -> None:
    """Raise UserError if cells of one environment were measured on different held-out prompts.

    This happens if the environment's file or data changed between the runs of two cells.

    Raises:
        UserError: names two such cells.
    """
    done = [record for record in records if record.failure is None]
    for record in done:
        if record.prompts != done[0].prompts:
            raise UserError(
                f"'{record.cell.folder}' was measured on other held-out prompts than '{done[0].cell.folder}': the "
                "environment changed between the runs. Remove the older folder, and repeat the command to run it again"
            )


def unequal_draws(environments: Mapping[str, EnvResult]) -> list[str]:
    """Return a sentence per environment on which algorithms drew clearly different numbers of samples.

    The budget is steps × samples per step. Samples that dynamic sampling discarded and greedy baselines come on top.
    """
    sentences = []
    for env, result in environments.items():
        samples: dict[str, float] = {}
        for algorithm, r in result.algorithms.items():
            totals = [c.samples[-1] for c, failed in zip(r.curves, r.failed, strict=True) if not failed]
            if any(totals):  # a competitor without training drew none
                samples[algorithm] = sum(totals) / len(totals)
        if not samples:
            continue
        most = max(samples, key=samples.__getitem__)
        least = min(samples, key=samples.__getitem__)
        if samples[most] > _NOTABLE_RATIO * samples[least] > 0:
            sentences.append(
                f"On {env}, {most} drew {samples[most] / samples[least]:.2f} times the samples that {least} drew in as "
                "many steps: read the curves against samples too."
            )
    return sentences


def recorded_samples(records: Sequence[Record]) -> list[str]:
    """Return a sentence about the algorithms that learn from recorded data; [] if none does or all do."""
    readers: dict[str, str] = {}
    for record in records:
        config = record.cell.config
        if config.data and config.algorithm not in {*UNTRAINED, *OUTSIDE}:
            readers[record.cell.algorithm] = Path(config.data).name
    others = {record.cell.algorithm for record in records} - readers.keys()
    if not readers or not others:
        return []
    files = ", ".join(dict.fromkeys(readers.values()))
    verb = "learns" if len(readers) == 1 else "learn"
    return [
        f"{', '.join(readers)} {verb} from recorded data ({files}), not from samples: samples, tokens and curves "
        "count the completions that were read, again in each pass over the data."
    ]


def unequal_costs(environments: Mapping[str, EnvResult]) -> list[str]:
    """Return a sentence per environment on which an answer of one algorithm costs more samples than that of others."""
    sentences = []
    for env, result in environments.items():
        costs = {name: r.samples_per_answer for name, r in result.algorithms.items()}
        for name, cost in costs.items():
            if cost > min(costs.values()):
                sentences.append(
                    f"On {env}, an answer of {name} costs {cost} samples, and it drew none in training; an answer of "
                    f"{min(costs, key=costs.__getitem__)} costs {min(costs.values())}."
                )
    return sentences


def unequal_starts(grids: Mapping[str, Mapping[str, Mapping[int, Record]]]) -> list[str]:
    """Return a sentence per environment and seed at which the initial policies had different held-out rewards.

    Args:
        grids: environment -> algorithm -> seed -> record.
    """
    sentences = []
    for env, grid in grids.items():
        for seed in next(iter(grid.values())):
            starts = [row[seed].before["reward"] for row in grid.values() if row[seed].before]
            if any(s.shape != starts[0].shape or not np.allclose(s, starts[0], equal_nan=True) for s in starts):
                sentences.append(f"On {env} at seed {seed} the algorithms did not begin with the same policy.")
    return sentences
