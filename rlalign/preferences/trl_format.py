"""Preference data of TRL: `chosen` and `rejected`, and `prompt` if it is explicit (see `pairs`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rlalign.preferences.files import Row
from rlalign.preferences.pairs import SIDES, Preference, preference_of


def detect(records: Sequence[Any]) -> str:
    """Return why records are preference data of TRL; empty if they are not.

    Rows that lack a side count as those of TRL if others have it, so that a check can name them.
    """
    columns = {name for record in records if isinstance(record, Mapping) for name in record}
    return "the columns chosen and rejected" if set(SIDES) <= columns else ""


def read(row: Row, left_out: Counter[str], **options: Any) -> Iterator[Preference]:
    """Yield the preference of a row, unchanged.

    Raises:
        UserError: a side is missing, or is neither text nor messages.
    """
    preference = preference_of(row.record, row.place)
    if row.split and "split" not in preference.columns:
        preference = replace(preference, split=row.split)
    yield preference
