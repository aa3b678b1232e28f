"""rlalign tasks and rewards in TRL's trainers, and TRL's reward functions in rlalign."""

from __future__ import annotations

import numpy as np
import pytest

import rlalign
from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError
from rlalign.integrations import trl as bridge
from rlalign.tokenizers import ByteTokenizer, CharTokenizer

ENV = "reverse?max_length=2"


def ids(mdp, text, *, eos=True):
    return [*mdp.tokenizer.encode(text), *([mdp.tokenizer.eos_id] if eos else [])]


def test_dataset_has_the_tasks_in_their_order() -> None:
    data = bridge.dataset(ENV, count=5)
    source = make_mdp(ENV).source
    tasks = [source.get("train", i) for i in range(5)]
    assert list(data["prompt"]) == [t.prompt for t in tasks]
    assert list(data["answer"]) == [t.columns["answer"] for t in tasks]


def test_an_unbounded_source_requires_a_count_and_a_finite_one_does_not() -> None:
    with pytest.raises(UserError, match="count="):
        bridge.dataset(ENV)
    splits = ["train", "train", "train", "validation", "test"]
    records = [{"prompt": f"p{i}", "label": i, "split": split} for i, split in enumerate(splits)]
    assert list(bridge.dataset(records)["label"]) == [0, 1, 2]
    assert len(bridge.dataset(records, count=2)) == 2
    assert list(bridge.dataset(records, split="test")["label"]) == [4]


def test_conversational_prompts_remain_messages() -> None:
    conversation = [{"role": "user", "content": "hi"}]
    assert bridge.dataset([{"prompt": conversation}])[0]["prompt"] == conversation


def test_reward_func_equals_the_reward_of_the_vector_environment() -> None:
    """For a correct answer that ends and one that is truncated."""
    mdp = make_mdp(ENV)
    task = mdp.source.get("train", 0)
    answer = task.columns["answer"]
    completion_ids = [ids(mdp, answer), ids(mdp, answer + "aaaa", eos=False)[: mdp.max_new], ids(mdp, ">")]
    logged = {}
    reward = bridge.reward_func(ENV)
    rewards = reward(
        prompts=[task.prompt] * 3,
        completions=["the decoded text is ignored"] * 3,
        completion_ids=completion_ids,
        answer=[answer] * 3,
        trainer_state=object(),
        log_extra=lambda *a: None,
        log_metric=logged.__setitem__,
    )
    env = rlalign.make_vec(ENV, 3)
    env.reset(seed=0, options={"tasks": [task] * 3})
    width = max(map(len, completion_ids))
    tokens = np.array([row + [0] * (width - len(row)) for row in completion_ids])
    segment = env.step_tokens(tokens, [len(row) for row in completion_ids])
    assert rewards == pytest.approx(segment.rewards.sum(1).tolist())
    assert rewards[0] == pytest.approx(2.0)
    assert logged["reward/exact_match"] == pytest.approx(1 / 3)


def test_a_failed_reward_is_none_and_not_zero() -> None:
    @rlalign.reward("sometimes", timeout_s=None, retries=0, on_error="drop")
    def sometimes(completions, **columns):
        return [float("nan") if "a" in c else 1.0 for c in completions]

    functions, weights = bridge.reward_funcs(["sometimes=0.5"])
    assert functions[0].__name__ == "sometimes"
    assert weights == [0.5]
    keywords = {"completion_ids": [[1], [2]], "trainer_state": object(), "log_metric": print}
    assert functions[0](prompts=["x", "x"], completions=["a", "b"], **keywords) == [None, 1.0]


def test_completions_of_conversations_arrive_as_messages() -> None:
    prompt = [{"role": "user", "content": "x"}]
    completion = [{"role": "assistant", "content": "ab"}]

    def letters(completions, **columns):
        assert completions == [completion]
        return [float(len(completions[0][0]["content"]))]

    functions, _ = bridge.reward_funcs(rlalign.reward("letters", timeout_s=None)(letters))
    assert functions[0](prompts=[prompt], completions=[completion], completion_ids=[[1, 2]]) == [2.0]


def test_what_a_function_logs_reaches_the_callbacks_of_trl() -> None:
    def logging(completions, log_metric, log_extra, **columns):
        log_metric("longest", 2.0)
        log_extra("sizes", [len(text) for text in completions])
        return [1.0] * len(completions)

    reward = rlalign.reward("logging", timeout_s=None)(logging)
    calls: list[tuple[str, object]] = []
    callbacks = {name: lambda *arguments: calls.append(arguments) for name in ("log_metric", "log_extra")}
    functions, _ = bridge.reward_funcs(reward)
    assert functions[0](prompts=["p"], completions=["ab"], completion_ids=[[1, 2]], **callbacks) == [1.0]
    assert calls == [("reward/logging/log/longest", 2.0), ("sizes", [2])]
    whole = bridge.reward_func(ENV, rewards=[reward])
    whole(prompts=["ab>"], completion_ids=[ids(make_mdp(ENV), "ba")], answer=["ba"], **callbacks)
    assert calls[2:] == [("reward/logging", 1.0), ("reward/logging/log/longest", 2.0), ("sizes", [2])]


def test_a_reward_of_scope_group_requires_the_group_size() -> None:
    @rlalign.reward("rank", scope="group", timeout_s=None)
    def rank(completions, group_ids, **columns):
        return [float(group_ids[i]) for i in range(len(completions))]

    with pytest.raises(UserError, match="group_size"):
        bridge.reward_func(ENV, rewards=["rank"])
    reward = bridge.reward_func(ENV, rewards=["rank"], group_size=2)
    assert reward(prompts=["a>"] * 4, completion_ids=[[1]] * 4, answer=["a"] * 4) == [0.0, 0.0, 1.0, 1.0]
    with pytest.raises(UserError, match="scope"):
        bridge.reward_funcs(["rank"])


def test_an_environment_of_several_turns_raises_an_error() -> None:
    for function in (bridge.reward_func, bridge.dataset):
        with pytest.raises(UserError, match="turns"):
            function("rlalign/GuessNumber-v0")


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("abc>")])
def test_processing_class_neither_adds_nor_removes_an_id(tokenizer) -> None:
    adapter = bridge.processing_class(tokenizer)
    assert adapter(text=["ab>"])["input_ids"] == [tokenizer.encode_prompt("ab>")]
    assert (adapter.eos_token_id, adapter.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)
    completion = [*tokenizer.encode("cab"), tokenizer.eos_id]
    assert adapter.batch_decode([completion], skip_special_tokens=True) == ["cab"]
    conversation = [{"role": "user", "content": "a"}]
    if isinstance(tokenizer, ByteTokenizer):
        encoded = adapter.apply_chat_template([conversation], tokenize=True)["input_ids"]
        assert encoded == [tokenizer.encode_prompt(conversation)]


def test_a_reward_function_of_trl_runs_unchanged(tmp_path) -> None:
    """Its signature includes keywords that only TRL passes, such as `trainer_state` and `log_metric`."""

    def of_trl(prompts, completions, completion_ids, answer, trainer_state, log_metric, **kwargs):
        log_metric("seen", 1.0)
        return [float(c == a) for c, a in zip(completions, answer, strict=True)]

    reward = rlalign.reward("of_trl", timeout_s=None)(of_trl)
    run = rlalign.train(ENV, "gru", "rloo", [reward], steps=1, output=tmp_path / "run", quiet=True)
    assert run.metrics["reward/of_trl"][0] is not None


def test_the_trainer_of_trl_trains_on_tasks_and_rewards_of_rlalign(tmp_path) -> None:
    """TRL's trainer is called directly, as in docs/concepts/trl.md."""
    from trl import GRPOConfig, GRPOTrainer

    from rlalign.policies.factory import make_policy

    mdp = make_mdp(ENV)
    arguments = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=8, num_generations=4, max_completion_length=mdp.max_new,
        max_steps=2, logging_steps=1, use_cpu=True, bf16=False, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=make_policy("tiny", tokenizer=mdp.tokenizer).lm,
        reward_funcs=bridge.reward_func(ENV),
        args=arguments,
        train_dataset=bridge.dataset(ENV, count=16),
        processing_class=bridge.processing_class(mdp.tokenizer),
    )
    trainer.train()
    row = trainer.state.log_history[0]
    assert row["reward"] == pytest.approx(row["reward/token_match"] + row["reward/exact_match"], abs=1e-6)
    assert row["completions/max_length"] <= mdp.max_new
