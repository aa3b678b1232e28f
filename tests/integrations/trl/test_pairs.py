"""Preference data as token ids: the run's own prompts, ends of turns, cut completions, splits, and rows at fault."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from rlalign.envs.chat_prompts import with_chat_template
from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.errors import RecordError, UserError
from rlalign.integrations.trl.pairs import build_pairs, divide, hub_identity, pair_order
from rlalign.preferences.pairs import Preference
from rlalign.tokenizers import HFTokenizer
from tests.integrations.trl.test_dpo import word_model

CHARS = make_mdp("reverse")
ASSISTANT = {"role": "assistant"}
A = {**ASSISTANT, "content": "a"}


def write(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "prefs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def only(folder: Path, mdp: TextMDP, **row: Any) -> Any:
    """Return the single pair of a file with one row."""
    (pair,) = build_pairs(write(folder, row), mdp).train
    return pair


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
    assert pair.tokens == 6


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
        build_pairs(data, CHARS, positions=20)
    assert caught.value.place == "prefs.jsonl, line 2"
    pairs = build_pairs(data, CHARS, positions=20, drop=True)
    assert (len(pairs.train), len(pairs.held_out)) == (1, 1)
    assert "left out of the preferences: 1 unusable" in pairs.notes


def test_equal_completions_are_left_out_and_long_ones_are_reported(tmp_path) -> None:
    rows = [
        {"prompt": "ab>", "chosen": "ba", "rejected": "ba", "split": "train"},
        {"prompt": "ab>", "chosen": "ba" * CHARS.max_new, "rejected": "bb", "split": "train"},
        {"prompt": "cd>", "chosen": "d", "rejected": "c", "split": "test"},
    ]
    pairs = build_pairs(write(tmp_path, *rows), CHARS)
    assert (len(pairs.train), len(pairs.held_out)) == (1, 1)
    assert "left out of the preferences: 1 equal completions" in pairs.notes
    assert f"1 pairs have a completion of more than {CHARS.max_new} tokens" in pairs.notes[-1]
    with pytest.raises(UserError, match="expected pairs to train on, got none that can be used"):
        build_pairs(write(tmp_path, rows[0]), CHARS)


def test_the_split_of_the_data_is_used_and_else_groups_of_prompts_are_held_out() -> None:
    rng = random.Random(0)
    prompts = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz ", k=60)) for _ in range(30)]

    def preference(i: int, split: str | None = None) -> Preference:
        return Preference(f"yes {i}", "no", prompts[i], split=split)

    own = [preference(i, "Dev" if i % 4 == 0 else "training") for i in range(20)]
    train, held_out = divide(own)
    assert [p.split for p in held_out] == ["Dev"] * 5
    assert len(train) == 15
    twice = [preference(i // 2, "train") for i in range(60)]
    train, held_out = divide(twice)
    assert 0 < len(held_out) <= 6
    assert not {p.prompt for p in train} & {p.prompt for p in held_out}
    one, none = divide([preference(0)] * 3)
    assert (len(one), none) == (3, [])


def test_votes_of_a_study_are_read_and_a_source_without_preferences_says_why(tmp_path) -> None:
    vote = {
        "vote": 1, "item": 1, "kind": "pair", "prompt": "ab>", "completions": ["ba", "bb"], "choice": "tie",
        "policies": ["x", "y"], "cut": [False, True], "annotator": "p1", "gold": False, "repeat_of": None,
        "ratings": None, "ranking": None,
    }  # fmt: skip
    with pytest.raises(UserError, match=r"expected preferences, got none \(1 tie\); collect more votes"):
        build_pairs(write(tmp_path, vote), CHARS)
    pair = only(tmp_path, CHARS, **{**vote, "choice": "a"})
    assert (pair.chosen[-1], len(pair.rejected)) == (CHARS.tokenizer.eos_id, 2)


def test_each_pass_has_an_order_of_its_own_that_the_seed_determines() -> None:
    order = pair_order(50, 125, seed=3)
    assert len(order) == 125
    assert sorted(order[:50]) == sorted(order[50:100]) == list(range(50))
    assert order[:50] != order[50:100]
    assert order == pair_order(50, 125, seed=3) != pair_order(50, 125, seed=4)


def test_files_have_no_digest_of_rows(tmp_path) -> None:
    assert hub_identity(write(tmp_path, {"prompt": "ab>", "chosen": "ba", "rejected": "bb"})) == {}
    assert hub_identity(None) == {}
