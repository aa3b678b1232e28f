"""Packages that not every user needs."""

from __future__ import annotations

import importlib
from typing import Any

from rlalign.errors import UserError


def optional(module: str, extra: str) -> Any:
    """A module of an optional package. Raises UserError that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise  # the package is there, and something that it needs is not
        package = module.partition(".")[0]
        raise UserError(f"this reward needs '{package}': pip install 'rlalign[{extra}]'") from None
