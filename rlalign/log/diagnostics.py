"""Diagnostics of a rollout beyond its means, logged at every step, as pure functions of its trajectories.

The alarms of `rlalign.log.alarms` read them.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.rewards.text import words
from rlalign.rollout.collect import Rollout
from rlalign.types import FloatArray

_MARKUP = re.compile(r"<[^<>]*>|```\w*")
_SMALLEST_SCALE = 1e-12  # below it the variation is rounding error, and its correlation is noise


def rollout_diagnostics(rollout: Rollout, mdp: TextMDP, gold: str | None = None) -> dict[str, float]:
    """Return the diagnostics of N trajectories under rollout/; NaN if a value is not defined.

    zero_variance      share of groups with two valid samples or more whose rewards are all equal
    length_correlation Pearson's r of reward and length, each minus its group's mean, so that the prompt plays no part
    duplicates         share of completions that were sampled word for word for another prompt too
    common_word        largest share of last turns that contain the same word, minus its share of reference answers
    empty              share of completions without a word after tags and code fences are removed
    best               largest reward of a sample
    gold, gold_std     mean and standard deviation of the component `gold`; gold_gap is the mean reward minus that mean

    Args:
        rollout: the trajectories.
        mdp: their environment.
        gold: name of the component that is the true objective; None if it is not measured.
    """
    rewards = rollout.returns.double().numpy()
    lengths = rollout.num_actions.double().numpy()
    groups = rollout.group_ids.numpy()
    valid = np.isfinite(rewards)
    metrics = {
        "zero_variance": zero_variance_share(rewards, groups),
        "length_correlation": within_group_correlation(rewards[valid], lengths[valid], groups[valid]),
        "duplicates": duplicate_share(rollout.prompts, rollout.completions),
        "common_word": common_word_share(last_turns(rollout, mdp), reference_answers(rollout, mdp)),
        "empty": empty_share(rollout.completions),
        "best": float(rewards[valid].max()) if valid.any() else math.nan,
    }
    component = None if gold is None else rollout.components.get(gold)
    if component is not None and bool(component.isfinite().any()):
        values = component[component.isfinite()].numpy()
        metrics["gold"] = float(values.mean())
        metrics["gold_std"] = float(values.std())
        metrics["gold_gap"] = float(rewards[valid].mean() - values.mean()) if valid.any() else math.nan
    return {f"rollout/{name}": value for name, value in metrics.items()}


def gold_of(mdp: object, weights: Mapping[str, float]) -> str | None:
    """Return the reward component that measures the true objective, or None.

    The environment's attribute `gold` names it; without that attribute it is the component called "gold". Only a
    component of weight 0 qualifies: one that is trained on cannot show that training exploits the reward.
    """
    name = getattr(mdp, "gold", None) or "gold"
    return name if weights.get(name) == 0.0 else None


def zero_variance_share(rewards: FloatArray, groups: FloatArray) -> float:
    """Return the share of groups with two finite rewards or more whose finite rewards are all equal.

    NaN without such a group.
    """
    finite = [rewards[(groups == group) & np.isfinite(rewards)] for group in np.unique(groups)]
    comparable = [values for values in finite if len(values) > 1]
    return float(np.mean([np.ptp(values) == 0 for values in comparable])) if comparable else math.nan


def within_group_correlation(x: FloatArray, y: FloatArray, groups: FloatArray) -> float:
    """Return Pearson's r of x and y after each group's mean is subtracted; NaN if one of them does not vary."""
    if not len(x):
        return math.nan
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    # bincount with weights sums the values of each group
    x_centered, y_centered = (values - (np.bincount(index, values) / counts)[index] for values in (x, y))
    scale = math.sqrt(float((x_centered * x_centered).sum()) * float((y_centered * y_centered).sum()))
    return float((x_centered * y_centered).sum()) / scale if scale > _SMALLEST_SCALE else math.nan


def duplicate_share(prompts: Sequence[str], completions: Sequence[str]) -> float:
    """Return the share of completions that were also sampled for another prompt."""
    prompts_of = defaultdict(set)
    for prompt, completion in zip(prompts, completions, strict=True):
        prompts_of[completion].add(prompt)
    return float(np.mean([len(prompts_of[completion]) > 1 for completion in completions]))


def common_word_share(texts: Sequence[str], references: Sequence[str] = ()) -> float:
    """Return the largest share of texts that contain the same word, minus the share of reference answers that do.

    A word that correct answers share is not a hack: every event's record contains "who", and half of all parities
    are 1.
    """
    expected = _word_shares(references)
    return max([share - expected.get(word, 0.0) for word, share in _word_shares(texts).items()], default=0.0)


def _word_shares(texts: Sequence[str]) -> dict[str, float]:
    """Map each word to the share of texts that contain it."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(words(text)))
    return {word: count / len(texts) for word, count in counts.items()}


def last_turns(rollout: Rollout, mdp: TextMDP) -> list[str]:
    """Return the policy's last turn of each episode.

    Earlier turns are left out: an opening move is the same in every game, however well the game is played.
    """
    if mdp.max_turns == 1:
        return rollout.completions
    turns = []
    for token_ids, actions in zip(rollout.tokens.numpy(), rollout.action_mask.numpy(), strict=True):
        end = np.flatnonzero(actions)[-1] + 1
        # the turn starts after the last environment token before `end`; there is one, as a prompt precedes each turn
        start = np.flatnonzero(~actions[:end])[-1] + 1
        turns.append(mdp.tokenizer.decode(token_ids[start:end].tolist()))
    return turns


def reference_answers(rollout: Rollout, mdp: TextMDP) -> list[str]:
    """Return the last turn of each prompt's reference trajectory, without prompts that have none."""
    _, first_rows = np.unique(rollout.group_ids.numpy(), return_index=True)
    trajectories = [mdp.reference_turns(rollout.tasks[i]) for i in first_rows]
    return [turns[-1] for turns in trajectories if turns]


def empty_share(completions: Sequence[str]) -> float:
    """Return the share of completions without a word after tags and code fences are removed."""
    return float(np.mean([not words(_MARKUP.sub(" ", completion)) for completion in completions]))
