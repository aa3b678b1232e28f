"""Checks of environments and rewards: correct ones pass, and each kind of defect is detected."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rlalign.checks import EXAMPLES, CheckResult, check_env, check_reward, views
from rlalign.checks.env import check_any_text, check_tasks_unchanged
from rlalign.checks.reward import check_composed
from rlalign.checks.tasks import check_several_tasks
from rlalign.envs.builtin.strings.reverse import Reverse
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.envs.task_sources import as_source
from rlalign.envs.token_env import TokenEnv
from rlalign.envs.vector_env import TokenVectorEnv
from rlalign.errors import ReplyError, ReplyTimeoutError
from rlalign.rewards.function import RewardFunction
from rlalign.rewards.weighted_sum import compose
from rlalign.types import Scores, Split, Task


def failed(results: list[CheckResult]) -> set[str]:
    """Return the names of the invariants that do not hold."""
    return {result.name for result in results if not result.passed}


def in_process(function: Any, **settings: Any) -> RewardFunction:
    """Return a function as a reward without a worker process."""
    return RewardFunction(function.__name__, function, timeout_s=None, **settings)


@pytest.mark.parametrize(
    "name", ["vader", "length", "repetition", "token_match", "regex?pattern=a", "embedding_cosine"]
)
def test_built_in_rewards_pass(name: str) -> None:
    assert failed(check_reward(name)) == set()


def test_every_built_in_reward_is_checked() -> None:
    """Rewards that need more than a parameter (a model, a server) are checked in their own tests."""
    bare = {
        name for name in ("classifier", "llm_judge", *EXAMPLES) if any(result.skipped for result in check_reward(name))
    }
    assert bare == {"classifier", "llm_judge", *EXAMPLES}
    for name in EXAMPLES.keys() - {"code"}:  # code waits for an endless loop; `rlalign check all` includes it
        results = check_reward(EXAMPLES[name])
        assert failed(results) == set()
        assert len(results) > 1


def test_a_reward_without_its_parameter_is_not_checked() -> None:
    [result] = check_reward("regex")
    assert result.passed
    assert result.skipped
    assert result.detail.startswith("reward 'regex': expected 'pattern'")


def test_defects_of_rewards_are_detected() -> None:
    def parses(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(text) for text in completions]

    def short(completions: Sequence[str], **columns: Any) -> list[float]:
        return [1.0]

    def ranks(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(i) for i, _ in enumerate(completions)]

    rng = np.random.default_rng(0)

    def random(completions: Sequence[str], **columns: Any) -> list[float]:
        return rng.random(len(completions)).tolist()

    assert "any text can be scored" in failed(check_reward(in_process(parses)))
    assert "one value per sample" in failed(check_reward(in_process(short)))
    assert failed(check_reward(in_process(ranks))) == {"a score does not depend on its place in the batch"}
    assert "equal texts score equally" in failed(check_reward(in_process(random)))


def test_a_failed_check_gives_the_likely_cause() -> None:
    def ranks(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float(i) for i, _ in enumerate(completions)]

    [result] = [result for result in check_reward(in_process(ranks)) if not result.passed]
    assert "the reward compares the texts of a batch: use scope='group'" in result.detail


def test_a_dropped_failure_passes() -> None:
    def partial(completions: Sequence[str], **columns: Any) -> list[float]:
        return [float("nan") if "{" in text else 1.0 for text in completions]

    assert failed(check_reward(in_process(partial, on_error="drop"))) == set()


def test_a_source_that_keeps_state_is_detected() -> None:
    class Counter:
        calls = 0

        def size(self, split: Split) -> int:
            return 5

        def get(self, split: Split, index: int) -> Task:
            self.calls += 1
            return Task(f"p{self.calls}", {}, split, index)

    assert "equal seeds give equal tasks, in every process" in failed(check_env(TextMDP(source=Counter()), 8))


def test_a_source_that_differs_between_processes_is_detected() -> None:
    def salted(rng: np.random.Generator) -> dict[str, str]:
        return {"prompt": f"{hash('salt')} {rng.integers(10**9)}"}

    assert failed(check_env(TextMDP(source=salted), 8)) == {"equal seeds give equal tasks, in every process"}


def test_overlapping_splits_are_detected() -> None:
    mdp = TextMDP(source={"train": ["a", "b"], "test": ["b", "c"], "validation": ["d"]})
    assert failed(check_env(mdp, 8)) == {"splits are disjoint"}


def test_a_wrong_gold_score_is_detected() -> None:
    class Hopeful(Reverse):
        """A gold_score above the largest reward."""

        gold_score = 3.0

    [result] = [result for result in check_env(make_mdp(Hopeful), 8) if not result.passed]
    assert result.name == "the reference trajectory reaches gold_score, the maximum"
    assert "scores 2.0, not 3.0" in result.detail


def test_a_reply_that_raises_is_detected() -> None:
    class Brittle(TextMDP):
        """`reply` parses a number without a check."""

        source = ["a", "b"]  # noqa: RUF012 - a minimal class, as a user writes it
        max_new, max_turns, max_reply = 4, 2, 4

        def reply(
            self, task: Task, turn_ids: Sequence[int], state: dict[str, Any], rng: np.random.Generator
        ) -> list[int]:
            return [int(self.tokenizer.decode(turn_ids))]

    assert "any text is a valid turn" in failed(check_env(make_mdp(Brittle), 8))


def test_an_answer_above_the_reference_is_detected() -> None:
    def perverse(completions: Sequence[str], answer: Sequence[str], **columns: Any) -> list[float]:
        return [1.0 if text == right else 2.0 for text, right in zip(completions, answer, strict=True)]

    class Exploitable(TextMDP):
        """Rewards every other answer more than the right one."""

        source = [{"prompt": letter, "answer": letter} for letter in "abcde"]  # noqa: RUF012 - a minimal class, as a user writes it
        rewards = {in_process(perverse): 1.0}  # noqa: RUF012 - a minimal class, as a user writes it
        gold_score, max_new = 1.0, 4

    [result] = [result for result in check_env(make_mdp(Exploitable), 8) if not result.passed]
    assert result.detail.startswith("another answer scores 2.0, above 1.0; ")


class Shifted:
    """A reward whose total has one more than the sum of its components."""

    def __init__(self, reward: Any) -> None:
        self.weights = reward.weights
        self.scopes = reward.scopes
        self._score = reward.score

    def score(self, *args: Any, **columns: Any) -> Scores:
        scores = self._score(*args, **columns)
        return Scores(scores.total + 1, scores.valid, scores.components)


def test_a_total_that_is_not_the_sum_is_detected() -> None:
    mdp = make_mdp("sort")
    mdp.reward = Shifted(mdp.reward)
    assert "the reward is the weighted sum of its components" in failed(check_env(mdp, 8))
    with compose(["repetition=0.5"]) as reward:
        assert failed(check_composed(Shifted(reward))) == {"the total is the weighted sum of the components"}


def test_a_reward_outside_of_the_action_mask_is_detected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Unmasked(TokenEnv):
        """The action mask of an episode's last token is false."""

        def step(self, action: Any) -> Any:
            result = super().step(action)
            self.action_mask[-1] = not (result[2] or result[3])
            return result

    monkeypatch.setattr(views, "TokenEnv", Unmasked)
    assert "rewards are on action tokens only" in failed(check_env(make_mdp("sort"), 8))


# ---- replies and tasks ----


class Talk(TextMDP):
    """Two turns; subclasses override `reply`."""

    source = [{"prompt": letter, "answer": "x"} for letter in "abcdefgh"]  # noqa: RUF012 - a minimal class
    max_new, max_turns, max_reply = 4, 2, 8


def test_ids_outside_of_the_vocabulary_are_detected() -> None:
    class Outside(Talk):
        def reply(self, *_: Any) -> list[int]:
            return [300]

    with pytest.raises(ReplyError, match="expected token ids from 0 to 258, got 300"):
        check_any_text(Outside(), 0, TokenVectorEnv)


def test_a_reply_that_edits_the_task_is_detected() -> None:
    class Edits(Talk):
        def reply(self, task: Task, *_: Any) -> str:
            task.columns["answer"] += "!"  # type: ignore[index]  # the mistake
            return "again"

    assert check_tasks_unchanged(Edits(), 0, TokenVectorEnv).endswith("store what an episode changes in `state`")
    assert check_tasks_unchanged(make_mdp("guess_number"), 0, TokenVectorEnv) == ""


def test_a_source_of_one_task_or_without_held_out_tasks_is_detected() -> None:
    assert check_several_tasks(as_source(["a"])).startswith("there are no validation tasks")
    same = {split: ["a", "a"] if split == "train" else [split] for split in ("train", "validation", "test")}
    assert check_several_tasks(as_source(same)).startswith("all train tasks are equal")
    assert check_several_tasks(as_source(["a", "b", "c", "d"])) == ""
    assert "every split has tasks, and train several" in failed(check_env(TextMDP(source=["a"]), 8))


def test_a_reply_that_hangs_ends_the_checks_with_its_error() -> None:
    class Hangs(Talk):
        reply_timeout_s = 0.05

        def reply(self, *_: Any) -> str:
            while True:
                pass

    with pytest.raises(ReplyTimeoutError, match=r"reply of Hangs: expected an answer within 0.05 s"):
        check_env(Hangs(), 8)
