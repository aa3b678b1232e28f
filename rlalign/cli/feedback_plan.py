"""`rlalign feedback plan`: how many prompts, people and votes a study needs, and what it detects as described."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from rlalign.errors import UserError
from rlalign.escaping.terminal import print_text

if TYPE_CHECKING:
    from rlalign.feedback.statistics.power import Variability
    from rlalign.feedback.study import Study

_PEOPLE = (3, 5, 10, 30, 100)
"""Numbers of people of the table."""


@dataclass(frozen=True)
class Plan:
    """Print how many prompts, people and votes a difference in win rate needs, and what a study detects."""

    study: tyro.conf.Positional[Path]
    """study.toml."""
    difference: float = 5.0
    """Difference of a win rate from 50 %, in percentage points: 5 is 55 % against 45 %."""
    power: float = 0.8
    """Probability with which a true difference of this size is found, at a level of 5 %."""
    people: int | None = None
    """Number of annotators; None: a table of several numbers."""
    store: str | None = None
    """A store of an earlier study whose votes give variance and correlations; None: the prior."""


def run_plan(arguments: Plan) -> int:
    """Print the plan of a study; return 0."""
    from rlalign.feedback.statistics.power import PRIOR
    from rlalign.feedback.study import read_study

    if not 0 < arguments.difference < 50:
        raise UserError(
            f"--difference: expected more than 0 and less than 50 points, got {arguments.difference}; use 5"
        )
    if not 0.5 <= arguments.power < 1:
        raise UserError(f"--power: expected at least 0.5 and less than 1, got {arguments.power}; use 0.8")
    if arguments.people is not None and arguments.people < 1:
        raise UserError(f"--people: expected at least 1, got {arguments.people}; use the number of annotators")
    study = read_study(arguments.study)
    if study.kind == "rating":
        raise UserError("expected kind 'pair' or 'ranking', whose votes give win rates, got 'rating'; use pairs")
    variability = _measured(arguments.store) if arguments.store else PRIOR
    prompts, policies = size_of(study, arguments.study.parent)
    for line in plan_lines(arguments, study, variability, prompts, policies):
        print_text(line)
    return 0


def plan_lines(
    arguments: Plan, study: Study, variability: Variability, prompts: int | None, policies: int | None
) -> list[str]:
    """Return the lines of a plan.

    Args:
        arguments: of the command.
        study: the study.
        variability: variance and correlations of the votes.
        prompts: number of prompts of the study; None if its data do not exist yet.
        policies: number of policies; None if it is unknown.
    """
    from rlalign.feedback.statistics.power import Design, detectable_difference, required_people, required_prompts

    comparisons = max(1, math.comb(policies, 2)) if policies else 1
    votes = study.votes_per_item
    difference, power = arguments.difference / 100, arguments.power
    numbers = [arguments.people] if arguments.people is not None else [n for n in _PEOPLE if n >= votes]
    several = f" of each of {comparisons} pairs of policies (level 5 % / {comparisons})" if comparisons > 1 else ""
    lines = [
        f"To find a win rate of {50 + arguments.difference:g} % instead of 50 %{several} with power {100 * power:g} %, "
        f"{votes} vote{'s' if votes > 1 else ''} per item:",
        "",
        "people  for this panel             for the population of annotators",
    ]
    for people in numbers:
        cells = []
        for interval in ("panel", "population"):
            needed = required_prompts(
                difference, people, votes, variability, interval, power=power, comparisons=comparisons
            )  # fmt: skip
            total = (needed or 0) * min(votes, people) * comparisons
            cells.append("not with any number" if needed is None else f"{needed} prompts, {total} votes")
        lines.append(f"{people:>6}  {cells[0]:<26} {cells[1]}")
    fewest = required_people(difference, votes, variability, power=power, comparisons=comparisons)
    if fewest is not None:
        lines += ["", f"A claim about the population needs at least {fewest} people, even with many more prompts."]
    if prompts is not None:
        lines += [
            "",
            f"As described ({prompts} prompts, {prompts * votes * comparisons} votes), this study detects:",
            "",
        ]
        lines.append("people  for this panel             for the population of annotators")
        for people in numbers:
            design = Design(prompts, people, votes, comparisons)
            cells = [
                _points(detectable_difference(design, variability, interval, power=power))
                for interval in ("panel", "population")
            ]
            lines.append(f"{people:>6}  {cells[0]:<26} {cells[1]}")
    lines += [
        "",
        f"Score variance {variability.variance:.3f}; correlation of votes on a prompt {variability.prompt:.2f}, of "
        f"votes of a person {variability.person:.2f} ({variability.origin}).",
        "Skips and people who stop early come on top.",
    ]
    return lines


def _points(difference: float) -> str:
    return "nothing" if difference >= 0.5 else f"{100 * difference:.1f} points"


def size_of(study: Study, folder: Path) -> tuple[int | None, int | None]:
    """Return the number of prompts and of policies of a study; None if its data do not exist yet.

    Args:
        study: the study.
        folder: of study.toml.
    """
    from rlalign.envs.records.readers import read_table

    policies = len(study.policies) or None
    path = folder / (study.completions or study.prompts)
    if not path.is_file():
        return study.count or None, policies
    table = read_table(path)
    if study.completions:
        prompts = len({str(record.get("prompt")) for record in table})
        policies = len({str(record.get("policy")) for record in table})
    else:
        prompts = sum(1 for _ in table)
    return min(prompts, study.count) if study.count else prompts, policies


def _measured(location: str) -> Variability:
    """Return variance and correlations of the votes of a store."""
    from rlalign.feedback.statistics import read_judgments
    from rlalign.feedback.statistics.power import estimate_variability
    from rlalign.feedback.statistics.win_rates import comparisons
    from rlalign.feedback.store import Store

    with Store(location) as store:
        study = store.study()
        pairs = comparisons(store.read(lambda connection: read_judgments(connection, study)))
    if not len(pairs):
        raise UserError(f"--store: expected votes on pairs of policies in '{location}', got none; leave it out")
    return estimate_variability(pairs)
