"""Records of every kind of data become the same typed tasks, and errors name their place."""

import csv
import datetime
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlalign.envs.records.prompts import as_prompt
from rlalign.envs.records.task import task_of
from rlalign.envs.records.values import plain
from rlalign.envs.task_sources import SPLITS, ListSource, ProceduralSource, as_source
from rlalign.errors import RecordError, UserError
from rlalign.types import Task, TaskSource

ROWS = [{"prompt": f"q{i}", "answer": 5 if i % 2 else None} for i in range(20)]


def tasks(source: TaskSource) -> list[Task]:
    return [source.get(split, i) for split in SPLITS for i in range(source.size(split))]


def jsonl(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


def written(folder: Path, kind: str) -> object:
    """The rows as data of one kind. A data frame stores the integers of a column with missing values as floats."""
    frame = pd.DataFrame(ROWS)
    assert frame["answer"].dtype == float
    if kind == "jsonl":
        return jsonl(folder / "a.jsonl", ROWS)
    if kind == "csv":
        frame.assign(answer=frame["answer"].astype("Int64")).to_csv(folder / "a.csv", index=False)
        return str(folder / "a.csv")
    if kind == "parquet":
        frame.to_parquet(folder / "a.parquet")
        return str(folder / "a.parquet")
    if kind == "datasets":
        datasets = pytest.importorskip("datasets")
        return datasets.Dataset.from_pandas(frame)
    return frame if kind == "pandas" else ROWS


@pytest.mark.parametrize("kind", ["list", "jsonl", "csv", "parquet", "pandas", "datasets"])
def test_missing_is_none_and_integers_stay_integers(tmp_path: Path, kind: str) -> None:
    answers = {task.prompt: task.columns["answer"] for task in tasks(as_source(written(tmp_path, kind)))}
    one = "5" if kind == "csv" else 5  # a cell of CSV is a text
    assert answers == {row["prompt"]: row["answer"] and one for row in ROWS}
    assert {type(answer) for answer in answers.values()} == {type(one), type(None)}


def test_values_become_plain() -> None:
    value = {
        "a": np.float32(0.5),
        "b": np.array([[1, 2]]),
        "c": (pd.NA, pd.NaT, float("nan"), np.float64("nan")),
        "d": [Decimal("3"), Decimal("2.5")],
        "e": datetime.date(2026, 1, 2),
        "f": b"x",
        "g": pd.Timestamp("2026-01-02"),
    }
    assert plain(value) == {
        "a": 0.5,
        "b": [[1, 2]],
        "c": (None, None, None, None),
        "d": [3, 2.5],
        "e": "2026-01-02",
        "f": "x",
        "g": "2026-01-02T00:00:00",
    }
    assert [type(part) for part in plain(value)["d"]] == [int, float]


# ---- CSV ----


def test_csv_has_texts_and_missing_values(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = [["NA", "NA"], ["null", "null"], ["zeros", "007"], ["none", ""], ["a, b\nc", '"'], ["y" * 200_000, "x"]]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["prompt", "answer"], *rows])
    limit = csv.field_size_limit()
    source = as_source(str(path))
    assert {t.prompt: t.columns["answer"] for t in tasks(source)} == {row[0]: row[1] or None for row in rows}
    assert csv.field_size_limit() == limit
    assert {t.prompt[:4]: t.place for t in tasks(source)}["yyyy"] == "a.csv, line 8"  # after a cell of two lines


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "prompt;answer\n1,5;2\n"),
        ("a.tsv", "prompt\tanswer\n1,5\t2\n"),
        ("a.TSV", "prompt\tanswer\n1,5\t2\n"),
        ("a.csv", 'prompt, answer\n"1,5", 2\n'),
        ("a.csv", '\ufeffprompt,answer\r\n"1,5",2\r\n'),
        ("a.csv", 'prompt,answer,,\n"1,5",2,,\n'),
        ("a.csv", 'prompt,answer,\n"1,5",2\n,,\n,,,\n'),
    ],
)
def test_forms_of_csv(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, "utf-8", newline="")
    assert [(t.prompt, t.columns) for t in tasks(as_source(str(tmp_path / name)))] == [("1,5", {"answer": "2"})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"prompt,answer\n1,2\n1,2,3\n", r"a\.csv.*line 3: expected 2 cells, got 3"),
        ("a.csv", b'prompt,answer\n1,"2\n', r"a\.csv.*line 2: unexpected end of data"),
        ("a.csv", b"prompt,prompt\n1,2\n", "distinct column names in line 1, got 'prompt' twice"),
        (
            "a.csv",
            b"prompt,,\n1,,\n2,,3\n",
            "line 3: expected a name in line 1 for column 3, got none; name the column",
        ),
        ("a.csv", b"prompt\n\xff\n", "line 2 is not UTF-8 .byte 0xff."),
        ("a.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "line 2 is not UTF-8"),
        ("a.jsonl", b"[" * 100_000, "line 1 is not JSON .nested too deeply."),
        ("a.json", b"[" * 100_000, "nested too deeply"),
        ("a.parquet", b"PAR1", r"a\.parquet' cannot be read"),
        ("a.csv", b"", "a.csv: expected three rows or more with different prompts"),
        ("a.jsonl", b"5\n", r"a\.jsonl, line 1: expected a text or a table of columns, got 5 .int."),
        ("a.csv", b"question\n1\n", r"a\.csv, line 2: expected a column 'prompt', got question"),
    ],
)
def test_errors_of_files_name_file_line_and_value(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        as_source(str(tmp_path / name))


# ---- splits ----


def marked(*labels: object) -> list[dict]:
    """Thirty records of the first label and ten of the second; None leaves the label out."""
    pairs = [*[labels[0]] * 30, *[labels[1]] * 10, *labels[2:]]
    return [{"prompt": f"q{i}"} | ({} if x is None else {"split": x}) for i, x in enumerate(pairs)]


@pytest.mark.parametrize(
    ("labels", "sizes"),
    [
        (("train", "test"), [27, 3, 10]),
        (("Train", "TEST "), [27, 3, 10]),
        (("training", "testing"), [27, 3, 10]),
        (("train", "eval"), [27, 10, 3]),
        (("train", "Dev"), [27, 10, 3]),
        (("train", "valid"), [27, 10, 3]),
        ((None, None), [32, 4, 4]),
    ],
)
def test_known_names_of_splits_are_kept_in_any_case(labels: tuple, sizes: list[int]) -> None:
    source = as_source(marked(*labels))
    assert [source.size(split) for split in SPLITS] == sizes
    own = {"train": 0, "test": 1, "validation": 1}
    for split in SPLITS:
        if labels[0] and source.size(split) == 10:
            assert {source.get(split, i).columns["split"] for i in range(10)} == {labels[own[split]]}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("train", "holdout"), "got 'train' .30 records., 'holdout' .10 records.; use train"),
        (("train", "\ud800"), r"got 'train' .30 records., .*ud800.* .10 records.; use train"),
        (("train", "test", None), "got 'train' .30 records., 'test' .10 records., none .1 records."),
        ((None, "test"), "got none .30 records., 'test' .10 records."),
        ((1, 2), "got 1 .int. .30 records."),
    ],
)
def test_other_names_of_splits_are_refused_with_the_values(tmp_path: Path, labels: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_source(marked(*labels))
    with pytest.raises(UserError, match=rf"^a\.jsonl: .*{message}"):
        as_source(jsonl(tmp_path / "a.jsonl", marked(*labels)))


def test_splits_can_be_named(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [*marked("tuning", "holdout"), {"prompt": "x", "split": "other"}])
    source = as_source(f"{path}?train=tuning&test=Holdout")
    assert [source.size(split) for split in SPLITS] == [27, 3, 10]
    with pytest.raises(UserError, match="expected a split named 'tests' for test, got holdout, other, tuning"):
        as_source(f"{path}?train=tuning&test=tests")
    datasets = pytest.importorskip("datasets")
    tables = {name: datasets.Dataset.from_list(ROWS[:count]) for name, count in (("train", 9), ("eval", 4))}
    source = as_source(datasets.DatasetDict(tables))
    assert source.size("validation") == 4
    with pytest.raises(UserError, match="got 'train', 'unsupervised'"):
        as_source({"train": ROWS, "unsupervised": ROWS})
    with pytest.raises(UserError, match="expected one table for the split validation, got 'dev' and 'val'"):
        as_source({"dev": ROWS, "val": ROWS})


def test_splits_may_be_files(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_text("prompt,answer\nx,1\n")
    source = as_source({"train": jsonl(tmp_path / "a.jsonl", ROWS), "test": tmp_path / "b.csv"})
    assert source.get("test", 0) == Task("x", {"answer": "1"}, "test", 0)
    with pytest.raises(UserError, match=r"expected a data file, got 'none\.jsonl'"):
        as_source({"train": "none.jsonl"})


def test_data_without_a_length_and_repeated_columns_are_refused() -> None:
    with pytest.raises(UserError, match=r"expected a list of records, .* got int"):
        as_source({"train": 5})
    with pytest.raises(UserError, match="expected distinct column names, got 'prompt' twice"):
        as_source(pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"]))
    datasets = pytest.importorskip("datasets")
    with pytest.raises(UserError, match="got IterableDataset"):
        as_source(datasets.Dataset.from_list(ROWS).to_iterable_dataset())


# ---- prompts ----


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (5, r"expected a text or a list of messages as the prompt, got 5 \(int\)"),
        (True, "got True .bool."),
        ({"role": "user", "content": "a"}, "got .*dict"),
        (None, "expected a prompt in the column 'prompt', got none"),
        (float("nan"), "expected a prompt in the column 'prompt', got none"),
        ([], "got an empty list"),
        (["a"], "message 1 of the prompt: expected a role and a content, got 'a'"),
        ([{"content": "a"}], "message 1 of the prompt: expected a role and a content, got content"),
        ([{"from": "human", "value": "a"}], "got from, value"),
        ([{"role": "user", "content": "a"}, {"role": 3, "content": "a"}], "message 2 .*text as the role, got 3"),
        ([{"role": "user", "content": None}], "message 1 .*expected a text as the content, got None"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "expected text parts as the content, got image_url"),
        ("a\ud800", r"got the lone surrogate '\\ud800' at character 2"),
        ([{"role": "user", "content": "\udfff"}], "lone surrogate"),
    ],
)
def test_a_prompt_that_cannot_be_used_is_named_with_its_line(tmp_path: Path, prompt: object, message: str) -> None:
    rows = [{"prompt": "fine", "split": "train"}, {"prompt": prompt, "split": "test"}]
    source = as_source(jsonl(tmp_path / "a.jsonl", rows))
    assert source.get("train", 0).prompt == "fine"
    with pytest.raises(RecordError, match=rf"^a\.jsonl, line 2: .*{message}") as caught:
        source.get("test", 0)
    assert "\ud800" not in str(caught.value)  # a terminal could not print it


def test_text_parts_and_missing_keys_of_messages() -> None:
    parts = [{"type": "text", "text": "2+"}, {"type": "text", "text": "2"}]
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert as_prompt(np.array([{"role": "user", "content": parts, "name": None}, called])) == [
        {"role": "user", "content": "2+2"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]},
    ]


def test_a_whole_conversation_does_not_show_its_answer() -> None:
    talk = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    rows = [{"messages": talk, "split": "train"}, {"messages": talk, "answer": "four", "split": "test"}]
    source = ListSource(rows, prompt="messages")
    assert source.get("train", 0).prompt == talk[:1]
    assert source.get("train", 0).columns["answer"] == "4"
    assert source.get("test", 0).columns["answer"] == "four"
    prefilled = ListSource([{"prompt": talk}])  # in the column `prompt` the policy continues the last message
    assert prefilled.get("train", 0) == Task(talk, {}, "train", 0)
    with pytest.raises(RecordError, match=r"column 'prompt', got messages, split; .* use \?prompt=messages"):
        ListSource([{"messages": talk, "split": "train"}])
    with pytest.raises(RecordError, match=r"column 'mesages', got .* use \?prompt=messages"):
        ListSource([{"id": 1, "messages": talk}], prompt="mesages")
    with pytest.raises(RecordError, match="got the answer alone"):
        ListSource([{"messages": talk[1:]}], prompt="messages").get("train", 0)


def test_a_lone_surrogate_in_a_column_is_named() -> None:
    with pytest.raises(RecordError, match="record 0: column 'answer': expected text, got the lone surrogate"):
        as_source([{"prompt": "a", "answer": ["\ud800"]}]).get("train", 0)


def test_bytes_that_are_no_text_are_kept_in_columns_that_nobody_reads_as_text() -> None:
    picture = {"bytes": b"\x89PNG", "path": None}
    task = task_of({"prompt": "a", "answer": b"x", "image": picture}, "prompt", "train", 0, "row 1")
    assert task.columns == {"answer": "x", "image": picture}
    for record in ({"prompt": "a", "answer": [b"\x89"]}, {"prompt": b"\x89"}):
        with pytest.raises(RecordError, match=r"row 1: .*expected .*text.*got .*x89"):
            task_of(record, "prompt", "train", 0, "row 1")


def test_records_of_a_function_are_typed_too() -> None:
    source = ProceduralSource(lambda rng: {"prompt": "a", "answer": np.int64(rng.integers(9))}, distinct=False)
    assert type(source.get("train", 0).columns["answer"]) is int
    with pytest.raises(RecordError, match=r"^test task 3: expected a text or a list of messages as the prompt, got 5"):
        ProceduralSource(lambda rng: {"prompt": 5}, distinct=False).get("test", 3)
