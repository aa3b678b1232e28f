"""docs/reference/command_line.md: every command and its arguments."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing

from fields import Field, default_text, fields_of, type_text
from page_text import code, head, table

from rlalign.cli import COMMANDS

INTRO = """\
`rlalign COMMAND --help` prints the arguments of a command. `--debug` shows the traceback of an error instead of one
line, and `rlalign --version` the version.

Exit status: 0 is success; 1 a failed check, a failed run of a study, or a fault of the machine; 2 a mistake in the
arguments; 128 + n a stop by signal n, after the state was saved."""
TRAIN = """Its flags are the settings of [Configuration](configuration.md): `--steps 100`, `--learner.lr 1e-3`.
Besides these:

- `--reward SPEC` adds a reward, and may be repeated. It replaces the environment's own rewards, or adds to them if
  the SPEC begins with `+` (see [Rewards](rewards.md)).
- `--config FILE` reads settings from a TOML file, such as the `best.toml` of `rlalign tune`.
- `--resume FOLDER` continues the run in that folder, with its settings."""
MODULES = {"list": "listing", "reward-model": "reward_model"}


def page() -> str:
    """Return the page."""
    lines = head("Command line", INTRO)
    lines += table(
        ("command", "what it does"), ([f"[`{name}`](#rlalign-{name})", text] for name, text in COMMANDS.items())
    )
    for name, text in COMMANDS.items():
        lines += [f"## rlalign {name}", ""]
        module = importlib.import_module(f"rlalign.cli.{MODULES.get(name, name)}")
        arguments = getattr(module, "Args", None)
        if arguments is not None:
            lines += described(name, arguments)
            continue
        lines += [text[:1].upper() + text[1:] + ".", ""]
        lines += [TRAIN, ""] if name == "train" else []
        for subcommand in getattr(module, "SUBCOMMANDS", ()):
            lines += [f"### rlalign {name} {subcommand}", ""]
            lines += described(f"{name} {subcommand}", getattr(module, subcommand.capitalize()))
    return "\n".join(lines)


def described(name: str, arguments: type) -> list[str]:
    """Return the description, the shape and the table of the arguments of a command or a subcommand."""
    fields = list(fields_of(arguments))
    lines = [" ".join(inspect.cleandoc(arguments.__doc__ or "").split()), ""]
    lines += ["```text", usage(name, fields), "```", ""]
    return lines + table(("argument", "values", "default", "meaning"), map(row, fields))


def usage(name: str, fields: list[Field]) -> str:
    """Return the shape of the command."""
    words = [f"rlalign {name}"]
    for field in fields:
        if field.positional:
            word = field.name.upper()
            if typing.get_origin(field.type) is tuple:
                word = f"{word.removesuffix('S')} ..."
            words.append(word if field.default is dataclasses.MISSING else f"[{word}]")
    return " ".join([*words, "[options]"])


def row(field: Field) -> list[str]:
    """Return the cells of an argument."""
    flag = "--" + field.name.replace("_", "-")
    if field.type is bool:
        name = code(flag)
    elif field.positional:
        name = code(field.name.upper())
    else:
        name = ", ".join(map(code, (flag, *field.aliases)))
    default = "" if field.positional else code(default_text(field.default))
    values = "" if field.type is bool else type_text(field.type)
    return [name, values, default, field.text]
