"""The console that all commands print to."""

from __future__ import annotations

from rlalign.escaping.console import PlainConsole

_WIDTH = 160  # characters per line in a pipe or a file, enough for each table


def console() -> PlainConsole:
    """Return a console as wide as the terminal, or of a fixed width if the output is not a terminal."""
    terminal = PlainConsole()
    return terminal if terminal.is_terminal else PlainConsole(width=_WIDTH)
