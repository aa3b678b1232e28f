"""A mixture as one MDP: each row has the rewards, the limits and the messages of its environment."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlalign.checks import check_env
from rlalign.envs.chat_prompts import with_chat_template
from rlalign.envs.mdp import TextMDP
from rlalign.envs.mixture.mixture import Mixture
from rlalign.envs.mixture.parts import environment_of, for_each, parts_of, single
from rlalign.envs.mixture.rewards import MixtureReward
from rlalign.envs.registration import make_mdp
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import UserError
from rlalign.rewards.function import reward
from rlalign.tokenizers import ByteTokenizer, CharTokenizer
from rlalign.types import Task


def scored(mdp: TextMDP, tasks: list[Task], texts: list[str]) -> Any:
    """Return the segment of one turn per task."""
    env = TokenVectorEnv(mdp, len(tasks))
    env.reset(seed=0, options={"tasks": tasks})
    turns = [[*mdp.tokenizer.encode(text), mdp.tokenizer.eos_id] for text in texts]
    width = max(map(len, turns))
    return env, env.step_tokens([turn + [0] * (width - len(turn)) for turn in turns], list(map(len, turns)))


def test_rows_equal_those_of_their_environment_alone() -> None:
    mdp = make_mdp("sort=0.5,add?digits=2=0.5")
    tasks = [mdp.source.get("train", i) for i in range(8)]
    assert [task.env for task in tasks] == ["sort", "add"] * 4
    texts = ["abc", "17"] * 4
    _, segment = scored(mdp, tasks, texts)
    for name, part in mdp.parts.items():  # type: ignore[attr-defined]  # a Mixture
        rows = [i for i, task in enumerate(tasks) if task.env == name]
        _, alone = scored(part, [tasks[i] for i in rows], [texts[i] for i in rows])
        assert segment.rewards.sum(1)[rows].tolist() == alone.rewards.sum(1).tolist()
        for component, values in alone.components.items():
            assert segment.components[component][rows].tolist() == values.tolist()


def test_each_row_has_the_limit_of_its_environment() -> None:
    mdp = make_mdp("copy?max_length=2,copy?max_length=9")
    short, long = (part.max_new for part in mdp.parts.values())  # type: ignore[attr-defined]
    assert (short, long, mdp.max_new) == (4, 11, 11)
    env = TokenVectorEnv(mdp, 2)
    env.reset(seed=0, options={"tasks": [mdp.source.get("train", i) for i in range(2)]})
    assert env.budget().tolist() == [4, 11]
    segment = env.step_tokens(np.full((2, 11), 2), [11, 11])
    assert segment.consumed.tolist() == [4, 11]
    assert segment.truncated.all()


def test_the_longest_episode_is_that_of_one_environment() -> None:
    """Not the turns of one environment with the tokens of the other."""
    mdp = make_mdp("guess_number,reverse")
    assert [(part.max_turns, part.max_new) for part in parts_of(mdp).values()] == [(4, 2), (1, 6)]
    assert (mdp.max_turns, mdp.max_new, mdp.max_actions) == (4, 6, 8)


def test_the_views_of_a_mixture_of_one_and_several_turns_agree() -> None:
    results = check_env(make_mdp("sort=0.5,guess_number=0.5"), episodes=24)
    assert all(result.passed for result in results), [result for result in results if not result.passed]


def test_components_of_different_weights_have_the_name_of_their_environment() -> None:
    rows = [{"prompt": f"{i}", "answer": f"{i}"} for i in range(12)]
    a = make_mdp(rows, rewards={"exact_match": 1.0, "length?target=1": 0.5})
    b = make_mdp(rows, rewards={"exact_match": 2.0, "length?target=1": 0.5})
    mdp = Mixture({"a": a, "b": b})
    assert dict(mdp.reward.weights) == {"exact_match[a]": 1.0, "exact_match[b]": 2.0, "length": 0.5}
    tasks = [mdp.tagged(name, mdp.parts[name].source.get("train", 0)) for name in "ab"]
    _, segment = scored(mdp, tasks, [str(task.columns["answer"]) for task in tasks])
    lengths = 0.5 * segment.components["length"]
    assert segment.rewards.sum(1).tolist() == [1.0 + lengths[0], 2.0 + lengths[1]]
    assert np.isnan(segment.components["exact_match[b]"]).tolist() == [True, False]


def test_a_constraint_of_each_environment_has_its_own_multiplier() -> None:
    rows = [{"prompt": f"{i}", "answer": f"{i}"} for i in range(12)]
    specs = ["exact_match", "length?target=1<=-2@0.5"]
    mdp = Mixture({name: make_mdp(rows, rewards=specs) for name in "ab"})
    assert list(mdp.reward.scheduled) == ["length[a]", "length[b]"]
    mdp.reward.begin_step(0)
    mdp.reward.end_step({"exact_match": 0.0, "length[a]": 0.0, "length[b]": float("nan")})
    state = mdp.reward.state_dict()
    assert state["a"]["length"] == 1.0  # 0.5 · (0 - -2)
    assert state["b"]["length"] == 0.0  # no sample of it in the step
    copied = mdp.map(lambda part: make_mdp(rows, rewards=specs))
    copied.reward.load_state_dict(state)
    copied.reward.begin_step(1)
    assert copied.reward.weights["length[a]"] == -1.0


def test_group_rewards_compare_the_rows_of_their_environment() -> None:
    @reward("shortest", scope="group")
    def shortest(completions: list[str], group_ids: list[int], **columns: Any) -> list[float]:
        assert len(completions) == 2
        return [float(len(text) == min(map(len, completions))) for text in completions]

    rows = [{"prompt": f"{i}", "answer": f"{i}"} for i in range(12)]
    mdp = Mixture({"a": make_mdp(rows, rewards=[shortest]), "b": make_mdp(rows, rewards="exact_match")})
    tasks = [mdp.tagged(name, mdp.parts[name].source.get("train", 0)) for name in "ab" for _ in range(2)]
    env, _ = scored(mdp, tasks, ["x", "xx", "y", "yy"])
    scores = mdp.score_groups(env.episodes, [0, 0, 1, 1])
    assert scores.total.tolist() == [1.0, 0.0, 0.0, 0.0]
    assert np.isnan(scores.components["shortest"]).tolist() == [False, False, True, True]


def test_a_common_tokenizer() -> None:
    assert isinstance(make_mdp("sort?tokenizer=bytes,reverse").tokenizer, ByteTokenizer)
    mdp = make_mdp("sort,add")
    assert isinstance(mdp.tokenizer, CharTokenizer)
    assert {id(part.tokenizer) for part in mdp.parts.values()} == {id(mdp.tokenizer)}  # type: ignore[attr-defined]
    bound = mdp.with_tokenizer("bytes")
    assert all(isinstance(part.tokenizer, ByteTokenizer) for part in parts_of(bound).values())
    assert bound.max_context == max(part.max_context for part in parts_of(bound).values())


def test_limits_rewards_and_templates_reach_each_environment() -> None:
    mdp = make_mdp("sort,reverse", rewards=["exact_match"]).with_limits(max_new=5)
    assert [part.max_new for part in parts_of(mdp).values()] == [5, 5]
    assert [dict(part.reward.weights) for part in parts_of(mdp).values()] == [{"exact_match": 1.0}] * 2
    unscored = mdp.with_reward(None)
    assert not unscored.has_reward
    assert mdp.has_reward
    assert with_chat_template(mdp, "auto").chat is False
    assert make_mdp(mdp, rewards=["token_match"]).reward.weights == {"token_match": 1.0}
    with pytest.raises(UserError, match="expected a MixtureReward"):
        mdp.with_reward(make_mdp("sort").reward)
    with pytest.raises(UserError, match="expected episodes, got texts"):
        mdp.reward.score("episode", ["a"], ["b"], [[1]])
    assert isinstance(mdp.reward, MixtureReward)


def test_helpers_treat_one_environment_as_one_part() -> None:
    one, two = make_mdp("sort"), make_mdp("sort,reverse")
    assert parts_of(one) == {"": one}
    assert for_each(one, lambda mdp: mdp.with_limits(max_new=3)).max_new == 3
    assert environment_of(two, "reverse").id == "rlalign/Reverse-v0"
    assert environment_of(one, None) is one
    for mdp, name, message in (
        (two, None, "--env sort"),
        (two, "copy", "sort, reverse, got 'copy'"),
        (one, "sort", "got 'sort'"),
    ):
        with pytest.raises(UserError, match=message):
            environment_of(mdp, name)
    with pytest.raises(UserError, match=r"best of n: expected one environment, got sort \+ reverse"):
        single(two, "best of n")


def test_mistakes_are_named() -> None:
    sort, reverse = make_mdp("sort"), make_mdp("reverse")
    with pytest.raises(UserError, match="two environments or more"):
        Mixture({"sort": sort})
    with pytest.raises(UserError, match="names without '/'"):
        Mixture({"a/b": sort, "c": reverse})
    with pytest.raises(UserError, match="a weight for each of sort, reverse, got those of sort, revers"):
        Mixture({"sort": sort, "reverse": reverse}, {"sort": 1, "revers": 1})

    class Other(TextMDP):
        @property
        def stop_ids(self) -> frozenset[int]:
            return frozenset({self.tokenizer.eos_id, 10})

    other = Other(source=["a", "b", "c"])
    with pytest.raises(UserError, match="end turns at the same ids"):
        Mixture({"sort": sort, "other": other})
    with pytest.raises(UserError, match="expected a task of one of its environments, got one of ''"):
        make_mdp("sort,reverse").prompt_ids(Task("abc>"))


def test_the_source_tags_tasks_and_ends() -> None:
    finite = Mixture({name: make_mdp([f"{name}{i}" for i in range(12)]) for name in "ab"})
    sizes = [part.source.size("train") for part in finite.parts.values()]
    assert finite.source.size("train") == sum(sizes)  # type: ignore[arg-type]  # finite
    assert finite.source.get("train", sizes[0]).env == "b"  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        finite.source.get("train", sum(sizes))  # type: ignore[arg-type]
    unbounded = Mixture({"sort": make_mdp("sort"), "a": make_mdp([f"{i}>" for i in range(12)])})
    assert unbounded.source.size("train") is None
    assert [unbounded.source.get("train", i).env for i in range(3)] == ["sort", "a", "sort"]
