"""docs/reference/configuration.md: every setting of a run."""

from __future__ import annotations

import dataclasses
import inspect
from operator import attrgetter
from typing import Any

from fields import Field, default_text, fields_of, type_text
from page_text import code, head, table

from rlalign.config.defaults import default_config
from rlalign.config.schema import TrainConfig

INTRO = """Every setting of a run, with its default. A setting has one name in three places:

- on the command line, `rlalign train --learner.lr 1e-4 --objective.kl.coef 0`;
- in Python, `rlalign.train(learner__lr=1e-4, objective__kl__coef=0.0)`;
- in files, `"learner.lr" = 1e-4` in the TOML of `--config` and of studies. The `config.json` of a run has the same
  names, nested: `{"learner": {"lr": 1e-4}}`.

*Default* is the default of the class `TrainConfig`. A run of `rlalign train` starts from others: the preset sets the
axes of the objective, the group size and the reuse of rollouts ([Algorithms](algorithms.md)), and a policy without
pretraining (`gru`, `tiny`, `tabular`) sets the number of steps, the batch and the learning rate. The environment
changes no setting. The columns `smollm2` (a pretrained model) and `gru` (from scratch) have the defaults of such a run
with the preset `rloo`, where they differ. `rlalign train --env reverse --policy gru --algorithm grpo --help` prints the
defaults of that run."""
RUNS = ("smollm2", "gru")


def page() -> str:
    """Return the page."""
    lines = head("Configuration", INTRO)
    lines += section("The run", "", TrainConfig)
    return "\n".join(lines)


def section(title: str, prefix: str, cls: type) -> list[str]:
    """Return the sections of a dataclass and of the dataclasses in its fields."""
    fields = list(fields_of(cls))
    plain = [field for field in fields if not dataclasses.is_dataclass(field.type)]
    lines = [f"## {title}" if prefix.count(".") < 2 else f"### {title}", ""]
    if prefix:
        lines += [inspect.cleandoc(cls.__doc__ or "").split("\n\n")[0].replace("\n", " "), ""]
    rows = [row(prefix, field) for field in plain]
    if any(any(cells[3:-1]) for cells in rows):
        lines += table(("setting", "values", "default", *map(code, RUNS), "meaning"), rows)
    else:
        lines += table(("setting", "values", "default", "meaning"), [[*cells[:3], cells[-1]] for cells in rows])
    for field in fields:
        if dataclasses.is_dataclass(field.type):
            name = f"{prefix}{field.name}"
            lines += section(code(name), f"{name}.", field.type)
    return lines


def row(prefix: str, field: Field) -> list[str]:
    """Return the cells of a setting."""
    name = prefix + field.name
    runs = [code(default_text(value)) if value != field.default else "" for value in run_defaults(name)]
    return [code(name), type_text(field.type), code(default_text(field.default)), *runs, field.text]


def run_defaults(name: str) -> list[Any]:
    """Return the default of a setting in a run of each policy of `RUNS`."""
    if name == "policy":
        return [TrainConfig.policy] * len(RUNS)
    return [attrgetter(name)(default_config(policy=policy)) for policy in RUNS]
