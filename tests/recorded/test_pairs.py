"""Pairs as token ids: the run's own prompts, ends of turns, cut completions, splits, and rows at fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlalign.config.schema import RecordedConfig
from rlalign.envs.chat_prompts import with_chat_template
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.errors import RecordError, UserError
from rlalign.recorded.items import hub_identity
from rlalign.recorded.read import RecordedData, read_recorded
from rlalign.tokenizers import HFTokenizer
from tests.integrations.trl.word_model import word_model

CHARS = make_mdp("reverse")
ASSISTANT = {"role": "assistant"}
A = {**ASSISTANT, "content": "a"}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(data: str, mdp: TextMDP, **options: Any) -> RecordedData:
    """Return the pairs of a file."""
    return read_recorded(data, "pairs", mdp, algorithm="dpo", settings=RecordedConfig(), **options)


class Pair(NamedTuple):
    """Token ids of a pair."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]


def only(folder: Path, mdp: TextMDP, **row: Any) -> Pair:
    """Return the single pair of a file with one row."""
    ((chosen, rejected),) = read(write(folder, row), mdp).train
    assert (chosen.reward, rejected.reward) == (1, 0)
    prompt = list(chosen.ids[: chosen.prompt_length])
    assert list(rejected.ids[: rejected.prompt_length]) == prompt
    return Pair(prompt, list(chosen.ids[len(prompt) :]), list(rejected.ids[len(prompt) :]))


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> TextMDP:
    """An environment under the tokenizer of words, with the ids 0 EOS, 1 end of turn, 2 user, 3 assistant, 4 a, 5 b."""
    tokenizer = HFTokenizer(word_model(tmp_path_factory.mktemp("m")), stop_ids=[0, 1])
    return make_mdp("reverse", tokenizer=tokenizer).with_limits(max_new=20)


def test_a_plain_pair_has_the_ids_of_a_rollout_and_eos(tmp_path) -> None:
    pair = only(tmp_path, CHARS, prompt="ab>", chosen="ba", rejected="bb")
    task_ids = CHARS.prompt_ids(CHARS.source.get("train", 0))
    assert task_ids[-1] == pair.prompt[-1] == CHARS.tokenizer.encode(">")[0]
    assert pair.prompt == CHARS.tokenizer.encode("ab>")
    assert pair.chosen == [*CHARS.tokenizer.encode("ba"), CHARS.tokenizer.eos_id]
    assert len(pair.chosen) + len(pair.rejected) == 6


def test_an_implicit_prompt_is_that_of_trl(tmp_path) -> None:
    pair = only(tmp_path, CHARS, chosen="ab>ba", rejected="ab>c")
    assert (pair.prompt, pair.chosen[:-1]) == (CHARS.tokenizer.encode("ab>"), CHARS.tokenizer.encode("ba"))


def test_a_conversation_ends_with_the_end_of_the_template_and_not_with_what_follows_it(tmp_path, words) -> None:
    row = {"chosen": [{**ASSISTANT, "content": "a b"}], "rejected": [{**ASSISTANT, "content": "b"}]}
    pair = only(tmp_path, words, prompt=[{"role": "user", "content": "a"}], **row)
    assert pair.prompt[-1] == 3  # the assistant's header
    assert (pair.chosen, pair.rejected) == ([4, 5, 1], [5, 1])
    # a plain prompt is encoded as the run encodes its own: without a template, or with it
    plain = {"prompt": "a", "chosen": "a b", "rejected": "b"}
    assert only(tmp_path, words, **plain).chosen == [4, 5, 0]
    chat = with_chat_template(words, "on")
    assert only(tmp_path, chat, **plain).prompt == pair.prompt
    assert only(tmp_path, chat, **plain).chosen == pair.chosen


@pytest.mark.parametrize("mark", [True, "True"])
def test_a_cut_completion_has_no_end(tmp_path, mark) -> None:
    pair = only(tmp_path, CHARS, prompt="ab>", chosen="ba", rejected="bb", chosen_cut=mark, rejected_cut=False)
    assert pair.chosen == CHARS.tokenizer.encode("ba")
    assert pair.rejected[-1] == CHARS.tokenizer.eos_id


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"prompt": [{"role": "user", "content": "ab>"}], "chosen": [A, A], "rejected": [A]},
            "expected one message of the assistant with a text in 'chosen', got assistant, assistant",
        ),
        ({"prompt": "ab>", "chosen": "xyz", "rejected": "a"}, "'chosen': expected characters of the tokenizer's"),
        ({"prompt": "xyz", "chosen": "a", "rejected": "b"}, "expected characters"),
        ({"prompt": "ab>", "chosen": "a" * 40, "rejected": "b"}, "expected at most 20 tokens, as the model reads, got"),
    ],
    ids=["several messages", "other alphabet", "prompt", "too long"],
)
def test_a_row_at_fault_is_named_or_dropped_and_counted(tmp_path, row, message) -> None:
    good = {"prompt": "ab>", "chosen": "ba", "rejected": "bb", "split": "train"}
    data = write(tmp_path, good, row | {"split": "train"}, {**good, "split": "test"})
    with pytest.raises(RecordError, match=message) as caught:
        read(data, CHARS, positions=20)
    assert caught.value.place == "prefs.jsonl, line 2"
    pairs = read(data, CHARS, positions=20, drop=True)
    assert (len(pairs.train), len(pairs.held_out)) == (1, 1)
    assert "left out of the data: 1 that cannot be used" in pairs.notes


def test_equal_completions_are_left_out_and_long_ones_are_reported(tmp_path) -> None:
    rows = [
        {"prompt": "ab>", "chosen": "ba", "rejected": "ba", "split": "train"},
        {"prompt": "ab>", "chosen": "ba" * CHARS.max_new, "rejected": "bb", "split": "train"},
        {"prompt": "cd>", "chosen": "d", "rejected": "c", "split": "test"},
    ]
    pairs = read(write(tmp_path, *rows), CHARS)
    assert (len(pairs.train), len(pairs.held_out)) == (1, 1)
    assert "left out of the data: 1 equal completions" in pairs.notes
    assert f"1 pair with a completion of more than {CHARS.max_new} tokens" in pairs.notes[-1]
    with pytest.raises(UserError, match="expected pairs to train on, got none that can be used"):
        read(write(tmp_path, rows[0]), CHARS)


def test_votes_of_a_study_are_read_and_a_source_without_preferences_says_why(tmp_path) -> None:
    vote = {
        "vote": 1, "item": 1, "kind": "pair", "prompt": "ab>", "completions": ["ba", "bb"], "choice": "tie",
        "policies": ["x", "y"], "cut": [False, True], "annotator": "p1", "gold": False, "repeat_of": None,
        "ratings": None, "ranking": None,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"expected pairs, got none \(1 tie\); add some"):
        read(write(tmp_path, vote), CHARS)
    pair = only(tmp_path, CHARS, **{**vote, "choice": "a"})
    assert (pair.chosen[-1], len(pair.rejected)) == (CHARS.tokenizer.eos_id, 2)


def test_files_have_no_digest_of_rows(tmp_path) -> None:
    assert hub_identity(write(tmp_path, {"prompt": "ab>", "chosen": "ba", "rejected": "bb"})) == {}
    assert hub_identity(None) == {}
