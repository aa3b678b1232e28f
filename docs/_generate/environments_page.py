"""docs/reference/environments.md: every built-in environment, from its class."""

from __future__ import annotations

import importlib
import inspect
import json
from typing import Any

from page_text import arguments, code, head, labeled, paragraphs, parameter_rows, sentence, table

from rlalign.envs.mdp import TextMDP
from rlalign.envs.registration import make_mdp
from rlalign.envs.task_sources import SPLITS
from rlalign.registry import ENVS
from rlalign.types import Task

INTRO = """\
The environments that come with the library. Most generate their tasks or have them built in. Those on real data
download a wheel of a fixed version on first use, and print its source and license. Arguments follow the name:
`--env "reverse?max_length=6"`, or
`rlalign.make_mdp("reverse", max_length=6)`. [Environments](../concepts/environments.md) explains splits, limits and
rewards and how to write one of your own, and [what a small policy learns on each](../results/environments.md) has
measurements.

*Gold* is the reward of the reference trajectory, which `rlalign check` plays. Splits are disjoint unless stated
otherwise."""
FAMILIES = {
    "strings": "Strings",
    "language": "Language",
    "multi_turn": "Several turns",
    "reward_hacking": "Reward hacking",
}
LABELS = ("State", "Action", "Reward", "Data", "Splits")
EXTRAS = {"Games": "games", "TextWorld": "textworld"}
SHOWN = 400  # characters of an example


def page() -> str:
    """Return the page."""
    lines = head("Environments", INTRO)
    rows = []
    sections: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for name in built_in():
        cls = ENVS.get(name)
        short = short_name(name)
        mdp = None if short in EXTRAS else make_mdp(name)
        turns = str(mdp.max_turns) if mdp else "several"
        rows.append([f"[{short}](#{short.lower()})", turns, cls.description])
        sections[cls.__module__.split(".")[3]] += section(name, cls, mdp)
    lines += table(("environment", "turns", "task"), rows)
    for family, title in FAMILIES.items():
        package = importlib.import_module(f"rlalign.envs.builtin.{family}")
        lines += [f"## {title}", "", paragraphs(package)[0], "", *sections[family]]
    return "\n".join(lines)


def built_in() -> list[str]:
    """Return the ids of the built-in environments."""
    return [name for name in ENVS if name.startswith("rlalign/")]


def short_name(name: str) -> str:
    """Return `Sort` of `rlalign/Sort-v0`."""
    return name.removeprefix("rlalign/").rpartition("-v")[0]


def section(name: str, cls: type[TextMDP], mdp: TextMDP | None) -> list[str]:
    """Return the section of an environment; `mdp` is None if it needs an extra."""
    short = short_name(name)
    lines = [f"### {short}", "", sentence(cls.description), ""]
    texts = [text for text in paragraphs(cls)[1:] if not text.startswith(tuple(f"{label}:" for label in LABELS))]
    for text in texts:
        if not text.startswith("Arguments:"):
            lines += [text, ""]
    facts = labeled(cls, LABELS)
    if mdp is not None:
        facts |= limits(mdp)
    facts["Reward specs"] = ", ".join(
        f"{weight:g} × `{spec.rpartition(':')[2]}`" for spec, weight in cls.rewards.items()
    )
    if cls.gold_score is not None:
        facts["Gold"] = f"{cls.gold_score:g}"
    if short in EXTRAS:
        facts["Needs"] = f"the extra `{EXTRAS[short]}`: `pip install -c constraints.txt -e '.[{EXTRAS[short]}]'`"
    lines += table(("Id", code(name)), facts.items())
    if mdp is not None:
        lines += example(mdp)
    rows = parameter_rows(described(cls), inspect.signature(cls.__init__))
    return lines + (table(("argument", "default", "meaning"), rows) if rows else [])


def described(cls: type[TextMDP]) -> dict[str, str]:
    """Return the arguments of an environment and of the class that it derives from."""
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__[: cls.__mro__.index(TextMDP)]):
        texts |= arguments(base)
    return {name: text for name, text in texts.items() if name != "kwargs"}


def limits(mdp: TextMDP) -> dict[str, str]:
    """Return the numbers of tasks, and the limits in ids of the environment's own tokenizer."""
    sizes = [mdp.source.size(split) for split in SPLITS]
    tasks = (
        "unbounded"
        if None in sizes
        else " / ".join(f"{size} {split}" for size, split in zip(sizes, SPLITS, strict=True))
    )
    if not getattr(mdp.source, "distinct", True):
        tasks += ", not disjoint: too few tasks"
    turns = "" if mdp.max_turns == 1 else f", {mdp.max_turns} turns, {mdp.max_reply} per reply"
    kind = type(mdp.tokenizer).__name__.removesuffix("Tokenizer").lower()
    return {
        "Tasks": tasks,
        "Limits": f"{mdp.max_prompt} ids per prompt, {mdp.max_new} per turn{turns}; {kind} tokenizer",
    }


def example(mdp: TextMDP) -> list[str]:
    """Return the prompt and the answer of the first training task."""
    task = mdp.source.get("train", 0)
    prompt = task.prompt if isinstance(task.prompt, str) else json.dumps(task.prompt, ensure_ascii=False)
    lines = [f"prompt  {shown(prompt)}"]
    turns = reference(mdp, task)
    lines += [f"answer  {shown(turn)}" for turn in turns]
    return ["```text", *lines, "```", ""]


def reference(mdp: TextMDP, task: Task) -> list[str]:
    """Return the turns of the reference trajectory."""
    turns: Any = mdp.reference_turns(task)
    return [turn if isinstance(turn, str) else mdp.tokenizer.decode(turn) for turn in turns or ()]


def shown(text: str) -> str:
    """Return a text for one line."""
    line = text.rstrip("\n").replace("\n", "\n        ")
    return line if len(line) <= SHOWN else line[:SHOWN] + " ..."
