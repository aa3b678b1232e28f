"""The laws of an environment and of a reward, run on anything: `rlalign check ENV|REWARD`.

An environment is played by scripts: for each row the tokens of its turns, fixed beforehand, so that the three views
(`TokenEnv.step`, `TokenVectorEnv.step`, `TokenVectorEnv.step_tokens` in random pieces) can be compared token by token.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import cloudpickle
import numpy as np

from rlalign.envs.mdp import TextMDP
from rlalign.envs.sources import SPLITS, digest
from rlalign.envs.token_env import TokenEnv, draw_task
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import ReplyError, UserError
from rlalign.tokenizers import ByteTokenizer
from rlalign.types import FloatArray, Reward, Scores, Split, Task, TaskSource

FUZZ = (
    "",
    " ",
    "\n\n\n",
    "\x00\x01\x02\x1b[31m\x7f",
    "\ufffd\u202e\u200b",
    "🙂👩‍👩‍👧‍👦🇳🇵",
    "这部电影很好看，我非常喜欢。",
    '{"answer": [1, 2,',
    "```python\nwhile True: pass",
    "nan",
    "-1e999",
    "a " * 4000,
    "z" * 10_000,
    "A perfectly good sentence, with a full stop.",
)
_ROWS = 8
_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class LawResult:
    """Whether a law holds, and what was seen (the first counter-example when it does not)."""

    name: str
    passed: bool
    detail: str = ""


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
        if not np.allclose(mine, theirs, rtol=0, atol=_TOLERANCE, equal_nan=True):
            return f"rewards {mine.tolist()} are {theirs.tolist()}"
        same = self.components.keys() == other.components.keys() and all(
            len(v) == len(other.components[k]) and np.allclose(v, other.components[k], rtol=0, atol=_TOLERANCE)
            for k, v in self.components.items()
        )
        return "" if same else f"components {self.components} are {other.components}"


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
        _law("step_tokens, TokenVectorEnv.step and TokenEnv agree", views),
        _law("the context is append-only", lambda: _first(traces, lambda t: t.appended, "a context was rewritten")),
        _law("rewards land on action tokens only", lambda: _first(traces, _on_actions, "a reward off the action mask")),
        _law("the reward is the weighted sum of its components", lambda: _first(traces, _sums(mdp), "they differ")),
        _law("an episode ends once: terminated or truncated", lambda: _first(traces, _ends, "both or neither")),
        _law(
            "a failed reward is NaN, a valid one finite",
            lambda: _first(traces, _honest, "a failure passed as a number"),
        ),
        _law("anything may be said", lambda: _fuzz(mdp, seed, vector_env)),
        _law("equal seeds give equal tasks, in every process", lambda: _equal_tasks(mdp.source)),
        _law("splits are disjoint", lambda: _disjoint(mdp.source), getattr(mdp.source, "distinct", True)),
        _law("the gold answer scores the maximum", lambda: _gold(mdp, traces, seed, vector_env), _has_gold(mdp)),
    ]


def check_reward_laws(spec: Any) -> list[LawResult]:
    """Run every law of a reward: on texts of every kind, alone and together.

    Args:
        spec: as for `rlalign.rewards.compose`. A reward that needs a parameter which was not given is not checked. One
            that asks for the policy gets a small random one.
    """
    from rlalign.rewards.compose import compose

    with compose([spec]) as reward:
        if reward.asks_for_policy:
            from rlalign.policies import make_policy

            reward.bind(make_policy("gru", tokenizer=ByteTokenizer()))
        return _reward_laws(reward)


def _reward_laws(reward: Reward) -> list[LawResult]:
    scope = next(iter(reward.scopes.values()))
    texts = [*FUZZ, *(text[:40] for text in FUZZ)]

    answer = _ANSWERS[0]

    def score(rows: Sequence[int]) -> Scores:
        event: Any = {"token": "turn", "turn": "turn"}.get(scope, scope)
        said = [texts[i] for i in rows]
        ids = [[*ByteTokenizer().encode(text), ByteTokenizer.eos_id] for text in said]
        return reward.score(event, ["Say something."] * len(rows), said, ids, **_columns(said, answer))

    everything = list(range(len(texts)))
    try:
        try:
            score([len(FUZZ) - 1])
        except UserError:
            answer = _ANSWERS[1]
            score([len(FUZZ) - 1])
    except UserError as error:
        return [LawResult("can be scored", True, f"not checked: {error}")]
    except Exception:
        pass  # the first law says which text and why

    def crashes() -> str:
        for i in everything:
            try:
                score([i])
            except Exception as error:
                return f"{texts[i][:40]!r}: {type(error).__name__}: {error}"
        return ""

    def shapes() -> str:
        scores = score(everything)
        arrays = {"total": scores.total, "valid": scores.valid, **scores.components}
        wrong = [f"{k} has shape {np.shape(v)}" for k, v in arrays.items() if np.shape(v) != (len(texts),)]
        return ", ".join(wrong)

    def honest() -> str:
        scores = score(everything)
        wrong = [texts[i][:40] for i in everything if scores.valid[i] != np.isfinite(scores.total[i])]
        return f"{wrong[0]!r} failed and still has a total, or the reverse" if wrong else ""

    def sums() -> str:
        scores = score(everything)
        total = sum(reward.weights[name] * np.nan_to_num(value) for name, value in scores.components.items())
        return "" if np.allclose((total - scores.total)[scores.valid], 0, atol=_TOLERANCE) else "they differ"

    def repeats() -> str:
        return _unequal(texts, score(everything), score(everything), everything)

    def alone() -> str:
        order = np.random.default_rng(0).permutation(len(texts)).tolist()
        return _unequal(texts, score(everything), score(order), order)

    return [
        _law("any text can be scored", crashes),
        _law("one value per sample", shapes),
        _law("a failed reward is NaN, a valid one finite", honest),
        _law("the total is the weighted sum of the components", sums),
        _law("equal texts score equally", repeats),
        _law("a score does not depend on its place in the batch", alone, scope != "group"),
    ]


# ---- playing ----


def scripts(mdp: TextMDP, tasks: Sequence[Task], rng: np.random.Generator) -> list[Script]:
    """For each task the tokens of its turns: noise of every length, with and without a stop id, fuzz, gold answers."""
    return [[_turn(mdp, task, rng, number) for number in range(mdp.max_turns)] for task in tasks]


def _turn(mdp: TextMDP, task: Task, rng: np.random.Generator, number: int) -> list[int]:
    stop = int(rng.choice(sorted(mdp.stop_ids)))
    kind = rng.choice(["noise", "limit", "gold", "fuzz", "stop"], p=[0.4, 0.2, 0.2, 0.15, 0.05])
    if kind == "gold" and (gold := mdp.gold_turns(task)):
        ids = _encode(mdp, gold[min(number, len(gold) - 1)])
    elif kind == "fuzz":
        ids = _encode(mdp, str(rng.choice(FUZZ)))
    else:
        size = mdp.max_new if kind == "limit" else int(rng.integers(mdp.max_new + 1)) if kind != "stop" else 0
        ids = rng.integers(mdp.tokenizer.vocab_size, size=size).tolist()
    ids = [i for i in ids if i not in mdp.stop_ids]
    if len(ids) < mdp.max_new:
        return [*ids, stop]
    return ids[: mdp.max_new]


def _encode(mdp: TextMDP, text: str) -> list[int]:
    try:
        return mdp.tokenizer.encode(text)
    except UserError:  # a small alphabet does not know every character
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


# ---- laws ----


def _law(name: str, test: Callable[[], str], applies: bool = True) -> LawResult:
    """Run a test, which returns what is wrong or nothing; whatever it raises is wrong too."""
    if not applies:
        return LawResult(name, True, "does not apply")
    try:
        detail = test()
    except Exception as error:
        if isinstance(error, UserError) and not isinstance(error, ReplyError):
            raise
        detail = f"{type(error).__name__}: {error}"
    return LawResult(name, not detail, detail)


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
        return not trace.valid or abs(total - trace.rewards.sum()) <= _TOLERANCE

    return law


def _ends(trace: Trace) -> bool:
    return trace.terminated != trace.truncated


def _honest(trace: Trace) -> bool:
    return trace.valid == bool(np.isfinite(trace.rewards).all())


def _turn_sums(trace: Trace) -> FloatArray:
    mask = np.array(trace.action_mask)
    starts = np.flatnonzero(mask & ~np.concatenate([[False], mask[:-1]]))
    return np.add.reduceat(trace.rewards, starts)


def _fuzz(mdp: TextMDP, seed: int, vector_env: type[TokenVectorEnv]) -> str:
    """Say each fuzzed text in every turn."""
    rng = np.random.default_rng(seed)
    for text in FUZZ:
        ids = [i for i in _encode(mdp, text) if i not in mdp.stop_ids][: mdp.max_new - 1]
        said = [[*ids, mdp.tokenizer.eos_id]] * mdp.max_turns
        trace = play_pieces(vector_env(mdp, 1), [draw_task(mdp, "train", rng)], [said], seed)[0]
        if not _honest(trace):
            return f"{text[:40]!r}: a failure passed as a number, or the reverse"
    return ""


_DIGESTS = """
import sys, json, cloudpickle
source, wanted = cloudpickle.loads(sys.stdin.buffer.read())
from rlalign.checks import task_digests
print(json.dumps(task_digests(source, wanted)))
"""


def task_digests(source: TaskSource, wanted: Sequence[tuple[Split, int]]) -> list[str]:
    """sha256 of tasks, for comparison between processes."""
    tasks = [source.get(split, index) for split, index in wanted]
    return [digest([task.prompt, dict(task.columns)]) for task in tasks]


def _equal_tasks(source: TaskSource) -> str:
    wanted: list[tuple[Split, int]] = [(split, i) for split in SPLITS for i in range(_count(source, split, 5))]
    here = task_digests(source, wanted)
    if here != task_digests(source, wanted):
        return "a task changed when it was asked for again"
    for module in [m for name, m in sys.modules.items() if name.startswith("rlalign_file_")]:
        cloudpickle.register_pickle_by_value(module)  # the other process cannot import it
    there = subprocess.run(
        [sys.executable, "-c", _DIGESTS], input=cloudpickle.dumps((source, wanted)), capture_output=True, check=False
    )
    if there.returncode:
        return f"no other process can make the tasks: {there.stderr.decode(errors='replace').strip().splitlines()[-1]}"
    return "" if json.loads(there.stdout) == here else "another process makes other tasks"


def _disjoint(source: TaskSource) -> str:
    seen: dict[str, Split] = {}
    for split in SPLITS:
        wanted: list[tuple[Split, int]] = [(split, i) for i in range(_count(source, split, 300))]
        for (_, index), content in zip(wanted, task_digests(source, wanted), strict=True):
            if seen.setdefault(content, split) != split:
                return f"{split} task {index} is in {seen[content]} too"
    return ""


def _count(source: TaskSource, split: Split, most: int) -> int:
    size = source.size(split)
    return most if size is None else min(size, most)


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
        gold = mdp.gold_turns(task)
        if not gold:
            return "the tasks have no 'answer' column, and no gold_turns are known"
        ids = [[*mdp.tokenizer.encode(text), mdp.tokenizer.eos_id] for text in gold]
        if longest := max((turn for turn in ids if len(turn) > mdp.max_new), default=None):
            return f"a gold turn has {len(longest)} tokens, max_new is {mdp.max_new}"
        said = [ids[min(turn, len(ids) - 1)] for turn in range(mdp.max_turns)]
        reward = float(play_pieces(vector_env(mdp, 1), [task], [said], seed)[0].rewards.sum())
        if abs(reward - best) > _TOLERANCE:
            return (
                f"{gold} scores {reward}, not {best}" if len(gold) > 1 else f"'{gold[0]}' scores {reward}, not {best}"
            )
    most = max((float(t.rewards.sum()) for t in traces if t.valid), default=best)
    return f"another answer scores {most}, above {best}" if most > best + _TOLERANCE else ""


_ANSWERS = ("42", "Ann | person")  # a number, a text and JSON; a list of spans


def _columns(texts: Sequence[str], answer: str) -> dict[str, list[Any]]:
    """The columns that every environment gives, an answer and the labels of a classification."""
    n = len(texts)
    return {
        "answer": [answer] * n,
        "labels": [["42", "nan"]] * n,
        "state": [{} for _ in texts],
        "turns": [[text] for text in texts],
        "replies": [[] for _ in texts],
        "truncated": [False] * n,
        "group_ids": [0] * n,
    }


def _unequal(texts: Sequence[str], first: Scores, second: Scores, order: Sequence[int]) -> str:
    same = np.isclose(first.total[list(order)], second.total, rtol=0, atol=1e-6, equal_nan=True)
    return "" if same.all() else f"{texts[order[int(np.argmin(same))]][:40]!r} does not"
