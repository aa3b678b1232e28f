"""Task sources and the order of tasks."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlalign.envs.task_sources import (
    SPLITS,
    FileSource,
    HubSource,
    ListSource,
    ProceduralSource,
    as_source,
    digest,
    is_data,
)
from rlalign.envs.task_stream import TaskStream
from rlalign.errors import FaultError, UserError
from rlalign.types import Task, TaskSource

RECORDS = [{"prompt": f"p{i}", "answer": str(i)} for i in range(50)]


def prompts(source: TaskSource, split: str) -> list[str]:
    return [source.get(split, i).prompt for i in range(source.size(split))]  # type: ignore[arg-type,misc]  # a finite source, and a name that is a split


def test_list_splits_are_disjoint_complete_and_stable() -> None:
    source = ListSource(RECORDS)
    reversed_source = ListSource(RECORDS[::-1])
    parts = {split: set(prompts(source, split)) for split in SPLITS}
    assert [len(parts[s]) for s in SPLITS] == [40, 5, 5]
    assert set.union(*parts.values()) == {r["prompt"] for r in RECORDS}
    assert parts == {split: set(prompts(reversed_source, split)) for split in SPLITS}, (
        "splits depend on the order of records"
    )


def test_equal_prompts_are_in_one_split() -> None:
    source = ListSource([*RECORDS, *RECORDS])
    assert not set(prompts(source, "train")) & set(prompts(source, "test"))
    assert sum(source.size(s) for s in SPLITS) == 100


def test_fewer_than_three_prompts_are_all_in_train() -> None:
    assert [ListSource(["a", "b", "a"]).size(s) for s in SPLITS] == [3, 0, 0]
    assert [ListSource(["a", "b", "c"]).size(s) for s in SPLITS] == [1, 1, 1]


def test_tasks_carry_columns_split_and_index() -> None:
    task = ListSource({"test": RECORDS, "train": ["x"]}).get("test", 7)
    assert task == Task("p7", {"answer": "7"}, "test", 7)
    with pytest.raises(IndexError):
        ListSource(RECORDS).get("test", 5)


def test_a_split_column_is_kept_and_missing_splits_are_cut_from_train() -> None:
    records = [{**r, "split": "test" if i < 10 else "train"} for i, r in enumerate(RECORDS)]
    source = ListSource(records)
    assert set(prompts(source, "test")) == {f"p{i}" for i in range(10)}
    assert source.size("validation") == 4
    assert source.size("train") == 36


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"data.{suffix}"
    records = [{"question": f"l\u2028ine, {i}\n", "answer": str(i)} for i in range(5)]
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in records) + "\n\n", "utf-8")
    elif suffix == "json":
        path.write_text(json.dumps(records))
    elif suffix == "csv":
        import csv

        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(records)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(records), path)
    source = as_source(f"{path}?prompt=question")
    assert isinstance(source, FileSource)
    assert is_data(str(path))
    tasks = [source.get(split, i) for split in SPLITS for i in range(source.size(split))]
    assert {task.prompt: task.columns["answer"] for task in tasks} == {r["question"]: r["answer"] for r in records}


def test_errors_of_files_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(UserError, match=r"bad\.jsonl.*line 2 is not JSON"):
        FileSource(path)
    with pytest.raises(UserError, match=r"expected a data file, got .*none\.csv', which does not exist"):
        FileSource(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"ends in \.jsonl"):
        FileSource(Path(__file__))


def test_a_missing_prompt_lists_the_columns() -> None:
    with pytest.raises(UserError, match="expected a column 'prompt', got question"):
        ListSource([{"question": "a"}])
    with pytest.raises(UserError, match="the source: expected three rows or more"):
        ListSource([])


def test_datasets_objects() -> None:
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_list(RECORDS)
    source = as_source(table)
    assert isinstance(source, HubSource)
    assert prompts(source, "test") == prompts(ListSource(RECORDS), "test")
    chat = [{"prompt": [{"role": "user", "content": str(i)}], "answer": "x"} for i in range(3)]
    both = datasets.DatasetDict({"train": table, "test": datasets.Dataset.from_list(chat)})
    source = as_source(both)
    assert source.get("test", 1).prompt == [{"role": "user", "content": "1"}]
    assert source.size("validation") == 5
    with pytest.raises(UserError, match="expected the splits train, validation and test, got 'sft'"):
        as_source(datasets.DatasetDict({"sft": table}))


def letters(rng: np.random.Generator) -> dict[str, str]:
    return {"prompt": "".join(rng.choice(list("ab"), size=5))}


def test_procedural_is_pure_and_disjoint() -> None:
    source = ProceduralSource(letters)
    same = ProceduralSource(letters)
    assert [source.get("test", i) for i in range(9)] == [same.get("test", i) for i in range(9)]
    parts = [{source.get(split, i).prompt for i in range(100)} for split in SPLITS]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert ProceduralSource(letters, seed=1).get("train", 0) != source.get("train", 0)


def test_a_space_too_small_to_split_raises() -> None:
    def make(rng: np.random.Generator) -> dict[str, str]:
        return {"prompt": "x"}

    source = ProceduralSource(make)
    belongs = {0: "test", 1: "validation"}.get(int(digest({"prompt": "x"})[:8], 16) % 10, "train")
    wrong = [split for split in SPLITS if split != belongs]
    for split in wrong:
        with pytest.raises(UserError, match="distinct=False"):
            source.get(split, 0)
    assert ProceduralSource(make, distinct=False).get("test", 0).prompt == "x"


def test_stream_takes_every_task_in_each_epoch_in_another_order() -> None:
    source = ListSource({"train": RECORDS}, shares=(1, 0, 0))
    stream = TaskStream(source, "train", seed=3)
    first, second = stream.next(50), stream.next(50)
    assert {t.index for t in first} == {t.index for t in second} == set(range(50))
    assert first != second
    assert TaskStream(source, "train", seed=4).next(50) != first


@pytest.mark.parametrize("source", [ListSource({"train": RECORDS[:7]}, shares=(1, 0, 0)), ProceduralSource(letters)])
def test_stream_resumes_at_any_position(source: TaskSource) -> None:
    stream, resumed = TaskStream(source, seed=1), TaskStream(source, seed=1)
    stream.next(10)
    resumed.load_state_dict(json.loads(json.dumps(stream.state_dict())))
    assert resumed.next(10) == stream.next(10)


def test_stream_rejects_another_source() -> None:
    state = TaskStream(ListSource(RECORDS)).state_dict()
    with pytest.raises(FaultError, match="its size was 40, now it is 24"):
        TaskStream(ListSource(RECORDS[:30])).load_state_dict(state)
    with pytest.raises(UserError, match="no test tasks"):
        TaskStream(ListSource(["a"]), "test")


def test_as_source_rejects_other_data() -> None:
    with pytest.raises(UserError, match="expected a task source, got int"):
        as_source(3)
    with pytest.raises(UserError, match="unknown option 'promt'"):
        as_source("data.csv?promt=x")
    assert as_source(letters).size("train") is None
    source = ListSource(["a"])
    assert as_source(source) is source
