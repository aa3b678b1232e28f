"""Replay: prompts of the former environments among those of the new one, in exact shares."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from rlalign.config.schema import OBJECT, ContinualConfig, TrainConfig
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.parts import parts_of
from rlalign.envs.mixture.spec import short_names
from rlalign.envs.mixture.weights import Weights
from rlalign.rewards.weights import Schedule


def replay_share(continual: ContinualConfig, steps: int, step: int) -> float:
    """Return the share of replayed prompts at a step.

    ::

        constant    r
        linear      r · (1 - step / (steps - 1)),    0 in the last step; r in a run of one step

    Args:
        continual: reads `replay`, r, and `replay_schedule`.
        steps: of the run.
        step: from 0; later than the last one counts as the last.

    Example:
        >>> [replay_share(ContinualConfig(replay=0.2, replay_schedule="linear"), 5, step) for step in (0, 2, 4)]
        [0.2, 0.1, 0.0]
    """
    if continual.replay_schedule == "constant" or steps < 2:
        return continual.replay
    return continual.replay * (1 - min(step, steps - 1) / (steps - 1))


def with_replay(config: TrainConfig, mdp: TextMDP, former_config: TrainConfig, former: TextMDP) -> Mixture:
    """Return the mixture of a run's environment and the former one. Each keeps its rewards and limits.

    If one of them is a mixture, its environments divide its share in the proportion of their weights at each step; of
    the former one they are fixed.

    Args:
        config: of the run.
        mdp: its environment, bound to the policy's tokenizer.
        former_config: of the former run.
        former: its environment, bound to the same tokenizer (see `with_former_shares`).
    """
    names = _names(mdp, config)
    former_names = {
        own: f"{name}-former" if name in names.values() else name for own, name in _names(former, former_config).items()
    }
    parts: dict[str, TextMDP] = {}
    weights: dict[str, Schedule] = {}
    for own, part in parts_of(mdp).items():
        parts[names[own]] = part
        weights[names[own]] = Schedule(function=partial(_new_weight, config, _weights_of(mdp), own))
    for own, part in parts_of(former).items():
        share = _share(_weights_of(former), own, 0)
        parts[former_names[own]] = part
        weights[former_names[own]] = Schedule(function=partial(_former_weight, config, share))
    return Mixture(parts, weights, tokenizer=mdp.tokenizer)


def _new_weight(config: TrainConfig, weights: Weights | None, name: str, step: int) -> float:
    return (1 - replay_share(config.continual, config.steps, step)) * _share(weights, name, step)


def _former_weight(config: TrainConfig, share: float, step: int) -> float:
    return replay_share(config.continual, config.steps, step) * share


def _weights_of(mdp: TextMDP) -> Weights | None:
    return mdp.weights if isinstance(mdp, Mixture) else None


def _share(weights: Weights | None, name: str, step: int) -> float:
    """Return the share of an environment in its mixture at a step; 1 without a mixture."""
    if weights is None:
        return 1.0
    by_name: Mapping[str, float] = weights.at(step)
    return by_name[name] / sum(by_name.values())


def _names(mdp: TextMDP, config: TrainConfig) -> dict[str, str]:
    """Return name of an environment in its mixture, empty for the only one, -> name in the mixture with replay."""
    if isinstance(mdp, Mixture):
        return {name: name for name in mdp.parts}
    return {"": short_names([config.env.removeprefix(OBJECT)])[0]}
