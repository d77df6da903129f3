"""The pages of the reference, one a room, from the modules of the package; written before each build."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

from files import write

import zoo

if TYPE_CHECKING:
    from sphinx.application import Sphinx

PACKAGE = Path(zoo.__file__).parent
ROOMS = {  # page -> title, what it holds, and the modules: a package's own, or named
    "numerics": ("Numerics", "The solve, the mixin, the penalties.", ["solve", "implicit", "penalties", "registry"]),
    "solvers": ("Solvers of fixed points", "One method a file, and the loop that drives them.", ["solvers.*"]),
    "ode": ("Solvers of ODEs", "One method a file, and the clock that drives them.", ["solvers.ode.*"]),
    "adjoints": ("Adjoints", "How gradients cross a solve.", ["adjoints.*"]),
    "layers": ("Layers", "What the families are built of.", ["layers.*"]),
    "deq": ("Equilibrium models", "`z = f(z, x)`.", ["deq.*"]),
    "optimization": ("Constrained layers", "Layers whose output obeys constraints.", ["deq.optimization.*"]),
    "node": ("Neural ODEs", "`dy/dt = f(t, y)`.", ["node.*"]),
    "hypernet": ("Hypernetworks", "Networks that write weights.", ["hypernet.*", "hypernet.generators.*"]),
    "baselines": ("Explicit twins", "What the implicit models are measured beside.", ["baselines.*"]),
    "data": ("Data", "Data modules.", ["data.*"]),
    "tasks": ("Tasks", "What a model is trained for.", ["tasks.*"]),
    "callbacks": ("Callbacks", "What watches a training.", ["callbacks.*"]),
    "hub": ("Models by name", "Cards, building, loading, predicting.", ["hub.*", "timm"]),
    "storage": ("Files", "Formats on disk.", ["storage.*"]),
    "training": ("Training", "From a request to the results of a run.", ["training.*"]),
    "reporting": ("Reporting", "Pages, figures, counters.", ["reporting.*"]),
    "compare": ("Comparison", "Models side by side, and the theory.", ["compare.*", "compare.theory.*"]),
    "commands": ("Commands", "The doors.", ["fit", "evaluate", "predict", "export", "convert", "sample", "__main__"]),
}


def modules(pattern: str) -> list[str]:
    """The modules of a room by their dotted names below zoo, the contents page first."""
    folder, star, _ = pattern.partition(".*")
    if not star:
        return [folder] if (PACKAGE / f"{folder}.py").exists() else []
    inside = PACKAGE / folder.replace(".", "/")
    if not inside.is_dir():
        return []
    names = sorted(p.stem for p in inside.glob("*.py") if p.stem == "__init__" or not p.stem.startswith("_"))
    return [folder if n == "__init__" else f"{folder}.{n}" for n in names]


def defines(module: str) -> bool:
    """Whether a module defines a public name, or a contents page has a text."""
    path = PACKAGE / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.ClassDef)
    return any(isinstance(n, kinds) and not n.name.startswith("_") for n in tree.body)


def _page(title: str, what: str, names: list[str]) -> str:
    """The page of a room."""
    lines = [f"# {title}", "", what, ""]
    for module in filter(defines, names):
        elsewhere = [n for n, home in zoo._HOME.items() if home == f"zoo.{module}" != f"zoo.{n}"]
        lines += [f"## `zoo.{module}`", "", "```{eval-rst}", f".. automodule:: zoo.{module}"]
        if module in zoo._HOME and zoo._HOME[module] != f"zoo.{module}":
            lines.append("   :no-index:")  # a callable module of the name of a function, which the first page has
        if elsewhere:
            lines.append(f"   :exclude-members: {', '.join(elsewhere)}")
        lines += ["```", ""]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Every page of the reference by its file name."""
    out = {}
    listed = set()
    for name, (title, what, patterns) in ROOMS.items():
        found = [m for p in patterns for m in modules(p)]
        listed |= {m.partition(".")[0] for m in found}
        out[name] = _page(title, what, found)
    rooms = {p.stem for p in PACKAGE.glob("*.py")} | {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    for room in sorted(n for n in rooms - listed if not n.startswith("_")):  # one that ROOMS says nothing of yet
        patterns = [f"{room}.*"] if (PACKAGE / room).is_dir() else [room]
        out[room] = _page(room.capitalize(), "", [m for p in patterns for m in modules(p)])
    lines = ["# zoo", "", "The names that `import zoo` gives. Each is imported when it is first asked for.", ""]
    for name in zoo.__all__:
        if name not in ("__version__", "penalties"):
            kind = "autoclass" if name[0].isupper() else "autofunction"
            kind = "autoexception" if name.endswith("Error") else kind
            home = zoo._HOME.get(name, "zoo") if (PACKAGE / f"{name}.py").exists() else "zoo"  # a module hides the name
            lines += ["```{eval-rst}", f".. {kind}:: {home}.{name}", "```", ""]
    out["zoo"] = "\n".join(lines)
    tree = "\n".join(["zoo", *(n for n in out if n != "zoo")])
    out["index"] = (
        "# Reference\n\nEvery public name, from its docstring. The examples in them are run by the tests.\n\n"
        f"```{{toctree}}\n:maxdepth: 1\n\n{tree}\n```\n"
    )
    return out


def _write(app: Sphinx) -> None:
    write(Path(app.srcdir) / "generated" / "reference", pages())


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
