"""Lines of help that fit the terminal. Imports no torch."""

from __future__ import annotations

import shutil
import textwrap

NARROW = 80  # columns below which a text stands on lines of its own


def terminal_width() -> int:
    """Return the columns of the terminal; 120 where there is none."""
    return max(shutil.get_terminal_size((120, 40)).columns, 30)


def entry(left: str, text: str, column: int, width: int) -> list[str]:
    """Return a name and its meaning as lines of at most ``width`` columns, the meaning from ``column`` on.

    On a narrow terminal, or after a long name, the meaning stands below the name.

    >>> entry("  --seed N", "seed of everything random", 14, 80)
    ['  --seed N    seed of everything random']
    >>> entry("  --seed N", "seed of everything random", 14, 30)
    ['  --seed N', '      seed of everything', '      random']
    """
    if not text:
        return [left]
    indent = " " * (column if width >= NARROW else 6)
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
    if width >= NARROW and len(left) < column:
        return [left + lines[0][len(left) :], *lines[1:]]
    return [left, *lines]


def paragraph(text: str, width: int, indent: str = "") -> list[str]:
    """Return a text as lines of at most ``width`` columns."""
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
