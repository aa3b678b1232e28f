"""`rlalign push RUN OWNER/NAME`: the upload of a run's policy with its card to the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from rlalign.cli.arguments import parse_arguments
from rlalign.cli.console import console as make_console


@dataclass(frozen=True)
class Args:
    """Upload policy/ of a run with its card to a repository of the Hugging Face Hub, after `hf auth login`."""

    run: tyro.conf.Positional[Path]
    """Run folder."""
    repo: tyro.conf.Positional[str]
    """Repository, OWNER/NAME. It is created if it does not exist; an existing one keeps its visibility."""
    public: bool = False
    """Create the repository as a public one instead of a private one."""


def run(args: Sequence[str]) -> int:
    """Upload, and print the address and the files that were left out; return 0."""
    arguments = parse_arguments(Args, args, prog="rlalign push")
    from rlalign.publish.push import described, push

    upload = push(arguments.run, arguments.repo, private=not arguments.public)
    make_console().print(described(upload), soft_wrap=True)
    return 0
