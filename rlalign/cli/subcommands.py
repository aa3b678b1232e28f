"""Subcommands of a command, such as those of `rlalign feedback`: their list, and the arguments of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.cli.arguments import parse_arguments
from rlalign.errors import UnknownNameError
from rlalign.escaping.terminal import print_text


def parse_subcommand(
    command: str, args: Sequence[str], texts: Mapping[str, str], arguments: Mapping[str, Any]
) -> tuple[str, Any] | None:
    """Return the name of a subcommand and its arguments, or print the list of all and return None.

    Args:
        command: such as "feedback".
        args: words behind the command.
        texts: subcommand -> what it does.
        arguments: subcommand -> dataclass of its arguments.

    Raises:
        UnknownNameError: there is no such subcommand.
        SystemExit: after --help, or for wrong arguments.
    """
    if not args or args[0] in ("-h", "--help"):
        print_text(f"rlalign {command} SUBCOMMAND ...\n")
        width = max(10, *map(len, texts))
        for name, text in texts.items():
            print_text(f"  {name:{width}} {text}")
        print_text(f"\nrlalign {command} SUBCOMMAND --help shows its arguments.")
        return None
    if args[0] not in texts:
        raise UnknownNameError(f"subcommand of {command}", args[0], texts)
    return args[0], parse_arguments(arguments[args[0]], args[1:], prog=f"rlalign {command} {args[0]}")
