"""What is read and written is unchanged: each form of TRL in each container, with values that files tend to change."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlalign.errors import UserError
from rlalign.preferences.csv_cells import read_cell, write_cell
from rlalign.preferences.files import read_rows, write_rows
from rlalign.preferences.formats import read_preferences, write_preferences

USER, ANSWER = "user", "assistant"
CONTAINERS = ["prefs.jsonl", "prefs.csv", "prefs.parquet", "prefs"]
AWKWARD = [
    "=1+1",
    "'=1+1",
    "'tis",
    "''",
    "'",
    '"quoted", too',
    "a\nb\r\nc\rd",
    "7",
    "-0.5",
    "null",
    "[1]",
    "中文 é 🙂",
    " x ",
    "\t=",
]


def equal(first: Any, second: Any) -> bool:
    """Compare values with their types and the order of keys: JSON writes 1, 1.0 and true differently."""
    return json.dumps(first) == json.dumps(second)


def message(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def rows_of(form: str) -> list[dict[str, Any]]:
    """Rows of a form, with extra columns of all types and texts that are easily changed."""
    rows = []
    for i, text in enumerate(AWKWARD):
        other = AWKWARD[(i + 1) % len(AWKWARD)]
        sides: dict[str, Any]
        if form == "standard explicit":
            sides = {"prompt": f"{text} ", "chosen": text, "rejected": other}
        elif form == "standard implicit":
            sides = {"chosen": f"the prompt{text}", "rejected": f"the prompt{other}"}
        elif form == "conversational explicit":
            sides = {
                "prompt": [message("system", "s"), message(USER, text)],
                "chosen": [message(ANSWER, text)],
                "rejected": [message(ANSWER, other)],
            }
        else:
            prompt = [message(USER, text)]
            sides = {"chosen": [*prompt, message(ANSWER, text)], "rejected": [*prompt, message(ANSWER, other)]}
        extra = {
            "score": [None, 1.5, -2.0][i % 3],
            "note": [None, text, ""][i % 3],
            "flag": bool(i % 2),
            "number": i,
            "tags": [[], [text, None], ["b"]][i % 3],
            "meta": {"key": other, "deep": {"n": i}},
            "nothing": None,
        }
        rows.append({"id": f"r{i}", **sides, **extra})
    return rows


FORMS = ["standard explicit", "standard implicit", "conversational explicit", "conversational implicit"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CONTAINERS)
def test_in_and_out_is_the_identity(form: str, name: str, tmp_path: Path) -> None:
    rows = rows_of(form)
    path = tmp_path / name
    assert write_rows(rows, path) == len(rows)
    first = list(read_preferences(path, format="trl"))
    assert {p.form for p in first} == {form}
    assert equal([p.row() for p in first], rows)
    again = path.with_name(f"again-{name}")
    write_preferences(first, again)
    assert equal([row.record for row in read_rows(again)], rows)
    if path.suffix in (".jsonl", ".csv"):
        assert again.read_bytes() == path.read_bytes()


MIXED = [
    {"chosen": [message(ANSWER, "a", name="n")], "rejected": [message(ANSWER, "b")], "x": 1},
    {"chosen": [message(ANSWER, "c")], "rejected": [message(ANSWER, [{"type": "text", "text": "d"}])], "x": 1.0},
    {"chosen": [message(ANSWER, None, tool_calls=[{"name": "f", "arguments": {"k": 1}}])],
     "rejected": [message(ANSWER, "", tool_calls=[{"name": "g", "arguments": {}}])], "x": "1"},
    {"chosen": [message(ANSWER, "e", name=None)], "rejected": [{"content": "f", "role": ANSWER}], "x": {"a": [1, "b"]}},
]  # fmt: skip


@pytest.mark.parametrize("name", CONTAINERS)
def test_messages_with_different_keys_and_columns_of_different_types_stay_as_they_are(
    name: str, tmp_path: Path
) -> None:
    write_rows(MIXED, tmp_path / name)
    assert equal([row.record for row in read_rows(tmp_path / name)], MIXED)


@pytest.mark.parametrize("name", CONTAINERS)
def test_the_order_of_keys_stays(name: str, tmp_path: Path) -> None:
    rows = [
        {"chosen": "a", "rejected": "b", "x": {"k": 1, "m": 2}},
        {"chosen": "a", "rejected": "c", "x": {"m": 1, "k": 2}},
    ]
    write_rows(rows, tmp_path / name)
    assert equal([row.record for row in read_rows(tmp_path / name)], rows)


def test_datasets_reads_mixed_messages_as_they_are(tmp_path: Path) -> None:
    import datasets

    write_rows(MIXED, tmp_path / "prefs")
    write_rows(MIXED, tmp_path / "prefs.parquet")
    for data in (
        datasets.load_from_disk(str(tmp_path / "prefs")),
        datasets.Dataset.from_parquet(str(tmp_path / "prefs.parquet"), cache_dir=str(tmp_path / "cache")),
    ):
        assert [row["chosen"] for row in data] == [row["chosen"] for row in MIXED]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON_VALUES)
@settings(max_examples=300, deadline=None)
def test_a_cell_of_csv_is_read_back_exactly(value: Any) -> None:
    try:
        cell = write_cell(value, "note")
    except UnicodeEncodeError:  # half a character
        return
    if isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
        return
    assert equal(read_cell(cell, "note"), value)
    if isinstance(value, str):
        assert equal(read_cell(write_cell(value, "chosen"), "chosen"), value)
        assert not cell.lstrip(" ").startswith(("=", "+", "@", "\t", "\r")) or _is_number(cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(AWKWARD)
ROWS = st.lists(
    st.fixed_dictionaries({"prompt": TEXTS, "chosen": TEXTS, "rejected": TEXTS, "extra": JSON_VALUES}),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@given(rows=ROWS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_rows_come_back_unchanged(rows: list[dict[str, Any]], suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"any{suffix}"
    # a table has one order of columns
    rows = [{name: row[name] for name in ("prompt", "chosen", "rejected", "extra")} for row in rows]
    try:
        write_rows(rows, path, force=True)
    except UserError:  # half a character or a NUL in a place that the format cannot hold is refused, not changed
        assert suffix != ".jsonl"
        return
    assert equal([row.record for row in read_rows(path)], rows)


def test_a_spreadsheet_runs_nothing_and_shows_the_text(tmp_path: Path) -> None:
    rows = [{"chosen": "=HYPERLINK(1)", "rejected": "@x", "=col": "+cmd|x"}]
    write_rows(rows, tmp_path / "p.csv")
    with (tmp_path / "p.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for line in csv.reader(file) for cell in line]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "@", "-"))]
    assert [row.record for row in read_rows(tmp_path / "p.csv")] == rows


def test_a_csv_of_another_program_keeps_its_texts(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text('prompt,chosen,rejected,id,score\n2+2=,4,5,007,1e5\n"Say ""hi""",\'tis,"x\ny",3,0.50\n')
    rows = [row.record for row in read_rows(path)]
    assert rows[0] == {"prompt": "2+2=", "chosen": "4", "rejected": "5", "id": "007", "score": "1e5"}
    assert rows[1] == {"prompt": 'Say "hi"', "chosen": "'tis", "rejected": "x\ny", "id": 3, "score": "0.50"}


def test_a_data_set_with_splits_comes_back_with_them(tmp_path: Path) -> None:
    import datasets

    parts = {
        "train": datasets.Dataset.from_list([{"chosen": "a b", "rejected": "a c"}] * 3),
        "test": datasets.Dataset.from_list([{"chosen": "x y", "rejected": "x z"}]),
    }
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "in"))
    preferences = list(read_preferences(tmp_path / "in"))
    assert Counter(p.split for p in preferences) == {"train": 3, "test": 1}
    assert preferences[3].place == "in, test row 1"
    write_preferences(preferences, tmp_path / "out")
    out = datasets.load_from_disk(str(tmp_path / "out"))
    assert {name: part.to_list() for name, part in out.items()} == {n: p.to_list() for n, p in parts.items()}
    write_preferences(preferences, tmp_path / "out.jsonl")  # a file holds the split as a column
    assert [row.record["split"] for row in read_rows(tmp_path / "out.jsonl")] == ["train"] * 3 + ["test"]


def test_a_line_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b'{"chosen": "a", "rejected": "b"}\n\n{"chosen": \n{"chosen": "\xff", "rejected": "b"}\n[1]\n')
    rows = list(read_rows(path))
    assert [row.place for row in rows] == [f"bad.jsonl, line {n}" for n in (1, 3, 4, 5)]
    assert [bool(row.problem) for row in rows] == [False, True, True, False]
    assert "UTF-8" in rows[2].problem
    with pytest.raises(UserError, match=r"bad.jsonl, line 3: expected JSON"):
        list(read_preferences(path))


def test_json_files_hold_a_list_a_table_or_lines(tmp_path: Path) -> None:
    rows = [{"chosen": "a", "rejected": "b"}, {"chosen": "c", "rejected": "d"}]
    for content in (json.dumps(rows), json.dumps({"data": rows}), "\n".join(map(json.dumps, rows))):
        (tmp_path / "p.json").write_text(content)
        assert [row.record for row in read_rows(tmp_path / "p.json")] == rows


@pytest.mark.parametrize(
    ("name", "message_part"),
    [
        ("none.jsonl", "cannot be read"),
        ("none", "does not exist"),
        ("none.txt", "does not exist"),
        ("there.txt", "expected a file that ends in .jsonl"),
        ("folder", "expected a folder that save_to_disk"),
    ],
)
def test_a_source_that_is_none_is_named(name: str, message_part: str, tmp_path: Path) -> None:
    (tmp_path / "there.txt").write_text("x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=message_part):
        list(read_rows(name if name in ("none", "none.txt") else tmp_path / name))


def test_nothing_is_overwritten_or_left_half_written(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_rows([{"chosen": "a", "rejected": "b"}], path)
    with pytest.raises(UserError, match=r"row 2, column 'x': expected a JSON value, got set"):
        write_rows([{"x": 1}, {"x": {1}}], path, force=True)
    assert path.read_text() == "mine"
    assert [p.name for p in tmp_path.iterdir()] == ["p.jsonl"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="something else than datasets"):
        write_rows([{"x": 1}], tmp_path / "folder", force=True)
    with pytest.raises(UserError, match=r"ends in \.jsonl, \.csv, \.parquet"):
        write_rows([{"x": 1}], tmp_path / "p.xlsx")


def test_rows_of_jsonl_are_read_and_written_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"chosen": "a", "rejected": "b"}\n' * 3 + "no JSON\n")
    rows = read_rows(path)
    assert next(rows).record["chosen"] == "a"  # before the last line is read
    made = []

    def source() -> Any:
        for i in range(3):
            made.append(i)
            yield {"chosen": str(i), "rejected": "x"}
            if i == 2:
                assert (tmp_path / "out.jsonl.tmp").exists()

    assert write_rows(source(), tmp_path / "out.jsonl") == 3
