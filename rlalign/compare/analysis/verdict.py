"""The verdict of a study: a few plain sentences about winners and power, and the warnings beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from rlalign.compare.analysis.intervals import FEWEST_SEEDS
from rlalign.compare.results.schema import EnvResult, Failure, Pair

T = TypeVar("T")
_MOST_NAMED = 3  # winners of an environment, or algorithms that one has beaten, that a sentence names

Beaten = Mapping[str, Mapping[str, Sequence[str]]]
"""Environment -> winner -> algorithms that it ended above."""


def verdict(environments: Mapping[str, EnvResult], algorithms: Sequence[str], seeds: int) -> list[str]:
    """Return the sentences: winners, or that there are none; failures; and the smallest detectable difference.

    Args:
        environments: label -> decided results.
        algorithms: labels.
        seeds: number of seeds.
    """
    pairs = [(name, pair) for name, env in environments.items() for pair in env.pairs]
    if not pairs:
        return [f"Only {algorithms[0]} was run; add a second algorithm to compare it with."]
    tests = [(name, pair) for name, pair in pairs if not pair.failed]
    sentences = _claims(tests, environments, algorithms, seeds)
    identical = _identical(tests) if len(tests) > 1 or not sentences else []
    power = [_detectable(environments, len(tests))] if tests and seeds >= FEWEST_SEEDS else []
    return [*sentences, *_failed(pairs), *identical, *power]


def _claims(
    tests: Sequence[tuple[str, Pair]], environments: Mapping[str, EnvResult], algorithms: Sequence[str], seeds: int
) -> list[str]:
    """Return the sentences about winners; none if nothing was tested."""
    if not tests:
        return []
    if seeds < FEWEST_SEEDS:
        verb = "is" if seeds == 1 else "are"
        return [f"No winner is named: that takes {FEWEST_SEEDS} seeds, and there {verb} {seeds}.", *_largest(tests)]
    if not any(pair.winner for _, pair in tests):
        return ["No difference between the algorithms can be claimed.", *_largest(tests)]
    if len(tests) == 1:
        return [tests[0][1].sentence]
    won = sum(pair.winner is not None for _, pair in tests)
    return [
        winners({name: beaten(env.pairs) for name, env in environments.items()}, algorithms),
        f"That is {won} of {len(tests)} comparisons; Holm's correction keeps the chance of even one false claim "
        "among them at 5 %.",
    ]


def warnings(failures: Sequence[Failure], excluded: Sequence[Failure], notes: Sequence[str]) -> list[str]:
    """Return the limits of the study.

    Args:
        failures: cells that crashed.
        excluded: runs that were left out.
        notes: further warnings, which come first.
    """
    sentences = list(notes)
    if failures:
        sentences.append(f"{count(len(failures), 'cell')} failed; a failed cell is scored as the initial policy.")
    if excluded:
        sentences.append(f"{count(len(excluded), 'run')} left out, as requested.")
    return sentences


def beaten(pairs: Iterable[Pair]) -> dict[str, list[str]]:
    """Return winner -> algorithms that it ended above; the winner of most pairs first."""
    losers: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.winner:
            losers.setdefault(pair.winner, []).append(pair.b if pair.winner == pair.a else pair.a)
    return dict(sorted(losers.items(), key=lambda item: -len(item[1])))


def winners(beaten_on: Beaten, algorithms: Sequence[str]) -> str:
    """Return a sentence about all winners.

    Environments with the same winners are named together. A second sentence names the environments without a claim.

    Args:
        beaten_on: environment -> winner -> algorithms that it ended above; at least one winner.
        algorithms: all labels.
    """
    envs_of: dict[str, list[str]] = {}  # clause -> environments
    for env, wins in beaten_on.items():
        if wins:
            envs_of.setdefault(_clause(wins, algorithms), []).append(env)
    names = {winner for wins in beaten_on.values() for winner in wins}
    undecided = [env for env, wins in beaten_on.items() if not wins]
    if len(envs_of) == 1 and not undecided:
        (clause,) = envs_of
        text = f"{clause} {_on_all(list(beaten_on))}."
    elif len(names) == 1:
        (name,) = names
        parts = [f"{clause.removeprefix(f'{name} ended above ')} on {_and(envs)}" for clause, envs in envs_of.items()]
        text = f"Every difference that can be claimed is in favor of {name}: it ended above {_listed(parts)}."
    else:
        text = "; ".join(f"on {_and(envs)}, {clause}" for clause, envs in envs_of.items()) + "."
        text = text[0].upper() + text[1:]
    return text + (f" On {_and(undecided)} no difference can be claimed." if undecided else "")


def _on_all(envs: Sequence[str]) -> str:
    if len(envs) == 1:
        return f"on {envs[0]}"
    return "on both environments" if len(envs) == 2 else f"on all {len(envs)} environments"


def _clause(wins: Mapping[str, Sequence[str]], algorithms: Sequence[str]) -> str:
    """Return the winners of an environment in one clause; of many, the first by name and the rest as a number."""
    clauses = [_above(winner, losers, algorithms) for winner, losers in wins.items()]
    if len(clauses) > _MOST_NAMED:
        rest = sum(len(losers) for losers in list(wins.values())[_MOST_NAMED - 1 :])
        clauses = [*clauses[: _MOST_NAMED - 1], f"{rest} more pairs differ"]
    return _and(clauses)


def _above(winner: str, losers: Sequence[str], algorithms: Sequence[str]) -> str:
    others = [algorithm for algorithm in algorithms if algorithm != winner]
    not_beaten = [algorithm for algorithm in others if algorithm not in losers]
    if len(others) > 1 and not not_beaten:
        text = "every other algorithm"
    elif len(losers) <= _MOST_NAMED:
        text = _and(losers)
    elif len(not_beaten) == 1:
        text = f"all the others but {not_beaten[0]}"
    else:
        text = f"{len(losers)} of the {len(others)} others"
    return f"{winner} ended above {text}"


def _largest(tests: Sequence[tuple[str, Pair]]) -> list[str]:
    """Return the sentence of the largest difference; none if there are several tests and it is 0 or unknown."""
    _, pair = max(tests, key=lambda item: abs(item[1].difference.value or 0.0))
    if len(tests) == 1:
        return [pair.sentence]
    return [f"The largest difference: {pair.sentence}"] if pair.difference.value else []


def _failed(pairs: Sequence[tuple[str, Pair]]) -> list[str]:
    envs_of = _grouped((algorithm, name) for name, pair in pairs for algorithm in pair.failed)
    return [f"{a} failed at every seed on {_and(envs)} and is not compared there." for a, envs in envs_of.items()]


def _identical(tests: Sequence[tuple[str, Pair]]) -> list[str]:
    envs_of = _grouped(((pair.a, pair.b), name) for name, pair in tests if pair.identical)
    return [f"{a} and {b} gave identical results on {_and(envs)}." for (a, b), envs in envs_of.items()]


def _grouped(items: Iterable[tuple[T, str]]) -> dict[T, list[str]]:
    """Return key -> its environments, each once, in the order of first occurrence."""
    envs_of: dict[T, dict[str, None]] = {}
    for key, env in items:
        envs_of.setdefault(key, {})[env] = None
    return {key: list(envs) for key, envs in envs_of.items()}


def _detectable(environments: Mapping[str, EnvResult], tests: int) -> str:
    """Return the sentence about power: per environment the largest of its pairs' smallest detectable differences."""
    all_sizes = {name: [pair.detectable for pair in env.pairs] for name, env in environments.items()}
    largest = {}
    for name, sizes in all_sizes.items():
        defined = [size for size in sizes if size is not None]
        if defined:
            largest[name] = max(defined)
    if not largest:
        return "The smallest difference that this study could have found is unknown: its differences do not vary."
    parts = _and([f"{size:.3f} on {name}" for name, size in largest.items()])
    if tests == 1:
        return f"The smallest true difference that the study had 80 % power to find is {parts}."
    some_unknown = any(None in sizes for sizes in all_sizes.values())
    subject = "For every other pair" if some_unknown else "For every pair"
    power = f"the study had at least 80 % power to find a true difference of {parts}"
    return f"{subject}, {power}; smaller differences may exist undetected."


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _listed(parts: Sequence[str]) -> str:
    """As `_and`, for parts that may contain lists: a semicolon or a comma separates them."""
    nested = any(" and " in part for part in parts)
    if len(parts) == 1 or (len(parts) == 2 and not nested):
        return _and(parts)
    separator = "; " if nested else ", "
    return separator.join([*parts[:-1], f"and {parts[-1]}"])


def count(n: int, noun: str) -> str:
    """Return a number with its noun: `1 seed`, `2 seeds`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
