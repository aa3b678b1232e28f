"""Episodes in both views: ends, masks, rewards and environment messages."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.envs.token_env import TokenEnv
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.rewards import compose
from rlalign.tokenizers import CharTokenizer
from rlalign.types import Scores, Task

PAD, EOS, A, B, STOP = 0, 1, 2, 3, 4


class Counting:
    """A reward with one component per scope: the number of ids; for tokens, 1 for each `a`. "!" fails."""

    def __init__(self, *scopes: str) -> None:
        self.scopes = {scope: scope for scope in scopes}
        self.weights = {"episode": 1.0, "turn": 10.0, "token": 100.0, "group": 0.0}
        self.calls: list[tuple[str, list[str], dict[str, Any]]] = []

    def score(self, event: str, prompts: Any, completions: Any, completion_ids: Any, **columns: Any) -> Scores:
        self.calls.append((event, list(completions), columns))
        n = len(completions)
        total = np.zeros(n)
        components = {}
        token_rewards = None
        for name in self.scopes:
            if {"token": "turn"}.get(name, name) != event:
                continue
            if name == "token":
                token_rewards = [100.0 * (np.array(ids) == A) for ids in completion_ids]
                components[name] = np.array([part.sum() / 100 for part in token_rewards])
            else:
                components[name] = np.array([float(len(ids)) for ids in completion_ids])
            total += self.weights[name] * components[name]
        valid = np.array(["!" not in text for text in completions])
        total[~valid] = np.nan
        return Scores(total, valid, components, token_rewards if n else None)


class Echo(TextMDP):
    """Replies `b` to each turn; `!` ends the episode."""

    source = ["a"]  # noqa: RUF012 - a minimal class, as a user writes it
    max_prompt, max_new, max_turns, max_reply = 4, 3, 2, 1

    def default_tokenizer(self) -> CharTokenizer:
        return CharTokenizer("ab!")

    def reply(
        self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
    ) -> Sequence[int] | None:
        state["turns"] = state.get("turns", 0) + 1
        return None if STOP in turn_ids else self.tokenizer.encode("b")


def vector(*scopes: str, rows: int = 1, **kwargs: Any) -> TokenVectorEnv:
    """Return a reset vector environment of Echo with a Counting reward."""
    env = TokenVectorEnv(Echo(reward=Counting(*scopes), **kwargs), rows)  # type: ignore[arg-type]  # a stand-in for a reward
    env.reset(seed=0)
    return env


def row(*ids: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens and lengths of one row for `step_tokens`."""
    return np.array([ids]), np.array([len(ids)])


def test_single_turn_eos_terminates_and_is_an_action() -> None:
    env = vector("episode", max_turns=1)
    segment = env.step_tokens(*row(B, EOS, A))
    assert segment.consumed.tolist() == [2]
    assert segment.rewards.tolist() == [[0.0, 2.0, 0.0]]
    assert (segment.terminated[0], segment.truncated[0], env.done[0]) == (True, False, True)
    assert env.contexts([0]) == [[A, B, EOS]]
    assert env.action_mask[0].tolist() == [False, True, True, False, False, False, False]


def test_single_turn_limit_truncates() -> None:
    env = vector("episode", max_turns=1)
    segment = env.step_tokens(*row(B, B, B))
    assert (segment.terminated[0], segment.truncated[0]) == (False, True)


def test_eos_on_the_last_permitted_token_terminates() -> None:
    segment = vector("episode", max_turns=1).step_tokens(*row(B, B, EOS))
    assert (segment.terminated[0], segment.truncated[0]) == (True, False)


def test_replies_are_appended_unmasked_and_the_last_turn_truncates() -> None:
    env = vector("episode")
    first = env.step_tokens(*row(A, EOS))
    assert first.replies == [(B,)]
    assert first.turn_ended[0]
    assert not first.truncated[0]
    assert np.isnan(first.components["episode"][0])
    second = env.step_tokens(*row(A, A, A))
    assert (second.terminated[0], second.truncated[0]) == (False, True)
    assert second.replies == [()]
    assert env.contexts([0]) == [[A, A, EOS, B, A, A, A]]
    assert env.action_mask[0, :7].tolist() == [False, True, True, False, True, True, True]
    assert second.rewards.tolist() == [[0.0, 0.0, 5.0]]
    assert env.completion_texts() == ["a\naaa"]


def test_the_environment_terminates() -> None:
    segment = vector().step_tokens(*row(STOP, EOS))
    assert (segment.terminated[0], segment.truncated[0]) == (True, False)


def test_rewards_get_columns_state_turns_and_replies() -> None:
    env = vector("turn", "episode", rows=2)
    env.reset(seed=0, options={"tasks": [Task("a", {"answer": "x"}), Task("b", {"label": 1})]})
    env.step_tokens(np.array([[A, EOS], [B, EOS]]), np.array([2, 2]))
    env.step_tokens(np.array([[B, EOS], [B, EOS]]), np.array([2, 0]))
    calls = env.mdp.reward.calls  # type: ignore[attr-defined]  # a stand-in for a reward
    assert [(event, texts) for event, texts, _ in calls] == [
        ("turn", ["a", "b"]),
        ("turn", ["b"]),
        ("episode", ["a\nb"]),
    ]
    assert calls[0][2]["answer"] == ["x", None]
    assert list(calls[2][2].pop("completions_raw")) == ["a\nb"]
    assert calls[2][2] == {
        "answer": ["x"],
        "state": [{"turns": 2}],
        "turns": [["a", "b"]],
        "replies": [["b"]],
        "truncated": [True],
    }


def test_turn_and_episode_rewards_are_added_on_the_last_token() -> None:
    segment = vector("turn", "episode").step_tokens(*row(STOP, EOS))
    # the text contains "!", so its reward fails: NaN on the last token, not 0
    assert np.isnan(segment.rewards[0, 1])
    assert segment.rewards[0, 0] == 0
    assert not segment.valid[0]
    env = vector("turn", "episode", max_turns=1)
    assert env.step_tokens(*row(A, EOS)).rewards.tolist() == [[0.0, 22.0]]


def test_token_rewards_are_on_their_tokens_and_earlier_segments_on_the_last() -> None:
    segment = vector("token", "turn").step_tokens(*row(A, B, EOS))
    assert segment.rewards.tolist() == [[100.0, 0.0, 30.0]]
    env = vector("token", "turn")
    assert env.step_tokens(*row(A)).rewards.tolist() == [[0.0]]
    assert env.step_tokens(*row(A, EOS)).rewards.tolist() == [[100.0, 130.0]]
    single = TokenEnv(Echo(reward=Counting("token", "turn")))  # type: ignore[arg-type]  # a stand-in for a reward
    single.reset(seed=0)
    single.step(A)
    single.step(A)
    _, reward, _, _, info = single.step(EOS)
    assert reward == 230.0
    assert info["token_rewards"].tolist() == [100.0, 100.0, 0.0]


def test_a_row_of_length_zero_and_a_finished_row_do_not_change() -> None:
    env = vector("episode", rows=3, max_turns=1)
    env.step_tokens(np.array([[EOS]] * 3), np.array([1, 0, 0]))
    segment = env.step_tokens(np.array([[A], [A], [A]]), np.array([1, 0, 1]))
    assert segment.consumed.tolist() == [0, 0, 1]
    assert not segment.rewards.any()
    assert env.lengths.tolist() == [2, 1, 2]
    _, rewards, terminated, _, _ = env.step(np.array([A, EOS, EOS]))
    assert rewards.tolist() == [0.0, 1.0, 2.0]
    assert terminated.tolist() == [True, True, True]
    assert env.budget([0, 1]).tolist() == [0, 0]


def test_options_are_not_mutated_and_observations_are_fresh() -> None:
    env = vector("episode", rows=2)
    options = {"tasks": [Task("a"), Task("b")], "reset_mask": np.array([True, True])}
    first, _ = env.reset(seed=1, options=options)
    assert options.keys() == {"tasks", "reset_mask"}
    before = first["tokens"].copy()
    second = env.step(np.array([A, A]))[0]
    assert not np.shares_memory(first["tokens"], second["tokens"])
    assert not np.shares_memory(second["tokens"], env.tokens)
    assert (first["tokens"] == before).all()
    single = {"task": Task("a")}
    TokenEnv(env.mdp).reset(options=single)
    assert single == {"task": Task("a")}


def test_reset_mask_does_not_change_the_other_rows() -> None:
    env = vector("episode", rows=3, max_turns=1)
    env.step_tokens(np.array([[EOS], [A], [EOS]]), np.array([1, 1, 1]))
    _, info = env.reset(options={"reset_mask": np.array([True, False, False]), "tasks": [Task("bb")]})
    assert env.contexts(range(3)) == [[B, B], [A, A], [A, EOS]]
    assert env.done.tolist() == [False, False, True]
    assert info["_index"].tolist() == [True, False, False]
    assert env.action_mask[0].sum() == 0


def test_rows_of_one_task_begin_in_the_same_state() -> None:
    env = vector(rows=3)
    env.reset(seed=5, options={"tasks": [Task("a"), Task("a"), Task("a", index=1)]})
    drawn = [int(episode.rng.integers(2**60)) for episode in env.episodes]
    assert drawn[0] == drawn[1] != drawn[2]
    env.reset(options={"tasks": [Task("a")] * 3})
    assert int(env.episodes[0].rng.integers(2**60)) != drawn[0], "the next reset must draw other numbers"


def test_gymnasium_spaces_and_metadata() -> None:
    env = vector(rows=2)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.single_action_space.n == 5  # type: ignore[attr-defined]  # a Discrete space


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda e: e.reset(options={"task": []}), "unknown reset option: .* got 'task'"),
        (lambda e: e.reset(options={"tasks": [Task("a")]}), "one per row, 2 in all, got 1"),
        (lambda e: e.reset(seed=[1, 2]), "one integer for all rows"),
        (lambda e: e.step_tokens(np.zeros((1, 2)), np.ones(1)), r"expected shape \[2, T\] .* got \(1, 2\)"),
        (lambda e: e.step_tokens(np.zeros((2, 1)), np.array([1, 2])), "from 0 to 1"),
        (lambda e: e.step_tokens(np.full((2, 1), 5), np.ones(2)), "ids from 0 to 4, got one outside the vocabulary"),
        (
            lambda e: e.reset(options={"tasks": [Task("aaaaa"), Task("a")]}),
            r"expected 1 to 4 tokens, got 5 \('aaaaa'\); use a larger max_prompt \(--rollout.max-prompt 5\)",
        ),
        (lambda e: e.reset(options={"tasks": [Task(""), Task("a")]}), "expected 1 to 4 tokens, got 0"),
        (lambda e: e.reset(options={"tasks": [Task("a", {"state": 1})] * 2}), "column 'state'"),
    ],
)
def test_errors_name_the_mistake(act: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        act(vector(rows=2))


def test_errors_of_environments_name_the_mistake() -> None:
    with pytest.raises(UserError, match="expected tasks, got none"):
        TextMDP()
    with pytest.raises(UserError, match="max_new of TextMDP: expected at least 1, got 0"):
        Echo(max_new=0)
    with pytest.raises(
        UserError, match="max_reply of TextMDP: expected at least 1, got 0; max_turns is 2, and a reply needs room"
    ):
        TextMDP(source=["a"], max_turns=2)
    with pytest.raises(UserError, match="expected no reward of scope 'group'"):
        TokenEnv(Echo(reward=Counting("group")))  # type: ignore[arg-type]  # a stand-in for a reward

    class Talker(Echo):
        def reply(self, *_: Any) -> Sequence[int]:
            return [A, A]

    env = TokenVectorEnv(Talker())
    env.reset(seed=0)
    with pytest.raises(UserError, match="expected at most 1 tokens, got 2; use a larger max_reply"):
        env.step_tokens(*row(EOS))


def test_token_env_rejects_a_step_without_an_episode() -> None:
    env = TokenEnv(Echo(max_turns=1))
    with pytest.raises(gym.error.ResetNeeded):
        env.step(A)
    env.reset(seed=0)
    with pytest.raises(gym.error.InvalidAction):
        env.step(5)
    env.step(EOS)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(A)


def test_a_pad_id_equal_to_eos_has_no_effect() -> None:
    mdp = Echo(max_turns=1, reward=Counting("episode"))  # type: ignore[arg-type]  # a stand-in for a reward
    mdp.tokenizer.pad_id = EOS
    env = TokenVectorEnv(mdp, 2)
    env.reset(seed=0)
    env.step_tokens(np.array([[B, EOS], [B, B]]), np.array([2, 2]))
    assert env.contexts([0, 1]) == [[A, B, EOS], [A, B, B]]
    assert env.done.tolist() == [True, False]
    assert env.action_mask.sum(1).tolist() == [2, 2]


def test_copies_with_other_tokenizers_limits_and_rewards() -> None:
    mdp = Echo()
    other = mdp.with_tokenizer("bytes").with_limits(max_new=9).with_reward(compose(["length=0.5"]))
    assert (other.tokenizer.vocab_size, other.max_new, other.max_context) == (259, 9, 23)
    assert dict(other.reward.weights) == {"length": 0.5}
    assert (mdp.tokenizer.vocab_size, mdp.max_new, mdp.has_reward) == (5, 3, False)
    assert not other.with_reward(None).has_reward


def test_an_environment_without_a_reward_scores_zero() -> None:
    mdp = Echo()
    scores = mdp.reward.score("episode", ["p", "p"], ["a", "b"], [[A], [B]])
    assert (scores.total.tolist(), scores.valid.tolist(), dict(scores.components)) == ([0.0, 0.0], [True, True], {})
    assert (dict(mdp.reward.weights), dict(mdp.reward.scopes), list(mdp.reward.scheduled)) == ({}, {}, [])
    mdp.reward = Counting("episode")  # type: ignore[assignment]  # a stand-in for a reward
    assert mdp.has_reward
    mdp.reward = None
    assert not mdp.has_reward


def test_other_stop_ids_end_a_turn() -> None:
    class Line(Echo):
        @property
        def stop_ids(self) -> frozenset[int]:
            return frozenset({self.tokenizer.eos_id, STOP})

    env = TokenVectorEnv(Line(max_turns=1))
    env.reset(seed=0)
    segment = env.step_tokens(*row(A, STOP, A))
    assert segment.consumed.tolist() == [2]
    assert segment.terminated[0]


def test_a_tokenizer_as_class_attribute() -> None:
    class Letters(TextMDP):
        source = ["ab", "ba", "aa"]  # noqa: RUF012 - as a user writes it
        tokenizer = "chars:ab"

    mdp = Letters()
    assert mdp.prompt_ids(Task("ab")) == [2, 3]
    assert Letters(tokenizer="chars:ba").prompt_ids(Task("ab")) == [3, 2]
    assert mdp.with_tokenizer("bytes").prompt_ids(Task("a")) == [258, 97]
    assert make_mdp(Letters).tokenizer.vocab_size == 4

    class Other(Letters):
        def default_tokenizer(self) -> CharTokenizer:
            return CharTokenizer("xyz")

        tokenizer = None

    assert Other().tokenizer.vocab_size == 5


def test_an_episode_whose_reply_fails_is_invalid_if_that_is_permitted() -> None:
    class Fails(Echo):
        def reply(self, task: Task, turn_ids: Any, state: Any, rng: Any) -> Any:
            if task.prompt == "b":
                raise ValueError("the tool broke")
            return super().reply(task, turn_ids, state, rng)

    mdp = Fails(source=["a", "b"], tokenizer="chars:ab", reward=compose([("length?target=5", 1.0)]))
    tasks = [Task("a"), Task("b")]
    env = TokenVectorEnv(mdp, 2)
    env.reset(options={"tasks": tasks})
    with pytest.raises(UserError, match="the tool broke"):
        env.step_tokens([[2, 1]] * 2, [2, 2])
    mdp.drop_failed_replies = True
    env = TokenVectorEnv(mdp, 2)
    env.reset(options={"tasks": tasks})
    with pytest.warns(RuntimeWarning, match="^train task 0: reply of Fails failed: ValueError: the tool broke; its ep"):
        segment = env.step_tokens([[2, 1]] * 2, [2, 2])
    assert segment.valid.tolist() == [True, False]
    assert segment.truncated.tolist() == [False, True]
    assert env.done.tolist() == [False, True]
    assert np.isnan(segment.components["length"][1])
