"""Names of splits in data: the usual synonyms, in any case."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from rlalign.envs.records.values import plain, shown
from rlalign.errors import UserError
from rlalign.types import Split

SPLITS: tuple[Split, ...] = get_args(Split)

_SYNONYMS: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devel", "development", "eval", "evaluation"),
    "test": ("test", "testing"),
}
KNOWN: dict[str, Split] = {name: split for split, names in _SYNONYMS.items() for name in names}
"""Names in published data sets, in lower case -> split."""

_FIX = (
    "use train, validation or test (also training, valid, val, dev, eval, testing), or name each split yourself, as in "
    "?train=NAME&test=NAME"
)


def folded(name: Any) -> str:
    """Return the name of a split without case and surrounding blanks."""
    return str(name).strip().casefold()


def names_of(options: Mapping[str, str]) -> dict[str, Split]:
    """Return folded name -> split of the options `train=A,B`, `validation=...` and `test=...` of a data spec."""
    names: dict[str, Split] = {}
    for split in SPLITS:
        for name in options.get(split, "").split(","):
            if name.strip():
                names[folded(name)] = split
    return names


def split_of_each(labels: Iterable[Any], names: Mapping[str, Split], where: str) -> list[Split | None] | None:
    """Return the split of each record, from its label in the column `split`; None if no record has a label.

    Args:
        labels: one per record; a missing one is None.
        names: folded name -> split; records with other names belong to no split (None). Empty: the known names.
        where: name of the data, for the message.

    Raises:
        UserError: a label is missing or unknown.
    """
    found = [_readable(label) for label in labels]
    if all(label is None for label in found):
        return None
    if names:
        splits = [None if label is None else names.get(folded(label)) for label in found]
        _check_names(names, {folded(label) for label in found if label is not None}, where)
        return splits
    known = [None if label is None else KNOWN.get(folded(label)) for label in found]
    if None in known:
        counts = Counter("none" if label is None else shown(label) for label in found)
        listed = ", ".join(f"{name} ({count} records)" for name, count in counts.most_common(8))
        raise UserError(f"{where}: expected the split of each record in the column 'split', got {listed}; {_FIX}")
    return known


def _readable(label: Any) -> Any:
    """Return a label as a plain value; its repr, which is no known name, if it cannot be stored as text."""
    try:
        return plain(label)
    except ValueError:
        return repr(label)


def split_of_tables(tables: Iterable[Any], names: Mapping[str, Split], where: str) -> dict[Any, Split]:
    """Return the split of each named table; with `names`, tables of other names are left out.

    Raises:
        UserError: a name is unknown, or two tables belong to one split.
    """
    tables = list(tables)
    if names:
        _check_names(names, {folded(table) for table in tables}, where)
    splits = {table: split for table in tables if (split := (names or KNOWN).get(folded(table))) is not None}
    if not names and len(splits) < len(tables):
        listed = ", ".join(f"'{table}'" for table in tables)
        raise UserError(
            f"{where}: expected the splits train, validation and test, got {listed}; {_FIX}, which leaves out the "
            "others, or pass one of these as data"
        )
    for split, count in Counter(splits.values()).items():
        if count > 1:
            both = " and ".join(f"'{table}'" for table, own in splits.items() if own == split)
            raise UserError(f"{where}: expected one table for the split {split}, got {both}; use one of them")
    return splits


def _check_names(names: Mapping[str, Split], found: set[str], where: str) -> None:
    for name, split in names.items():
        if name not in found:
            listed = ", ".join(sorted(found)) or "none"
            raise UserError(f"{where}: expected a split named '{name}' for {split}, got {listed}; use one of these")
