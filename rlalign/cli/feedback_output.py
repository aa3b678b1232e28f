"""Outputs that would destroy data: the input of a command, a store, and files that exist."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rlalign.errors import UserError

_BESIDE = ("", "-wal", "-shm", "-journal", ".lock")
"""Ends of the names of files that belong to a store while it is open."""
_SQLITE = b"SQLite format 3\x00"


def refuse_loss(option: str, output: Path, inputs: Iterable[str | Path]) -> None:
    """Raise UserError if an output would replace an input of the command, a part of one, or a store.

    Nothing excuses such an output, also not --force.

    Args:
        option: name of the option, for the message.
        output: file or folder that would be written.
        inputs: files, folders and stores that the command reads. Names that are no paths do no harm.
    """
    sources = [str(source) for source in inputs]
    # a writer uses the second name until the file is complete
    for path in (output, output.with_name(f"{output.name}.tmp")):
        for source in sources:
            if any(_overlap(path, Path(f"{source}{end}")) for end in _BESIDE):
                raise UserError(f"{option} '{output}': expected another path than the input '{source}'; use a new file")
        if any(str(path).endswith(end) and _is_database(Path(str(path).removesuffix(end))) for end in _BESIDE):
            raise UserError(f"{option} '{output}': expected a new file, got a part of a store; use another path")


def refuse_existing(option: str, output: Path, *, force: bool) -> None:
    """Raise UserError for a folder, and without `force` for a file that exists."""
    if output.is_dir():
        raise UserError(f"{option} '{output}': expected a file, got a folder; add a name")
    if output.exists() and not force:
        raise UserError(f"{option} '{output}' exists already; use another path, or --force to replace it")


def _overlap(output: Path, source: Path) -> bool:
    """Return True if both are one file, or one is in the other."""
    first, second = output.resolve(), source.resolve()
    if first.is_relative_to(second) or second.is_relative_to(first):
        return True
    return output.exists() and source.exists() and output.samefile(source)  # a hard link


def _is_database(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except OSError:
        return False
