"""docs/reference/metrics.md: every key of metrics.jsonl and of an evaluation, and the alarms."""

from __future__ import annotations

from collections.abc import Iterable

from page_text import code, head, sentence, table

from rlalign.log.metric_keys import EVALUATION, METRICS, Metric

INTRO = """A run writes one line of metrics per step into `metrics.jsonl`, and the measurements before and after
training into `report/evaluation.json`. `rlalign list metrics` prints these keys. A word in capitals stands for a name:
NAME for a reward component, KEY for a metric of an evaluation, K for a number. Trackers receive the same keys.
Runs on recorded data draw no samples: they have no keys of `reward`, and of `rollout` length, tokens and truncated."""
PARTS = {"metrics": "Evaluation: each prompt", "corpus": "Evaluation: all completions"}


def page() -> str:
    """Return the page."""
    lines = head("Metrics", INTRO)
    for stage, rows in METRICS.items():
        lines += [f"## {code(stage)}", "", *keys(rows)]
    for part, rows in EVALUATION.items():
        lines += [f"## {PARTS[part]}", "", *keys(rows)]
    return "\n".join(lines)


def keys(rows: Iterable[Metric]) -> list[str]:
    """Return the table of some keys."""
    return table(("key", "meaning", "present"), ([code(r.key), sentence(r.meaning), r.when or "always"] for r in rows))
