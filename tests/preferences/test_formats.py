"""The formats of other tools: small exports as these tools write them, and the pairs that follow."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlalign.errors import UnknownNameError, UserError
from rlalign.preferences.check import check_preferences
from rlalign.preferences.files import read_rows
from rlalign.preferences.formats import read_preferences, recognized, write_preferences
from rlalign.preferences.hh_rlhf import messages_of, transcript_of
from rlalign.preferences.pairs import Preference, Side, text_of

ANN, BOB, CLEO = "11111111-aaaa", "22222222-bbbb", "33333333-cccc"


def write(path: Path, records: list[Any]) -> Path:
    if path.suffix == ".json":
        path.write_text(json.dumps(records, ensure_ascii=False))
    else:
        path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
    return path


def pairs(preferences: list[Preference]) -> list[tuple[Side, Side, float | None]]:
    return [(text_of(p.chosen), text_of(p.rejected), p.margin) for p in preferences]


def name_of(path: Path) -> tuple[str, str]:
    found, _ = recognized(read_rows(path), "auto", path)
    return found.format.name, found.reason


# ---- HH-RLHF ----

HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a river.\n\nAssistant: The Rhine.\n\nIt is long.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a river.\n\nAssistant: Paris.",
}


def test_hh_rlhf(tmp_path: Path) -> None:
    path = write(tmp_path / "hh.jsonl", [HH])
    assert name_of(path) == ("hh-rlhf", r"chosen and rejected begin with \n\nHuman:")
    (preference,) = read_preferences(path)
    assert preference.prompt == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "Name a river."},
    ]
    assert preference.chosen == [{"role": "assistant", "content": "The Rhine.\n\nIt is long."}]
    assert preference.rejected == [{"role": "assistant", "content": "Paris."}]
    write_preferences([preference], tmp_path / "out.jsonl", format="hh-rlhf")
    assert [row.record for row in read_rows(tmp_path / "out.jsonl")] == [HH]


def test_hh_rlhf_whose_sides_differ_before_the_last_turn_is_refused(tmp_path: Path) -> None:
    other = {**HH, "rejected": HH["rejected"].replace("Hi", "Ho")}
    path = write(tmp_path / "hh.jsonl", [HH, other])
    with pytest.raises(UserError, match=r"hh.jsonl, line 2: expected sides that differ in the last turn"):
        list(read_preferences(path))
    assert len(list(read_preferences(path, format="trl"))) == 2


def test_a_transcript_that_would_be_read_otherwise_is_not_written() -> None:
    assert transcript_of(messages_of(HH["chosen"])) == HH["chosen"]
    for messages in (
        [{"role": "system", "content": "s"}],
        [{"role": "user", "content": "x\n\nAssistant: y"}],
    ):
        with pytest.raises(UserError, match="user and assistant"):
            transcript_of(messages)


# ---- UltraFeedback ----


def ultra(scores: list[float | None], texts: str = "wxyz") -> dict[str, Any]:
    return {
        "source": "evol_instruct",
        "instruction": "Name a river.",
        "models": ["a", "b", "c", "d"][: len(scores)],
        "completions": [
            {
                "annotations": {"helpfulness": {"Rating": "4", "Rationale": "..."}},
                "custom_system_prompt": "",
                "model": f"model-{text}",
                "principle": "helpfulness",
                "response": text,
                "critique": "...",
                "fine-grained_score": 10 - score if score is not None else None,
                "overall_score": score,
            }
            for text, score in zip(texts, scores, strict=False)
        ],
    }


@pytest.mark.parametrize(
    ("pairing", "expected"),
    [
        ("best-each", [("x", "w", 1.0), ("x", "y", 1.0), ("x", "z", 5.0)]),
        ("all", [("x", "w", 1.0), ("x", "y", 1.0), ("x", "z", 5.0), ("w", "z", 4.0), ("y", "z", 4.0)]),
    ],
)
def test_ultrafeedback(pairing: Any, expected: list[Any], tmp_path: Path) -> None:
    path = write(tmp_path / "ultra.jsonl", [ultra([7.0, 8.0, 7.0, 3.0])])
    assert name_of(path)[0] == "ultrafeedback"
    preferences = list(read_preferences(path, pairing=pairing))
    assert pairs(preferences) == expected
    first = preferences[0]
    assert (first.prompt, first.extra["chosen_policy"], first.extra["rejected_policy"]) == (
        "Name a river.", "model-x", "model-w",
    )  # fmt: skip
    assert (first.extra["chosen_score"], first.extra["rejected_score"], first.extra["source"]) == (
        8.0, 7.0, "evol_instruct",
    )  # fmt: skip


def test_the_best_against_a_random_other_is_the_default_and_the_seed_decides(tmp_path: Path) -> None:
    path = write(tmp_path / "ultra.jsonl", [ultra([7.0, 8.0, 7.0, 3.0])] * 30)
    chosen = [pairs(list(read_preferences(path, seed=seed))) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert {side for side, _, _ in chosen[0]} == {"x"}
    assert {side for _, side, _ in chosen[0]} == {"w", "y", "z"}


def test_scores_by_another_key_ties_and_missing_scores(tmp_path: Path) -> None:
    path = write(tmp_path / "u.jsonl", [ultra([1.0, 2.0]), ultra([2.0, 2.0]), ultra([1.0, None, 3.0])])
    left_out: Counter[str] = Counter()
    found = pairs(list(read_preferences(path, pairing="all", left_out=left_out)))
    assert found == [("x", "w", 1.0), ("y", "w", 2.0)]
    assert left_out == {"tie": 1, "completion without a score": 1}
    (first, *_) = read_preferences(path, score="fine-grained_score", pairing="all")
    assert (first.chosen, first.margin) == ("w", 1.0)


def test_lists_of_texts_and_of_scores(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "responses": ["a", "b"], "scores": [0.1, 0.9], "id": 4}]
    (preference,) = read_preferences(write(tmp_path / "s.jsonl", rows))
    assert (*pairs([preference])[0][:2], preference.extra["id"]) == ("b", "a", 4)
    with pytest.raises(UserError, match=r"s.jsonl, line 1, completion 2: expected a number as the score, got 'high'"):
        list(read_preferences(write(tmp_path / "s.jsonl", [{**rows[0], "scores": [1, "high"]}])))


# ---- Argilla ----


def argilla(responses: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """A record as `dataset.records.to_json` of Argilla 2 writes it."""
    known = {"instruction": "Name a river.", "response_1": "The Rhine", "response_2": "Paris", "response_3": "Rhine"}
    return {
        "id": "rec-1",
        "fields": {**known, **fields},
        "metadata": {"source": "web"},
        "suggestions": {"preference": {"value": ["response_2", "response_1"], "score": None, "agent": "a-model"}},
        "responses": responses,
        "vectors": {},
        "_server_id": "9f0c",
    }


def answers(*values: Any) -> list[dict[str, Any]]:
    return [{"value": value, "user_id": user} for value, user in zip(values, (ANN, BOB, CLEO), strict=False)]


def test_argilla_rankings_of_several_users(tmp_path: Path) -> None:
    """Three orders: 1>3>2, 1>2>3, 3>1>2. So 1 over 2 by 3 to 0, 1 over 3 by 2 to 1, 3 over 2 by 2 to 1."""
    orders = (["response-1", "response-3", "response-2"], ["response-1", "response-2", "response-3"],
              ["response-3", "response-1", "response-2"])  # fmt: skip
    path = write(tmp_path / "a.json", [argilla({"preference": answers(*orders)})])
    assert name_of(path) == ("argilla", "each row has fields and responses")
    preferences = list(read_preferences(path))
    assert pairs(preferences) == [("The Rhine", "Paris", 1.0), ("The Rhine", "Rhine", 1 / 3), ("Rhine", "Paris", 1 / 3)]
    assert preferences[0].prompt == "Name a river."
    assert preferences[0].extra["chosen_field"] == "response_1"
    assert (preferences[0].extra["record"], preferences[0].extra["source"]) == ("rec-1", "web")
    each = list(read_preferences(path, each_answer=True))
    assert Counter(p.annotator for p in each) == {ANN: 3, BOB: 3, CLEO: 3}
    assert pairs(each)[:3] == [("The Rhine", "Rhine", None), ("The Rhine", "Paris", None), ("Rhine", "Paris", None)]


def test_argilla_ratings_are_averaged_over_users(tmp_path: Path) -> None:
    responses = {
        "rating_1": answers(4, 5),
        "rating_2": answers(1, 2),
        "rating_3": answers(4, 5),
        "comment": answers("ok"),
    }
    left_out: Counter[str] = Counter()
    found = list(read_preferences(write(tmp_path / "a.json", [argilla(responses)]), left_out=left_out))
    assert pairs(found) == [("The Rhine", "Paris", 3.0), ("Rhine", "Paris", 3.0)]
    responses["rating_1"] = answers(4, 1)
    each = read_preferences(write(tmp_path / "a.json", [argilla(responses)]), each_answer=True, pairing="best-each")
    assert [(p.annotator, p.chosen, p.rejected, p.margin) for p in each] == [
        (ANN, "The Rhine", "Paris", 3.0), (BOB, "Rhine", "Paris", 3.0), (BOB, "Rhine", "The Rhine", 4.0)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "expected", "counted"),
    [
        (["response_2", "response_2", "response_1"], [("Paris", "The Rhine", 1 / 3)], {}),
        (["response_2", "tie", "response_1"], [], {"tie": 1}),
        (["response_1", "tie"], [("The Rhine", "Paris", 0.5)], {}),
        ([], [], {"no answer": 1}),
    ],
)
def test_argilla_labels(values: list[str], expected: list[Any], counted: dict[str, int], tmp_path: Path) -> None:
    record = argilla({"better": answers(*values)})
    del record["fields"]["response_3"]
    left_out: Counter[str] = Counter()
    found = read_preferences(write(tmp_path / "a.json", [record]), left_out=left_out)
    assert pairs(list(found)) == expected
    assert left_out == counted


def test_argilla_flattened_with_drafts(tmp_path: Path) -> None:
    """As `to_list(flatten=True)` and `to_datasets` write it."""
    row = {
        "id": "rec-1", "_server_id": "9f0c", "status": "completed",
        "prompt": [{"role": "user", "content": "Name a river."}], "completion_a": "The Rhine", "completion_b": "Paris",
        "better.responses": ["completion_a", "completion_b"], "better.responses.users": [ANN, BOB],
        "better.responses.status": ["submitted", "draft"],
        "better.suggestion": "completion_b", "better.suggestion.score": 0.9, "better.suggestion.agent": "model",
    }  # fmt: skip
    left_out: Counter[str] = Counter()
    path = write(tmp_path / "a.jsonl", [row])
    assert name_of(path) == ("argilla", "columns end in .responses")
    (preference,) = read_preferences(path, left_out=left_out)
    assert preference.form == "conversational explicit"
    assert pairs([preference]) == [("The Rhine", "Paris", 1.0)]
    assert left_out == {"draft or discarded response": 1}


def test_argilla_1(tmp_path: Path) -> None:
    ranking = [{"rank": 1, "value": "response-2"}, {"rank": 2, "value": "response-1"}]
    row = {
        "prompt": "Name a river.", "response-1": "The Rhine", "response-2": "Paris",
        "order": [
            {"user_id": ANN, "value": ranking, "status": "submitted"},
            {"user_id": BOB, "value": {"rank": [1, 1], "value": ["response-1", "response-2"]}, "status": "submitted"},
        ],
        "order-suggestion": None, "external_id": "7", "metadata": {},
    }  # fmt: skip
    assert pairs(list(read_preferences(write(tmp_path / "a.jsonl", [row])))) == [("Paris", "The Rhine", 0.5)]


def test_an_argilla_question_about_no_field_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", [argilla({"topic": answers("geography")})])
    with pytest.raises(UserError, match=r"a.json, record 1: expected a ranking or a label .* got 'topic' with 'geogr"):
        list(read_preferences(path))
    path = write(tmp_path / "a.json", [argilla({"order": answers(["first", "second"])})])
    with pytest.raises(UserError, match="to be names of the fields response_1"):
        list(read_preferences(path))


# ---- Label Studio ----


def annotation(person: int, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "id": 1000 + person, "completed_by": person, "result": list(results), "was_cancelled": False,
        "ground_truth": False, "created_at": "2026-03-09T22:16:08.728353Z", "lead_time": 4.288, **more,
    }  # fmt: skip


def task(*annotations: dict[str, Any], **data: Any) -> dict[str, Any]:
    known = data or {"prompt": "Name a river.", "answer1": "The Rhine", "answer2": "Paris"}
    return {"id": 7, "data": known, "annotations": list(annotations), "predictions": [], "project": 83, "meta": {}}


def pairwise(side: str, to_name: str = "answer1,answer2") -> dict[str, Any]:
    return {
        "id": "Dx_aB91ISN", "type": "pairwise", "value": {"selected": side}, "origin": "manual", "from_name": "pw",
        "to_name": to_name,
    }  # fmt: skip


def choice(name: str) -> dict[str, Any]:
    return {"id": "c", "type": "choices", "value": {"choices": [name]}, "from_name": "better", "to_name": "prompt"}


def test_label_studio_pairwise(tmp_path: Path) -> None:
    cancelled = annotation(4, was_cancelled=True)
    person = annotation(5, pairwise("right"), completed_by={"id": 5, "email": "a@b.c", "first_name": "A"})
    tasks = [task(annotation(1, pairwise("left")), annotation(2, pairwise("left")), person, cancelled)]
    path = write(tmp_path / "ls.json", tasks)
    assert name_of(path) == ("label-studio", "each row has data and annotations")
    left_out: Counter[str] = Counter()
    (preference,) = read_preferences(path, left_out=left_out)
    assert pairs([preference]) == [("The Rhine", "Paris", 1 / 3)]
    assert (preference.prompt, preference.extra["task"], preference.extra["votes"]) == ("Name a river.", 7, 3)
    assert left_out == {"skipped annotation": 1}
    each = list(read_preferences(path, each_answer=True))
    assert [p.annotator for p in each] == ["1", "2", "5"]
    assert "a@b.c" not in json.dumps([p.row() for p in each])


def test_label_studio_tags_name_the_sides(tmp_path: Path) -> None:
    path = write(tmp_path / "ls.json", [task(annotation(1, pairwise("left", "answer2,answer1")))])
    assert pairs(list(read_preferences(path))) == [("Paris", "The Rhine", 1.0)]
    path = write(tmp_path / "ls.json", [task(annotation(1, pairwise("left", "txt-1,txt-2")))])
    assert pairs(list(read_preferences(path))) == [("The Rhine", "Paris", 1.0)]


@pytest.mark.parametrize(
    ("name", "expected"), [("left", "The Rhine"), ("B", "Paris"), ("Tie", "tie"), ("both bad", "both bad")]
)
def test_label_studio_choices(name: str, expected: str, tmp_path: Path) -> None:
    left_out: Counter[str] = Counter()
    path = write(tmp_path / "ls.json", [task(annotation(1, choice("safe"), choice(name)))])
    found = pairs(list(read_preferences(path, left_out=left_out)))
    assert [side for side, _, _ in found] + list(left_out) == [expected]


ITEMS = [
    {"id": "llm_1", "title": "LLM 1", "body": "The Rhine"},
    {"id": "llm_2", "title": "LLM 2", "body": "Paris"},
    {"id": "llm_3", "title": "LLM 3", "body": "Rhine"},
]


@pytest.mark.parametrize(
    "ranker", [["llm_1", "llm_3", "llm_2"], {"_": ["llm_1", "llm_3", "llm_2"], "biased_results": []}]
)
def test_label_studio_rankings(ranker: Any, tmp_path: Path) -> None:
    result = {"id": "r", "type": "ranker", "value": {"ranker": ranker}, "from_name": "rank", "to_name": "results"}
    path = write(tmp_path / "ls.json", [task(annotation(1, result), prompt="Name a river.", items=ITEMS)])
    assert pairs(list(read_preferences(path))) == [
        ("The Rhine", "Paris", 1.0), ("The Rhine", "Rhine", 1.0), ("Rhine", "Paris", 1.0)
    ]  # fmt: skip


def test_label_studio_ratings(tmp_path: Path) -> None:
    def rating(tag: str, points: int) -> dict[str, Any]:
        return {"type": "rating", "value": {"rating": points}, "from_name": f"rating_{tag}", "to_name": tag}

    annotations = [
        annotation(1, rating("answer1", 2), rating("answer2", 4)),
        annotation(2, rating("answer1", 3), rating("answer2", 3)),
    ]
    assert pairs(list(read_preferences(write(tmp_path / "ls.json", [task(*annotations)])))) == [
        ("Paris", "The Rhine", 1.0)
    ]


def test_a_label_studio_task_without_a_judgement_is_named(tmp_path: Path) -> None:
    label = {"type": "labels", "value": {"labels": ["X"]}, "from_name": "label", "to_name": "prompt"}
    path = write(tmp_path / "ls.json", [task(annotation(1, pairwise("left"))), task(annotation(1, label))])
    with pytest.raises(UserError, match=r"ls.json, record 2: expected a result of the type pairwise.*got labels"):
        list(read_preferences(path))
    path = write(tmp_path / "ls.json", [task(annotation(1, pairwise("left")), text1="a", text2="b")])
    with pytest.raises(UserError, match="expected a prompt in data, got the keys text1, text2"):
        list(read_preferences(path))


# ---- recognition ----


def test_data_of_no_format_is_refused_with_the_list(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [{"text": "a", "label": 1}])
    with pytest.raises(UserError) as error:
        list(read_preferences(path))
    assert "got text, label" in str(error.value)
    assert all(name in str(error.value) for name in ("trl", "hh-rlhf", "ultrafeedback", "argilla", "label-studio"))
    with pytest.raises(UnknownNameError, match="Did you mean 'argilla'"):
        list(read_preferences(path, format="argila"))
    with pytest.raises(UserError, match="expected rows"):
        list(read_preferences(write(tmp_path / "e.jsonl", [])))
    with pytest.raises(UnknownNameError, match="pairing"):
        list(read_preferences(path, pairing="each"))  # type: ignore[arg-type]  # a mistake of the user


@pytest.mark.parametrize("format", ["argilla", "label-studio", "ultrafeedback", "hh-rlhf", "trl", "votes"])
@pytest.mark.parametrize(
    "record",
    [
        [1], "text", None, {}, {"data": 3, "annotations": 4}, {"fields": [], "responses": 3},
        {"data": {"prompt": "p"}, "annotations": [None]}, {"fields": {"prompt": "p"}, "responses": {"q": [3]}},
        {"instruction": "i", "completions": [3]}, {"chosen": {}, "rejected": 2},
    ],
)  # fmt: skip
def test_rows_of_another_shape_are_mistakes_of_the_user(record: Any, format: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", [record])
    try:
        outcome = str(list(read_preferences(path, format=format)))
    except UserError as error:
        outcome = str(error)
    assert outcome == "[]" or (outcome.startswith("x.jsonl, line 1") and "expected" in outcome)


@pytest.mark.parametrize("content", ["[1]\n[2]\n", '"a"\n', "3\n", "null\n"])
def test_rows_without_columns_are_recognized_as_no_format(content: str, tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=r"expected one of the formats of preference data, got (list|str|int|NoneType)"):
        check_preferences(path)
    path.write_text(json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}) + "\n" + content)
    report = check_preferences(path)
    assert (report.format, report.preferences) == ("trl", 1)
    assert "no-row" in [finding.kind for finding in report.findings]
