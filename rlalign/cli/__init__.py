"""The command line: `rlalign COMMAND ...`. Each command is a module here with a `run(args) -> exit status`."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from rlalign.errors import FaultError, RewardError, UnknownNameError, UserError

COMMANDS = {
    "train": "train a policy; without arguments, SmolLM2 learns to continue sentences positively",
    "evaluate": "compare a run's policy with its start on held-out prompts",
    "generate": "continue a text with a run's policy, again until the reward reaches a level",
    "list": "list envs, rewards, algorithms or policies",
    "new": "write a working environment or reward with its test, to be changed into your own",
    "check": "run the checks of an environment or a reward",
    "oracle": "prove what an algorithm's gradient is, exactly, on an enumerable MDP",
    "report": "write the HTML report of a study, a run or a search",
    "compare": "run algorithms × environments × seeds, or take runs that exist, and say what may be claimed",
    "tune": "search settings of an algorithm",
    "plot": "draw the curves of one or several runs",
    "doctor": "say what this machine and installation can do",
}

_MODULES = {"list": "listing"}  # a module named list would hide the builtin in this package


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return 0 done, 1 fault, 2 the user's mistake, 128 + n stopped by signal n."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    if not debug:
        warnings.formatwarning = _one_line
    # Waiting threads spin for a while, then sleep: endless spinning takes a busy machine's cores from those that work,
    # and no spinning at all makes each of a decode step's many short waits a system call. OpenMP reads it at its start.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        return _dispatch(args)
    except (UserError, RewardError) as error:
        if debug:
            raise
        return _say(str(error), 2)
    except FaultError as error:
        if debug:
            raise
        return _say(str(error), 1)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe has gone, as in `rlalign list envs | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning without the line of code, which a reader of the command line has not written."""
    return f"warning: {message}\n"


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help"):
        return _help()
    if args[0] in ("-V", "--version"):
        from rlalign import __version__

        print(f"rlalign {__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise UnknownNameError("command", args[0], COMMANDS)
    module = _MODULES.get(args[0], args[0])
    status: int = importlib.import_module(f"rlalign.cli.{module}").run(args[1:])
    return status


def _help() -> int:
    from rich.table import Table

    from rlalign.cli.console import console as make_console

    console = make_console()
    console.print("[bold]rlalign[/]: reinforcement learning from feedback for language models\n")
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, text in COMMANDS.items():
        table.add_row(f"[bold]{name}[/]", text)
    console.print(table)
    console.print("\nrlalign COMMAND --help says more. --debug shows the traceback of an error.")
    return 0


def _say(message: str, status: int) -> int:
    print(f"rlalign: {message}", file=sys.stderr)
    return status
