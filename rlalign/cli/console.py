"""The console that all commands print to."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 160  # characters per line in a pipe or a file, enough for each table


def console() -> Console:
    """Return a console as wide as the terminal, or of a fixed width if the output is not a terminal."""
    terminal = Console(highlight=False)
    return terminal if terminal.is_terminal else Console(highlight=False, width=_WIDTH)
