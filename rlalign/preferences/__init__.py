"""Preference data: a prompt and two completions, of which one was chosen. In, out, split and checked.

pairs            one preference, and the forms of TRL
files            rows of files, folders of datasets and the hub, and files of rows
csv_cells        cells of CSV files that are read back exactly
arrow_table      rows as Arrow tables, and back without a change
formats          the formats: recognized, read, written
trl_format       chosen and rejected, with or without prompt
hh_rlhf          transcripts of HH-RLHF
ultrafeedback    completions with scores
argilla          exports of Argilla
label_studio     exports of Label Studio
from_votes       votes of a study
judged           completions with answers of people, and the pairs that follow
near_duplicates  groups of equal and nearly equal prompts
splits           train and test by groups of prompts
findings         what a check found
row_checks       checks of one row
set_checks       checks of all rows together
token_checks     checks with a tokenizer
check            all checks of a file
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlalign.preferences.check import check_preferences
    from rlalign.preferences.formats import read_preferences, write_preferences
    from rlalign.preferences.pairs import Preference
    from rlalign.preferences.splits import split_by_group

__all__ = ["Preference", "check_preferences", "read_preferences", "split_by_group", "write_preferences"]
_MODULES = {
    "Preference": "pairs",
    "check_preferences": "check",
    "read_preferences": "formats",
    "split_by_group": "splits",
    "write_preferences": "formats",
}


def __getattr__(name: str) -> Any:
    """Import a function when it is used: numpy is not needed for the rest."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
