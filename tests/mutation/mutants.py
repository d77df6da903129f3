"""Mutants of a source file: one small change each, found in the syntax tree and written back as text.

The operators are the classical ones: a comparison, an arithmetic or boolean operator is swapped, a condition negated, a
number moved by one, a constant flipped, a statement left out. What cannot matter is left alone: docstrings, messages of
errors, annotations, what only a type checker reads.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

COMPARE = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not",
    ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
ARITHMETIC = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.BitOr: "&", ast.MatMult: "*",
}  # fmt: skip
NAMES = {"unknown", "warn", "Entry", "TypeVar", "cast"}  # calls that hold messages, or types
SKIPPED = {"TYPE_CHECKING", "overload", "abstractmethod"}


@dataclass(frozen=True)
class Mutant:
    """One change: the lines of the file it stands on, and the text between two offsets that is replaced."""

    line: int
    start: int
    end: int
    new: str
    kind: str

    def apply(self, source: str) -> str:
        return source[: self.start] + self.new + source[self.end :]


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a source, in order of place."""
    tree = ast.parse(source)
    offsets = [0]
    for text in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(text))
    ascii_only = source.isascii()

    def place(line: int, column: int) -> int:
        at = offsets[line - 1] + column
        return at if ascii_only else len(source.encode()[:at].decode())

    def span(node: ast.AST) -> tuple[int, int]:
        return place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset)  # type: ignore[attr-defined]

    def between(left: ast.AST, right: ast.AST) -> tuple[int, int]:
        """The text between two operands: the operator with its blanks (and brackets, which then forbid a change)."""
        return span(left)[1], span(right)[0]

    def found(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            start, end = between(node.left, node.comparators[0])
            if not set(source[start:end]) & set("()#\n"):
                yield Mutant(node.lineno, start, end, f" {COMPARE[type(node.ops[0])]} ", "comparison")
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            start, end = between(node.left, node.right)
            if not set(source[start:end]) & set("()#\n"):
                yield Mutant(node.lineno, start, end, f" {ARITHMETIC[type(node.op)]} ", "arithmetic")
        elif isinstance(node, ast.BoolOp) and len(node.values) == 2:
            start, end = between(*node.values)
            if not set(source[start:end]) & set("()#\n"):
                word = "or" if isinstance(node.op, ast.And) else "and"
                yield Mutant(node.lineno, start, end, f" {word} ", "boolean")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.Invert)):
            start, _ = span(node)
            yield Mutant(node.lineno, start, span(node.operand)[0], "", "unary")
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield Mutant(node.lineno, *span(node), str(not node.value), "constant")
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield Mutant(node.lineno, *span(node), repr(node.value + 1), "number")
        elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
            start, end = span(node.test)
            yield Mutant(node.test.lineno, start, end, f"(not ({source[start:end]}))", "condition")
        elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            yield Mutant(node.lineno, *span(node), "pass", "statement")

    def walk(node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Assert)):
            return  # messages are for people
        if isinstance(node, ast.If) and any(word in ast.unparse(node.test) for word in SKIPPED):
            return
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in NAMES:
            return
        if isinstance(node, ast.FunctionDef) and node.name in {"__repr__", "__str__"}:
            return
        yield from found(node)
        for name, value in ast.iter_fields(node):
            if name in {"annotation", "returns", "decorator_list", "slice"} and not isinstance(node, ast.Subscript):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from walk(child)

    unique = {(m.start, m.end, m.new): m for m in walk(tree)}
    return sorted((m for m in unique.values() if _parses(m, source)), key=lambda m: (m.start, m.end, m.new))


def _parses(mutant: Mutant, source: str) -> bool:
    try:
        return ast.dump(ast.parse(mutant.apply(source))) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False
