"""What may be said of a whole study, in two or three plain sentences, and what a reader must know beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlalign.compare.results import EnvResult, Failure, Pair
from rlalign.compare.statistics import FEWEST_SEEDS


def verdict(environments: Mapping[str, EnvResult], algorithms: Sequence[str], seeds: int) -> list[str]:
    """The sentences: who won, or that nobody may be named; and how small a difference could have been found."""
    pairs = [(name, pair) for name, env in environments.items() for pair in env.pairs]
    if not pairs:
        return [f"{algorithms[0]} alone was run: name a second algorithm to compare it with."]
    if seeds < FEWEST_SEEDS:
        few = f"{count(seeds, 'seed')} {'is' if seeds == 1 else 'are'} fewer than {FEWEST_SEEDS}"
        said = [f"No winner is named: {few}.", _largest(pairs)]
    elif not any(pair.winner for _, pair in pairs):
        said = ["No difference between the algorithms can be claimed.", _largest(pairs)]
    elif len(pairs) == 1:
        said = [pairs[0][1].sentence]
    else:
        said = [_winners(environments, algorithms)]
        won = sum(pair.winner is not None for _, pair in pairs)
        said.append(f"{won} of {len(pairs)} pairs differ; Holm's correction keeps the chance of any false one at 5 %.")
    return [*said, _detectable(environments, len(pairs))]


def warnings(seeds: int, failures: Sequence[Failure], excluded: Sequence[Failure], more: Sequence[str]) -> list[str]:
    """What limits the study."""
    found = list(more)
    if seeds < FEWEST_SEEDS:
        found.append(f"{count(seeds, 'seed')}: too few to name a winner; at least {FEWEST_SEEDS} are needed.")
    if failures:
        found.append(f"{count(len(failures), 'cell')} failed; a failed cell counts as no better than its start.")
    if excluded:
        found.append(f"{count(len(excluded), 'run')} left out, as asked.")
    return found


def _winners(environments: Mapping[str, EnvResult], algorithms: Sequence[str]) -> str:
    beaten = {name: _beaten(env.pairs) for name, env in environments.items()}
    others = len(algorithms) - 1
    best = next((a for a in algorithms if all(list(w) == [a] and len(w[a]) == others for w in beaten.values())), None)
    if best is not None and len(beaten) > 1:
        return f"{best} ended above every other algorithm on all {len(beaten)} environments."
    parts = []
    for name, wins in beaten.items():
        said = [f"{a} ended above {'every other algorithm' if len(w) == others else _and(w)}" for a, w in wins.items()]
        parts.append(f"on {name} {_and(said)}" if said else f"on {name} no difference can be claimed")
    text = "; ".join(parts)
    return text[0].upper() + text[1:] + "."


def _beaten(pairs: Sequence[Pair]) -> dict[str, list[str]]:
    """Winner -> those that it ended above."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        if pair.winner:
            found.setdefault(pair.winner, []).append(_other(pair))
    return found


def _other(pair: Pair) -> str:
    return pair.b if pair.winner == pair.a else pair.a


def _largest(pairs: Sequence[tuple[str, Pair]]) -> str:
    _, pair = max(pairs, key=lambda item: abs(item[1].difference.value or 0.0))
    if len(pairs) == 1 or pair.difference.value is None:
        return pair.sentence
    return f"The largest difference: {pair.sentence}"


def _detectable(environments: Mapping[str, EnvResult], tests: int) -> str:
    parts = []
    for name, env in environments.items():
        sizes = [p.detectable for p in env.pairs if p.detectable is not None]
        if sizes:
            low, high = f"{min(sizes):.3f}", f"{max(sizes):.3f}"
            parts.append((low if low == high else f"{low} to {high}") + f" on {name}")
    if not parts:
        return "How small a difference this study could have found is unknown: that takes two seeds at least."
    which = "" if tests == 1 else ", depending on the pair"
    return f"The smallest true difference that it had 80 % power to find: {_and(parts)}{which}."


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def count(n: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {what}{'' if n == 1 else 's'}"
