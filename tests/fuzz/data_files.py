"""Data files from a seed: records of all formats, sound and broken, each given to a training run of one step.

A success must have read each record: the splits of the source together hold as many tasks as the file has records, and
the run has its step.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlalign.envs.registration import make_mdp
from rlalign.errors import UserError

from .harness import Outcome, metrics_rows, run_command

_SETTINGS = (
    "--policy", "gru", "--steps", "1", "--rollout.prompts", "2", "--rollout.group-size", "2", "--rollout.max-new", "4",
    "--evaluation.prompts", "2", "--output", "new",
)  # fmt: skip
_REWARDS = ("length?target=3", "length?target=3", "exact_match", "token_match", "number_match", "math_verify")

_MESSAGES = [{"role": "user", "content": "hi"}]
_PROMPTS: tuple[Any, ...] = (
    "", " ", "\n", None, 5, 2.5, True, [], {}, ["a"], {"text": "a"}, "x" * 20_000, "\ud800", "a\x00b", "\x1b[2J",
    "[/b]",
    "\\[x^2\\]", "é你好", "\u2028", "=1+1", "<|im_end|>", "{{x}}", _MESSAGES, [{"role": "user"}], [{"content": "a"}],
    [{"role": "user", "content": None}], [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
    [{"role": "user", "content": 3}], [{"role": "alien", "content": "a"}], [{"role": "assistant", "content": "a"}],
    [{"role": "system", "content": "s"}, *_MESSAGES], [*_MESSAGES, {"role": "assistant", "content": "b"}], [[]], [5],
    [{"role": 3, "content": "a"}], [{"role": "user", "content": "\udfff"}], [{"role": "tool", "content": "x"}],
)  # fmt: skip
_ANSWERS: tuple[Any, ...] = (
    "", None, 5, 0, -1, 1e-05, 2.0, float("nan"), float("inf"), True, [], ["a", "b"], [1, 2], {}, {"a": 1}, "nan",
    "5.0",
    "x" * 5_000, "\ud800", "\x00", "[/b]", "=1", "é", 10**400, [[1]], [None],
)  # fmt: skip
_SPLITS = ("train", "Train", "TEST", "test ", "eval", "dev", "validation", "holdout", "", None, 3, "val", "[/b]")
_COLUMNS = (
    "split", "full", "ignore_case", "prompts", "completions", "completion_ids", "words", "target", "reward", "weight",
    "id", "", " ", "[/b]", "\x1b", "class", "self", "kind", "tokenizer", "role", "messages",
)  # fmt: skip
_FORMATS = (".jsonl",) * 8 + (".json",) * 3 + (".csv",) * 4 + (".tsv", ".parquet", ".txt", "")


@dataclass(frozen=True)
class Case:
    """A data file and how it is used.

    Attributes:
        name: file name.
        content: of the file.
        records: how many records the file holds; None if its syntax is broken on purpose.
        options: of the environment's spec.
        words: further words of the command line.
    """

    name: str
    content: bytes
    records: int | None
    options: str
    words: tuple[str, ...]


def prepare(folder: Path) -> None:
    """Do nothing: each case writes its own file."""


def generate(count: int, seed: int) -> list[Case]:
    """Return cases."""
    rng = np.random.default_rng(seed)
    return [_case(rng, number) for number in range(count)]


def _case(rng: np.random.Generator, number: int) -> Case:
    def pick(options: Any) -> Any:
        return options[int(rng.integers(len(options)))]

    size = int(pick((0, 1, 3, 6, 12, 24, 24, 40)))
    chat = rng.integers(4) == 0
    records: list[Any] = []
    for i in range(size):
        prompt = [{"role": "user", "content": f"p{i}"}] if chat else f"p{i}"
        records.append({"prompt": prompt, "answer": f"a{i}"})
    faults: list[Callable[[], None]] = []

    def change(name: str, values: Any, share: float) -> None:
        for record in records:
            if isinstance(record, dict) and rng.random() < share:
                record[name] = pick(values)

    def remove() -> None:
        for record in records:
            if isinstance(record, dict) and rng.random() < share:
                record.pop(pick(("prompt", "answer")), None)

    share = float(pick((0.03, 0.1, 1.0)))
    faults.append(lambda: change("prompt", _PROMPTS, share))
    faults.append(lambda: change("answer", _ANSWERS, share))
    faults.append(lambda: change("split", _SPLITS, share))
    faults.append(lambda: change(pick(_COLUMNS), _ANSWERS, share))
    faults.append(remove)
    faults.append(lambda: records.insert(int(rng.integers(len(records) + 1)), pick((None, 5, "text", [], {}))))
    faults.append(lambda: records.extend(records[:3]))
    for fault in rng.permutation(len(faults))[: rng.integers(3)]:
        faults[fault]()
    suffix = pick(_FORMATS)
    content, held = _written(records, suffix, rng)
    if rng.integers(12) == 0 and content:
        content, held = _damaged(content, rng), None
    options = pick(("",) * 16 + ("?prompt=question", "?prompt=answer", "?max_prompt=8", "?split=train", "?prompt="))
    words = ["--reward", pick(_REWARDS)]
    if rng.integers(6) == 0:
        words += ["--supervised.align-interval", "1"]
    if rng.integers(3) == 0:
        words += ["--on-bad-record", "drop"]
    return Case(f"data-{number}{suffix}", content, held, options, tuple(words))


def _written(records: list[Any], suffix: str, rng: np.random.Generator) -> tuple[bytes, int | None]:
    """Return the content of a file and the number of its records."""
    if suffix == ".parquet":
        return _parquet(records)
    if suffix == ".json":
        return json.dumps(records).encode(), len(records)
    if suffix in (".csv", ".tsv"):
        separator = "\t" if suffix == ".tsv" else str(rng.choice([",", ",", ";"]))
        rows = [record for record in records if isinstance(record, dict)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        file = io.StringIO()
        writer = csv.DictWriter(file, names, delimiter=separator, lineterminator="\n")
        try:
            writer.writeheader()
            writer.writerows(rows)
        except csv.Error:  # no column
            return b"", 0
        empty = sum(all(row.get(name) in (None, "") for name in names) for row in rows)
        held = len(rows) if not empty else None  # an empty line may be a record of one empty cell, or nothing
        return file.getvalue().encode("utf-8", "surrogatepass"), held
    lines = "".join(json.dumps(record, ensure_ascii=bool(rng.integers(2))) + "\n" for record in records)
    return lines.encode("utf-8", "surrogatepass"), len(records)


def _parquet(records: list[Any]) -> tuple[bytes, int | None]:
    """Return records as Parquet; bytes of another format if its columns cannot hold them."""
    try:
        import pyarrow
        import pyarrow.parquet

        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), buffer)
    except (ImportError, TypeError, ValueError, OverflowError, AttributeError, OSError):
        return b"PAR1", None
    return buffer.getvalue(), len(records)


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    place = int(rng.integers(len(content)))
    kind = rng.integers(5)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes([rng.integers(256)]) + content[place + 1 :]
    if kind == 2:
        return content[:place] + b"\x00\xff\xfe" + content[place:]
    if kind == 3:
        return b"\xef\xbb\xbf" + content
    return content.decode("utf-8", "replace").encode("utf-16")


def check(case: Case, folder: Path, limit_s: float = 60.0) -> Outcome:
    """Train one step on the file of a case, and return the outcome with all faults."""
    shutil.rmtree(folder / "new", ignore_errors=True)
    (folder / case.name).write_bytes(case.content)
    env = f"{case.name}{case.options}"
    words = ["train", "--env", env, *_SETTINGS, *case.words]
    outcome = run_command(words, folder, limit_s)
    if outcome.status == 0 and not outcome.faults:
        outcome.faults += _unread(case, folder)
    if outcome.status == 1 and not outcome.faults:
        outcome.faults.append(f"blames the machine: {outcome.stderr.strip()[-200:]}")
    (folder / case.name).unlink()
    return outcome


def _unread(case: Case, folder: Path) -> list[str]:
    """Return the faults of a success that left records or its step out."""
    faults = []
    if metrics_rows(folder / "new") != 1:
        faults.append("succeeds without its step")
    try:
        source = make_mdp(f"{folder / case.name}{case.options}").source
        read = sum(source.size(split) or 0 for split in ("train", "validation", "test"))
    except UserError as error:
        return [*faults, f"trains on a file that cannot be read: {error}"]
    if case.records is not None and read != case.records:
        faults.append(f"reads {read} of {case.records} records")
    return faults
