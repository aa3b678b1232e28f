"""One scripted episode in each view of an environment, and the comparison of the traces.

A script fixes the tokens of every turn in advance, so that the three views (`TokenEnv.step`, `TokenVectorEnv.step`,
`TokenVectorEnv.step_tokens` in random pieces) can be compared token by token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlalign.checks.invariant import FUZZ, TOLERANCE
from rlalign.envs.mdp import TextMDP
from rlalign.envs.token_env import TokenEnv
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.types import FloatArray, IntArray, Task

Script = list[list[int]]  # the tokens of each turn; a turn ends in a stop id or has max_new tokens


@dataclass
class Trace:
    """One episode as one view showed it.

    Attributes:
        context, action_mask: at the end.
        rewards: float [L], at the columns of their tokens.
        valid: no reward failed.
        components: name -> the values that were scored, in order.
        terminated, truncated: how the episode ended.
        appended: every earlier context was a prefix of every later one.
    """

    context: list[int] = field(default_factory=list)
    action_mask: list[bool] = field(default_factory=list)
    rewards: FloatArray = field(default_factory=lambda: np.zeros(0))
    valid: bool = True
    components: dict[str, list[float]] = field(default_factory=dict)
    terminated: bool = False
    truncated: bool = False
    appended: bool = True

    def add_scores(self, components: dict[str, float], valid: bool) -> None:
        """Record the scores of one step. NaN marks a component that was not scored."""
        self.valid &= valid
        for name, value in components.items():
            if not np.isnan(value):
                self.components.setdefault(name, []).append(value)

    def difference(self, other: Trace, by_turn: bool) -> str:
        """Return the first difference from another trace, or an empty text.

        Args:
            other: of the same script in another view.
            by_turn: compare the sum of the rewards of each turn, not their columns.
        """
        for name in ("context", "action_mask", "terminated", "truncated", "valid", "appended"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)} is {getattr(other, name)}"
        own_rewards = _turn_sums(self) if by_turn else self.rewards
        other_rewards = _turn_sums(other) if by_turn else other.rewards
        if not np.allclose(own_rewards, other_rewards, rtol=0, atol=TOLERANCE, equal_nan=True):
            return f"rewards {own_rewards.tolist()} are {other_rewards.tolist()}"
        equal = self.components.keys() == other.components.keys() and all(
            len(v) == len(other.components[k]) and np.allclose(v, other.components[k], rtol=0, atol=TOLERANCE)
            for k, v in self.components.items()
        )
        return "" if equal else f"components {self.components} are {other.components}"


def _turn_sums(trace: Trace) -> FloatArray:
    """Return the sum of the rewards from the start of each turn to the start of the next."""
    mask = np.array(trace.action_mask)
    starts = np.flatnonzero(mask & ~np.concatenate([[False], mask[:-1]]))  # an action after a token that is not one
    return np.add.reduceat(trace.rewards, starts)


# ---- scripts ----


def make_scripts(mdp: TextMDP, tasks: Sequence[Task], rng: np.random.Generator) -> list[Script]:
    """Return a script per task: random tokens of every length, with and without a stop id, fuzz, reference turns."""
    return [[_turn(mdp, task, rng, number) for number in range(mdp.max_turns)] for task in tasks]


def _turn(mdp: TextMDP, task: Task, rng: np.random.Generator, number: int) -> list[int]:
    stop = int(rng.choice(sorted(mdp.stop_ids)))
    kind = rng.choice(["noise", "limit", "reference", "fuzz", "stop"], p=[0.4, 0.2, 0.2, 0.15, 0.05])
    if kind == "reference" and (turns := mdp.reference_turns(task)):
        ids = encode(mdp, turns[min(number, len(turns) - 1)])
    elif kind == "fuzz":
        ids = encode(mdp, str(rng.choice(FUZZ)))
    else:
        # "limit" reaches max_new without a stop id; "stop" is a turn of the stop id alone.
        if kind == "limit":
            size = mdp.max_new
        elif kind == "stop":
            size = 0
        else:
            size = int(rng.integers(mdp.max_new + 1))
        ids = rng.integers(mdp.tokenizer.vocab_size, size=size).tolist()
    ids = [i for i in ids if i not in mdp.stop_ids]
    if len(ids) < mdp.max_new:
        return [*ids, stop]
    return ids[: mdp.max_new]


def encode(mdp: TextMDP, text: str) -> list[int]:
    """Return the ids of a text; none if the tokenizer's alphabet lacks a character of it."""
    try:
        return mdp.tokenizer.encode(text)
    except UserError:
        return []


# ---- the three views ----


def play_single(mdp: TextMDP, task: Task, script: Script, seed: int) -> Trace:
    """Play a script in TokenEnv."""
    env = TokenEnv(mdp)
    trace = Trace(rewards=np.zeros(mdp.max_context))
    env.reset(seed=seed, options={"task": task})
    over = False
    turn = 0
    place = 0
    while not over:
        before = list(env.context)
        _, reward, trace.terminated, trace.truncated, info = env.step(script[turn][place])
        trace.appended &= env.context[: len(before)] == before
        trace.rewards[len(before)] = reward
        trace.add_scores(info.get("reward_components", {}), info["reward_valid"])
        turn, place = (turn + 1, 0) if info["turn_ended"] else (turn, place + 1)
        over = trace.terminated or trace.truncated
    trace.context, trace.action_mask = env.context, env.action_mask
    return trace


def play_steps(env: TokenVectorEnv, tasks: Sequence[Task], scripts: Sequence[Script], seed: int) -> list[Trace]:
    """Play scripts in TokenVectorEnv.step. Finished rows get token 0, which they must ignore."""
    env.reset(seed=seed, options={"tasks": list(tasks)})
    traces = [Trace(rewards=np.zeros(env.tokens.shape[1])) for _ in tasks]
    turn = [0] * len(tasks)
    place = [0] * len(tasks)
    while not env.done.all():
        active = np.flatnonzero(~env.done).tolist()
        before = env.lengths.copy()
        actions = np.zeros(env.num_envs, np.int64)
        actions[active] = [scripts[i][turn[i]][place[i]] for i in active]
        _, rewards, terminated, truncated, info = env.step(actions)
        components = {k: v for k, v in info["reward_components"].items() if not k.startswith("_")}
        for i in active:
            trace = traces[i]
            trace.rewards[before[i]] = rewards[i]
            trace.terminated, trace.truncated = bool(terminated[i]), bool(truncated[i])
            trace.add_scores({k: float(v[i]) for k, v in components.items()}, bool(info["reward_valid"][i]))
            turn[i], place[i] = (turn[i] + 1, 0) if info["turn_ended"][i] else (turn[i], place[i] + 1)
    return _with_contexts(env, traces)


def play_pieces(
    env: TokenVectorEnv,
    tasks: Sequence[Task],
    scripts: Sequence[Script],
    seed: int,
    rng: np.random.Generator | None = None,
) -> list[Trace]:
    """Play scripts in TokenVectorEnv.step_tokens.

    Args:
        env: of one row per task.
        tasks, scripts: one per row.
        seed: of the environment.
        rng: cuts turns into random pieces, some empty and some longer than the turn; None: whole turns.
    """
    env.reset(seed=seed, options={"tasks": list(tasks)})
    count = env.num_envs
    width = env.mdp.max_new + 2  # a piece may reach past the limit of a turn
    traces = [Trace(rewards=np.zeros(env.tokens.shape[1])) for _ in tasks]
    turn: IntArray = np.zeros(count, np.int64)
    place: IntArray = np.zeros(count, np.int64)
    while not env.done.all():
        tokens = np.zeros((count, width), np.int64)
        lengths = np.zeros(count, np.int64)
        for i in range(count):
            rest = [] if env.done[i] else scripts[i][turn[i]][place[i] :]
            tokens[i, : len(rest)] = rest
            lengths[i] = len(rest) if rng is None else rng.integers(width + 1)
            if rng is not None and rng.random() < 0.5:
                lengths[i] = min(lengths[i], 2)  # so that turns are cut often
        before = env.lengths.copy()
        contexts = env.contexts(range(count))
        segment = env.step_tokens(tokens, lengths)
        for i, trace in enumerate(traces):
            consumed = int(segment.consumed[i])
            trace.rewards[before[i] : before[i] + consumed] = segment.rewards[i, :consumed]
            trace.appended &= env.tokens[i, : before[i]].tolist() == contexts[i]
            trace.terminated |= bool(segment.terminated[i])
            trace.truncated |= bool(segment.truncated[i])
            trace.add_scores({k: float(v[i]) for k, v in segment.components.items()}, bool(segment.valid[i]))
        turn = turn + segment.turn_ended
        place = np.where(segment.turn_ended, 0, place + segment.consumed)
    return _with_contexts(env, traces)


def _with_contexts(env: TokenVectorEnv, traces: list[Trace]) -> list[Trace]:
    """Set the final context and action mask of each trace."""
    for i, trace in enumerate(traces):
        trace.context = env.contexts([i])[0]
        trace.action_mask = env.action_mask[i, : env.lengths[i]].tolist()
    return traces
