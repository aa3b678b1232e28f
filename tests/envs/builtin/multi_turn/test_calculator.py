"""Tests of the calculator."""

from fractions import Fraction

import pytest

from rlalign.envs.builtin.multi_turn.calculator import calculate, format_number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2*(3+4)-1", 13), (" -7 // 2", -4), ("7 % 4", 3), ("1/3", Fraction(1, 3)), ("+5", 5),
        ("2**9", None), ("1/0", None), ("5%0", None), ("", None), ("(" * 60, None), ("1+" * 40 + "1", None),
        ("__import__('os')", None), ("True", None), ("1.5", None), ("9j", None), ("x", None), ("٣", None),
        ("007", None),
    ],
)  # fmt: skip
def test_only_arithmetic_is_evaluated(text, value):
    assert calculate(text) == value


def test_integers_are_formatted_exactly():
    assert [format_number(Fraction(n)) for n in (10**20, -3)] == [str(10**20), "-3"]
    assert format_number(Fraction(2, 3)) == "0.666667"
