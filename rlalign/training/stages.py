"""The stages of a run whose environments follow one another, as in `--env a@0,b@200`."""

from __future__ import annotations

from collections.abc import MutableMapping

from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.escaping.console import PlainConsole

STAGE = "train/stage"
"""Number of the stage, from 1, logged in its first step."""


def stage_change(mdp: TextMDP, step: int) -> tuple[int, str] | None:
    """Return the number of the stage that begins with a step, from 2, and a sentence about it; None: none begins.

    A stage ends when an environment begins or ceases to have a share of the prompts.

    Args:
        mdp: the environment of the run.
        step: steps done before.

    Example:
        >>> from rlalign.envs.registration import make_mdp
        >>> mdp = make_mdp("sort@0,reverse@20")
        >>> stage_change(mdp, 20)
        (2, 'stage 2 begins with step 21: reverse (before: sort)')
        >>> stage_change(mdp, 21) is None
        True
    """
    if not isinstance(mdp, Mixture) or step == 0:
        return None
    before, now = _drawn(mdp, step - 1), _drawn(mdp, step)
    if before == now:
        return None
    # the share of a weight that falls or rises begins or ends one step beside the step that its schedule names
    places = {place for point in mdp.weights.switches for place in (point, point + 1) if 0 < place <= step}
    number = 1 + sum(_drawn(mdp, place - 1) != _drawn(mdp, place) for place in places)
    return number, f"stage {number} begins with step {step + 1}: {', '.join(now)} (before: {', '.join(before)})"


def report_stage(mdp: TextMDP, step: int, metrics: MutableMapping[str, float], console: PlainConsole) -> None:
    """Print that a stage begins with a step, and add it to the metrics of that step; nothing in other steps.

    It is called when the experience of a step has been collected, which happens once per step, also if the run resumes.

    Args:
        mdp: the environment of the run.
        step: steps done before.
        metrics: of the step, changed in place.
        console: of the run.
    """
    change = stage_change(mdp, step)
    if change is not None:
        metrics[STAGE] = float(change[0])
        console.print(change[1], soft_wrap=True)


def _drawn(mdp: Mixture, step: int) -> list[str]:
    """Return the environments with a share of the prompts of a step."""
    return [name for name, weight in mdp.weights.at(step).items() if weight > 0]
