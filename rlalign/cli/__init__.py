"""The command line, `rlalign COMMAND ...`: one module per command, each with `run(args) -> exit status`."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence

from rlalign.errors import FaultError, HookError, OutputError, RewardError, UnknownNameError, UserError
from rlalign.escaping.terminal import escape_unencodable, in_one_line, print_text

COMMANDS = {
    "train": "train a policy; without arguments, SmolLM2 learns to write positive continuations",
    "evaluate": "compare a trained policy with its initial policy on held-out prompts",
    "generate": "complete a prompt with a trained policy, optionally until the reward reaches a level",
    "export": "write a trained policy for other engines: transformers, peft, vLLM, llama.cpp",
    "list": "list environments, rewards, algorithms, policies or metrics",
    "new": "write a template of an environment or a reward with its test, or of a study",
    "check": "run the conformance checks of an environment or a reward",
    "oracle": "compare an algorithm's expected gradient with the exact gradient on an enumerable MDP",
    "report": "write the HTML report of a study, a run or a search",
    "compare": "compare algorithms over environments and seeds, from new or existing runs, with statistical tests",
    "tune": "search for good settings of an algorithm",
    "feedback": "collect judgements of people about completions: sample, invite, serve, simulate",
    "reward-model": "train a reward model on votes or preferences, and measure it",
    "push": "upload a trained policy with its card to the Hugging Face Hub",
    "plot": "plot the training curves of one or more runs",
    "doctor": "print versions, optional packages, device, cache and disk space",
}

_WORKING = ("train", "compare", "tune")  # an output that is closed stops their work, so it is no success
_MODULES = {"list": "listing", "reward-model": "reward_model"}
"""Command -> module: a module named list would shadow the builtin in this package."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        0: success. 1: a failed check, or a fault of the machine. 2: a mistake in the arguments. 128 + n: stopped by
        signal n.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    escape_unencodable()
    args = [a for a in args if a != "--debug"]
    if not debug:
        warnings.formatwarning = _one_line
        # transformers imports torchao where it is installed, which logs the kernels of other machines that it lacks
        for name in ("torchao", "torch.utils._pytree"):
            logging.getLogger(name).setLevel(logging.ERROR)
    # Waiting OpenMP threads spin for a while, then sleep. Endless spinning takes cores from other processes of a busy
    # machine; without spinning, each of the many short waits of a decoding step becomes a system call. OpenMP reads
    # the variable when it is loaded, so this line comes before any import of torch.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    # transformers imports torchao if it is installed, which then reports the kernels that this machine does not have
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return _dispatch(args)
    except (UserError, RewardError, HookError) as error:
        if debug:
            raise
        return _print_error(str(error), 2)
    except OutputError as error:
        _silence_stdout()
        if error.reader_exited and not (args and args[0] in _WORKING):
            return 0
        return _print_error(str(error), 1)
    except FaultError as error:
        if debug:
            raise
        return _print_error(str(error), 1)
    except KeyboardInterrupt:
        return _print_error("interrupted", 130)
    except BrokenPipeError:  # the reader of a pipe has exited, as in `rlalign list envs | head -1`
        _silence_stdout()
        return 0


def _silence_stdout() -> None:
    """Send the rest of the output to /dev/null: Python flushes it at exit, which would raise once more."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a file, as in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _one_line(message: Warning | str, *_: object, **__: object) -> str:
    """Format a warning without its source line, which is not the user's code."""
    return f"warning: {in_one_line(str(message))}\n"


def _dispatch(args: list[str]) -> int:
    if not args or args[0] in ("-h", "--help") or args == ["help"]:
        return _help()
    if args[0] == "help":
        return _dispatch([args[1], "--help"])
    if args[0] in ("-V", "--version", "version"):
        from rlalign import __version__

        print_text(f"rlalign {__version__}")
        return 0
    if args[0] not in COMMANDS:
        raise UnknownNameError("command", args[0], COMMANDS)
    module = _MODULES.get(args[0], args[0])
    status: int = importlib.import_module(f"rlalign.cli.{module}").run(args[1:])
    return status


def _help() -> int:
    from rich.table import Table

    from rlalign.cli.console import console as make_console
    from rlalign.escaping.console import line

    console = make_console()
    console.print(line(("rlalign", "bold"), ": reinforcement learning for language models\n"))
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, text in COMMANDS.items():
        table.add_row(line((name, "bold")), text)
    console.print(table)
    console.print("\nrlalign COMMAND --help shows the arguments of a command. --debug shows the traceback of an error.")
    return 0


def _print_error(message: str, status: int) -> int:
    """Print an error message to stderr and return the exit status."""
    print_text(f"rlalign: {in_one_line(message)}", to_stderr=True)
    return status
