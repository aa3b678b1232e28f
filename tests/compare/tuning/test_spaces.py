"""Search spaces as text, and errors of invalid text."""

from __future__ import annotations

import pytest

from rlalign.compare.tuning.spaces import distribution, parse_search
from rlalign.errors import UserError


def test_spaces_are_parsed_and_errors_name_the_expected_form() -> None:
    assert parse_search(["lr=log:1e-4:1e-2"]) == {"learner.lr": "log:1e-4:1e-2"}
    assert distribution("x", "choice:4,0.5,none").choices == (4, 0.5, "none")
    assert distribution("x", "int:1:8").high == 8
    for space, message in (
        ("log:1e-2:1e-4", "LOW < HIGH"),
        ("lgo:1:2", "Did you mean 'log'"),
        ("uniform:1", "LOW:HIGH"),
        ("uniform:nan:1", "must be finite"),
        ("int:1.5:3", "LOW:HIGH"),
        ("int:1:2:3", "LOW:HIGH"),
        ("choice:", "choice:A,B,C"),
    ):
        with pytest.raises(UserError, match=message):
            distribution("x", space)
    with pytest.raises(UserError, match="expected SETTING=SPACE, got 'lr'"):
        parse_search(["lr"])
