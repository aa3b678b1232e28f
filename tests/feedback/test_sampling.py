"""The completions of a study and the items made of them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

import rlalign
from rlalign.errors import UserError
from rlalign.feedback import tables
from rlalign.feedback.sampling import Completion, Content, empty_completions, make_store, named_policies, sample
from rlalign.feedback.store import Store
from rlalign.feedback.study import Study, read_study
from tests.feedback.conftest import build, write_study


def items_of(store: Store) -> list[tuple[str, ...]]:
    def read(c: sa.Connection) -> list[tuple[str, ...]]:
        texts = dict(c.execute(sa.select(tables.completion.c.id, tables.completion.c.text)).all())
        query = sa.select(tables.item.c.completion_ids).where(tables.item.c.needed > 0).order_by(tables.item.c.id)
        return [tuple(texts[i] for i in json.loads(ids)) for ids in c.execute(query).scalars()]

    return store.read(read)


def test_a_pair_has_completions_of_two_policies(tmp_path: Path) -> None:
    with build(write_study(tmp_path, prompts=2, completions=3), tmp_path / "study.db") as store:
        assert items_of(store) == [
            (f"{a} {i}", f"{b} {i}")
            for i in range(2)
            for a, b in (("left", "right"), ("left", "third"), ("right", "third"))
        ]


def test_a_rating_has_one_and_a_ranking_up_to_four(tmp_path: Path) -> None:
    path = write_study(tmp_path, 'kind = "rating"\n[[scales]]\nname = "help"\n', prompts=2)
    with build(path, tmp_path / "rating.db") as store:
        assert [len(item) for item in items_of(store)] == [1, 1, 1, 1]
    path = write_study(tmp_path, 'kind = "ranking"\n', prompts=2, completions=4)
    with build(path, tmp_path / "ranking.db") as store:
        assert [len(set(item)) for item in items_of(store)] == [4, 4]


def test_equal_texts_are_no_item(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "policy": p, "completion": t} for p, t in (("a", "x"), ("b", "x"), ("c", "y"))]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "study.toml").write_text('name = "equal"\ncompletions = "c.jsonl"\n')
    with build(tmp_path / "study.toml", tmp_path / "study.db") as store:
        assert items_of(store) == [("x", "y"), ("x", "y")]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[:2]))
    with pytest.raises(UserError, match="no item"):
        build(tmp_path / "study.toml", tmp_path / "other.db")


def test_empty_completions_are_in_no_item(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "policy": p, "completion": t} for p, t in (("a", ""), ("b", " \n"), ("c", "x"), ("d", "y"))]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "study.toml").write_text('name = "empty"\ncompletions = "c.jsonl"\n')
    study = read_study(tmp_path / "study.toml")
    assert empty_completions(sample(study, tmp_path)) == 2
    with build(tmp_path / "study.toml", tmp_path / "study.db") as store:
        assert items_of(store) == [("x", "y")]


def test_a_failure_leaves_no_store(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study = read_study(path)
    content = sample(study, tmp_path)
    wrong = Completion(0, 99, "a policy that does not exist", None, cut=False)
    with pytest.raises(IndexError):
        make_store(tmp_path / "study.db", study, tmp_path, replace(content, completions=[*content.completions, wrong]))
    assert not list(tmp_path.glob("study.db*"))
    make_store(tmp_path / "study.db", study, tmp_path, content)


def test_near_duplicates_share_a_group_and_a_split(tmp_path: Path) -> None:
    prompts = ["Add the numbers" + "." * i for i in range(8)] + ["Sort the words."]
    rows = [{"prompt": p, "policy": x, "completion": x + p} for p in prompts for x in "ab"]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "study.toml").write_text('name = "groups"\ncompletions = "c.jsonl"\n')
    with build(tmp_path / "study.toml", tmp_path / "study.db") as store:
        query = sa.select(tables.prompt.c.group_id, tables.prompt.c.split)
        stored = store.read(lambda c: c.execute(query).all())
    assert len({row.group_id for row in stored}) == 2
    assert len({row.split for row in stored[:8]}) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "policy": "a"}, "record 1: expected a value in 'completion'"),
        ({"prompt": "p", "completion": "x"}, "record 1: expected a value in 'policy'"),
        ({"prompt": [], "policy": "a", "completion": "x"}, "record 1: "),
        ({"prompt": "p", "policy": "a", "completion": 3}, "expected a text in 'completion'"),
        ({"prompt": "p", "policy": "a", "completion": "x\x00"}, "record 1: expected a text, got one with a NUL"),
    ],
)
def test_a_wrong_record_is_named(row: dict[str, object], message: str, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "study.toml").write_text('name = "wrong"\ncompletions = "c.jsonl"\n')
    with pytest.raises(UserError, match=message):
        sample(read_study(tmp_path / "study.toml"), tmp_path)


def test_names_of_policies_in_completions_are_reported() -> None:
    study = Study(name="names", completions="c.jsonl")
    texts = ["I am SmolLM2.", "as runs/a said", "nothing", "a smollm2b"]
    completions = [Completion(i, 0, text, None, cut=False) for i, text in enumerate(texts)]
    content = Content([("runs/smollm2", ""), ("b", "")], [([], "")] * 4, completions)
    (warning,) = named_policies(study, content)
    assert warning.startswith("1 completions contain 'smollm2'")
    assert len(named_policies(study, content, ["said"])) == 2


def test_policies_are_sampled_once_with_a_seed(tmp_path: Path) -> None:
    """Two runs, whose completions of held-out prompts are the same each time, with the mark of a cut one."""
    for name, seed in (("a", 0), ("b", 1)):
        settings = {"steps": 1, "seed": seed, "quiet": True, "rollout.prompts": 2, "evaluation.prompts": 2}
        rlalign.train(env="reverse", policy="gru", output=str(tmp_path / name), **settings)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("abc>", "dcba>", "ab>")))
    text = 'name = "two"\npolicies = ["a", "b"]\nprompts = "p.jsonl"\n[sampling]\nmax_new = 3\nsamples = 2\n'
    (tmp_path / "study.toml").write_text(text)
    study = read_study(tmp_path / "study.toml")
    first, second = sample(study, tmp_path), sample(study, tmp_path)
    assert first.completions == second.completions
    assert len(first.completions) == 2 * 3 * 2
    assert all(c.tokens is not None and 1 <= c.tokens <= 3 for c in first.completions)
    assert any(c.cut for c in first.completions)
    assert len({digest for _, digest in first.policies}) == 2
    counts = make_store(tmp_path / "study.db", study, tmp_path, first)
    assert counts["prompts"] == 3
    with Store(tmp_path / "study.db") as store:
        assert store.study() == study
