"""The shape of the package: who imports whom, what stays free of torch, how long a file may get, what it may name."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(zoo.__file__).parent

# One way only: a module imports from rows above its own. Within a row, the names of one string may import one another.
ORDER = [
    ["registry", "places", "process"],
    ["solvers"],
    ["adjoints"],
    ["solve"],
    ["implicit penalties"],
    ["layers"],
    ["deq", "node", "hypernet", "baselines"],
    ["storage", "hub"],
    ["data", "timm"],
    ["tasks"],
    [],
    ["figure", "run"],
    ["callbacks"],
    ["options cli compile convert record terminal fit evaluate export sample compare theory"],
]
RANK = {name: i for i, row in enumerate(ORDER) for group in row for name in group.split()}
GROUP = {name: group for row in ORDER for group in row for name in group.split()}
TORCH_FREE = [
    "zoo",
    "zoo.registry",
    "zoo.solvers",
    "zoo.adjoints",
    "zoo.hypernet",
    "zoo.data",
    "zoo.hub.cards",
    "zoo.fit",
    "zoo.storage.model_folder",
    "zoo.convert",
    "zoo.tasks.metrics",
    "zoo.training.run_folder",
    "zoo.training.process",
    "zoo.compare.command",
    "zoo.sample",
]


def modules() -> dict[str, Path]:
    """Every module by its dotted name, without those below the contents page itself."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    del found["zoo"]
    return found


def imports(path: Path, module: str) -> Iterator[str]:
    """What a module imports when it runs, inside functions too; not what only a type checker reads."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def walk(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*up, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("module", modules())
def test_imports_go_one_way(module):
    mine = module.split(".")[1]
    assert mine in RANK, f"zoo.{mine} has no place yet: add it to ORDER here, where the one-way order puts it."
    for name in imports(modules()[module], module):
        parts = name.split(".")
        if parts[0] == "zoo" and len(parts) > 1 and parts[1] in RANK and parts[1] != mine:
            allowed = RANK[parts[1]] < RANK[mine] or GROUP[parts[1]] == GROUP[mine]
            assert allowed, f"{module} imports {name}, but zoo.{mine} stands before or beside zoo.{parts[1]}."
        left_of_data = RANK[mine] < RANK["data"]
        assert not (left_of_data and parts[0] in {"lightning", "pytorch_lightning"}), (
            f"{module} imports {name}: left of zoo.data every model works without Lightning."
        )


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
