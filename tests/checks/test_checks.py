from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rlalign.checks import EXAMPLES, LawResult, check_env_laws, check_reward_laws, views
from rlalign.checks.reward import _laws as reward_laws
from rlalign.envs.builtin.strings.reverse import Reverse
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.envs.token_env import TokenEnv
from rlalign.rewards.function import RewardFunction
from rlalign.rewards.weighted_sum import compose
from rlalign.types import Scores, Split, Task


def broken(results: list[LawResult]) -> set[str]:
    return {law.name for law in results if not law.passed}


def inline(function: Any, **settings: Any) -> RewardFunction:
    return RewardFunction(function.__name__, function, timeout_s=None, **settings)


@pytest.mark.parametrize(
    "name", ["vader", "length", "repetition", "token_match", "regex?pattern=a", "embedding_cosine"]
)
def test_built_in_rewards_keep_the_laws(name: str) -> None:
    assert broken(check_reward_laws(name)) == set()


def test_every_built_in_reward_is_checked() -> None:
    """Those that need more than a parameter, a model and a server, are checked where they are tested."""
    bare = {name for name in ("classifier", "llm_judge", *EXAMPLES) if "not checked" in str(check_reward_laws(name))}
    assert bare == {"classifier", "llm_judge", *EXAMPLES}
    for name in EXAMPLES.keys() - {"code"}:  # which waits for an endless loop: `rlalign check all` does
        results = check_reward_laws(EXAMPLES[name])
        assert broken(results) == set()
        assert len(results) > 1


def test_a_reward_without_its_parameter_is_not_checked() -> None:
    [law] = check_reward_laws("regex")
    assert law.passed
    assert law.detail.startswith("not checked: reward 'regex' needs 'pattern'")


def test_broken_rewards_are_found() -> None:
    def parses(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(text) for text in completions]

    def short(completions: Sequence[str], **columns: Any) -> list[float]:
        return [1.0]

    def ranks(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(i) for i, _ in enumerate(completions)]

    state = np.random.default_rng(0)

    def moody(completions: Sequence[str], **columns: Any) -> list[float]:
        return state.random(len(completions)).tolist()

    assert "any text can be scored" in broken(check_reward_laws(inline(parses)))
    assert "one value per sample" in broken(check_reward_laws(inline(short)))
    assert broken(check_reward_laws(inline(ranks))) == {"a score does not depend on its place in the batch"}
    assert "equal texts score equally" in broken(check_reward_laws(inline(moody)))


def test_a_dropped_failure_is_honest() -> None:
    def picky(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float("nan") if "{" in text else 1.0 for text in completions]

    assert broken(check_reward_laws(inline(picky, on_error="drop"))) == set()


def test_a_source_that_is_not_pure_is_found() -> None:
    class Fickle:
        calls = 0

        def size(self, split: Split) -> int:
            return 5

        def get(self, split: Split, index: int) -> Task:
            self.calls += 1
            return Task(f"p{self.calls}", {}, split, index)

    assert "equal seeds give equal tasks, in every process" in broken(check_env_laws(TextMDP(source=Fickle()), 8))


def test_a_source_that_differs_between_processes_is_found() -> None:
    def salted(rng: np.random.Generator) -> dict[str, str]:
        return {"prompt": f"{hash('salt')} {rng.integers(10**9)}"}

    assert broken(check_env_laws(TextMDP(source=salted), 8)) == {"equal seeds give equal tasks, in every process"}


def test_overlapping_splits_are_found() -> None:
    mdp = TextMDP(source={"train": ["a", "b"], "test": ["b", "c"], "validation": ["d"]})
    assert broken(check_env_laws(mdp, 8)) == {"splits are disjoint"}


def test_a_wrong_gold_score_is_found() -> None:
    class Hopeful(Reverse):
        """Promises more than its rewards give."""

        gold_score = 3.0

    [law] = [law for law in check_env_laws(make_mdp(Hopeful), 8) if not law.passed]
    assert law.name == "the gold answer scores the maximum"
    assert "scores 2.0, not 3.0" in law.detail


def test_a_reply_that_crashes_is_found() -> None:
    class Brittle(TextMDP):
        """Reads a number and hopes."""

        source = ["a", "b"]  # noqa: RUF012 - a user's class as short as it gets
        max_new, max_turns, max_reply = 4, 2, 4

        def reply(
            self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
        ) -> list[int]:
            return [int(self.tokenizer.decode(turn_ids))]

    assert "anything may be said" in broken(check_env_laws(make_mdp(Brittle), 8))


def test_an_answer_above_the_gold_one_is_found() -> None:
    def perverse(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
        return [1.0 if said == right else 2.0 for said, right in zip(completions, answer, strict=True)]

    class Upside(TextMDP):
        """Pays for the right answer, and more for any other."""

        source = [{"prompt": letter, "answer": letter} for letter in "abcde"]  # noqa: RUF012 - a user's class as short as it gets
        rewards = {inline(perverse): 1.0}  # noqa: RUF012 - a user's class as short as it gets
        gold_score, max_new = 1.0, 4

    [law] = [law for law in check_env_laws(make_mdp(Upside), 8) if not law.passed]
    assert law.detail == "another answer scores 2.0, above 1.0"


class Padded:
    """A composition that adds one to every sum, and tells nobody."""

    def __init__(self, own: Any) -> None:
        self.weights, self.scopes, self._score = own.weights, own.scopes, own.score

    def score(self, *args: Any, **columns: Any) -> Scores:
        found = self._score(*args, **columns)
        return Scores(found.total + 1, found.valid, found.components)


def test_a_total_that_is_no_sum_is_found() -> None:
    mdp = make_mdp("sort")
    mdp.reward = Padded(mdp.reward)
    assert "the reward is the weighted sum of its components" in broken(check_env_laws(mdp, 8))
    with compose(["repetition=0.5"]) as own:
        assert broken(reward_laws(Padded(own))) == {"the total is the weighted sum of the components"}


def test_a_reward_off_the_actions_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(TokenEnv):
        """Takes the last token of an episode for the environment's."""

        def step(self, action: Any) -> Any:
            result = super().step(action)
            self.action_mask[-1] = not (result[2] or result[3])
            return result

    monkeypatch.setattr(views, "TokenEnv", Forgetful)
    assert "rewards land on action tokens only" in broken(check_env_laws(make_mdp("sort"), 8))
