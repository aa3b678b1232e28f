"""JSON values with their paths, so that each number of a page names its place in the JSON file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Values:
    """A JSON value and the path to it.

    Attributes:
        content: the value.
        path: keys and indices from the root of the file.
    """

    content: Any
    path: tuple[str | int, ...] = ()

    def __getitem__(self, key: str | int) -> Values:
        """Return the value at a key or an index."""
        return Values(self.content[key], (*self.path, key))

    def get(self, key: str) -> Values | None:
        """Return the value at a key; None if it is missing or null."""
        return None if self.content.get(key) is None else self[key]

    def __iter__(self) -> Iterator[Values]:
        """Return the values of a list."""
        return (self[i] for i in range(len(self.content)))

    def items(self) -> Iterator[tuple[str, Values]]:
        """Return the keys and values of an object."""
        return ((key, self[key]) for key in self.content)

    @property
    def pointer(self) -> str:
        """The path as a JSON pointer (RFC 6901), such as /people/win_rates/pairs/0/panel/value."""
        return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in self.path)
