"""The checks of a change, each in an environment of its own: ``python -m nox`` runs lint and links, ``-l`` lists all.

What a session installs comes from pyproject.toml, so that neither says it twice.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tomllib
import zipfile
from pathlib import Path

import nox

nox.needs_version = ">=2025.2"
nox.options.sessions = ["lint", "links"]
nox.options.reuse_venv = "yes"

ROOT = Path(__file__).resolve().parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OFFLINE = {"HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}
# what the sdist has to hold, as git names it; figures and pages of results are left out
SDIST = ["zoo", "tests", "docs", "benchmarks", ".ci", ".github", ":(glob)*.*", "experiments/*.py"]
SDIST += ["experiments/*.yaml", "experiments/*.json", "experiments/*.md"]
SITE = ("docs/", "zoo/weights/")  # Markdown whose links are checked where its pages are built, or as weights load
# what `package` runs: imports, data of the package, a solve, weights that ship
SMOKE = """
import sys, zoo, torch
from importlib.metadata import distribution
from importlib.resources import files
assert not zoo.__file__.startswith(sys.argv[1]), f"{zoo.__file__} is the checkout's, not the wheel's"
assert distribution("implicit-zoo").version == zoo.__version__
assert (files("zoo") / "py.typed").is_file()
model = zoo.load("mdeq_tiny.digits")
assert model(torch.rand(2, 1, 8, 8)).shape == (2, 10)
assert zoo.fixed_point(torch.cos, torch.zeros(2, 3)).stats.converged.all()
print(f"zoo {zoo.__version__}: {len(zoo.list_models())} models")
"""


def tools(*names: str) -> list[str]:
    """Return the requirements of the extra ``dev`` for the named tools, bounds included."""
    found = {re.match(r"[\w-]+", line)[0]: line for line in PROJECT["optional-dependencies"]["dev"]}
    return [found[name] for name in names]


def tracked(*patterns: str) -> list[str]:
    """Return the files that git knows, as names relative to the root."""
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in listed.stdout.split("\0") if name]


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, spelling, and the fields of pyproject.toml."""
    session.install(*tools("ruff", "codespell", "validate-pyproject"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.log("codespell, on the files that git knows")
    session.run("codespell", *tracked(), log=False)
    session.run("validate-pyproject", "pyproject.toml")


@nox.session
def types(session: nox.Session) -> None:
    """Types, by mypy beside the packages whose annotations it reads."""
    session.install(".", *tools("mypy", "types-PyYAML"))
    session.run("mypy", *session.posargs)


@nox.session
def test(session: nox.Session) -> None:
    """Run the tests: ``-s test -- -m 'not slow' -n 2`` passes its options to pytest."""
    session.install("-e", ".[test,text,table]")
    session.run("pytest", *session.posargs, env=OFFLINE)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into build/site, tutorials executed; a warning, such as a link that leads nowhere, is an error."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", *session.posargs, "docs", "build/site")


@nox.session(venv_backend="none")
def links(session: nox.Session) -> None:
    """Every local link of a Markdown file outside docs/ names a file that git knows, and every anchor a heading."""
    known = set(tracked())
    folders = {str(parent) for name in known for parent in Path(name).parents}
    broken = []
    for page in (name for name in known if name.endswith(".md") and not name.startswith(SITE)):
        text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", text):
            path, _, anchor = target.partition("#")
            name = os.path.normpath(Path(page).parent / path) if path else page
            if name not in known | folders:
                broken.append(f"{page}: {target}: no file {name}")
            elif anchor and anchor not in anchors(name):
                broken.append(f"{page}: {target}: no heading #{anchor} in {name}")
    if broken:
        session.error("Links that lead nowhere:\n" + "\n".join(broken))


def anchors(page: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@nox.session
def bench(session: nox.Session) -> None:
    """Run benchmarks: ``-s bench -- odenet ode`` the named ones, without names all. They write experiments/results."""
    every = sorted(p.stem for p in (ROOT / "benchmarks").glob("*.py") if "\ndef main(" in p.read_text(encoding="utf-8"))
    names = session.posargs or every
    if unknown := set(names) - set(every):
        session.error(f"No benchmark named {sorted(unknown)}. There are {every}.")
    session.install("-e", ".")
    for name in names:
        session.run("python", "-m", f"benchmarks.{name}", env={"OMP_NUM_THREADS": "1"})


@nox.session
def package(session: nox.Session) -> None:
    """Build sdist and wheel, check what they hold, and use the wheel as somebody who installed it."""
    session.install(*tools("build", "twine"))
    out = Path(session.create_tmp()).resolve() / "dist"
    session.run("python", "-c", "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)", str(out))
    session.run("python", "-m", "build", "--outdir", str(out))
    session.run("twine", "check", "--strict", *map(str, sorted(out.iterdir())))
    [sdist], [wheel] = out.glob("*.tar.gz"), out.glob("*.whl")

    with tarfile.open(sdist) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    if missing := sorted(set(tracked(*SDIST)) - held):
        session.error(f"The sdist lacks {missing}. MANIFEST.in says what it holds.")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    if difference := sorted(held ^ set(tracked("zoo"))):
        session.error(f"The wheel and git differ by {difference}.")

    fresh = out.with_name("fresh")  # apart from build and twine, whose packages could hide a missing dependency
    session.run("python", "-m", "venv", "--clear", str(fresh))
    python = str(next(p for p in (fresh / "bin" / "python", fresh / "Scripts" / "python.exe") if p.exists()))
    session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    session.cd(out.parent)
    session.run(python, "-c", SMOKE, str(ROOT / "zoo"), env=OFFLINE, external=True)
