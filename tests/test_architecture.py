"""The shape of the package: who imports whom, what stays free of torch, how long a file may get, what it may name."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(zoo.__file__).parent

# One way only: a room, one a row, imports from the rows above its own. No two rooms import one another, and inside a
# room no file imports, however far round, a file that imports it.
ORDER = [
    "_compat",  # private touches of other packages
    "registry",  # names to things
    "solvers",  # the two loops and the methods that they drive
    "adjoints",  # how gradients cross a solve
    "solve",  # zoo.fixed_point, zoo.odeint
    "penalties",
    "implicit",  # the mixin of every implicit model
    "layers",  # what the families are built of
    "deq",  # the families: they never import one another
    "node",
    "hypernet",
    "baselines",
    "storage",  # formats on disk
    "data",
    "hub",  # models by name
    "timm",  # a door: the models in timm's registry
    "tasks",  # LightningModules
    "callbacks",
    "reporting",  # pages, figures, counters
    "training",  # from a request to the results of a run
    "compare",
    "fit",  # the doors: parse, call, print
    "evaluate",
    "predict",
    "serve",
    "sweep",
    "export",
    "convert",
    "sample",
    "__main__",  # all doors under one name
]
RANK = {name: i for i, name in enumerate(ORDER)}
FAMILIES = {"deq", "node", "hypernet", "baselines"}
LOOSE = 12  # modules at the top of the package, beside the contents page, at most

# Imports inside functions, where each module may have them, and of what. START: so that names, help and wrong options
# are answered before torch is loaded. OPTIONAL: an extra, or a large package that few callers need.
START = {
    "zoo": {"zoo.adjoints", "zoo.solvers"},
    "zoo.fit": {"zoo.training"},
    "zoo.evaluate": {"zoo.training", "rich"},
    "zoo.predict": {"rich", "zoo.hub"},
    "zoo.serve.command": {"zoo.hub", "zoo.serve"},
    "zoo.sweep.command": {"zoo.sweep"},
    "zoo.export": {"zoo.hub", "zoo.training"},
    "zoo.convert": {"zoo.hub"},
    "zoo.sample": {"zoo.hub"},
    "zoo.compare.command": {"zoo.compare"},
    "zoo.compare.comparison": {"zoo.compare"},
    "zoo.storage.model_folder": {"safetensors", "torch"},
    "zoo.tasks.optim": {"timm"},
    "zoo._compat.jsonargparse": {"jsonargparse"},
    "zoo._compat.torch": {"torch"},
}
OPTIONAL = {
    "zoo._compat.torchdiffeq": {"torchdiffeq"},
    "zoo.callbacks.console_progress": {"tqdm"},
    "zoo.compare.theory.figures": {"matplotlib"},
    "zoo.data.corpora": {"pydoc_data"},
    "zoo.data.episodes": {"sklearn"},
    "zoo.data.files": {"torchvision"},
    "zoo.data.omniglot": {"torchvision"},
    "zoo.data.own.columns": {"pyarrow"},
    "zoo.data.own.augment": {"timm", "torchvision"},
    "zoo.data.puzzles.base": {"tqdm"},
    "zoo.data.segmentation": {"torchvision"},
    "zoo.data.signals": {"sklearn"},
    "zoo.data.sklearn_tables": {"sklearn"},
    "zoo.data.svhn": {"torchvision"},
    "zoo.data.vision": {"sklearn", "torchvision"},
    "zoo.hub.answers": {"PIL"},
    "zoo.hub.program": {"onnxruntime", "onnxscript"},
    "zoo.node.flow_matching": {"scipy"},
    "zoo.reporting.html": {"rich"},
    "zoo.reporting.plots": {"matplotlib"},
    "zoo.serve.command": {"uvicorn"},
    "zoo.solvers.ode.torchdiffeq": {"torchdiffeq"},
    "zoo.storage.guards": {"PIL"},
    "zoo.storage.huggingface": {"huggingface_hub"},
    "zoo.storage.tokenizer": {"tokenizers"},
    "zoo.sweep.report": {"matplotlib", "optuna"},
    "zoo.sweep.study": {"optuna"},
    "zoo.training.export": {"huggingface_hub"},
    "zoo.training.figure": {"matplotlib"},
}
TORCH_FREE = [
    "zoo",
    "zoo.registry",
    "zoo.solvers",
    "zoo.adjoints",
    "zoo.hypernet",
    "zoo.data",
    "zoo.data.registry",
    "zoo.training.own_code",
    "zoo.hub.cards",
    "zoo.fit",
    "zoo.evaluate",
    "zoo.predict",
    "zoo.serve.command",
    "zoo.sweep.command",
    "zoo.export",
    "zoo.convert",
    "zoo.sample",
    "zoo.__main__",
    "zoo.training.command",
    "zoo.storage.model_folder",
    "zoo.tasks.metrics",
    "zoo.tasks.optim",
    "zoo.training.request",
    "zoo.training.sections",
    "zoo.training.words",
    "zoo.training.run_folder",
    "zoo.training.process",
    "zoo.compare.command",
    "zoo.compare.comparison",
]


@cache
def modules() -> dict[str, Path]:
    """Every module by its dotted name, without those below the contents page itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found["zoo"]
    return found


@cache
def imports(module: str) -> list[tuple[str, bool]]:
    """The imports of a module and whether each stands inside a function; not those for a type checker alone."""
    path = modules()[module] if module != "zoo" else PACKAGE / "__init__.py"
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            found.extend((f"{base}.{alias.name}", inside) for alias in node.names)
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(path.read_text(encoding="utf-8")), False)
    return found


def graph() -> dict[str, set[str]]:
    """The package's modules and those of it that each imports, inside functions too."""
    known = modules()
    edges: dict[str, set[str]] = {}
    for module in known:
        targets = {name if name in known else name.rpartition(".")[0] for name, _ in imports(module)}
        edges[module] = {t for t in targets if t in known and t != module}
    return edges


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The modules of one import circle; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, way: list[str]) -> list[str]:
        if module in way:
            return [*way[way.index(module) :], module]
        if module in done:
            return []
        for target in sorted(edges.get(module, ())):
            if found := visit(target, [*way, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(edges) if (found := visit(module, []))), [])


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module):
    mine = module.split(".")[1]
    assert mine in RANK, f"zoo.{mine} has no place yet: add it to ORDER here, where the one-way order puts it."
    for name, _ in imports(module):
        parts = name.split(".")
        if parts[0] == "zoo" and len(parts) > 1 and parts[1] in RANK and parts[1] != mine:
            above = RANK[parts[1]] < RANK[mine] and not {parts[1], mine} <= FAMILIES
            assert above, f"{module} imports {name}, but zoo.{mine} stands before or beside zoo.{parts[1]}."
        left_of_tasks = RANK[mine] < RANK["data"]
        assert not (left_of_tasks and parts[0] in {"lightning", "pytorch_lightning"}), (
            f"{module} imports {name}: left of zoo.data every model works without Lightning."
        )


def test_no_circle_of_imports():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c", "a"]
    assert not circle(graph()), " -> ".join(circle(graph()))


@pytest.mark.parametrize("module", ["zoo", *modules()])
def test_imports_inside_functions_are_named(module):
    allowed = START.get(module, set()) | OPTIONAL.get(module, set())
    found = {".".join(n.split(".")[: 2 if n.startswith("zoo.") else 1]) for n, inside in imports(module) if inside}
    found -= sys.stdlib_module_names - {"pydoc_data"}
    assert found <= allowed, f"{module} imports {sorted(found - allowed)} inside a function: put them at its head."
    assert found >= allowed, f"{module} no longer imports {sorted(allowed - found)} inside a function: take them out."


def test_the_top_of_the_package_holds_faces_and_doors_alone():
    loose = sorted(p.stem for p in PACKAGE.glob("*.py") if p.stem != "__init__")
    assert len(loose) <= LOOSE, f"{len(loose)} loose modules at the top: {', '.join(loose)}"


@pytest.mark.parametrize("name", [n for n in TORCH_FREE if find_spec(n) is not None])
def test_names_and_help_need_no_torch(name):
    code = (
        f"import sys, {name}, zoo; zoo.list_solvers(); zoo.list_adjoints()\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'sklearn', 'timm'} & set(sys.modules)\n"
        "sys.exit(f'imports {sorted(heavy)}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_the_contents_page_keeps_its_promises():
    assert set(zoo.__all__) <= set(dir(zoo))
    for name in zoo.__all__:
        home = zoo._HOME.get(name)
        if home is None or find_spec(home) is not None:
            assert getattr(zoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'fixed_pont'"):
        zoo.fixed_pont  # noqa: B018
    assert "anderson" in zoo.list_solvers("and*", kind="fixed_point")
    assert "unroll" in zoo.list_adjoints(kind="ode")
    assert "jfb" not in zoo.list_adjoints(kind="ode")


@pytest.mark.parametrize("module", modules())
def test_no_file_is_longer_than_a_reader_likes(module):
    lines = len(modules()[module].read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{modules()[module]} has {lines} lines; split it by what it does."


def project_files() -> list[Path]:
    """What git tracks; in a copy without git, all files that are no build product."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
        return [p for name in listed.stdout.split("\0") if name and (p := ROOT / name).is_file()]
    built = re.compile(r"(^|/)(__pycache__|build|dist|runs|data|lightning_logs|\.[a-z_]+_cache|.*\.egg-info|\.venv.*)/")
    top = (p for p in ROOT.rglob("*") if p.is_file())
    return [p for p in top if not built.search(p.relative_to(ROOT).as_posix()) or p.is_relative_to(ROOT / "zoo/data")]


def test_no_file_names_a_folder_of_one_machine():
    private = re.compile(r"(?<![\w.])/(?:work|root|home)/\w")
    for path in project_files():
        if path == Path(__file__).resolve() or path.suffix in {".safetensors", ".png", ".npz", ".gz"}:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            assert not private.search(line), f"{path.relative_to(ROOT)}:{number} names a folder of one machine: {line}"
