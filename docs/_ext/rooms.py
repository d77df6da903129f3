"""Draw the rooms of the package and who imports whom, from the imports themselves; written before each build.

A room stands to the right of all that it imports. An arrow that is implied by two others is left out.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zoo

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PACKAGE = Path(zoo.__file__).parent
FAMILIES = "#1f4e9c"


def rooms() -> dict[str, set[str]]:
    """Each room with those that its files import, not for a type checker alone."""
    names = {p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__"}
    names |= {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room != "__init__":
            found.setdefault(room, set()).update(_imports(path) & names - {room})
    return {room: found[room] for room in sorted(found)}


def _imports(path: Path) -> set[str]:
    out = set()

    def walk(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = [node.module] if node.module != "zoo" else [f"zoo.{a.name}" for a in node.names]
            out.update(m.split(".")[1] for m in whole if m.startswith("zoo."))
        if isinstance(node, ast.Import):
            out.update(a.name.split(".")[1] for a in node.names if a.name.startswith("zoo."))
        for child in ast.iter_child_nodes(node):
            walk(child)

    walk(ast.parse(path.read_text(encoding="utf-8")))
    return out


def columns(edges: dict[str, set[str]]) -> dict[str, int]:
    """How many imports in a row lead from a room to one that imports none."""
    depth: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in depth:
            depth[room] = 0  # a circle, which the tests refuse, would end here
            depth[room] = 1 + max((of(r) for r in edges[room]), default=-1)
        return depth[room]

    for room in edges:
        of(room)
    return depth


def needed(edges: dict[str, set[str]]) -> list[tuple[str, str]]:
    """The imports that no chain of others implies, as pairs (imported, importing)."""
    reach: dict[str, set[str]] = {}
    for room in sorted(edges, key=columns(edges).__getitem__):
        reach[room] = set().union(*({r} | reach[r] for r in edges[room]))
    return [(b, a) for a in edges for b in sorted(edges[a]) if not any(b in reach[c] for c in edges[a])]


def draw(edges: dict[str, set[str]], file: Path) -> None:
    """Write the picture."""
    from matplotlib.figure import Figure

    depth = columns(edges)
    stacks: dict[int, list[str]] = {}
    for room in edges:
        stacks.setdefault(depth[room], []).append(room)
    place = {}
    for x, names in stacks.items():
        for i, room in enumerate(names):
            place[room] = (x * 1.45, (len(names) - 1) / 2 - i + (0.25 if x % 2 else -0.25))
    figure = Figure(figsize=(15, 5.2), dpi=100, layout="constrained")
    axis: Any = figure.subplots()
    for start, end in needed(edges):
        axis.annotate(
            "", place[end], place[start],
            arrowprops={"arrowstyle": "->", "color": "0.6", "lw": 0.9, "shrinkA": 24, "shrinkB": 24,
                        "connectionstyle": "arc3,rad=0.06"},
        )  # fmt: skip
    for room, (x, y) in place.items():
        family = room in ("deq", "node", "hypernet", "baselines")
        box = {"boxstyle": "round,pad=0.35", "fc": "white", "ec": FAMILIES if family else "0.3", "lw": 1.4}
        axis.text(x, y, room.strip("_"), ha="center", va="center", fontsize=11, bbox=box)
    axis.set(xlim=(-0.8, 1.45 * max(stacks) + 0.8), ylim=(min(y for _, y in place.values()) - 0.6,
                                                          max(y for _, y in place.values()) + 0.6))  # fmt: skip
    axis.set_axis_off()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, facecolor="white")


def _write(app: Sphinx) -> None:
    draw(rooms(), Path(app.srcdir) / "generated" / "rooms.png")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
