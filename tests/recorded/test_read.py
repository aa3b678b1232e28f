"""Sources as trajectories: kinds by columns, rows at fault, splits, lengths, and logged log-probs."""

from __future__ import annotations

import pytest

from rlalign.config.schema import RecordedConfig
from rlalign.errors import RecordError, UserError
from rlalign.recorded.columns import KINDS, kind_of, readable_as
from rlalign.recorded.read import read_recorded
from rlalign.recorded.rows import messages_of
from tests.recorded.conftest import CHARS, talk, write

PAIR = {"prompt": "ab>", "chosen": "ba", "rejected": "bb"}
ALGORITHM = {"demonstrations": "sft", "rewards": "rloo", "labels": "kto", "pairs": "dpo"}


def read(source, wanted, mdp=CHARS, *, drop=False, **settings):
    """Return the data of a source."""
    settings = RecordedConfig(**{"held_out": 0.0, **settings})
    return read_recorded(source, wanted, mdp, algorithm=ALGORITHM[wanted], settings=settings, drop=drop)


def rows_of(data):
    """Return all trajectories to train on."""
    return [row for group in data.train for row in group]


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        (["messages"], "demonstrations"),
        (["conversations", "id"], "demonstrations"),
        (["prompt", "completion"], "demonstrations"),
        (["prompt", "completion", "reward"], "rewards"),
        (["prompt", "completion", "label"], "labels"),
        (["prompt", "chosen", "rejected"], "pairs"),
        (["chosen", "rejected", "messages"], "pairs"),
        (["text"], None),
    ],
)
def test_the_columns_decide_the_kind(columns, kind) -> None:
    assert kind_of(columns) == kind


def test_preferences_are_labels_and_other_kinds_are_only_themselves() -> None:
    readable = {(kind, wanted) for kind in KINDS for wanted in KINDS if readable_as(kind, wanted)}
    assert readable == {(kind, kind) for kind in KINDS} | {("pairs", "labels")}


def test_rewards_of_each_kind(tmp_path) -> None:
    rows = rows_of(read(write(tmp_path, {"prompt": "ab>", "completion": "ba"}), "demonstrations"))
    assert [(row.completion, row.reward) for row in rows] == [("ba", 1.0)]
    rows = rows_of(read(write(tmp_path, PAIR), "pairs"))
    assert [(row.completion, row.reward) for row in rows] == [("ba", 1.0), ("bb", 0.0)]
    rows = rows_of(read(write(tmp_path, {"prompt": "ab>", "completion": "ba", "label": False}), "labels"))
    assert [row.reward for row in rows] == [0.0]
    triples = (("ab>", "a", 2), ("b>", "a", 0), ("ab>", "b", 1))
    logged = [{"prompt": p, "completion": c, "reward": r} for p, c, r in triples]
    data = read(write(tmp_path, *logged), "rewards")
    assert [[(row.completion, row.reward) for row in group] for group in data.train] == [
        [("a", 2.0), ("b", 1.0)],  # rows of one prompt are one group
        [("a", 0.0)],
    ]


def test_pairs_are_read_as_labels_and_as_demonstrations_when_told(tmp_path) -> None:
    source = write(tmp_path, PAIR)
    assert [(row.completion, row.reward) for row in rows_of(read(source, "labels"))] == [("ba", 1.0), ("bb", 0.0)]
    with pytest.raises(UserError, match="which are pairs; use --algorithm dpo, or --as demonstrations"):
        read(source, "demonstrations")
    assert [row.completion for row in rows_of(read(source, "demonstrations", kind="demonstrations"))] == ["ba"]


def test_another_kind_than_the_algorithm_learns_from_is_refused(tmp_path) -> None:
    source = write(tmp_path, {"prompt": "ab>", "completion": "ba"})
    with pytest.raises(UserError, match="expected the columns prompt, chosen and rejected, which dpo learns from"):
        read(source, "pairs")
    with pytest.raises(UserError, match="--as pairs: expected rewards, which rloo learns from"):
        read(source, "rewards", kind="pairs")
    with pytest.raises(UserError, match="got text; rename the columns"):
        read(write(tmp_path, {"text": "ab>"}), "demonstrations")
    with pytest.raises(UserError, match="expected rows of recorded data, got none"):
        read(write(tmp_path), "demonstrations")


@pytest.mark.parametrize("label", [True, "true", 1, 1.0, "yes"])
@pytest.mark.parametrize("negative", [False, "False", 0, 0.0, -1, "no"])
def test_labels_in_all_spellings(tmp_path, label, negative) -> None:
    rows = [{"prompt": "a>", "completion": "a", "label": value} for value in (label, negative)]
    assert [row.reward for row in rows_of(read(write(tmp_path, *rows), "labels"))] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"prompt": "a>", "completion": "a", "label": "perhaps"}, "labels", "expected true or false in 'label'"),
        ({"prompt": "a>", "completion": "a", "reward": None}, "rewards", "expected a finite number in 'reward'"),
        ({"prompt": "a>", "completion": "a", "reward": True}, "rewards", "expected a finite number in 'reward'"),
        ({"prompt": "a>", "completion": "a", "reward": float("inf")}, "rewards", "expected a finite number"),
        ({"prompt": None, "completion": "a"}, "demonstrations", "expected a text or messages in 'prompt'"),
        ({"prompt": "a>", "completion": 5}, "demonstrations", "expected a text or a message in 'completion'"),
        ({"prompt": "a>", "completion": "q!"}, "demonstrations", "expected characters of the tokenizer's alphabet"),
        ({"messages": talk("a", "b"), "tools": [{}]}, "demonstrations", "expected a row without 'tools'"),
        ({"messages": "a"}, "demonstrations", "expected a list of messages"),
        ({"prompt": "a>", "completion": "b", "tools": [{}]}, "demonstrations", "expected a row without 'tools'"),
        ({"prompt": "a>", "completion": "b\ud800"}, "demonstrations", "'completion': expected text, got the lone"),
        ({"prompt": "a>", "chosen": "b", "rejected": None}, "pairs", "expected a text or messages in 'rejected'"),
        ({"prompt": "a>", "chosen": "b", "rejected": "a", "tools": [{}]}, "pairs", "expected a row without 'tools'"),
        ([1], "demonstrations", "expected an object with columns"),
    ],
)  # fmt: skip
def test_a_row_at_fault_is_named_or_dropped_and_counted(tmp_path, row, kind, message) -> None:
    good = {"prompt": "b>", "completion": "b"} | {"rewards": {"reward": 1}, "labels": {"label": True}}.get(kind, {})
    good = PAIR if kind == "pairs" else good
    source = write(tmp_path, good, row)
    with pytest.raises(RecordError, match=r"data\.jsonl, line 2: .*" + message):
        read(source, kind)
    data = read(source, kind, drop=True)
    assert len(data.train) == 1
    assert "left out of the data: 1 that cannot be used" in data.notes


def test_rows_that_are_too_long_are_counted_and_never_cut(tmp_path) -> None:
    rows = [{"prompt": "ab>", "completion": "a" * n} for n in (1, 4, 5)]
    data = read(write(tmp_path, *rows), "demonstrations", max_length=8)
    assert [row.completion for row in rows_of(data)] == ["a", "aaaa"]
    assert "left out of the data: 1 longer than 8 tokens" in data.notes
    with pytest.raises(UserError, match=r"got none that can be used \(3 longer than 3 tokens\)"):
        read(write(tmp_path, *rows), "demonstrations", max_length=3)


def test_logged_log_probs_are_one_per_token(tmp_path) -> None:
    row = {"prompt": "ab>", "completion": "ba", "reward": 1, "logprobs": [-1.0, -0.5, -0.25]}
    data = read(write(tmp_path, row), "rewards")
    assert data.has_logprobs
    assert rows_of(data)[0].logprobs == [-1.0, -0.5, -0.25]
    for wrong, message in (
        ([-1.0], "expected 3 log-probs, one per token"),
        ([0.5] * 3, "finite log-probs of at most 0"),
    ):
        with pytest.raises(RecordError, match=message):
            read(write(tmp_path, {**row, "logprobs": wrong}), "rewards")
    mixed = [row, {key: value for key, value in row.items() if key != "logprobs"}]
    assert not read(write(tmp_path, *mixed), "rewards").has_logprobs


def test_the_splits_of_the_data_are_used_and_else_groups_of_prompts_are_held_out(tmp_path) -> None:
    splits = {"ab>": "train", "ba>": "train", "cd>": "dev", "dc>": "test"}
    rows = [{"prompt": prompt, "completion": "a", "split": split} for prompt, split in splits.items()]
    data = read(write(tmp_path, *rows), "demonstrations", held_out=0.25)
    assert (len(data.train), len(data.held_out)) == (2, 2)
    plain = [{"prompt": f"{a}{b}{c}>", "completion": "a"} for a in "abcd" for b in "abcd" for c in "ab"]
    data = read(write(tmp_path, *plain, *plain), "demonstrations", held_out=0.25)
    assert len(data.held_out) == 16
    train = {tuple(row.ids[: row.prompt_length]) for group in data.train for row in group}
    assert not train & {tuple(row.ids[: row.prompt_length]) for group in data.held_out for row in group}


@pytest.mark.parametrize("splits", [["train", "test", None], ["train_sft", "test_sft"], ["validation", "test"]])
def test_rows_of_no_known_split_are_refused_and_not_lost(tmp_path, splits) -> None:
    rows = [{"prompt": "ab>", "completion": "a", **({"split": split} if split else {})} for split in splits]
    with pytest.raises(
        UserError, match="expected the split of each row, train, validation or test, with rows of train"
    ):
        read(write(tmp_path, *rows), "demonstrations")


def test_a_line_that_is_no_json_is_named_or_dropped_beside_splits(tmp_path) -> None:
    source = write(tmp_path, *({"prompt": "ab>", "completion": "a", "split": s} for s in ("train", "test")))
    with open(source, "a") as file:
        file.write("{broken\n")
    with pytest.raises(RecordError, match=r"data\.jsonl, line 3: expected JSON"):
        read(source, "demonstrations")
    assert "left out of the data: 1 that cannot be used" in read(source, "demonstrations", drop=True).notes


def test_conversations_with_one_question_are_not_divided(tmp_path, chat_mdp) -> None:
    answers = ("an apple pie", "zebras cross", "quantum fields", "a long walk", "no idea", "blue paint")
    rows = [
        {"messages": talk(question, answer)} for question in ("one question", "another thing") for answer in answers
    ]
    data = read(write(tmp_path, *rows), "demonstrations", chat_mdp, held_out=0.5)
    questions = [{row.prompt[0]["content"] for group in part for row in group} for part in (data.train, data.held_out)]
    assert sorted(map(len, questions)) == [1, 1]


def test_the_columns_are_those_of_all_first_rows(tmp_path) -> None:
    rows = [{"prompt": "a>", "completion": "b"}, {"prompt": "a>", "completion": "b", "reward": 1}]
    with pytest.raises(UserError, match="which are rewards"):
        read(write(tmp_path, *rows), "demonstrations")


def test_a_folder_that_changes_is_read_again(tmp_path) -> None:
    import datasets

    from rlalign.recorded.items import read_items

    for count in (1, 2):
        rows = [{"prompt": "ab>", "completion": "a"}] * count
        datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "data"))
        assert len(read_items(str(tmp_path / "data"), "demonstrations")[0]) == count


@pytest.mark.parametrize("flag", [True, 1, "True"])
def test_a_cut_answer_has_no_end(tmp_path, chat_mdp, flag) -> None:
    (row,) = rows_of(
        read(write(tmp_path, {"prompt": "ab>", "completion": "ba", "completion_cut": flag}), "demonstrations")
    )
    assert (row.truncated, row.ids[-1]) == (True, CHARS.tokenizer.encode("a")[0])
    talks = {"messages": talk("a", "b", "a", "ab"), "truncated": flag}
    (row,) = rows_of(read(write(tmp_path, talks), "demonstrations", chat_mdp))
    tokenizer = chat_mdp.tokenizer
    assert row.truncated
    assert [i for i, action in zip(row.ids, row.actions, strict=True) if action] == [
        *tokenizer.encode("b"), 1, *tokenizer.encode("ab"),
    ]  # fmt: skip


def test_the_prompt_of_a_pair_may_have_text_parts(tmp_path, chat_mdp) -> None:
    prompt = [{"role": "user", "content": [{"type": "text", "text": "a b"}]}]
    data = read(write(tmp_path, {"prompt": prompt, "chosen": "a", "rejected": "b"}), "pairs", chat_mdp)
    assert list(rows_of(data)[0].ids[:-2]) == chat_mdp.tokenizer.encode_prompt(talk("a b"))


def test_conversations_in_the_format_of_sharegpt() -> None:
    value = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]
    assert messages_of(value, "here") == talk("a", "b")


def test_csv_has_the_same_rows(tmp_path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("prompt,completion,reward\nab>,ba,0.5\nb>,b,1\n")
    assert [(row.completion, row.reward) for row in rows_of(read(str(path), "rewards"))] == [("ba", 0.5), ("b", 1.0)]


def test_a_cell_of_csv_may_be_a_number_or_messages(tmp_path, chat_mdp) -> None:
    path = tmp_path / "data.csv"
    path.write_text('prompt,completion\n2+2,4\nright,true\nlist,"[1, 2]"\n')
    data = read(str(path), "demonstrations", chat_mdp)
    assert [row.completion for row in rows_of(data)] == ["4", "true", "[1, 2]"]
    path.write_text('messages\n"[{""role"":""user"",""content"":""a""},{""role"":""assistant"",""content"":""b""}]"\n')
    assert [row.completion for row in rows_of(read(str(path), "demonstrations", chat_mdp))] == ["b"]
