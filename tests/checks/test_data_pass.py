"""The pass over the data of a run before its first step: what it finds, what is dropped, when it is repeated."""

from __future__ import annotations

import io
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

import rlalign
from rlalign.checks import data_pass
from rlalign.checks.data_pass import FILE, checked_mdp
from rlalign.config.schema import RolloutConfig, SupervisedConfig, TrainConfig
from rlalign.config.serialize import from_json, to_json
from rlalign.envs.data_check import check_data
from rlalign.envs.encoded_prompts import encode_prompts
from rlalign.envs.mdp import TextMDP
from rlalign.envs.task_sources import SPLITS
from rlalign.errors import MissingColumnError, RecordError, UserError
from rlalign.escaping.console import PlainConsole
from rlalign.policies.factory import make_policy
from rlalign.rewards.function import RewardFunction
from rlalign.tokenizers import ByteTokenizer, HFTokenizer
from rlalign.types import Task

ROWS = [{"prompt": f"{i}=", "answer": str(i), "split": "train" if i < 30 else "validation"} for i in range(40)]
TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}{{ m.content }}<eos>{% endfor %}{% if add_generation_prompt %}a{% endif %}"
)
REFUSING = TEMPLATE.replace(
    "%}{{", "%}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}{{", 1
)


def hf(template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of single characters with BOS before a plain text."""
    words = [*"0123456789+-*= usa", "<eos>", "<bos>"]
    inner = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=" "))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.decoder = decoders.Fuse()
    inner.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", words.index("<bos>"))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", bos_token="<bos>")
    tokenizer.chat_template = template
    return tokenizer


def with_row(number: int, **columns: Any) -> list[dict[str, Any]]:
    """The rows with columns of one of them replaced; ... removes a column."""
    rows = [dict(row) for row in ROWS]
    rows[number] = {k: v for k, v in {**rows[number], **columns}.items() if v is not ...}
    return rows


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def run_pass(mdp: TextMDP, folder: Path | None = None, **settings: Any) -> tuple[TextMDP, str]:
    """The environment after the pass, and what it printed."""
    policy = make_policy("gru", tokenizer=mdp.tokenizer)
    out = io.StringIO()
    console = console_to(out, width=10_000)
    return checked_mdp(replace(TrainConfig(), **settings), mdp, policy, folder=folder, console=console), out.getvalue()


def console_to(out: io.StringIO, width: int) -> PlainConsole:
    console = PlainConsole(width=width)
    console.file = out
    return console


def made(path: Path, rows: list[dict[str, Any]], rewards: Any = "exact_match", **limits: Any) -> TextMDP:
    return rlalign.make_mdp(jsonl(path / "a.jsonl", rows), rewards=rewards, **limits)


def stripped(completions: list[str], answer: list[str]) -> list[float]:
    return [float(text == a.strip()) for text, a in zip(completions, answer, strict=True)]


IN_PROCESS = RewardFunction("stripped", stripped, timeout_s=None)


@pytest.mark.parametrize(
    ("columns", "rewards", "limits", "reason"),
    [
        ({"prompt": None}, "exact_match", {}, "expected a prompt in the column 'prompt', got none"),
        ({"prompt": 5}, "exact_match", {}, "expected a text or a list of messages as the prompt, got 5"),
        ({"prompt": [{"content": "a"}]}, "exact_match", {}, "message 1 of the prompt: expected a role"),
        ({"prompt": "y" * 20}, "exact_match", {"max_prompt": 20}, r"expected 1 to 20 tokens, got 21 \('yyy"),
        ({"state": "x"}, "exact_match", {}, "got column 'state'"),
        ({"self": "x"}, "exact_match", {}, "got column 'self'"),
        ({"answer": {"a": 1}}, "bleu", {}, r"reward 'bleu' cannot score it .*got \{'a': 1\} \(dict\)"),
        ({"answer": ...}, "bleu", {}, "expected a value in the column 'answer', which the reward bleu reads, got None"),
        ({"answer": []}, "edit_distance", {}, r"expected a value in the column 'answer', .* got \[\]"),
        ({"answer": "no json"}, "json_fields", {}, "expected an answer in JSON, got 'no json'"),
        ({"answer": 5}, IN_PROCESS, {}, "reward 'stripped' cannot score it .*AttributeError"),
        ({"prompt": "Z="}, "exact_match", {"tokenizer": "chars:0123456789="}, "alphabet .*got 'Z'"),
    ],
)
def test_a_bad_record_is_named_before_the_first_step(
    tmp_path: Path, columns: dict[str, Any], rewards: Any, limits: dict[str, Any], reason: str
) -> None:
    mdp = made(tmp_path, with_row(17, **columns), rewards, **limits)
    with pytest.raises(RecordError, match=rf"^a\.jsonl, line 18: .*{reason}.*--on-bad-record drop$"):
        run_pass(mdp)
    kept, printed = run_pass(mdp, tmp_path, on_bad_record="drop")
    assert "warning: 1 of 40 records are left out (data.json lists them): a.jsonl, line 18:" in printed
    assert [kept.source.size(split) for split in SPLITS] == [26, 10, 3]  # a tenth of the thirty is the test split
    places = {kept.source.get(split, i).place for split in SPLITS for i in range(kept.source.size(split) or 0)}
    assert places == {f"a.jsonl, line {n}" for n in range(1, 41)} - {"a.jsonl, line 18"}
    assert [record["place"] for record in json.loads((tmp_path / FILE).read_text())["bad"]] == ["a.jsonl, line 18"]


@pytest.mark.parametrize("answer", [5, 5.5, True, ["a", 3], "text"])
def test_typed_references_that_a_reward_can_read_pass(tmp_path: Path, answer: Any) -> None:
    for reward in ("bleu", "exact_match"):
        mdp, printed = run_pass(made(tmp_path, with_row(17, answer=answer), reward))
        assert mdp.source.size("train") == 27
        assert not printed


def test_a_record_is_usable_if_one_reward_applies(tmp_path: Path) -> None:
    run_pass(made(tmp_path, with_row(17, answer=None), ["exact_match", "length?target=3"]))
    with pytest.raises(RecordError, match="line 18"):
        run_pass(made(tmp_path, with_row(17, answer=None), ["exact_match", "length?target=3=0"]))  # 0: a metric


def test_a_column_with_the_name_of_an_option_is_printed(tmp_path: Path) -> None:
    _, printed = run_pass(made(tmp_path, with_row(17, ignore_case="yes")))
    assert printed.startswith("warning: the column 'ignore_case' of the data is not read by the reward 'exact_match'")
    assert printed.count("\n") == 1


def test_large_data_is_read_again_instead_of_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlalign.envs.data_check._HELD", 10)
    with pytest.raises(RecordError, match=r"line 18: reward 'bleu' cannot score it"):
        run_pass(made(tmp_path, with_row(17, answer={"a": 1}), "bleu"))


def test_errors_can_be_pickled() -> None:
    for error in (RecordError("a.csv, line 3", "too long", 7), MissingColumnError("bleu", "answer", ["id"])):
        copied = pickle.loads(pickle.dumps(error))
        assert type(copied) is type(error)
        assert str(copied) == str(error)
        assert vars(copied) == vars(error)


def test_a_column_that_no_record_has(tmp_path: Path) -> None:
    rows = [{"prompt": row["prompt"]} for row in ROWS]
    with pytest.raises(MissingColumnError, match="reward 'exact_match': expected 'answer' as a column"):
        run_pass(made(tmp_path, rows))


def test_several_bad_records_are_counted_and_the_longest_is_named(tmp_path: Path) -> None:
    rows = with_row(17, prompt="y" * 20)
    rows[20]["prompt"] = "y" * 30
    with pytest.raises(RecordError, match=r"line 18.*2 of 40 records cannot .*a\.jsonl, line 21; the longest needs 31"):
        run_pass(made(tmp_path, rows, max_prompt=8))
    with pytest.raises(UserError, match="expected train records that can be used, got none"):
        run_pass(made(tmp_path, ROWS, max_prompt=1), on_bad_record="drop")


def test_a_template_that_refuses_one_record(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": str(i)}]} for i in range(300)
    ]  # more than one call of the tokenizer
    rows[270]["prompt"].insert(0, {"role": "system", "content": "1"})
    mdp = made(tmp_path, rows, "length?target=3").with_tokenizer(HFTokenizer(hf(REFUSING)))
    assert [record.place for record in check_data(mdp).bad] == ["a.jsonl, line 271"]
    with pytest.raises(RecordError, match=r"line 271: expected messages that the chat template .*no system role"):
        run_pass(mdp)


def test_prompts_encoded_together_equal_those_encoded_alone() -> None:
    user, system = {"role": "user", "content": "2+2"}, {"role": "system", "content": "1"}
    prompts = ["1+1", "", "<bos>1", [user], [system, user], [user, {"role": "assistant", "content": "="}], [system]]
    for tokenizer in (HFTokenizer(hf()), ByteTokenizer()):
        assert encode_prompts(tokenizer, prompts) == [tokenizer.encode_prompt(prompt) for prompt in prompts]
    with pytest.raises(UserError, match="chat template"):
        encode_prompts(HFTokenizer(hf(None)), prompts)


# ---- limits ----


def test_the_limit_of_data_is_its_longest_prompt_and_can_be_set(tmp_path: Path) -> None:
    rows = with_row(17, prompt="y" * 700)
    path = jsonl(tmp_path / "a.jsonl", rows)
    mdp = rlalign.make_mdp(path, rewards="exact_match")
    assert mdp.max_prompt == 701
    assert mdp.with_tokenizer("chars:y0123456789=").max_prompt == 700
    assert run_pass(mdp)[0].max_prompt == 701
    assert run_pass(mdp.with_limits(max_new=3))[0].max_context == 704
    assert rlalign.make_mdp(f"{path}?max_prompt=800").max_prompt == 800
    config = TrainConfig(env=path, rewards=("exact_match",), rollout=RolloutConfig(max_prompt=900))
    from rlalign.config.instantiate import build_mdp

    assert build_mdp(config).max_prompt == 900
    kept, _ = run_pass(mdp.with_limits(max_prompt=100), on_bad_record="drop")
    assert kept.max_prompt == 100
    assert rlalign.register_env("test/Limit-v0", source=rows)().max_prompt == 701
    assert from_json(to_json(config)).rollout.max_prompt == 900


def test_a_prompt_beyond_the_positions_of_the_policy_is_named(tmp_path: Path) -> None:
    mdp = made(tmp_path, with_row(17, prompt="y" * 700))
    assert [(record.place, record.needed) for record in check_data(mdp, positions=512).bad] == [("a.jsonl, line 18", 0)]
    assert check_data(mdp, positions=702).bad == []


# ---- supervised updates ----


def test_an_answer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    supervised = {"supervised": SupervisedConfig(align_interval=1)}
    mdp = made(tmp_path, with_row(17, answer="123456"), max_new=6)
    run_pass(mdp)  # without supervised updates nothing is imitated
    with pytest.raises(RecordError, match=r"line 18: expected an answer of at most 6 tokens .*got 7.*max-new 7"):
        run_pass(mdp, **supervised)
    run_pass(mdp.with_limits(max_new=7), **supervised)
    run_pass(made(tmp_path, with_row(17, answer=123), max_new=6), **supervised)  # a number is imitated as its text
    with pytest.raises(RecordError, match="line 18: expected an answer to imitate"):
        run_pass(made(tmp_path, with_row(17, answer=None), "length?target=3"), **supervised)


# ---- environments of several turns, procedural sources ----


class Talk(TextMDP):
    source = [{"prompt": f"{i}=", "split": "train"} for i in (1, 11, 7, 9)]  # noqa: RUF012 - as a user writes it
    max_prompt, max_new, max_turns, max_reply = 16, 3, 2, 4

    def reply(self, task: Any, turn_ids: Any, state: Any, rng: Any) -> list[int]:
        if task.prompt == "7=":
            raise ValueError("the tool broke")
        return [999] if task.prompt == "9=" else [65] * (9 if task.prompt == "11=" else 1)


def test_the_first_messages_of_four_tasks_are_checked() -> None:
    bad = check_data(Talk()).bad
    assert sorted((record.place, record.reason.partition(": ")[2][:40]) for record in bad) == [
        ("record 1", "expected at most 4 tokens, got 9; use a "),
        ("record 2", "ValueError: the tool broke"),
        ("record 3", "expected token ids from 0 to 258, got 99"),
    ]


def test_few_replies_are_made_before_the_first_step() -> None:
    calls: list[str] = []

    class Paid(Talk):
        def reply(self, task: Any, turn_ids: Any, state: Any, rng: Any) -> None:
            calls.append(task.split)

    check_data(Paid(source=ROWS))
    assert sorted(calls) == ["test"] * 3 + ["train"] * 4 + ["validation"] * 4
    calls.clear()
    drawn, _ = run_pass(Paid(source=lambda rng: str(rng.integers(9))), on_bad_record="drop")
    drawn.source.get("train", 0)
    assert not calls


def test_failures_of_a_users_methods_and_source_are_named() -> None:
    class Source:
        def size(self, split: str) -> int:
            return 3

        def get(self, split: str, index: int) -> Task:
            return Task(["a", "bb", "ccc"][index], {"answer": [{}, {"x": 1}][index]}, split, index)

    class Env(TextMDP):
        source = Source()

        def reference_turns(self, task: Task) -> list[str]:
            return [str(task.columns["answer"]["x"])]

        def prompt_ids(self, task: Task) -> list[int]:
            return [66, *super().prompt_ids(task)]

    report = check_data(Env(), supervised=True)
    assert [(record.place, record.reason) for record in report.bad if record.split == "train"] == [
        ("train task 0", "the environment failed: KeyError: 'x'"),
        ("train task 2", "the source failed: IndexError: list index out of range"),
    ]
    assert report.longest == 4  # B, BOS and two letters


def test_tasks_of_an_unbounded_source_are_checked_on_arrival() -> None:
    def source(rng: np.random.Generator) -> dict[str, Any]:
        return {"prompt": 5 if rng.random() < 0.3 else str(rng.integers(10**6)), "answer": "1"}

    mdp = rlalign.make_mdp(TextMDP, source=source, rewards="exact_match")
    tasks, _ = run_pass(mdp)
    with pytest.raises(RecordError, match=r"^train task \d+: expected a text or a list of messages"):
        [tasks.source.get("train", i) for i in range(20)]
    kept, _ = run_pass(mdp, on_bad_record="drop")
    found = [kept.source.get("train", i) for i in range(50)]
    assert all(isinstance(task.prompt, str) for task in found)
    assert kept.source.dropped > 5  # type: ignore[attr-defined]  # of RedrawnTasks
    assert found == [kept.source.get("train", i) for i in range(50)]
    long, _ = run_pass(mdp.with_limits(max_prompt=1), on_bad_record="drop")
    with pytest.raises(UserError, match=r"in 1000 draws, got none: train task .*expected 1 to 1 tokens"):
        long.source.get("train", 0)


# ---- a resumed run ----


def test_a_resume_skips_the_pass_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = data_pass.check_data
    monkeypatch.setattr(data_pass, "check_data", lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    rows = with_row(17, prompt=None)
    first, _ = run_pass(made(tmp_path, rows), tmp_path, on_bad_record="drop")
    again, _ = run_pass(made(tmp_path, rows), tmp_path, on_bad_record="drop", resume=True)
    assert len(calls) == 1
    assert again.source.size("train") == first.source.size("train") == 26
    assert again.max_prompt == first.max_prompt
    for change in (
        made(tmp_path, with_row(18, prompt=None)),
        made(tmp_path, rows, max_prompt=100),
        made(tmp_path, rows, "bleu"),
    ):
        run_pass(change, tmp_path, on_bad_record="drop", resume=True)
    assert len(calls) == 4
    (tmp_path / FILE).write_text("{")  # damaged
    run_pass(made(tmp_path, rows), tmp_path, on_bad_record="drop", resume=True)
    assert len(calls) == 5


def test_a_run_with_dropped_records_is_logged_resumed_and_evaluated(tmp_path: Path) -> None:
    rows = with_row(17, prompt=None)
    rows[35]["prompt"] = None
    path = jsonl(tmp_path / "a.jsonl", rows)
    small = {"steps": 2, "quiet": True, "rollout__prompts": 4, "rollout__group_size": 2, "rollout__max_new": 3}
    small |= {"evaluation__prompts": 12, "on_bad_record": "drop", "policy": "gru", "rewards": ["length?target=3"]}
    with pytest.raises(RecordError, match=r"2 of 40 records"):
        rlalign.train(env=path, output=str(tmp_path / "failed"), **(small | {"on_bad_record": "fail"}))
    assert not (tmp_path / "failed" / "config.json").exists()
    run = rlalign.train(env=path, output=str(tmp_path / "run"), **small)
    assert run.metrics["rollout/dropped_records"] == [2.0, 2.0]
    run = rlalign.train(env=path, output=str(tmp_path / "run"), resume=True, **(small | {"steps": 3}))
    assert run.metrics["rollout/dropped_records"] == [2.0] * 3
    assert len(run.evaluate(split="validation").before.prompts) == 9


def test_a_record_that_no_policy_can_use_is_refused_before_the_policy_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlalign.training.experiment.build_policy", lambda *_: pytest.fail("a policy was built"))
    path = jsonl(tmp_path / "a.jsonl", with_row(17, prompt=[{"content": "a"}]))
    with pytest.raises(RecordError, match=r"^a\.jsonl, line 18: message 1 .*--on-bad-record drop$"):
        rlalign.train(path, "gru", rewards="exact_match", output=str(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("splits", "missing"), [(("train", "train"), "validation"), (("dev", "dev"), "train")])
def test_a_split_without_tasks_is_refused_before_anything_is_written(
    tmp_path: Path, splits: tuple[str, str], missing: str
) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": str(i), "split": split} for i, split in enumerate(splits)])
    with pytest.raises(UserError, match=rf"a\.jsonl: expected {missing} tasks, got none; add more data"):
        rlalign.train(path, "gru", rewards="length?target=3", output=str(tmp_path / "run"), quiet=True)
    assert not (tmp_path / "run").exists()


def test_the_pass_shows_its_progress_when_it_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 4.0, 9.0, 20.0])
    monkeypatch.setattr(data_pass.time, "monotonic", lambda: next(times))
    out = io.StringIO()
    show = data_pass._progress(console_to(out, width=200))
    for done in (256, 2560, 5120, 9_000, 10_000):
        show(done, 10_000)
    assert out.getvalue().splitlines() == [
        "data: 2,560 of 10,000 records are checked, 9 s left",
        "data: 9,000 of 10,000 records are checked, 1 s left",
    ]


def test_the_pass_takes_no_random_number() -> None:
    mdp = rlalign.make_mdp(ROWS, rewards="exact_match")
    torch.manual_seed(0)
    before = torch.get_rng_state()
    policy = make_policy("gru", tokenizer=mdp.tokenizer)
    after = torch.get_rng_state()
    checked_mdp(TrainConfig(), mdp, policy)
    assert torch.equal(after, torch.get_rng_state())
    assert before is not after
