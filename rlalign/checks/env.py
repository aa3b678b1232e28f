"""The checks of an environment. Each returns the first counterexample with its likely cause, or an empty text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from rlalign.checks.invariant import FUZZ, TOLERANCE, CheckResult, run_check
from rlalign.checks.tasks import check_disjoint_splits, check_equal_tasks, check_several_tasks
from rlalign.checks.views import Trace, encode, make_scripts, play_pieces, play_single, play_steps
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import digest
from rlalign.envs.token_env import draw_task
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.typecheck import check_range

_ROWS = 8  # episodes that a vector environment plays at once
_REFERENCE_TASKS = 20  # tasks whose reference trajectory is scored


def check_env(
    mdp: TextMDP,
    episodes: int = 100,
    seed: int = 0,
    *,
    vector_env: type[TokenVectorEnv] = TokenVectorEnv,
) -> list[CheckResult]:
    """Run every check of an environment, as `rlalign check ENV` does on the command line::

        for result in check_env(rlalign.make_mdp("reverse")):
            print(result.passed, result.name, result.detail)

    Scripted episodes (random tokens, odd texts, reference turns) are played in `TokenEnv.step`, `TokenVectorEnv.step`
    and `TokenVectorEnv.step_tokens`, which must agree. The other checks are of rewards, ends, tasks, splits and
    `gold_score`.

    Args:
        mdp: the environment.
        episodes: number of scripted episodes, at least 1.
        seed: of tasks, scripts and pieces.
        vector_env: the class under test; tests pass wrong subclasses.

    Returns:
        A result per check, in a fixed order.

    Raises:
        UserError: the environment cannot begin an episode (no tasks, prompts too long, a group reward).
    """
    check_range("episodes", episodes, least=1)
    check_range("seed", seed, least=0)
    # The first check plays the episodes and appends to the traces, which the next five read: the order matters.
    traces: list[Trace] = []
    distinct = getattr(mdp.source, "distinct", True)
    return [
        run_check(
            "step_tokens, TokenVectorEnv.step and TokenEnv agree",
            lambda: check_views_agree(mdp, episodes, seed, vector_env, traces),
        ),
        run_check("the context is append-only", lambda: check_append_only(traces)),
        run_check("rewards are on action tokens only", lambda: check_rewards_on_actions(traces)),
        run_check("the reward is the weighted sum of its components", lambda: check_weighted_sum(traces, mdp)),
        run_check("an episode ends once: terminated or truncated", lambda: check_single_end(traces)),
        run_check("a failed reward is NaN, a valid one finite", lambda: check_failures_are_nan(traces)),
        run_check("any text is a valid turn", lambda: check_any_text(mdp, seed, vector_env)),
        run_check("replies and rewards do not change the task", lambda: check_tasks_unchanged(mdp, seed, vector_env)),
        run_check("every split has tasks, and train several", lambda: check_several_tasks(mdp.source)),
        run_check("equal seeds give equal tasks, in every process", lambda: check_equal_tasks(mdp.source)),
        run_check("splits are disjoint", lambda: check_disjoint_splits(mdp.source), distinct),
        run_check(
            "the reference trajectory reaches gold_score, the maximum",
            lambda: check_reference_is_best(mdp, traces, seed, vector_env),
            _has_gold_score(mdp),
        ),
    ]


# ---- checks of played episodes ----


def check_views_agree(
    mdp: TextMDP, episodes: int, seed: int, vector_env: type[TokenVectorEnv], traces: list[Trace]
) -> str:
    """Return a difference between the three views. Appends the traces of TokenEnv to `traces`."""
    # step_tokens puts token rewards on their tokens, and TokenEnv on the turn's last one, so only their sums agree.
    by_turn = "token" in mdp.reward.scopes.values()
    for first, pieces, steps, single in _play_views(mdp, episodes, seed, vector_env):
        traces.extend(single)
        for row, reference in enumerate(single):
            for name, trace in (("step_tokens", pieces[row]), ("TokenVectorEnv.step", steps[row])):
                if difference := reference.difference(trace, by_turn):
                    return (
                        f"episode {first + row}, TokenEnv against {name}: {difference}; reply or a reward depends on "
                        "something other than its arguments, or the view is wrong"
                    )
    return ""


def check_append_only(traces: Sequence[Trace]) -> str:
    """Return an episode in which tokens of the context changed."""
    cause = "a context was rewritten; the view encoded text again, or changed ids in place"
    return _first_failure(traces, lambda trace: trace.appended, cause)


def check_rewards_on_actions(traces: Sequence[Trace]) -> str:
    """Return an episode with a reward on a token that the policy did not generate."""
    cause = "a reward is off the action mask; it was put on a prompt, reply or padding column"
    return _first_failure(traces, _rewards_on_actions, cause)


def check_weighted_sum(traces: Sequence[Trace], mdp: TextMDP) -> str:
    """Return an episode whose return is not Σ weight · component."""
    weights = mdp.reward.weights

    def is_sum(trace: Trace) -> bool:
        total = sum(weights[name] * sum(values) for name, values in trace.components.items())
        return not trace.valid or abs(total - trace.rewards.sum()) <= TOLERANCE

    return _first_failure(traces, is_sum, "they differ; the reward adds a part that is not in its components")


def check_single_end(traces: Sequence[Trace]) -> str:
    """Return an episode that is both terminated and truncated, or neither."""
    cause = "both terminated and truncated, or neither; an end must set exactly one of them"
    return _first_failure(traces, lambda trace: trace.terminated != trace.truncated, cause)


def check_failures_are_nan(traces: Sequence[Trace]) -> str:
    """Return an episode whose failed reward is a number, or whose valid reward is not finite."""
    cause = "a failure was counted as a number, or the reverse; a failed reward must be NaN"
    return _first_failure(traces, _failure_is_nan, cause)


def check_any_text(mdp: TextMDP, seed: int, vector_env: type[TokenVectorEnv]) -> str:
    """Return an odd text (empty, huge, control characters, ...) that is not a valid turn. Plays each in every turn."""
    rng = np.random.default_rng(seed)
    for text in FUZZ:
        # One id less than the limit leaves room for EOS.
        ids = [i for i in encode(mdp, text) if i not in mdp.stop_ids][: mdp.max_new - 1]
        script = [[*ids, mdp.tokenizer.eos_id]] * mdp.max_turns
        trace = play_pieces(vector_env(mdp, 1), [draw_task(mdp, "train", rng)], [script], seed)[0]
        if not _failure_is_nan(trace):
            return f"{text[:40]!r}: a failure was counted as a number, or the reverse"
    return ""


def check_tasks_unchanged(mdp: TextMDP, seed: int, vector_env: type[TokenVectorEnv]) -> str:
    """Return a task whose prompt or columns an episode changed. Episodes of a group share their task."""
    rng = np.random.default_rng(seed)
    tasks = [draw_task(mdp, "train", rng) for _ in range(_ROWS)]
    before = [digest([task.prompt, dict(task.columns)]) for task in tasks]
    play_pieces(vector_env(mdp, _ROWS), tasks, make_scripts(mdp, tasks, rng), seed)
    for task, content in zip(tasks, before, strict=True):
        if digest([task.prompt, dict(task.columns)]) != content:
            return (
                f"train task {task.index} changed during an episode, which all samples of its group and later epochs "
                "see; store what an episode changes in `state`"
            )
    return ""


def check_reference_is_best(mdp: TextMDP, traces: Sequence[Trace], seed: int, vector_env: type[TokenVectorEnv]) -> str:
    """Return a reference trajectory that does not score `gold_score`, or an episode that scores more."""
    best = mdp.gold_score or 0.0
    rng = np.random.default_rng(seed)
    for _ in range(_REFERENCE_TASKS):
        task = draw_task(mdp, "train", rng)
        turns = mdp.reference_turns(task)
        if not turns:
            return "there is no reference trajectory; add an 'answer' column or override reference_turns"
        ids = [[*mdp.tokenizer.encode(text), mdp.tokenizer.eos_id] for text in turns]
        if too_long := max((turn for turn in ids if len(turn) > mdp.max_new), default=None):
            return f"a reference turn has {len(too_long)} tokens, and max_new is {mdp.max_new}; use a larger max_new"
        script = [ids[min(turn, len(ids) - 1)] for turn in range(mdp.max_turns)]
        reward = float(play_pieces(vector_env(mdp, 1), [task], [script], seed)[0].rewards.sum())
        if abs(reward - best) > TOLERANCE:
            shown = turns if len(turns) > 1 else f"'{turns[0]}'"
            return f"{shown} scores {reward}, not {best}; gold_score or reference_turns is wrong"
    most = max((float(t.rewards.sum()) for t in traces if t.valid), default=best)
    if most > best + TOLERANCE:
        return f"another answer scores {most}, above {best}; gold_score is too low, or the reward can be exploited"
    return ""


# ---- parts of the checks ----


def _play_views(
    mdp: TextMDP, episodes: int, seed: int, vector_env: type[TokenVectorEnv]
) -> Iterator[tuple[int, list[Trace], list[Trace], list[Trace]]]:
    """Yield blocks of episodes: the number of the first, then the traces of step_tokens, of step and of TokenEnv."""
    rng = np.random.default_rng(seed)
    for first in range(0, episodes, _ROWS):
        rows = min(_ROWS, episodes - first)
        tasks = [draw_task(mdp, "train", rng) for _ in range(rows)]
        scripts = make_scripts(mdp, tasks, rng)
        env = vector_env(mdp, rows)
        # Episodes of one task and seed get the same replies, so each block has its own seed.
        block_seed = seed + first
        pieces = play_pieces(env, tasks, scripts, block_seed, rng)
        steps = play_steps(env, tasks, scripts, block_seed)
        single = [play_single(mdp, task, script, block_seed) for task, script in zip(tasks, scripts, strict=True)]
        yield first, pieces, steps, single


def _first_failure(traces: Sequence[Trace], holds: Callable[[Trace], bool], cause: str) -> str:
    if not traces:
        return "no episode could be played; see the first check"
    return next((f"episode {i}: {cause}" for i, trace in enumerate(traces) if not holds(trace)), "")


def _rewards_on_actions(trace: Trace) -> bool:
    off_mask = np.ones(len(trace.rewards), np.bool_)  # padding columns are off the mask too
    off_mask[: len(trace.action_mask)] = ~np.array(trace.action_mask)
    return not trace.rewards[off_mask].any()


def _failure_is_nan(trace: Trace) -> bool:
    return trace.valid == bool(np.isfinite(trace.rewards).all())


def _has_gold_score(mdp: TextMDP) -> bool:
    """Return whether the environment has a gold_score, and the default rewards that it belongs to."""
    own_weights = mdp.has_reward and list(mdp.reward.weights.values()) == list(mdp.rewards.values())
    return own_weights and mdp.gold_score is not None
