"""Exact arithmetic on text. Expressions are parsed and never evaluated as Python."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from fractions import Fraction

_MAX_LENGTH = 64  # characters of an expression; bounds the size of its numbers and the depth of its brackets
_ARITHMETIC = re.compile(r"[0-9+\-*/%() ]*")
# No power operator: a short expression such as 9**9**9 would have a result of unbounded size.
_BINARY: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: Fraction(a // b),
    ast.Mod: lambda a, b: a % b,
}


def calculate(text: str) -> Fraction | None:
    """Return the value of an expression of decimal integers, + - * / // %, and brackets.

    Returns:
        The exact value, or None for any other text.

    >>> calculate("2*(3+4)"), calculate("1/3"), calculate("2**9"), calculate("1/0")
    (Fraction(14, 1), Fraction(1, 3), None, None)
    """
    if len(text) > _MAX_LENGTH or not _ARITHMETIC.fullmatch(text):
        return None
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def format_number(value: Fraction) -> str:
    """Return an integer exactly, any other number as a decimal of at most six significant digits."""
    return str(value.numerator) if value.denominator == 1 else f"{float(value):.6g}"


def _value(node: ast.expr) -> Fraction:
    # `type(...) is int` excludes booleans, whose class is a subclass of int.
    if isinstance(node, ast.Constant) and type(node.value) is int:
        return Fraction(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return _BINARY[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError(f"expected arithmetic, got {type(node).__name__}")
