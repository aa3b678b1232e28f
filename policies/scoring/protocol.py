"""The interface of policies that score rows without padding."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class SupportsPacking(Protocol):
    """A policy that can score rows packed into one, with a prompt that several rows share read once."""

    @property
    def packs(self) -> bool:
        """True if rows are packed. Micro-batches should then keep groups together, which share their prompts."""
        ...
