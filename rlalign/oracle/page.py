"""The generator of docs/reference/algorithms.md; the oracle computes every number of the page."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.algorithms import Algorithm, algorithm, diff, recorded_presets, teacher_presets
from rlalign.objective.registries import BUILT_IN_BASELINES, BUILT_IN_TRUSTS
from rlalign.objective.spec import Objective
from rlalign.oracle.comparison import Comparison
from rlalign.oracle.expectation import difficulty_weight
from rlalign.oracle.formula import formula
from rlalign.oracle.rows import Row, kl_suite, report


def markdown(horizon: int = 4) -> str:
    """Return docs/reference/algorithms.md: formula, source, bias or optimum of each preset, the axes, the KL suite."""
    rows = report("all", horizon=horizon)
    recorded = [algorithm(name) for name in recorded_presets()]
    taught = [algorithm(name) for name in teacher_presets()]
    sections = [_INTRODUCTION, _table(rows), _difficulty(), _RECORDED, _recorded_table(recorded)]
    sections += [_TAUGHT, _presets([row.algorithm for row in rows] + recorded + taught), _axes(), _CUSTOM]
    sections.append(_kl_table(kl_suite(horizon=horizon)))
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


_INTRODUCTION = (
    "# Algorithms",
    "",
    "<!-- written by python -m rlalign.oracle > docs/reference/algorithms.md; do not edit -->",
    "",
    "Every number compares the exact expectation of the first, on-policy update (all groups of two completions",
    "of an enumerable token MDP, float64, by the functions that training calls) with the exact gradient of what",
    "the preset maximizes: E[R], with its length penalty if it has one, minus beta · KL(pi‖ref) if it has a KL",
    "term. *Scale* is the length of the update's projection on it. The critics are wrong on purpose (exact values",
    "plus noise). Trust regions do not show here: at the first update the ratio is 1, and it stays 1 if each",
    "rollout is used once (`learner.epochs` and `learner.minibatches` 1). A policy from scratch has no KL term, and a",
    "changed axis another bias: `rlalign oracle --preset grpo --objective.kl.where none --objective.scale none`",
    "computes it.",
)


def _table(rows: Sequence[Row]) -> list[str]:
    """Return the table of all presets: verdict, cosine and scale with graded and with binary rewards."""
    lines = [
        "| algorithm | source | rewards in [0, 1] | cosine | scale | rewards 0/1 | cosine | scale |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        a = row.algorithm
        numbers = [f"{c.verdict} | {c.cosine:.4f} | {c.scale:.4f}" for c in (row.graded, row.binary)]
        lines.append(f"| [{a.name}](#{a.name}) | {_source(a)} | " + " | ".join(numbers) + " |")
    return lines


def _difficulty() -> list[str]:
    """Return the table of difficulty weights c(p, G)."""
    lines = ["Difficulty weight c(p, G) of scale group_std on 0/1 rewards: the gradient is c · grad p.", ""]
    lines += ["| G | p = 0.01 | p = 0.1 | p = 0.5 |", "|---|---|---|---|"]
    group_std = Objective(baseline="group_mean", scale="group_std", scale_eps=0.0)
    for size in (2, 4, 8, 16):
        weights = [f"{difficulty_weight(group_std, p, size):.3f}" for p in (0.01, 0.1, 0.5)]
        lines.append(f"| {size} | " + " | ".join(weights) + " |")
    return lines


_RECORDED = (
    "These presets learn from recorded data and sample nothing, so that there is no on-policy update to compare. Their",
    "sections state where the loss is smallest if the data cover all completions. On an enumerated world the gradient",
    "of each loss equals an independent formula to 1e-10 and is 0 at that optimum",
    "(`tests/exact/test_preference_optima.py`).",
)


_TAUGHT = (
    "[distill](#distill) and [seq_kd](#seq_kd) learn from a teacher; ref in their formulas is the teacher. The",
    "expectation of their updates equals minus the gradient of KL(pi‖teacher) and of KL(teacher‖pi), summed over all",
    "completions, to 1e-10 (`tests/exact/test_distillation.py`). See [distillation](../concepts/distillation.md).",
)


def _recorded_table(algorithms: Sequence[Algorithm]) -> list[str]:
    """Return the table of the presets that learn from recorded data."""
    lines = ["| algorithm | source | data | reference |", "|---|---|---|---|"]
    for a in algorithms:
        reference = "needed" if a.objective.needs_reference else "none"
        lines.append(f"| [{a.name}](#{a.name}) | {_source(a)} | {a.data} | {reference} |")
    return lines


def _presets(algorithms: Sequence[Algorithm]) -> list[str]:
    """Return a section for each preset: description, formula, axes, and bias or optimum."""
    lines: list[str] = []
    for a in algorithms:
        lines += [f"## {a.name}", "", f"{a.description} {_source(a)}.", "", "```", *formula(a.objective), "```", ""]
        axes = ", ".join(f"`{key} {value}`" for key, value in _changed_axes(a.objective).items())
        lines += [f"Axes: {axes or 'the defaults'}.", "", a.bias, ""]
    return lines[:-1]


def _axes() -> list[str]:
    """Return the section on the axes, with a table of their named values."""
    lines = [
        "## The axes",
        "",
        "An objective has eleven axes: baseline, scale, credit, ratio, trust region, aggregation, KL, value,",
        "off-policy correction, filter and regularizer. Each can be changed alone (`--objective.baseline",
        "leave_one_out`). The table lists the named values. `rlalign train --help` lists the numbers, and the",
        "settings of `objective.filter`, `objective.regularizer` and `objective.preference`.",
        "",
        "Policies from scratch (`gru`, `tiny`, `tabular`) run every preset with `kl.coef` 0, because a random",
        "reference policy is not worth staying near; `--objective.kl.coef` turns it on.",
        "",
        "| axis | values, the default first |",
        "|---|---|",
    ]
    return lines + [f"| {name} | {' · '.join(values)} |" for name, values in _choices(Objective()).items()]


def _kl_table(suite: Mapping[str, tuple[Comparison, Comparison]]) -> list[str]:
    """Return the section on the KL term."""
    lines = ["## The KL term", ""]
    lines += ["Zero reward, beta = 1: the expected update against -grad KL(pi‖ref) and -grad KL(ref‖pi).", ""]
    lines += ["| estimate | along KL(pi‖ref) | cosine | along KL(ref‖pi) | cosine |", "|---|---|---|---|---|"]
    for name, (forward, backward) in suite.items():
        lines.append(
            f"| {name} | {forward.verdict} | {forward.cosine:.4f} | {backward.verdict} | {backward.cosine:.4f} |"
        )
    return lines


def _source(a: Algorithm) -> str:
    """Return the paper, with a link if it has an arXiv id."""
    return f"{a.paper}, [{a.arxiv}](https://arxiv.org/abs/{a.arxiv})" if a.arxiv else a.paper


_CUSTOM = (
    "A custom baseline, trust region, loss or advantage is a function. On the command line it is named by",
    "`file.py:function` or by the name under which it was registered. The oracle computes its bias too (`rlalign",
    "oracle --objective file.py:function`):",
    "",
    "```python",
    "from rlalign.objective import advantage, baseline, custom_loss, trust_region",
    "",
    '@baseline("half")                        # returns [N] -> [N] or [N, T]',
    "def half(returns, batch):",
    "    return 0.5 + 0 * returns",
    "",
    '@trust_region("one_sided")               # -> gain [N, T], to be maximized',
    "def one_sided(x, trust):",
    "    return x.ratio.clamp(max=1 + trust.high) * x.advantages",
    "",
    '@custom_loss("plain")                    # -> loss of each token [N, T], to be minimized',
    "def plain(objective, batch):",
    "    return -batch.advantages * batch.logprobs",
    "",
    '@advantage("positive")                   # advantages [N, T] -> [N, T], behind the scale',
    "def positive(advantages, batch):",
    "    return advantages.clamp(min=0)",
    "```",
)


def _choices(part: Any, where: str = "") -> dict[str, list[str]]:
    """Return dotted axis -> its named values, the default first, of an objective or a part of it."""
    registered = {"baseline": tuple(BUILT_IN_BASELINES), "trust.kind": tuple(BUILT_IN_TRUSTS)}
    hints = typing.get_type_hints(type(part))
    choices: dict[str, list[str]] = {}
    for f in dataclasses.fields(part):
        name = where + f.name
        default = getattr(part, f.name)
        if dataclasses.is_dataclass(default):
            choices |= _choices(default, f"{name}.")
            continue
        values = registered.get(name, typing.get_args(hints[f.name]))  # the members of a Literal
        if values and isinstance(default, str):
            choices[name] = [default, *(v for v in values if v != default)]
    return choices


def _changed_axes(objective: Objective) -> dict[str, Any]:
    """Return dotted axis -> value of the axes that differ from the default objective."""
    return {key: new for key, (_, new) in diff(Objective(), objective).items()}
