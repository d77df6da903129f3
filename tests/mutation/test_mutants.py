"""The mutation tool itself: what it changes, what it leaves alone."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mutants import mutants

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
