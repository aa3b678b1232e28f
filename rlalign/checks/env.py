"""The laws of an environment."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlalign.checks.invariant import FUZZ, TOLERANCE, LawResult, law
from rlalign.checks.tasks import disjoint, equal_tasks
from rlalign.checks.views import Trace, encode, play_pieces, play_single, play_steps, scripts
from rlalign.envs.mdp import TextMDP
from rlalign.envs.token_env import draw_task
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.types import Reward

_ROWS = 8


def check_env_laws(
    mdp: TextMDP,
    episodes: int = 100,
    seed: int = 0,
    *,
    vector_env: type[TokenVectorEnv] = TokenVectorEnv,
) -> list[LawResult]:
    """Run every law of an environment.

    Args:
        mdp: the environment.
        episodes: to be played by scripts.
        seed: of tasks, scripts and pieces.
        vector_env: the class under test; a wrong subclass breaks the laws.

    Raises UserError for an environment that cannot begin (no tasks, prompts too long, a group reward).
    """
    for name, value, least in (("episodes", episodes, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"{name} is {value}: it must be at least {least}")
    traces: list[Trace] = []

    def views() -> str:
        for first, pieces, steps, single in _play_views(mdp, episodes, seed, vector_env):
            traces.extend(single)
            by_turn = mdp.reward is not None and "token" in mdp.reward.scopes.values()
            for row, reference in enumerate(single):
                for name, view in (("step_tokens", pieces[row]), ("TokenVectorEnv.step", steps[row])):
                    if found := reference.difference(view, by_turn):
                        return f"episode {first + row}, TokenEnv against {name}: {found}"
        return ""

    return [
        law("step_tokens, TokenVectorEnv.step and TokenEnv agree", views),
        law("the context is append-only", lambda: _first(traces, lambda t: t.appended, "a context was rewritten")),
        law("rewards land on action tokens only", lambda: _first(traces, _on_actions, "a reward off the action mask")),
        law("the reward is the weighted sum of its components", lambda: _first(traces, _sums(mdp), "they differ")),
        law("an episode ends once: terminated or truncated", lambda: _first(traces, _ends, "both or neither")),
        law(
            "a failed reward is NaN, a valid one finite",
            lambda: _first(traces, _honest, "a failure passed as a number"),
        ),
        law("anything may be said", lambda: _fuzz(mdp, seed, vector_env)),
        law("equal seeds give equal tasks, in every process", lambda: equal_tasks(mdp.source)),
        law("splits are disjoint", lambda: disjoint(mdp.source), getattr(mdp.source, "distinct", True)),
        law("the gold answer scores the maximum", lambda: _gold(mdp, traces, seed, vector_env), _has_gold(mdp)),
    ]


def _play_views(
    mdp: TextMDP, episodes: int, seed: int, vector_env: type[TokenVectorEnv]
) -> Iterator[tuple[int, list[Trace], list[Trace], list[Trace]]]:
    """Blocks of episodes: number of the first, then traces of step_tokens, of step and of TokenEnv."""
    rng = np.random.default_rng(seed)
    for first in range(0, episodes, _ROWS):
        rows = min(_ROWS, episodes - first)
        tasks = [draw_task(mdp, "train", rng) for _ in range(rows)]
        said, env = scripts(mdp, tasks, rng), vector_env(mdp, rows)
        own = seed + first  # episodes of one task and seed get the same replies: other blocks shall get others
        pieces = play_pieces(env, tasks, said, own, rng)
        steps = play_steps(env, tasks, said, own)
        yield first, pieces, steps, [play_single(mdp, t, s, own) for t, s in zip(tasks, said, strict=True)]


def _first(traces: Sequence[Trace], law: Callable[[Trace], bool], words: str) -> str:
    if not traces:
        return "no episode could be played"
    return next((f"episode {i}: {words}" for i, trace in enumerate(traces) if not law(trace)), "")


def _on_actions(trace: Trace) -> bool:
    off = np.ones(len(trace.rewards), np.bool_)
    off[: len(trace.action_mask)] = ~np.array(trace.action_mask)
    return not trace.rewards[off].any()


def _sums(mdp: TextMDP) -> Callable[[Trace], bool]:
    def law(trace: Trace) -> bool:
        weights = {} if mdp.reward is None else mdp.reward.weights
        total = sum(weights[name] * sum(values) for name, values in trace.components.items())
        return not trace.valid or abs(total - trace.rewards.sum()) <= TOLERANCE

    return law


def _ends(trace: Trace) -> bool:
    return trace.terminated != trace.truncated


def _honest(trace: Trace) -> bool:
    return trace.valid == bool(np.isfinite(trace.rewards).all())


def _fuzz(mdp: TextMDP, seed: int, vector_env: type[TokenVectorEnv]) -> str:
    """Say each fuzzed text in every turn."""
    rng = np.random.default_rng(seed)
    for text in FUZZ:
        ids = [i for i in encode(mdp, text) if i not in mdp.stop_ids][: mdp.max_new - 1]
        said = [[*ids, mdp.tokenizer.eos_id]] * mdp.max_turns
        trace = play_pieces(vector_env(mdp, 1), [draw_task(mdp, "train", rng)], [said], seed)[0]
        if not _honest(trace):
            return f"{text[:40]!r}: a failure passed as a number, or the reverse"
    return ""


def _has_gold(mdp: TextMDP) -> bool:
    """Whether the environment says what its own rewards are at most, and still has them."""
    reward: Reward | None = mdp.reward
    own = reward is not None and list(reward.weights.values()) == list(mdp.rewards.values())
    return own and mdp.gold_score is not None


def _gold(mdp: TextMDP, traces: Sequence[Trace], seed: int, vector_env: type[TokenVectorEnv]) -> str:
    best = mdp.gold_score or 0.0
    rng = np.random.default_rng(seed)
    for _ in range(20):
        task = draw_task(mdp, "train", rng)
        gold = mdp.reference_turns(task)
        if not gold:
            return "the tasks have no 'answer' column, and no reference_turns are known"
        ids = [[*mdp.tokenizer.encode(text), mdp.tokenizer.eos_id] for text in gold]
        if longest := max((turn for turn in ids if len(turn) > mdp.max_new), default=None):
            return f"a gold turn has {len(longest)} tokens, max_new is {mdp.max_new}"
        said = [ids[min(turn, len(ids) - 1)] for turn in range(mdp.max_turns)]
        reward = float(play_pieces(vector_env(mdp, 1), [task], [said], seed)[0].rewards.sum())
        if abs(reward - best) > TOLERANCE:
            return (
                f"{gold} scores {reward}, not {best}" if len(gold) > 1 else f"'{gold[0]}' scores {reward}, not {best}"
            )
    most = max((float(t.rewards.sum()) for t in traces if t.valid), default=best)
    return f"another answer scores {most}, above {best}" if most > best + TOLERANCE else ""
