"""Time of the report of a large study: 200,000 votes, 100,000 items, 50 people.

    python benchmarks/feedback_report.py                   # writes benchmarks/results/feedback_report.json
    python benchmarks/feedback_report.py --items 2000      # a trial, which writes nothing

The store has three policies, completions of about 600 characters with some Markdown, gold items, repetitions and skips.
`command_s` is `rlalign feedback report`, a process of its own, with its imports. The parts are: reading the store into
arrays, all statistics, and the page with its JSON text. Each is the median of three, as seconds of the wall clock and
of the processor: other work on the machine makes the former longer.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from machine import write

from rlalign.feedback import tables
from rlalign.feedback.report.contents import contents_of
from rlalign.feedback.report.page import render
from rlalign.feedback.report.values import Values
from rlalign.feedback.sampling import Completion, Content, make_store
from rlalign.feedback.statistics import read_judgments, summarize
from rlalign.feedback.store import Store
from rlalign.feedback.study import Example, Study

POLICIES = ("base", "ppo", "grpo")
PEOPLE = 50
GOLD = 20
WORDS = ("the", "model", "answers", "a", "question", "with", "some", "words", "and", "**bold**", "ones", "\n- an entry",
         "\n\n## A header\n", "of", "text", "that", "is", "long", "enough.")  # fmt: skip


def build(location: str, items: int, votes_per_item: int = 2) -> None:
    """Write a store in bulk, with two completions and the votes of each item.

    Each person answers all gold items. Of a hundred votes, two are on repetitions and one is a skip.
    """
    gold = tuple(Example(f"gold {i}", ("right", "wrong"), "a") for i in range(GOLD))
    study = Study(name="benchmark", completions="none.jsonl", gold=gold, gold_share=0.02, repeat_share=0.02)
    prompts = [([{"role": "text", "content": "first"}], "")]
    pair = [Completion(0, p, f"answer {p}", 4, cut=False) for p in (0, 1)]
    make_store(location, study, Path(), Content([(name, "") for name in POLICIES], prompts, pair))
    rng = np.random.default_rng(0)
    policy = np.sort(np.argsort(rng.random((items, len(POLICIES))), axis=1)[:, :2], axis=1)
    words = rng.choice(WORDS, (2048, 110))
    texts = [" ".join(words[i, : 60 + i % 50]) for i in range(2048)]  # of 300 to 800 characters
    chosen = rng.integers(0, len(texts), (items, 2))
    with Store(location) as store:
        store.write(lambda c: _contents(c, policy, texts, chosen)).result()
        store.write(lambda c: _votes(c, rng, policy, np.char.str_len(np.array(texts))[chosen], votes_per_item)).result()


def _contents(c: sa.Connection, policy: np.ndarray, texts: list[str], chosen: np.ndarray) -> None:
    items = len(policy)
    c.execute(sa.delete(tables.item).where(tables.item.c.kind == "pair"))
    base = c.execute(sa.select(sa.func.max(tables.completion.c.id))).scalar_one()
    first = c.execute(sa.select(sa.func.max(tables.prompt.c.id))).scalar_one()
    start = c.execute(sa.select(sa.func.max(tables.item.c.id))).scalar_one()
    message = json.dumps([{"role": "text", "content": "a prompt"}])
    c.execute(
        sa.insert(tables.prompt),
        [{"id": first + i + 1, "group_id": i, "split": "train", "messages_json": message, "language": "",
          "source": "study"} for i in range(items)],
    )  # fmt: skip
    ids = c.execute(sa.select(tables.policy.c.id).order_by(tables.policy.c.id)).scalars().all()
    c.execute(
        sa.insert(tables.completion),
        [{"id": base + 2 * i + side + 1, "prompt_id": first + i + 1, "policy_id": ids[policy[i, side]],
          "text": f"{texts[chosen[i, side]]} {i}", "tokens": 4, "finish": "stop", "digest": ""}
         for i in range(items) for side in (0, 1)],
    )  # fmt: skip
    c.execute(
        sa.insert(tables.item),
        [{"id": start + i + 1, "kind": "pair", "prompt_id": first + i + 1,
          "completion_ids": f"[{base + 2 * i + 1}, {base + 2 * i + 2}]", "needed": 2, "free": 0, "place": 0.5,
          "selection": "random", "selection_prob": 1.0} for i in range(items)],
    )  # fmt: skip
    c.execute(
        sa.insert(tables.annotator),
        [{"id": i + 1, "pseudonym": f"person-{i}", "scope": "annotator", "created": 0, "seed": i}
         for i in range(PEOPLE)],
    )  # fmt: skip


def _votes(c: sa.Connection, rng: np.random.Generator, policy: np.ndarray, length: np.ndarray, votes: int) -> None:
    """Insert votes of people with a taste for policies, length, the left side and a common quality of each item."""
    stored = c.execute(
        sa.select(tables.item.c.id, tables.item.c.completion_ids, tables.item.c.prompt_id)
        .where(tables.item.c.kind == "pair").order_by(tables.item.c.id)
    ).all()  # fmt: skip
    items = len(stored)
    strength = np.array([0.0, 0.4, 0.6])
    lead = strength[policy[:, 0]] - strength[policy[:, 1]] + rng.normal(size=items)
    lead += 0.3 * (length[:, 0] - length[:, 1]) / length.sum(1)
    taste = 0.6 * rng.normal(size=PEOPLE)
    rows: list[dict[str, Any]] = []

    def add(item: int, order: str, person: int, choice: str) -> None:
        number = len(rows) + 1
        rows.append(
            {"id": number, "lease": number, "item": item, "annotator": person + 1, "kind": "pair", "choice": choice,
             "order_json": order, "at": number, "elapsed_ms": 9000, "active_ms": int(1000 * rng.lognormal(2, 0.5)),
             "seen": 1, "unfolded": 0, "guidelines_hash": "", "source": "person", "body_hash": ""}
        )  # fmt: skip

    repeated = []
    for at in range(items):
        item, order, prompt = stored[at]
        a, b = json.loads(order)
        people = rng.choice(PEOPLE, votes, replace=False)
        for person in people:
            swap = rng.random() < 0.5
            x = lead[at] + taste[person]
            drawn = rng.random()
            win, loss = np.exp(x / 2), np.exp(-x / 2)
            total = win + loss + 0.5
            choice = "ab"[int(drawn > win / (win + loss))] if rng.random() < (win + loss) / total else "tie"
            if swap:
                choice = {"a": "b", "b": "a"}.get(choice, choice)
            kind = rng.random()
            choice = "skip" if kind < 0.01 else "bad" if kind < 0.06 else choice
            shown = f"[{b}, {a}]" if swap else f"[{a}, {b}]"
            add(item, shown, int(person), choice)
            if kind > 0.98 and choice != "skip":
                repeated.append((item, prompt, order, shown, int(person), choice))
    start = stored[-1][0]
    c.execute(
        sa.insert(tables.item),
        [{"id": start + i + 1, "kind": "pair", "prompt_id": prompt, "completion_ids": order, "needed": 0, "free": 0,
          "place": 0.5, "selection": "repeat", "repeat_of": item}
         for i, (item, prompt, order, _, _, _) in enumerate(repeated)],
    )  # fmt: skip
    for i, (_, _, _, shown, person, choice) in enumerate(repeated):
        add(start + i + 1, shown, person, choice if rng.random() < 0.8 else "tie")
    gold = c.execute(
        sa.select(tables.item.c.id, tables.item.c.completion_ids).where(tables.item.c.kind == "gold")
    ).all()  # fmt: skip
    for person in range(PEOPLE):
        for item, order in gold:
            add(item, order, person, "a" if rng.random() < 0.9 else "b")
    leases = [
        {"id": row["lease"], "item": row["item"], "annotator": row["annotator"], "given": 0, "expires": 0,
         "state": "done", "order_json": row["order_json"]} for row in rows
    ]  # fmt: skip
    c.execute(sa.insert(tables.lease), leases)
    c.execute(sa.insert(tables.vote), rows)


def clock() -> tuple[float, float]:
    """Return the seconds of the wall clock and of the processor."""
    return time.perf_counter(), time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--store", help="keep the store here, and use it again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        location = arguments.store or f"{folder}/study.db"
        if not Path(location).exists():
            build(location, arguments.items)
        times: dict[str, list[tuple[float, float]]] = {"read": [], "statistics": [], "page": []}
        commands: list[float] = []
        with Store(location) as store:
            study = store.study()
            for _ in range(3):
                marks = [clock()]
                judgments = store.read(lambda c: read_judgments(c, study))
                marks.append(clock())
                summary = summarize(judgments, study)
                marks.append(clock())
                with store.snapshot() as connection:
                    content = contents_of(connection, study, summary)
                render(Values(json.loads(json.dumps(content, allow_nan=False))))
                marks.append(clock())
                for name, start, end in zip(times, marks, marks[1:], strict=False):
                    times[name].append((end[0] - start[0], end[1] - start[1]))
        for _ in range(3):
            begin = time.perf_counter()
            command = [sys.executable, "-m", "rlalign", "feedback", "report", location]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            commands.append(time.perf_counter() - begin)
    result: dict[str, Any] = {"items": arguments.items, "votes": len(judgments), "people": PEOPLE}
    for column, unit in enumerate(("s", "cpu_s")):
        medians = {name: statistics.median(row[column] for row in rows) for name, rows in times.items()}
        result |= {f"{name}_{unit}": round(value, 3) for name, value in medians.items()}
        result[f"total_{unit}"] = round(sum(medians.values()), 3)
    result["command_s"] = round(statistics.median(commands), 2)
    print(json.dumps(result, indent=1))
    if arguments.items == 100_000:
        print(write("feedback_report", result))


if __name__ == "__main__":
    main()
