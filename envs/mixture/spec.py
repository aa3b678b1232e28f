"""The spec of several environments, `a=0.7,b=0.3` or `a@0,b@200`, and short names of environments.

    a,b                           equal weights
    a=0.7,b=0.3                   weights; a weight may be a schedule, as in b=0.2@0:0@100
    a@0,b@200                     stages: each environment from its step to the next one's

Each environment is a spec of its own, `NAME[?argument=value&...]`. In a value, `,` is written as %2C.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlalign.envs.mixture.weights import Weight, Weights, stages
from rlalign.envs.spec import env_id, is_registered
from rlalign.envs.task_sources import is_data
from rlalign.errors import UserError
from rlalign.rewards.weights import Constraint, as_weight, is_weight

_STAGE = re.compile(r"(.+)@(\d+)")
_CODE = re.compile(r"[\w./~-]+:[A-Za-z_]\w*")


@dataclass(frozen=True)
class MixtureSpec:
    """A parsed spec of several environments.

    Attributes:
        envs: short name -> spec of each environment.
        weights: their weights over training steps.
    """

    envs: dict[str, str]
    weights: Weights

    @classmethod
    def parse(cls, spec: object) -> MixtureSpec | None:
        """Return the parsed spec; None for anything that is not the spec of several environments. Imports nothing.

        Raises:
            UserError: only some environments have a weight or a stage, one is named twice, or a number is wrong.

        Example:
            >>> spec = MixtureSpec.parse("sort=0.75,reverse=0.25")
            >>> spec.envs, spec.weights.at(0)
            ({'sort': 'sort', 'reverse': 'reverse'}, {'sort': 0.75, 'reverse': 0.25})
            >>> MixtureSpec.parse("reverse?alphabet=a,b") is None
            True
        """
        pieces = _pieces(spec) if isinstance(spec, str) and "," in spec else []
        if len(pieces) < 2:
            return None
        entries = [_entry(piece) for piece in pieces]
        specs = list(dict.fromkeys(spec for spec, _, _ in entries))
        names = dict(zip(specs, short_names(specs), strict=True))
        envs = {name: spec for spec, name in names.items()}
        staged = [step is not None for _, _, step in entries]
        weighted = [weight is not None for _, weight, _ in entries]
        if (any(staged) and not all(staged)) or (any(weighted) and not all(weighted)):
            raise UserError(
                f"'{spec}': expected a weight for each environment, a step for each, or neither, got a part of them; "
                "use a=0.7,b=0.3 or a@0,b@200"
            )
        if any(staged):
            starts = [(step, names[own]) for own, _, step in entries if step is not None]
            return cls(envs, Weights(stages(starts)))
        if len(specs) < len(entries):
            raise UserError(f"'{spec}': expected different environments, got one twice; name each once")
        weights = {names[own]: _weight(text, names[own]) for own, text, _ in entries}
        return cls(envs, Weights(weights, given=any(weighted)))

    def never_drawn(self, steps: int) -> list[str]:
        """Return the names of the environments whose weight is 0 in each of the first `steps` steps.

        Example:
            >>> MixtureSpec.parse("sort@0,reverse@20").never_drawn(10)
            ['reverse']
        """
        left = dict.fromkeys(self.envs)
        for step in range(steps):
            for name in [name for name in left if self.weights.at(step).get(name, 0) > 0]:
                del left[name]
            if not left:
                break
        return list(left)


def env_specs(text: str) -> list[str]:
    """Return the specs of the environments that a text names: one, or those of a mixture."""
    mixture = MixtureSpec.parse(text)
    return [text] if mixture is None else list(mixture.envs.values())


def map_envs(text: str, change: Callable[[str], str]) -> str:
    """Return a text that names environments with each of their specs replaced; weights and stages stay.

    Args:
        text: one spec, or that of several.
        change: of the spec of an environment.

    Example:
        >>> map_envs("sort=0.5,/x/sums.csv=0.5", lambda spec: spec.rpartition("/")[2])
        'sort=0.5,sums.csv=0.5'
    """
    pieces = _pieces(text)
    if len(pieces) < 2:
        return change(text)
    specs = [_entry(piece)[0] for piece in pieces]
    return ",".join(change(spec) + piece[len(spec) :] for spec, piece in zip(specs, pieces, strict=True))


def short_names(specs: Sequence[str]) -> list[str]:
    """Return a different name for each spec, without `/`: `sort`, or `sort[max_length=2]` if several are called sort.

    Example:
        >>> short_names(["rlalign/Sort-v0", "sums.csv?max_new=3", "reverse?max_length=2", "reverse?max_length=3"])
        ['sort', 'sums', 'reverse[max_length=2]', 'reverse[max_length=3]']
    """
    plain = [_short_name(spec) for spec in specs]
    names: list[str] = []
    for spec, name in zip(specs, plain, strict=True):
        query = spec.partition("?")[2]
        if plain.count(name) > 1 and query:
            name = f"{name}[{re.sub(r'[^A-Za-z0-9._=&+-]+', '-', query)}]"
        number = 2
        unique = name
        while unique in names:
            unique = f"{name}-{number}"
            number += 1
        names.append(unique)
    return names


def _short_name(spec: str) -> str:
    head = spec.partition("?")[0]
    if is_data(spec):
        name = Path(head).stem
    else:
        name = env_id(head).rpartition("/")[2].rpartition(":")[2]
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", re.sub(r"-v\d+$", "", name)).lower()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "env"


def _pieces(text: str) -> list[str]:
    """Return the parts between commas; one that begins no environment belongs to the value before it."""
    pieces: list[str] = []
    for piece in text.split(","):
        if pieces and "?" in pieces[-1] and not _begins_env(piece):
            pieces[-1] += f",{piece}"
        else:
            pieces.append(piece.strip())
    return pieces


def _begins_env(piece: str) -> bool:
    head = _entry(piece.strip())[0].partition("?")[0]
    return is_registered(head) or is_data(head) or _CODE.fullmatch(head) is not None


def _entry(piece: str) -> tuple[str, str | None, int | None]:
    """Return the spec of an environment, its weight and its first step; None: it has none."""
    spec, equals, tail = piece.rpartition("=")
    query = spec.partition("?")
    # in a query the last option has an `=` of its own before that of the weight
    if equals and is_weight(tail) and (not query[1] or "=" in query[2].rpartition("&")[2]):
        return spec, tail, None
    stage = _STAGE.fullmatch(piece)
    return (stage[1], None, int(stage[2])) if stage else (piece, None, None)


def _weight(text: str | None, name: str) -> Weight:
    """Return the weight that a text states; 1 without a text."""
    weight = as_weight(1.0 if text is None else text, name)
    assert not isinstance(weight, Constraint)  # a bound is split off from the specs of rewards alone
    return weight
