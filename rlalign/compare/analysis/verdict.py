"""What may be said of a whole study, in a few plain sentences, and what a reader must know beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from rlalign.compare.analysis.statistics import FEWEST_SEEDS
from rlalign.compare.results.schema import EnvResult, Failure, Pair

T = TypeVar("T")
_NAMED = 3  # so many winners of an environment, or of those that one has beaten, are called by name

Beaten = Mapping[str, Mapping[str, Sequence[str]]]
"""Environment -> winner -> those that it ended above."""


def verdict(environments: Mapping[str, EnvResult], algorithms: Sequence[str], seeds: int) -> list[str]:
    """The sentences: who won, or that nobody may be named; and how small a difference could have been found."""
    pairs = [(name, pair) for name, env in environments.items() for pair in env.pairs]
    if not pairs:
        return [f"{algorithms[0]} alone was run: name a second algorithm to compare it with."]
    tests = [(name, pair) for name, pair in pairs if not pair.failed]
    if not tests:
        said = []
    elif seeds < FEWEST_SEEDS:
        said = [f"No winner is named: that takes {FEWEST_SEEDS} seeds, and there {_are(seeds)}.", *_largest(tests)]
    elif not any(pair.winner for _, pair in tests):
        said = ["No difference between the algorithms can be claimed.", *_largest(tests)]
    elif len(tests) == 1:
        said = [tests[0][1].sentence]
    else:
        won = sum(pair.winner is not None for _, pair in tests)
        said = [
            winners({name: beaten(env.pairs) for name, env in environments.items()}, algorithms),
            f"That is {won} of {len(tests)} comparisons; Holm's correction keeps the chance of even one false claim "
            "among them at 5 %.",
        ]
    alike = _identical(tests) if len(tests) > 1 or not said else []
    power = [_detectable(environments, len(tests))] if tests and seeds >= FEWEST_SEEDS else []
    return [*said, *_failed(pairs), *alike, *power]


def warnings(failures: Sequence[Failure], excluded: Sequence[Failure], more: Sequence[str]) -> list[str]:
    """What limits the study."""
    found = list(more)
    if failures:
        found.append(f"{count(len(failures), 'cell')} failed; a failed cell counts as no better than its start.")
    if excluded:
        found.append(f"{count(len(excluded), 'run')} left out, as asked.")
    return found


def beaten(pairs: Iterable[Pair]) -> dict[str, list[str]]:
    """Winner -> those that it ended above, the winner of most first."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.winner:
            found.setdefault(pair.winner, []).append(pair.b if pair.winner == pair.a else pair.a)
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def winners(found: Beaten, algorithms: Sequence[str]) -> str:
    """Who ended above whom, the environments on which the same was found together; and where nothing was found."""
    together: dict[str, list[str]] = {}
    for env, wins in found.items():
        if wins:
            together.setdefault(_claim(wins, algorithms), []).append(env)
    names = {winner for wins in found.values() for winner in wins}
    silent = [env for env, wins in found.items() if not wins]
    if len(together) == 1 and not silent:
        (claim,) = together
        everywhere = {1: f"on {_and(list(found))}", 2: "on both environments"}
        text = f"{claim} {everywhere.get(len(found), f'on all {len(found)} environments')}."
    elif len(names) == 1:
        (name,) = names
        where = [f"{claim.removeprefix(f'{name} ended above ')} on {_and(envs)}" for claim, envs in together.items()]
        text = f"Every difference that can be claimed is in favour of {name}: it ended above {_listed(where)}."
    else:
        text = "; ".join(f"on {_and(envs)}, {claim}" for claim, envs in together.items()) + "."
        text = text[0].upper() + text[1:]
    return text + (f" On {_and(silent)} no difference can be claimed." if silent else "")


def _claim(wins: Mapping[str, Sequence[str]], algorithms: Sequence[str]) -> str:
    """All of an environment in one clause; of many winners the first ones by name, the rest as a number of pairs."""
    said = [_above(winner, lost, algorithms) for winner, lost in wins.items()]
    if len(said) > _NAMED:
        rest = sum(len(lost) for lost in list(wins.values())[_NAMED - 1 :])
        said = [*said[: _NAMED - 1], f"{rest} more pairs differ"]
    return _and(said)


def _above(winner: str, lost: Sequence[str], algorithms: Sequence[str]) -> str:
    others = [a for a in algorithms if a != winner]
    spared = [a for a in others if a not in lost]
    if len(others) > 1 and not spared:
        whom = "every other algorithm"
    elif len(lost) <= _NAMED:
        whom = _and(lost)
    elif len(spared) == 1:
        whom = f"all the others but {spared[0]}"
    else:
        whom = f"{len(lost)} of the {len(others)} others"
    return f"{winner} ended above {whom}"


def _largest(pairs: Sequence[tuple[str, Pair]]) -> list[str]:
    _, pair = max(pairs, key=lambda item: abs(item[1].difference.value or 0.0))
    if len(pairs) == 1 or not pair.difference.value:
        return [pair.sentence] if len(pairs) == 1 else []
    return [f"The largest difference: {pair.sentence}"]


def _failed(pairs: Sequence[tuple[str, Pair]]) -> list[str]:
    where = _grouped((algorithm, name) for name, pair in pairs for algorithm in pair.failed)
    return [f"{a} failed at every seed on {_and(envs)} and is not compared there." for a, envs in where.items()]


def _identical(pairs: Sequence[tuple[str, Pair]]) -> list[str]:
    where = _grouped(((pair.a, pair.b), name) for name, pair in pairs if pair.identical)
    return [f"{a} and {b} gave identical results on {_and(envs)}." for (a, b), envs in where.items()]


def _grouped(found: Iterable[tuple[T, str]]) -> dict[T, list[str]]:
    """What was found -> the environments on which it was, each once."""
    where: dict[T, dict[str, None]] = {}
    for what, env in found:
        where.setdefault(what, {})[env] = None
    return {what: list(envs) for what, envs in where.items()}


def _detectable(environments: Mapping[str, EnvResult], tests: int) -> str:
    sizes = {name: [pair.detectable for pair in env.pairs] for name, env in environments.items()}
    known = {name: [size for size in found if size is not None] for name, found in sizes.items()}
    largest = {name: max(found) for name, found in known.items() if found}
    if not largest:
        return "How small a difference this study could have found is unknown: its differences do not vary."
    parts = _and([f"{size:.3f} on {name}" for name, size in largest.items()])
    if tests == 1:
        return f"The smallest true difference that the study had 80 % power to find is {parts}."
    which = "For every other pair" if any(None in found for found in sizes.values()) else "Whichever the pair"
    found = f"the study had at least 80 % power to find a true difference of {parts}"
    return f"{which}, {found}; smaller ones may exist unseen."


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _listed(parts: Sequence[str]) -> str:
    """As `_and`, of parts that may be lists themselves."""
    if len(parts) < 3 and not any(" and " in part for part in parts):
        return _and(parts)
    comma = ";" if any(" and " in part for part in parts) else ","
    return f"{comma} ".join([*parts[:-1], f"and {parts[-1]}"] if len(parts) > 1 else parts)


def _are(n: int) -> str:
    return f"{'is' if n == 1 else 'are'} {n}"


def count(n: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {what}{'' if n == 1 else 's'}"
