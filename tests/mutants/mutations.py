"""Small changes of Python source, each of which is an error that a test should see."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARE: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
_BINARY: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.Pow: ("**", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_NAMES = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "sum": "mean", "mean": "sum",
    "any": "all", "all": "any", "amax": "amin", "amin": "amax", "cumsum": "cumprod",
}  # fmt: skip
_UNARY: dict[type[ast.unaryop], str] = {ast.USub: "-", ast.Invert: "~", ast.Not: "not "}
_KEPT = (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)
_DROPPED = ("detach", "abs", "clamp", "square", "clone", "float")


@dataclass(frozen=True)
class Mutation:
    """A change of one file.

    Attributes:
        file: path below the root.
        line: number of the first changed line.
        last: number of the last one.
        start: offset of the first changed byte.
        end: offset after the last one.
        new: text in their place.
    """

    file: str
    line: int
    last: int
    start: int
    end: int
    new: str

    def apply(self, source: bytes) -> bytes:
        """Return the changed source."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    def describe(self, source: bytes) -> str:
        """Return the change as text."""
        column = self.start - source.rfind(b"\n", 0, self.start)
        old = source[self.start : self.end].decode()
        return f"{self.file}:{self.line}:{column}: {old} -> {self.new or '(nothing)'}"


def mutations(root: Path, file: str) -> list[Mutation]:
    """Return all mutations of a file, in the order of the source.

    Docstrings, texts, annotations, assertions and the messages of errors are left as they are.
    """
    source = _Source((root / file).read_bytes())
    found = set()
    for node in _nodes(ast.parse(source.text)):
        for start, end, new in source.changes(node):
            line, last = (source.text.count(b"\n", 0, place) + 1 for place in (start, end))
            found.add(Mutation(file, line, last, start, end, new))
    return sorted(found, key=lambda m: (m.start, m.end, m.new))


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Return the nodes below a node whose change would be an error of the code."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, _KEPT):
                continue
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            yield child
            yield from _nodes(child)


class _Source:
    """The text of a file, and the changes of its nodes as (start, end, new text)."""

    def __init__(self, text: bytes) -> None:
        self.text = text
        self._lines = [0]
        for line in text.splitlines(keepends=True):
            self._lines.append(self._lines[-1] + len(line))

    def place(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Return the offset of the first byte of a node and that after its last one."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._lines[node.lineno - 1] + node.col_offset, self._lines[node.end_lineno - 1] + node.end_col_offset

    def changes(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        """Return the changes of a node itself, without those of the nodes in it."""
        match node:
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                yield from self._between(left, right, *_COMPARE[type(op)])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _BINARY:
                if not any(isinstance(x, ast.Constant | ast.JoinedStr) and _is_text(x) for x in (left, right)):
                    yield from self._between(left, right, *_BINARY[type(op)])
            case ast.BoolOp(op=op, values=[left, right, *_]):
                words = ("and", "or") if isinstance(op, ast.And) else ("or", "and")
                yield from self._between(left, right, *words)
            case ast.UnaryOp(op=op) if type(op) in _UNARY:
                start, _ = self.place(node)
                yield start, start + len(_UNARY[type(op)]), ""
            case ast.Constant():
                yield from self._constant(node)
            case ast.AugAssign(target=left, op=op, value=right) if type(op) in _BINARY:
                old, new = _BINARY[type(op)]
                yield from self._between(left, right, f"{old}=", f"{new}=")
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                start, end = self.place(test)
                yield start, end, f"not ({self.text[start:end].decode()})"
            case ast.Expr(value=ast.Call()):
                yield *self.place(node), "pass"
            case ast.Call(func=ast.Name(id="min" | "max" as name) as function):
                yield *self.place(function), _NAMES[name]
            case ast.Call(func=ast.Attribute() as method, args=arguments):
                yield from self._call(node, method, arguments)

    def _constant(self, node: ast.Constant) -> Iterator[tuple[int, int, str]]:
        if isinstance(node.value, bool):
            yield *self.place(node), str(not node.value)
        elif isinstance(node.value, int):
            yield *self.place(node), str(node.value + 1)
        elif isinstance(node.value, float):
            yield *self.place(node), repr(2 * node.value or 1.0)

    def _call(self, node: ast.Call, method: ast.Attribute, arguments: list[ast.expr]) -> Iterator[tuple[int, int, str]]:
        """Return the changes of a method call: another method, none, or exchanged branches of `where`."""
        after = self.place(method)[1]
        if method.attr in _NAMES:
            yield after - len(method.attr), after, _NAMES[method.attr]
        if method.attr in _DROPPED:
            yield self.text.rindex(b".", 0, after), self.place(node)[1], ""
        if method.attr == "where" and len(arguments) == 3:
            (a, b), (c, d) = self.place(arguments[1]), self.place(arguments[2])
            yield a, d, (self.text[c:d] + self.text[b:c] + self.text[a:b]).decode()

    def _between(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[tuple[int, int, str]]:
        """Return the change of the operator between two nodes."""
        start, end = self.place(left)[1], self.place(right)[0]
        where = self.text[start:end].find(old.encode())
        if where >= 0:
            yield start + where, start + where + len(old), new


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
