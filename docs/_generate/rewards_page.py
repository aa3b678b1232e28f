"""docs/reference/rewards.md: every built-in reward, from its docstring, and its measured speed."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

from page_text import arguments, code, head, labeled, paragraphs, sentence, table

from rlalign.registry import REWARDS
from rlalign.rewards.function import RewardFunction

SPEEDS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "rewards.json"
INTRO = """\
The rewards that come with the library. A reward is named by a spec: `--reward "length?target=20&unit=words=0.5"`
has parameters and a weight; [Rewards](../concepts/rewards.md) explains specs, constraints, schedules and failures.
A parameter whose default is *the column* is read from the column of that name in the environment's tasks; a spec can
set it for all tasks, as in `coverage?keywords=red|green`.
`rlalign check NAME` runs the conformance checks of a reward.

*Texts/s* is the speed on one core on sentences of a dozen words ({machine}, `benchmarks/rewards.py`). *Hacked by*
names what a policy learns if the reward is maximized alone. All rewards are deterministic on one machine unless
stated otherwise. `toxicity`, `language` and `dictionary_words` need the extra `rewards`; `math_verify` and
`snownlp` need `envs`: `pip install -c constraints.txt -e '.[rewards,envs]'`."""
TEXTS = ("prompts", "completions", "completion_ids")  # passed by every caller
LABELS = ("Range", "Cost", "Hacked by", "Source", "License")


def page() -> str:
    """Return the page."""
    measured = json.loads(SPEEDS.read_text(encoding="utf-8"))
    names = sorted(REWARDS.built_in)
    lines = head("Rewards", INTRO.replace("{machine}", machine(measured)))
    rows = [[f"[`{name}`](#{name})", value(REWARDS.get(name))] for name in names]
    lines += table(("reward", "value"), rows)
    for name in names:
        lines += section(name, measured["texts_per_second"])
    return "\n".join(lines)


def machine(measured: dict[str, Any]) -> str:
    """Return the processor that the speeds were measured on."""
    return str(measured.get("machine", {}).get("cpu", "see benchmarks/results/rewards.json"))


def value(item: Any) -> str:
    """Return the first sentence of a reward's docstring without the verb, or its part before an example."""
    text = paragraphs(item)[0]
    first = re.split(r"(?<=[.:]) (?=[A-Z`])|\. ", text.partition(" Range:")[0])[0].rstrip(".:")
    words = re.sub(r"^Return (?:the |an? )?", "", first)
    return words[:1].upper() + words[1:]


def section(name: str, speeds: dict[str, float]) -> list[str]:
    """Return the section of a reward."""
    item = REWARDS.get(name)
    lines = [f"## {code(name)}", ""]
    for text in paragraphs(item):
        if not text.startswith(tuple(f"{label}:" for label in LABELS)):
            lines += [text, ""]
    facts = labeled(item, LABELS)
    if name in speeds:
        facts["Cost"] = f"{speeds[name]:,.0f} texts/s"
    lines += table(("Range", facts.pop("Range", "")), facts.items())
    rows = parameters(item)
    return lines + (table(("parameter", "default", "meaning"), rows) if rows else [])


def parameters(item: RewardFunction) -> list[list[str]]:
    """Return name, default and description of each parameter that a spec accepts.

    Raises:
        LookupError: a parameter has no description.
    """
    texts: dict[str, str] = {}
    function = item.function
    for described in (*reversed(type(function).__mro__), type(function).__call__, function):
        texts |= arguments(described)
    rows = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in TEXTS or parameter.kind is parameter.VAR_KEYWORD:
            continue
        if name not in texts:
            raise LookupError(f"reward '{item.name}': expected a description of the parameter '{name}', got none")
        rows.append([code(name), default(item, parameter), sentence(texts[name])])
    return rows


def default(item: RewardFunction, parameter: inspect.Parameter) -> str:
    """Return the default of a parameter, or where its value comes from."""
    if parameter.name in item.parameters:
        return code(repr(item.parameters[parameter.name]))
    is_column = parameter.kind is not parameter.KEYWORD_ONLY
    if parameter.default is parameter.empty:
        return "the column" if is_column else "required"
    return f"the column, else {code(repr(parameter.default))}" if is_column else code(repr(parameter.default))
