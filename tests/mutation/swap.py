"""Code in place of code: which statements the tests run, and mutants in modules that are imported already.

A fork of a process that has collected all tests needs no import: the functions of a module get the code objects of its
changed source. That holds for changes within functions that do not run at import; `loader` imports the others anew.
"""

from __future__ import annotations

import ast
import gc
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

Span = tuple[int, int]  # first and last line of a statement


def statements(source: str) -> list[Span]:
    """Every statement of every function, outer ones first."""
    return [(node.lineno, node.end_lineno or node.lineno) for node, _ in _statements(ast.parse(source))]


def instrumented(source: str, hits: str) -> ast.Module:
    """The source, in which every statement of a function first sets its byte of the global ``hits``."""
    tree = ast.parse(source)
    for number, (node, siblings) in enumerate(_statements(tree)):
        mark = ast.parse(f"{hits}[{number}] = 1").body[0]
        for part in ast.walk(mark):
            ast.copy_location(part, node)
        siblings.insert(siblings.index(node), mark)
    return ast.fix_missing_locations(tree)


def innermost(spans: list[Span], line: int) -> int | None:
    """The number of the smallest statement around a line; None outside of functions."""
    around = [(last - first, -i) for i, (first, last) in enumerate(spans) if first <= line <= last]
    return -min(around)[1] if around else None


def _statements(node: ast.AST, inside: bool = False) -> list[tuple[ast.stmt, list[ast.stmt]]]:
    """The statements within functions, each with the block that it stands in."""
    out: list[tuple[ast.stmt, list[ast.stmt]]] = []
    for name, value in ast.iter_fields(node):
        within = inside or (isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and name == "body")
        for child in value if isinstance(value, list) else [value]:
            if within and isinstance(child, ast.stmt):
                out.append((child, value))
            if isinstance(child, ast.AST):
                out += _statements(child, within)
    return out


def compiled(file: Path, source: str | ast.Module) -> CodeType:
    """The code of a file."""
    return compile(source, str(file), "exec", dont_inherit=True)


def functions(code: CodeType) -> list[CodeType]:
    """The code of every function that exists once a module is imported, in order."""
    out = []
    for part in code.co_consts:
        if isinstance(part, CodeType):
            out += [part] if _is_function(part) else functions(part)
    return out


def swappable(old: CodeType, new: CodeType) -> bool:
    """Whether two codes of a module differ within functions only, and in no closure of theirs."""
    if _imported(old) != _imported(new):
        return False
    return all(a.co_freevars == b.co_freevars for a, b in zip(functions(old), functions(new), strict=True))


def _is_function(code: CodeType) -> bool:
    return bool(code.co_flags & 1)  # CO_OPTIMIZED; the body of a class has it not


def _imported(code: CodeType) -> tuple[Any, ...]:
    """What a module does at import, without the bodies of its functions."""
    parts = [
        (code.co_name if _is_function(part) else _imported(part)) if isinstance(part, CodeType) else repr(part)
        for part in code.co_consts
    ]
    return code.co_code, code.co_names, tuple(parts)


def living(files: set[str]) -> dict[str, list[FunctionType]]:
    """The functions of some files, as far as those are imported."""
    out: dict[str, list[FunctionType]] = {f: [] for f in files}
    for thing in gc.get_objects():
        if type(thing) is FunctionType and thing.__code__.co_filename in out:
            out[thing.__code__.co_filename].append(thing)
    return out


def swap(old: CodeType, new: CodeType, alive: list[FunctionType]) -> None:
    """Give the living functions of a file the code that its changed source has for them."""
    changed = {(a.co_qualname, a.co_firstlineno): b for a, b in zip(functions(old), functions(new), strict=True)}
    for function in alive:
        code = changed.get((function.__code__.co_qualname, function.__code__.co_firstlineno))
        if code is not None:
            function.__code__ = code
