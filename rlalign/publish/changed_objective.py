"""The objective of a run beside that of its preset, for its card: changed axes, and terms of continued learning."""

from __future__ import annotations

from rlalign.algorithms import Algorithm, diff
from rlalign.config.defaults import default_config
from rlalign.config.overrides import shown
from rlalign.config.schema import ContinualConfig, TrainConfig
from rlalign.config.validate import resolve
from rlalign.escaping.markdown import code
from rlalign.oracle.formula import formula


def changed_objective(config: TrainConfig, preset: Algorithm) -> list[str]:
    """Return the paragraphs about what a run changes of its preset; [] if nothing.

    The default of a policy from scratch, no KL to its random initial policy, is not counted as a change.

    Args:
        config: of the run, as others may read it.
        preset: that its algorithm names.
    """
    changes = {key: (shown(old), shown(new)) for key, (old, new) in diff(preset.objective, config.objective).items()}
    default = resolve(default_config(policy=config.policy, algorithm=config.algorithm)).objective
    own = {key: pair for key, pair in changes.items() if key in diff(default, config.objective)}
    by_default = {key: pair for key, pair in changes.items() if key not in own}
    own |= _continual(config)
    lines = []
    if by_default:
        lines.append(f"The default for random initial weights: {_listed(by_default)}.")
    if own:
        lines.append(f"Changed from the preset, so that the statement above is not one about this run: {_listed(own)}.")
    return lines


def _continual(config: TrainConfig) -> dict[str, tuple[str, str]]:
    """Return the settings of continued learning that change the objective."""
    default = ContinualConfig()
    settings = config.continual
    found: dict[str, tuple[object, object]] = {}
    if settings.replay:
        found["continual.replay"] = (default.replay, settings.replay)
    if settings.ewc:
        found["continual.ewc"] = (default.ewc, settings.ewc)
    if settings.anchor != default.anchor and config.objective.needs_reference:
        found["continual.anchor"] = (default.anchor, settings.anchor)
    return {key: (shown(old), shown(new)) for key, (old, new) in found.items()}


def _listed(changes: dict[str, tuple[str, str]]) -> str:
    return ", ".join(f"{code(key)} {code(old)} → {code(new)}" for key, (old, new) in changes.items())


def formula_of_run(config: TrainConfig) -> list[str]:
    """Return the lines of the formula of a run: that of its objective, and the terms of continued learning.

    Args:
        config: of the run.
    """
    lines = formula(config.objective)
    settings = config.continual
    if settings.anchor == "both" and config.objective.needs_reference:
        lines.append("(pi‖ref): mean of that to the initial policy and that to the former reference policy")
    if settings.ewc:
        lines.append(f"total ← total + {settings.ewc:g}/2 · Σ F (theta - theta_start)²")
    return lines
