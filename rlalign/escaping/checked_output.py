"""An output that may be a closed pipe, a full disk, a lost terminal or an ASCII terminal."""

from __future__ import annotations

from typing import IO, Any

from rich.console import Console

from rlalign.errors import OutputError


class CheckedOutput:
    """A text stream whose failures are OutputErrors, so that a run is saved. Other attributes are the stream's.

    Args:
        stream: the output.
        console: is silenced after a failure, so that the way out of a run can print.
    """

    def __init__(self, stream: IO[str], console: Console) -> None:
        self._stream = stream
        self._console = console

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text, with escapes for characters that the stream cannot encode."""
        try:
            try:
                return self._stream.write(text)
            except UnicodeEncodeError:  # nothing was written: the text is encoded before it enters the buffer
                encoding = getattr(self._stream, "encoding", None) or "ascii"
                return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            raise self._failed(error) from error

    def flush(self) -> None:
        """Flush the stream."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> OutputError:
        self._console.quiet = True
        return OutputError(error)
