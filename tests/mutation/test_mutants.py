"""The mutation tool itself: what it changes, what it leaves alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mutants import mutants
from swap import compiled, innermost, instrumented, statements, swap, swappable

SOURCE = '''
def f(x, y: int = 3) -> int:
    """Return 1 + 1."""
    if x < y and not x:
        raise ValueError(f"{x + 1} is too small")
    x += 2
    return x * y
'''


def test_each_mutant_is_one_change_that_parses():
    made = mutants(SOURCE)
    kinds = {m.kind for m in made}
    assert kinds == {"comparison", "boolean", "unary", "condition", "number", "statement", "arithmetic"}
    texts = [m.apply(SOURCE) for m in made]
    assert len(set(texts)) == len(texts)
    for text in texts:
        compile(text, "mutant", "exec")
        assert '"""Return 1 + 1."""' in text and 'f"{x + 1} is too small"' in text
    assert any("x <= y" in t for t in texts) and any("x / y" in t for t in texts) and any("pass" in t for t in texts)


def test_a_living_function_takes_the_code_of_its_mutant():
    file, changed = Path("made.py"), SOURCE.replace("x * y", "x - y")
    module: dict[str, object] = {}
    exec(compiled(file, SOURCE), module)
    f = module["f"]
    assert f(5) == 21 and swappable(compiled(file, SOURCE), compiled(file, changed))
    swap(compiled(file, SOURCE), compiled(file, changed), [f])
    assert f(5) == 4
    default = SOURCE.replace("y: int = 3", "y: int = 4")
    assert not swappable(compiled(file, SOURCE), compiled(file, default))  # a default belongs to the import


def test_the_statements_that_run_are_marked():
    spans = statements(SOURCE)
    hits = bytearray(len(spans))
    module: dict[str, object] = {"hits": hits}
    exec(compiled(Path("made.py"), instrumented(SOURCE, "hits")), module)
    assert not any(hits)
    module["f"](5)
    lines = {n for (n, _), hit in zip(spans, hits, strict=True) if hit}
    assert lines == {3, 4, 6, 7} and innermost(spans, 5) == 2 and innermost(spans, 2) is None
