"""Each kind of finding, with the row that it names; a clean file has none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlalign.errors import UserError
from rlalign.preferences.check import check_preferences
from rlalign.preferences.findings import KINDS, Report
from rlalign.preferences.row_checks import role_problem

TOPICS = [
    "rivers of Europe", "the moon landing", "bread and cheese", "deep sea fish", "old railways", "jazz pianists",
    "desert plants", "roman baths", "chess endings", "volcanoes", "glass makers", "bees and honey", "stone bridges",
    "paper maps", "salt mines", "night trains", "wooden boats", "summer storms", "clay pots", "mountain goats",
    "river deltas", "street markets",
]  # fmt: skip


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def clean(count: int = 6) -> list[dict[str, Any]]:
    """Rows without a problem; the longer side is chosen in every second one."""
    rows = []
    for i, topic in enumerate(TOPICS[:count]):
        sides = [f"A short text about {topic}.", f"A longer text that is about {topic}."]
        sides = sides if i % 2 else sides[::-1]
        rows.append({"prompt": f"Tell me about {topic}. ", "chosen": sides[0], "rejected": sides[1]})
    return rows


def chats(count: int = 6) -> list[dict[str, Any]]:
    return [
        {
            "prompt": [user(str(row["prompt"]))],
            "chosen": [assistant(row["chosen"])],
            "rejected": [assistant(row["rejected"])],
        }
        for row in clean(count)
    ]


def implicit(count: int = 6) -> list[dict[str, Any]]:
    return [{side: [*row["prompt"], *row[side]] for side in ("chosen", "rejected")} for row in chats(count)]


def check(rows: list[Any], folder: Path, **options: Any) -> Report:
    path = folder / "prefs.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return check_preferences(path, **options)


def found(report: Report) -> dict[str, list[str]]:
    """Kind -> lines that are named."""
    return {f.kind: [place.removeprefix("prefs.jsonl, ") for place, _ in f.rows] for f in report.findings}


@pytest.mark.parametrize("rows", [clean(), chats(), implicit(), clean(22)])
def test_clean_data_has_no_finding(rows: list[Any], tmp_path: Path) -> None:
    report = check(rows, tmp_path)
    assert (report.passed, list(report.findings)) == (True, [])
    assert (report.rows, report.preferences, report.format) == (len(rows), len(rows), "trl")
    assert report.statistics["prompt_groups"] == len(rows)


LONG = "The quick brown fox jumps over the lazy dog near the old stone bridge while seven grey geese watch"

CASES: list[tuple[str, list[Any], list[str]]] = [
    ("unreadable", ["{no JSON", *clean()], ["line 1"]),
    ("no-row", [*clean(), [1, 2]], ["line 7"]),
    ("missing-side", [*clean(2), {"prompt": "Why? ", "chosen": "x"},
                      {"prompt": "How? ", "chosen": None, "rejected": "y"}], ["line 3", "line 4"]),
    ("no-side", [*clean(), {"prompt": "Why? ", "chosen": 3, "rejected": "x"}], ["line 7"]),
    ("missing-prompt", [*clean(), {"chosen": "Yes, x.", "rejected": "Yes, y."}], ["line 7"]),
    ("missing-prompt", [*clean(), {"prompt": " \n", "chosen": "x.", "rejected": "y."}], ["line 7"]),
    ("empty-side", [*clean(), {"prompt": "Why? ", "chosen": "x.", "rejected": " \n"}], ["line 7"]),
    ("empty-side", [*chats(), {"prompt": [user("Why?")], "chosen": [assistant("")], "rejected": [assistant("x")]}],
     ["line 7"]),
    ("equal-sides", [*clean(), {"prompt": "Why? ", "chosen": "x  y\n", "rejected": "x y"}], ["line 7"]),
    ("equal-sides", [*chats(), {"prompt": [user("Why?")], "chosen": [assistant("x ")], "rejected": [assistant("x")]}],
     ["line 7"]),
    ("mixed-forms", [*clean(), *chats()[:2]], ["line 7", "line 8"]),
    ("mixed-forms", [*chats(), {"prompt": "Why?", "chosen": [user("Why?"), assistant("x")],
                                "rejected": [user("Why?"), assistant("y")]}], ["line 7"]),
    ("no-shared-prompt", [*implicit(), {"chosen": [user("a"), assistant("x")],
                                        "rejected": [user("b"), assistant("x")]}], ["line 7"]),
    ("no-shared-prompt", [*[{"chosen": f"The {t} x.", "rejected": f"The {t} y."} for t in TOPICS],
                          {"chosen": "Yes.", "rejected": "No."}], ["line 23"]),
    ("half-character", [*clean(), {"prompt": "Why? ", "chosen": "x \ud83d.", "rejected": "y."}], ["line 7"]),
    ("replaced-character", [*clean(), {"prompt": "Why? ", "chosen": "x \ufffd.", "rejected": "y."}], ["line 7"]),
    ("nul", [*clean(), {"prompt": "Why?\x00 ", "chosen": "x.", "rejected": "y."}], ["line 7"]),
    ("roles", [*chats(), {"prompt": [assistant("Hi")], "chosen": [assistant("x")], "rejected": [assistant("y")]}],
     ["line 7"]),
    ("empty-message", [*chats(), {"prompt": [user("Hi"), assistant(" "), user("Why?")], "chosen": [assistant("x")],
                                  "rejected": [assistant("y")]}], ["line 7"]),
    ("prompt-repeated", [*clean(), {"prompt": "Name a long river. ", "chosen": "Name a long river. Rhine.",
                                    "rejected": "Paris."}], ["line 7"]),
    ("messages-as-text", [*clean(), {"prompt": "Why? ", "chosen": "[{'role': 'assistant', 'content': 'x'}]",
                                     "rejected": "y."}], ["line 7"]),
    ("duplicate", [*clean(), clean()[2]], ["line 7"]),
    ("contradiction", [*clean(), {**clean()[2], "chosen": clean()[2]["rejected"], "rejected": clean()[2]["chosen"]}],
     ["line 7"]),
    ("negative-margin", [*clean(), {"prompt": "Why? ", "chosen": "x.", "rejected": "y.", "margin": -0.5}], ["line 7"]),
    ("cut", [*clean(), {"prompt": "Why? ", "chosen": "x.", "rejected": "y.", "rejected_cut": True}], ["line 7"]),
    ("leak", [{**row, "split": "test" if i == 4 else "train"} for i, row in enumerate([*clean(4), {
        "prompt": "tell me  about the Moon landing. ", "chosen": "x.", "rejected": "y."}])], ["line 5"]),
    ("near-leak", [{**row, "split": "valid" if i == 4 else "training"} for i, row in enumerate([
        *clean(3), {"prompt": f"{LONG}. ", "chosen": "x.", "rejected": "y."},
        {"prompt": f"{LONG} them. ", "chosen": "v.", "rejected": "w."}])], ["line 5"]),
    ("always-longer", [{"prompt": f"Tell me of {t}. ", "chosen": f"Long text on {t}.", "rejected": f"On {t}."}
                       for t in TOPICS], ["all rows"]),
    ("few-groups", [{**row, "prompt": f"Tell me about {TOPICS[i % 5]}{'.' * i} "} for i, row in enumerate(clean(12))],
     ["all rows"]),
    ("unfinished", [{**row, "rejected": row["rejected"].rstrip(".")} for row in clean(22)], ["all rows"]),
    ("joined-words", [{**row, "prompt": f"About {t}", "chosen": f"a {t}.", "rejected": f"b {t}."}
                      for row, t in zip(clean(22), TOPICS, strict=True)], ["all rows"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "rows", "lines"), CASES, ids=[f"{kind}-{i}" for i, (kind, _, _) in enumerate(CASES)])
def test_each_kind_names_its_rows(kind: str, rows: list[Any], lines: list[str], tmp_path: Path) -> None:
    report = check(rows, tmp_path)
    assert found(report) == {kind: lines}
    (finding,) = report.findings
    assert (finding.severity, finding.message) == KINDS[kind]
    assert report.passed == (finding.severity != "error")


def test_each_kind_has_a_case() -> None:
    assert set(KINDS) - {kind for kind, _, _ in CASES} == {"too-long", "all-too-long"}  # they need a tokenizer


def test_the_first_rows_are_named_and_all_are_counted(tmp_path: Path) -> None:
    rows = [*clean(), *[{"prompt": f"Why {i}? ", "chosen": "", "rejected": "y."} for i in range(9)]]
    report = check(rows, tmp_path, first=2)
    (finding,) = report.findings
    assert (finding.kind, finding.count, len(finding.rows)) == ("empty-side", 9, 2)
    values = report.to_json()
    assert json.loads(json.dumps(values)) == values
    assert values["findings"][0]["rows"][0] == {"place": "prefs.jsonl, line 7", "detail": "chosen"}


def test_mixed_forms_are_counted_beyond_the_named_rows(tmp_path: Path) -> None:
    report = check([*clean(22), *chats(9)], tmp_path, first=3)
    (finding,) = [f for f in report.findings if f.kind == "mixed-forms"]
    assert (finding.count, len(finding.rows)) == (9, 3)


def test_a_prompt_as_text_beside_messages_is_an_error_in_each_row(tmp_path: Path) -> None:
    """As in HuggingFaceH4/ultrafeedback_binarized: RewardTrainer would add a text and a list."""
    rows = [{"prompt": row["chosen"][0]["content"], **row} for row in implicit()]
    (finding,) = check(rows, tmp_path).findings
    assert (finding.kind, finding.count) == ("mixed-forms", len(rows))
    assert "leave out the column prompt" in finding.rows[0][1]


def test_votes_of_several_people_are_no_duplicates(tmp_path: Path) -> None:
    row = clean(1)[0]
    rows = [{**row, "annotator": name} for name in ("ann", "bob", "ann")]
    assert found(check(rows, tmp_path)) == {"duplicate": ["line 3"]}


def test_a_second_file_must_not_share_prompts(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    rows = [{"prompt": "Why? ", "chosen": "x", "rejected": "y"}, clean()[3], {**clean()[1], "chosen": "other"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = check(clean(), tmp_path, test=path)
    (finding,) = report.findings
    assert (finding.kind, finding.count) == ("leak", 2)
    assert finding.rows[0] == ("test.jsonl, line 2", "test; train has it in prefs.jsonl, line 4")


def test_lengths_by_hand(tmp_path: Path) -> None:
    rows = [
        {"prompt": "a? ", "chosen": "xxxx", "rejected": "yy"},
        {"prompt": "b? ", "chosen": "xx", "rejected": "yyyyyy"},
        {"prompt": "c? ", "chosen": "xxx", "rejected": "yyy"},
    ]
    statistics = check(rows, tmp_path).statistics
    # lengths 4 2 3 and 2 6 3: means 3 and 11/3, together 10/3, variance (78 - 6 * 100/9) / 6
    deviation = ((78 - 600 / 9) / 6) ** 0.5
    assert statistics["length_correlation"] == pytest.approx((3 - 11 / 3) / (2 * deviation))
    assert (statistics["chosen_longer"], statistics["pairs_of_different_length"]) == (0.5, 2)
    numpy = pytest.importorskip("numpy")
    expected = numpy.corrcoef([4, 2, 3, 2, 6, 3], [1, 1, 1, 0, 0, 0])[0, 1]
    assert statistics["length_correlation"] == pytest.approx(expected)


def test_rows_of_other_formats_are_named_too(tmp_path: Path) -> None:
    tasks = [
        {"id": 1, "data": {"prompt": "p", "answer1": "a", "answer2": "b"},
         "annotations": [{"result": [{"type": "pairwise", "value": {"selected": side}}], "completed_by": 1}]}
        for side in ("left", "middle", "right")
    ]  # fmt: skip
    report = check(tasks, tmp_path)
    assert (report.format, report.reason) == ("label-studio", "each row has data and annotations")
    assert (report.rows, report.preferences) == (3, 2)
    assert found(report) == {"unreadable": ["line 2"], "contradiction": ["line 3"]}


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([user("a"), assistant("b")], ""),
        ([{"role": "system", "content": "s"}, user("a"), assistant("b"), user("c"), assistant("d")], ""),
        ([user("a"), assistant(""), {"role": "tool", "content": "1"}, assistant("d")], ""),
        ([user("a"), {"role": "system", "content": "s"}], "message 2 is of system after user"),
        ([user("a"), assistant("b"), assistant("c")], "message 3 is of assistant after assistant"),
        ([assistant("a")], "the first message is of assistant"),
        ([user("a")], "the last message is of user"),
        ([user("a"), {"role": "bot", "content": "s"}], "message 2 is of the unknown role bot"),
    ],
)
def test_roles(messages: list[Any], problem: str) -> None:
    assert role_problem(messages) == problem


def test_wrong_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--max-length 5: expected a tokenizer"):
        check(clean(), tmp_path, max_length=5)
    with pytest.raises(UserError, match="--max-length: expected 1 or more"):
        check(clean(), tmp_path, max_length=0, tokenizer="x")
    with pytest.raises(UserError, match=r"--tokenizer .* cannot be loaded"):
        check(clean(), tmp_path, tokenizer=str(tmp_path / "none"))
