"""An episode played by a script through each view of an environment, and what was seen.

A script fixes the tokens of every turn beforehand, so that the three views (`TokenEnv.step`, `TokenVectorEnv.step`,
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
from rlalign.types import FloatArray, Task

Script = list[list[int]]  # the tokens of each turn; a turn ends in a stop id or has max_new tokens


@dataclass
class Trace:
    """What one view showed of one episode.

    Attributes:
        context, action_mask: at the end.
        rewards: float [L], at the columns of their tokens.
        valid: no reward failed.
        components: name -> the values that were scored, one after the other.
        terminated, truncated: how it ended.
        appended: every earlier context began every later one.
    """

    context: list[int] = field(default_factory=list)
    action_mask: list[bool] = field(default_factory=list)
    rewards: FloatArray = field(default_factory=lambda: np.zeros(0))
    valid: bool = True
    components: dict[str, list[float]] = field(default_factory=dict)
    terminated: bool = False
    truncated: bool = False
    appended: bool = True

    def score(self, components: dict[str, float], valid: bool) -> None:
        """Note a score."""
        self.valid &= valid
        for name, value in components.items():
            if not np.isnan(value):
                self.components.setdefault(name, []).append(value)

    def difference(self, other: Trace, by_turn: bool) -> str:
        """The first thing that is not equal, or nothing. `by_turn`: compare sums of rewards, not their places."""
        for name in ("context", "action_mask", "terminated", "truncated", "valid", "appended"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)} is {getattr(other, name)}"
        mine, theirs = (_turn_sums(t) if by_turn else t.rewards for t in (self, other))
        if not np.allclose(mine, theirs, rtol=0, atol=TOLERANCE, equal_nan=True):
            return f"rewards {mine.tolist()} are {theirs.tolist()}"
        same = self.components.keys() == other.components.keys() and all(
            len(v) == len(other.components[k]) and np.allclose(v, other.components[k], rtol=0, atol=TOLERANCE)
            for k, v in self.components.items()
        )
        return "" if same else f"components {self.components} are {other.components}"


def _turn_sums(trace: Trace) -> FloatArray:
    mask = np.array(trace.action_mask)
    starts = np.flatnonzero(mask & ~np.concatenate([[False], mask[:-1]]))
    return np.add.reduceat(trace.rewards, starts)


def scripts(mdp: TextMDP, tasks: Sequence[Task], rng: np.random.Generator) -> list[Script]:
    """For each task the tokens of its turns: noise of every length, with and without a stop id, fuzz, gold answers."""
    return [[_turn(mdp, task, rng, number) for number in range(mdp.max_turns)] for task in tasks]


def _turn(mdp: TextMDP, task: Task, rng: np.random.Generator, number: int) -> list[int]:
    stop = int(rng.choice(sorted(mdp.stop_ids)))
    kind = rng.choice(["noise", "limit", "gold", "fuzz", "stop"], p=[0.4, 0.2, 0.2, 0.15, 0.05])
    if kind == "gold" and (gold := mdp.reference_turns(task)):
        ids = encode(mdp, gold[min(number, len(gold) - 1)])
    elif kind == "fuzz":
        ids = encode(mdp, str(rng.choice(FUZZ)))
    else:
        size = mdp.max_new if kind == "limit" else int(rng.integers(mdp.max_new + 1)) if kind != "stop" else 0
        ids = rng.integers(mdp.tokenizer.vocab_size, size=size).tolist()
    ids = [i for i in ids if i not in mdp.stop_ids]
    if len(ids) < mdp.max_new:
        return [*ids, stop]
    return ids[: mdp.max_new]


def encode(mdp: TextMDP, text: str) -> list[int]:
    """Ids of a text; none where the alphabet does not know it."""
    try:
        return mdp.tokenizer.encode(text)
    except UserError:
        return []


def play_single(mdp: TextMDP, task: Task, script: Script, seed: int) -> Trace:
    """An episode in TokenEnv."""
    env, trace = TokenEnv(mdp), Trace(rewards=np.zeros(mdp.max_context))
    env.reset(seed=seed, options={"task": task})
    over, turn, place = False, 0, 0
    while not over:
        before = list(env.context)
        _, reward, trace.terminated, trace.truncated, info = env.step(script[turn][place])
        trace.appended &= env.context[: len(before)] == before
        trace.rewards[len(before)] = reward
        trace.score(info.get("reward_components", {}), info["reward_valid"])
        turn, place = (turn + 1, 0) if info["turn_ended"] else (turn, place + 1)
        over = trace.terminated or trace.truncated
    trace.context, trace.action_mask = env.context, env.action_mask
    return trace


def play_steps(env: TokenVectorEnv, tasks: Sequence[Task], said: Sequence[Script], seed: int) -> list[Trace]:
    """Episodes in TokenVectorEnv.step; finished rows get token 0."""
    env.reset(seed=seed, options={"tasks": list(tasks)})
    traces = [Trace(rewards=np.zeros(env.tokens.shape[1])) for _ in tasks]
    turn, place = [0] * len(tasks), [0] * len(tasks)
    while not env.done.all():
        live, before = np.flatnonzero(~env.done).tolist(), env.lengths.copy()
        actions = np.zeros(env.num_envs, np.int64)
        actions[live] = [said[i][turn[i]][place[i]] for i in live]
        _, rewards, terminated, truncated, info = env.step(actions)
        components = {k: v for k, v in info["reward_components"].items() if not k.startswith("_")}
        for i in live:
            trace = traces[i]
            trace.rewards[before[i]] = rewards[i]
            trace.terminated, trace.truncated = bool(terminated[i]), bool(truncated[i])
            trace.score({k: float(v[i]) for k, v in components.items()}, bool(info["reward_valid"][i]))
            turn[i], place[i] = (turn[i] + 1, 0) if info["turn_ended"][i] else (turn[i], place[i] + 1)
    return _ended(env, traces)


def play_pieces(
    env: TokenVectorEnv,
    tasks: Sequence[Task],
    said: Sequence[Script],
    seed: int,
    rng: np.random.Generator | None = None,
) -> list[Trace]:
    """Episodes in TokenVectorEnv.step_tokens: whole turns, or random pieces, some empty, some too long."""
    env.reset(seed=seed, options={"tasks": list(tasks)})
    count, width = env.num_envs, env.mdp.max_new + 2
    traces = [Trace(rewards=np.zeros(env.tokens.shape[1])) for _ in tasks]
    turn, place = np.zeros(count, np.int64), np.zeros(count, np.int64)
    while not env.done.all():
        tokens, lengths = np.zeros((count, width), np.int64), np.zeros(count, np.int64)
        for i in range(count):
            rest = [] if env.done[i] else said[i][turn[i]][place[i] :]
            tokens[i, : len(rest)] = rest
            lengths[i] = len(rest) if rng is None else rng.integers(width + 1)
            if rng is not None and rng.random() < 0.5:
                lengths[i] = min(lengths[i], 2)
        before, contexts = env.lengths.copy(), env.contexts(range(count))
        segment = env.step_tokens(tokens, lengths)
        for i, trace in enumerate(traces):
            consumed = int(segment.consumed[i])
            trace.rewards[before[i] : before[i] + consumed] = segment.rewards[i, :consumed]
            trace.appended &= env.tokens[i, : before[i]].tolist() == contexts[i]
            trace.terminated |= bool(segment.terminated[i])
            trace.truncated |= bool(segment.truncated[i])
            trace.score({k: float(v[i]) for k, v in segment.components.items()}, bool(segment.valid[i]))
        turn, place = turn + segment.turn_ended, np.where(segment.turn_ended, 0, place + segment.consumed)
    return _ended(env, traces)


def _ended(env: TokenVectorEnv, traces: list[Trace]) -> list[Trace]:
    for i, trace in enumerate(traces):
        trace.context = env.contexts([i])[0]
        trace.action_mask = env.action_mask[i, : env.lengths[i]].tolist()
    return traces
