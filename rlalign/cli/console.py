"""The console of all commands."""

from __future__ import annotations

from rich.console import Console

_WIDTH = 160  # of a pipe or a file, which have none


def console() -> Console:
    """As wide as the terminal; wide enough for every table where there is none."""
    plain = Console(highlight=False)
    return plain if plain.is_terminal else Console(highlight=False, width=_WIDTH)
