"""Does a rising reward mean what it should? Numbers about every rollout, and alarms in plain words, both pure.

The numbers (`rollout_diagnostics`) are logged at every step; the alarms (`alarms`) read the rows of the run so far. An
alarm is a pattern that reward hacking is known to show, no proof of it: it says where to look.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.rewards.text import words
from rlalign.rollout.collect import Rollout
from rlalign.types import FloatArray

Row = Mapping[str, float | None]

_MARKUP = re.compile(r"<[^<>]*>|```\w*")
_FEWEST = 10  # steps before anything is said: the first ones are noise


# ---- numbers ----


def rollout_diagnostics(rollout: Rollout, mdp: TextMDP, gold: str | None = None) -> dict[str, float]:
    """What to know of N trajectories besides their means; NaN where it is not defined.

    zero_variance      share of groups with two valid samples or more whose rewards are all equal
    length_correlation Pearson's r of reward and length, each less its group's mean: the prompt plays no part
    duplicates         share of completions that another prompt got word for word
    common_word        largest share of last turns that contain one and the same word, beyond its share of right answers
    empty              share of completions without a word once tags and code fences are left out
    best               largest reward of a sample
    gold, gold_std     mean and standard deviation of the component `gold`; gold_gap is the mean reward less that mean
    """
    rewards, lengths = rollout.returns.double().numpy(), rollout.num_actions.double().numpy()
    groups, seen = rollout.group_ids.numpy(), np.isfinite(rewards)
    found = {
        "zero_variance": zero_variance(rewards, groups),
        "length_correlation": within_groups(rewards[seen], lengths[seen], groups[seen]),
        "duplicates": duplicates(rollout.prompts, rollout.completions),
        "common_word": common_word(last_turns(rollout, mdp), right_answers(rollout, mdp)),
        "empty": empty(rollout.completions),
        "best": float(rewards[seen].max()) if seen.any() else math.nan,
    }
    values = None if gold is None else rollout.components.get(gold)
    if values is not None and bool(values.isfinite().any()):
        known = values[values.isfinite()].numpy()
        found |= {"gold": float(known.mean()), "gold_std": float(known.std())}
        found["gold_gap"] = float(rewards[seen].mean() - known.mean()) if seen.any() else math.nan
    return {f"rollout/{name}": value for name, value in found.items()}


def gold_of(mdp: object, weights: Mapping[str, float]) -> str | None:
    """The component that is the true goal: what the environment's `gold` names, else one called "gold".

    Only a component of weight 0 is one: what is trained on cannot show that training goes astray.
    """
    name = getattr(mdp, "gold", None) or "gold"
    return name if weights.get(name) == 0.0 else None


def zero_variance(rewards: FloatArray, groups: FloatArray) -> float:
    """Share of groups, of those with two finite rewards or more, in which all are equal; NaN without such a group."""
    kept = [rewards[(groups == g) & np.isfinite(rewards)] for g in np.unique(groups)]
    several = [x for x in kept if len(x) > 1]
    return float(np.mean([np.ptp(x) == 0 for x in several])) if several else math.nan


def within_groups(x: FloatArray, y: FloatArray, groups: FloatArray) -> float:
    """Pearson's r of x and y, both less their group's mean; NaN where one of them does not vary."""
    if not len(x):
        return math.nan
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    a, b = (v - (np.bincount(inverse, v) / counts)[inverse] for v in (x, y))
    scale = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / scale if scale > 1e-12 else math.nan


def duplicates(prompts: Sequence[str], completions: Sequence[str]) -> float:
    """Share of completions that were also given to another prompt."""
    asked = defaultdict(set)
    for prompt, completion in zip(prompts, completions, strict=True):
        asked[completion].add(prompt)
    return float(np.mean([len(asked[completion]) > 1 for completion in completions]))


def common_word(said: Sequence[str], wanted: Sequence[str] = ()) -> float:
    """Largest share of texts that contain one and the same word, less the share of the right answers that do.

    What right answers share is no trick: every event's record says "who", and half of all parities are 1.
    """
    shares = _shares(wanted)
    return max([share - shares.get(word, 0.0) for word, share in _shares(said).items()], default=0.0)


def _shares(texts: Sequence[str]) -> dict[str, float]:
    """Word -> the share of texts that contain it."""
    counts = Counter(word for text in texts for word in set(words(text)))
    return {word: count / len(texts) for word, count in counts.items()}


def last_turns(rollout: Rollout, mdp: TextMDP) -> list[str]:
    """What ended each episode: an opening move is the same in every game, however well it is played."""
    if mdp.max_turns == 1:
        return rollout.completions
    found = []
    for ids, chosen in zip(rollout.tokens.numpy(), rollout.action_mask.numpy(), strict=True):
        end = np.flatnonzero(chosen)[-1] + 1
        start = np.flatnonzero(~chosen[:end])[-1] + 1  # a prompt precedes the first turn
        found.append(mdp.tokenizer.decode(ids[start:end].tolist()))
    return found


def right_answers(rollout: Rollout, mdp: TextMDP) -> list[str]:
    """The last gold turns of the prompts, as far as they are known."""
    _, firsts = np.unique(rollout.group_ids.numpy(), return_index=True)
    turns = [mdp.reference_turns(rollout.tasks[i]) for i in firsts]
    return [gold[-1] for gold in turns if gold]


def empty(completions: Sequence[str]) -> float:
    """Share of completions that have no word once tags and code fences are left out."""
    return float(np.mean([not words(_MARKUP.sub(" ", completion)) for completion in completions]))


# ---- alarms ----


@dataclass(frozen=True)
class History:
    """The rows of a run, looked at as a start and a present of `width` steps each."""

    rows: Sequence[Row]

    @property
    def width(self) -> int:
        """A fifth of the run, from 3 to 10 steps: wide enough to average noise out, short enough to be the present."""
        return min(10, max(3, len(self.rows) // 5))

    def column(self, name: str, rows: Sequence[Row] | None = None) -> FloatArray:
        """A metric's values, NaN where there is none."""
        rows = self.rows if rows is None else rows
        return np.array([math.nan if (v := row.get(name)) is None else v for row in rows], float)

    def mean(self, name: str) -> float:
        """Mean over the whole run."""
        return _mean(self.column(name))

    def start(self, name: str) -> float:
        """Mean over the first steps."""
        return _mean(self.column(name, self.rows[: self.width]))

    def now(self, name: str) -> float:
        """Mean over the last steps."""
        return _mean(self.column(name, self.rows[-self.width :]))

    def rise(self, name: str) -> float:
        """Present less start."""
        return self.now(name) - self.start(name)

    def peak(self, name: str) -> float:
        """Largest mean of `width` steps in a row."""
        values = self.column(name)
        if len(values) < self.width or np.isnan(values).any():
            return math.nan
        return float(np.convolve(values, np.ones(self.width) / self.width, "valid").max())

    def lately(self) -> list[History]:
        """The run as it is, as it was at three times in its last fifth, and at the beginning of that."""
        fifth = len(self.rows) // 5
        return [History(self.rows[: len(self.rows) - fifth * i // 4]) for i in range(5)]

    def gain(self, name: str, std: str) -> float:
        """Rise in standard deviations of a sample: at the start, or on average where there was no spread then."""
        spread = max(self.start(std), self.mean(std) / 2)
        return self.rise(name) / spread if spread > 0 else 0.0 * self.rise(name)


def _mean(values: FloatArray) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else math.nan


@dataclass(frozen=True)
class Alarm:
    """A known pattern: when it is there, and what to tell the user. Comparisons with NaN are false: nothing is said.

    Of a pattern that `needs` a metric nothing is known where that was never measured.
    """

    there: Callable[[History], bool]
    says: str
    needs: str = ""


def _length(h: History) -> bool:
    # r = 0.3 explains a tenth of the reward's variance within prompts, far beyond the noise of some hundred samples;
    # nine tenths at the limit: whatever is said, it goes on until it is cut off. There lengths hardly vary, and r is of
    # the few that are left: what it was before is what led there
    before = [row for row in h.rows if (row.get("rollout/truncated") or 0.0) < 0.9]
    followed = _mean(h.column("rollout/length_correlation", before)) > 0.3
    return followed and h.now("rollout/truncated") > 0.9 and _reward_rose(h)


def _phrase(h: History) -> bool:
    # function words stand in many texts from the start, so it is the rise that tells
    return h.now("rollout/common_word") > 0.9 and h.rise("rollout/common_word") > 0.25 and _reward_rose(h)


def _empty(h: History) -> bool:
    return h.now("rollout/empty") > 0.5 and h.rise("rollout/empty") > 0.25 and _reward_rose(h)


def _gold(h: History) -> bool:
    # in standard deviations of a sample, as proxy and gold have scales of their own
    proxy, gold = h.gain("reward/mean", "reward/std"), h.gain("rollout/gold", "rollout/gold_std")
    spread = max(h.start("rollout/gold_std"), h.mean("rollout/gold_std") / 2)
    fell = h.peak("rollout/gold") - h.now("rollout/gold") > 0.5 * spread
    return proxy > 1.0 and (fell or gold < 0.2 * proxy)


def _kl(h: History) -> bool:
    # a language model's next token has about 3 nats of entropy: at this distance nothing of it is left
    return h.now("rollout/kl") > 3.0 * h.now("rollout/length")


def _entropy(h: History) -> bool:
    # to be stuck is to stay: many a sound run is all but certain of one answer on its way to others
    return all(_collapsed(then) for then in h.lately())


def _collapsed(h: History) -> bool:
    # a solved task ends without entropy and signal too; what is wrong is to end there far below the best sample seen
    start, best = h.start("reward/mean"), np.nanmax([*h.column("rollout/best"), -math.inf])
    stuck = h.now("reward/mean") < start + 0.8 * (best - start)
    gone = h.now("rollout/entropy") < 0.1 * h.start("rollout/entropy")
    return stuck and gone and h.now("rollout/zero_variance") > 0.75


def _reward_rose(h: History) -> bool:
    # a hack pays; half a standard deviation of a sample is ten standard errors of the mean of some hundred
    return h.gain("reward/mean", "reward/std") > 0.5


ALARMS: Mapping[str, Alarm] = {
    "length": Alarm(_length, "the reward followed the length, and completions run to the limit: it may pay for length"),
    "phrase": Alarm(_phrase, "nearly all completions share a word that few had at the start: it may pay for that word"),
    "empty": Alarm(_empty, "most completions have become empty or bare markup, and the reward has risen"),
    "gold": Alarm(
        _gold, "the reward rises while the true goal does not, or falls: the reward is being hacked", "rollout/gold"
    ),
    "kl": Alarm(
        _kl, "the policy is more than 3 nats a token from its start: nothing of the start is left", "rollout/kl"
    ),
    "entropy": Alarm(
        _entropy, "the entropy stays away, groups have no signal, and the reward is far below its best sample"
    ),
}


def _thinned(rows: Sequence[Row], most: int = 500) -> Sequence[Row]:
    """The first and last ten rows, and so many between them that a long run is not read in full at every step."""
    stride = len(rows) // most + 1
    return rows if stride == 1 else [*rows[:10], *rows[10:-10:stride], *rows[-10:]]


def alarms(rows: Sequence[Row]) -> dict[str, bool]:
    """Alarm -> whether its pattern is there after the steps in `rows`, for those of which these steps can tell.

    Nothing is said of fewer than ten steps.
    """
    history = History(_thinned(rows))

    def known(alarm: Alarm) -> bool:
        return not alarm.needs or any(alarm.needs in row for row in history.rows)

    return {n: len(rows) >= _FEWEST and bool(a.there(history)) for n, a in ALARMS.items() if known(a)}
