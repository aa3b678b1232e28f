"""A rich console on which no text is markup."""

from __future__ import annotations

from typing import IO, Any, cast

from rich.console import Console
from rich.text import Text

from rlalign.escaping.checked_output import CheckedOutput
from rlalign.escaping.terminal import escape_unencodable, visible


class PlainConsole(Console):
    """A rich console on which no text is markup: `[bold]` and `:smile:` are printed as they are.

    That holds for printed texts and for the cells, headings and titles of tables. Styles come from `line` and from the
    arguments of a table. A character that the output cannot encode is printed as its escape. The first write that fails
    raises an OutputError, and later ones are dropped (rich would exit the process silently at a closed pipe).

    Args:
        quiet: print nothing.
        width: characters per line; None: as wide as the terminal.
    """

    def __init__(self, *, quiet: bool = False, width: int | None = None) -> None:
        super().__init__(quiet=quiet, width=width, highlight=False, markup=False, emoji=False)

    @property
    def file(self) -> IO[str]:
        """The output, with failures of `write` and `flush` as OutputError."""
        return cast("IO[str]", CheckedOutput(super().file, self))

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects as `rich.console.Console.print` does."""
        escape_unencodable()
        super().print(*objects, **options)

    def warn(self, text: str) -> None:
        """Print a warning in one line."""
        self.print(line(("warning", "yellow"), f": {text}"), soft_wrap=True)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a text to a rich text with visible control characters."""
        return super().render_str(visible(text), **options)


def line(*parts: str | tuple[str, str]) -> Text:
    """Return a text of several parts for a console.

    Args:
        parts: texts, and pairs of a text and its style.
    """
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    return Text.assemble(*((visible(text), style) for text, style in pairs))
