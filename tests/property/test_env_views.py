"""Views of an environment: step_tokens in random pieces, a loop over step, and TokenEnvs give equal episodes."""

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest

from rlalign import checks
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.rewards.function import RewardFunction
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Segment, Task

EPISODES = {"single-turn": 304, "multi-turn": 304, "multi-turn, random replies": 304}


def share_of_a(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[float]:
    return [sum(i == 2 for i in ids) / len(ids) for ids in completion_ids]


def fails_on_b(completions: Sequence[str], **columns: Any) -> list[float]:
    return [float("nan") if "bb" in text else 1.0 for text in completions]


def each_a(completion_ids: Sequence[Sequence[int]], **columns: Any) -> list[list[float]]:
    return [[float(i == 2) for i in ids] for ids in completion_ids]


class Dice(TextMDP):
    """Random replies of random length, a random end, an extra stop id: the cases in which views can differ."""

    source = [*"ab", *map("".join, product("ab", repeat=3)), *map("".join, product("ab", repeat=4))]  # noqa: RUF012 - a minimal class, as a user writes it
    max_prompt, max_new, max_turns, max_reply = 4, 5, 3, 3

    def default_tokenizer(self) -> CharTokenizer:
        return CharTokenizer("ab.")

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset({self.tokenizer.eos_id, 4})

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        return None if rng.random() < 0.2 else rng.integers(2, 4, size=rng.integers(4)).tolist()


def rewards(*scopes: str) -> list[Any]:
    functions = {"episode": share_of_a, "turn": fails_on_b, "token": each_a}
    return [(RewardFunction(s, functions[s], scope=s, timeout_s=None), 1.0 + i) for i, s in enumerate(scopes)]  # type: ignore[arg-type]  # strings that are scopes


def environments() -> dict[str, TextMDP]:
    return {
        "single-turn": make_mdp("reverse"),
        "multi-turn": make_mdp("GuessNumber", rewards=rewards("turn", "episode")),
        "single-turn, every scope": make_mdp(Dice, max_turns=1, rewards=rewards("token", "turn", "episode")),
        "multi-turn, random replies": make_mdp(Dice, rewards=rewards("turn", "episode")),
        "multi-turn, every scope": make_mdp(Dice, rewards=rewards("token", "turn", "episode")),
        "no reward": make_mdp(Dice),
    }


@pytest.mark.parametrize("name", environments())
def test_views_agree(name: str) -> None:
    for result in checks.check_env(environments()[name], EPISODES.get(name, 104), seed=1):
        assert result.passed, f"{result.name}: {result.detail}"


def test_scripts_reach_termination_truncation_and_failure() -> None:
    """The episodes of `test_views_agree` include both ends, failures, replies and contexts of many lengths."""
    mdp = environments()["multi-turn, random replies"]
    rng = np.random.default_rng(0)
    tasks = [mdp.source.get("train", i % 20) for i in range(200)]
    traces = checks.play_pieces(TokenVectorEnv(mdp, 200), tasks, checks.make_scripts(mdp, tasks, rng), 0, rng)
    assert {t.terminated for t in traces} == {t.truncated for t in traces} == {t.valid for t in traces} == {True, False}
    assert len({len(t.context) for t in traces}) > 10


def test_token_rewards_of_complete_turns_are_on_their_tokens() -> None:
    mdp = make_mdp(Dice, rewards=rewards("token"))
    rng = np.random.default_rng(0)
    tasks = [mdp.source.get("train", 0) for _ in range(50)]
    for trace in checks.play_pieces(TokenVectorEnv(mdp, 50), tasks, checks.make_scripts(mdp, tasks, rng), 0):
        ids, mask = np.array(trace.context), np.array(trace.action_mask)
        assert trace.rewards[: len(ids)].tolist() == ((ids == 2) & mask).astype(float).tolist()


class LosesEos(TokenVectorEnv):
    """Removes every EOS from the action mask, as if padding were recognized by its id."""

    def step_tokens(self, tokens: Any, lengths: Any) -> Segment:
        segment = super().step_tokens(tokens, lengths)
        self.action_mask &= self.tokens != self.mdp.tokenizer.eos_id
        return segment


class Late(TokenVectorEnv):
    """Puts the reward one column after the last token."""

    def step_tokens(self, tokens: Any, lengths: Any) -> Segment:
        segment = super().step_tokens(tokens, lengths)
        segment.rewards[:] = np.roll(segment.rewards, 1, axis=1)
        return segment


class Swaps(TokenVectorEnv):
    """Reports truncation as termination."""

    def step_tokens(self, tokens: Any, lengths: Any) -> Segment:
        segment = super().step_tokens(tokens, lengths)
        segment.terminated[:] |= segment.truncated
        segment.truncated[:] = False
        return segment


class Retokenizes(TokenVectorEnv):
    """Replaces the first id of the prompt when a turn ends."""

    def step_tokens(self, tokens: Any, lengths: Any) -> Segment:
        segment = super().step_tokens(tokens, lengths)
        self.tokens[segment.turn_ended, 0] = 3
        return segment


class Greedy(TokenVectorEnv):
    """Ignores the limit of a turn if a piece reaches past it."""

    def step_tokens(self, tokens: Any, lengths: Any) -> Segment:
        self._budget[self._budget == 1] += 1
        return super().step_tokens(tokens, lengths)


class ZeroForFailure(TokenVectorEnv):
    """Counts a failed reward as 0."""

    def step_tokens(self, tokens: Any, lengths: Any) -> Segment:
        segment = super().step_tokens(tokens, lengths)
        np.nan_to_num(segment.rewards, copy=False)
        return segment


class OneSeed(TokenVectorEnv):
    """Gives every episode the same random generator."""

    def reset(self, **kwargs: Any) -> Any:
        result = super().reset(**kwargs)
        for episode in self.episodes:
            episode.seed = (0,)
        return result


@pytest.mark.parametrize("mutant", [LosesEos, Late, Swaps, Retokenizes, Greedy, ZeroForFailure, OneSeed])
def test_the_checks_detect_a_wrong_view(mutant: type[TokenVectorEnv]) -> None:
    results = checks.check_env(environments()["multi-turn, random replies"], 64, vector_env=mutant)
    assert not all(result.passed for result in results)
