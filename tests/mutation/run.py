"""How many small faults in the numerics do the fast tests find?

    python tests/mutation/run.py --sample 300 --out mutation.json        about an hour of one core
    python tests/mutation/run.py --only zoo/solvers/anderson.py          the mutants of one file, all of them

The fast tests run once under coverage, each with its seconds. Then every sampled mutant runs in a process that is
forked off one with torch loaded: the tests that cover its line, the quickest first, until one fails. A mutant that no
test fails on survives: a test is missing, or the change changes nothing (``equivalent.json`` has the reason of each).
Needs the package ``coverage`` and Linux.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from mutants import Mutant, mutants

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("zoo/solvers", "zoo/adjoints", "zoo/solve.py", "zoo/implicit.py")
TESTS = (
    "tests/solvers", "tests/deq/test_layer.py", "tests/test_adjoints.py", "tests/test_implicit.py",
    "tests/test_lost_samples.py", "tests/test_ode_adjoints.py", "tests/test_ode_promises.py",
    "tests/test_peer_defects.py", "tests/test_recompute.py", "tests/test_registry.py", "tests/node/test_cnf.py",
)  # fmt: skip
LIMIT = 60.0  # seconds of tests a mutant at most; an endless loop counts as found
EQUIVALENT: dict[str, str] = json.loads((Path(__file__).parent / "equivalent.json").read_text())


def key(file: str, source: str, m: Mutant) -> str:
    """A name of a mutant that stays when lines above it change."""
    line = source.splitlines()[m.line - 1].strip()
    return f"{file}: {line} [{source[m.start : m.end].strip()} -> {m.new.strip()}]"


def measured(folder: Path) -> dict[str, dict[int, list[tuple[float, str]]]]:
    """File -> line -> the tests that run it, quickest first, from one run under coverage."""
    import coverage

    data, report = folder / "coverage", folder / "durations.json"
    config = folder / "coveragerc"
    config.write_text(f"[run]\nsource = {ROOT / 'zoo'}\ndata_file = {data}\n")
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={config}", "-m", "pytest", "-q", "-m", "not slow"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "ZOO_DURATIONS": str(report)}
    done = subprocess.run([*command, "-p", "contexts", *TESTS], cwd=ROOT, env=environment)
    if done.returncode:
        raise SystemExit("the tests fail without any mutant: mend them first")
    seconds = json.loads(report.read_text())
    read = coverage.CoverageData(str(data))
    read.read()
    out: dict[str, dict[int, list[tuple[float, str]]]] = {}
    for file in read.measured_files():
        lines: dict[int, set[str]] = {}
        for number, contexts in read.contexts_by_lineno(file).items():
            lines[number] = {c for c in contexts if c in seconds}
        name = str(Path(file).relative_to(ROOT))
        out[name] = {n: sorted((seconds[c], c) for c in tests) for n, tests in lines.items()}
    return out


def chosen(only: str | None, sample: int, seed: int) -> list[tuple[str, Mutant]]:
    """The mutants to try: all of one file, or a sample over all targets."""
    files = [p for t in TARGETS for p in ([ROOT / t] if t.endswith(".py") else sorted((ROOT / t).rglob("*.py")))]
    names = [str(p.relative_to(ROOT)) for p in files]
    every = [(n, m) for n in names if only in (None, n) for m in mutants((ROOT / n).read_text())]
    return every if only else random.Random(seed).sample(every, min(sample, len(every)))


def found(file: str, mutant: Mutant, tests: list[str]) -> bool:
    """Whether one of the tests fails on a mutant; runs in a fork of this process, which has torch loaded."""
    child = os.fork()
    if child == 0:
        code = 0
        try:
            os.setpgid(0, 0)
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            os.chdir(ROOT)
            sys.path.insert(0, str(ROOT))
            from loader import install

            install(ROOT / file, mutant.apply((ROOT / file).read_text()))
            import pytest

            code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]))
        except BaseException:
            code = 1
        os._exit(1 if code else 0)
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status) != 0
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="FILE")
    parser.add_argument("--coverage", metavar="JSON", help="keep the coverage there, or read it if it is there")
    parser.add_argument("--out", metavar="JSON")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests a mutant may ask for")
    given = parser.parse_args()

    kept = Path(given.coverage) if given.coverage else None
    if kept and kept.is_file():
        lines = {f: {int(n): v for n, v in rows.items()} for f, rows in json.loads(kept.read_text()).items()}
    else:
        with tempfile.TemporaryDirectory() as folder:
            lines = measured(Path(folder))
        if kept:
            kept.write_text(json.dumps(lines))
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    whole = {f: sorted({tuple(t) for v in rows.values() for t in v}) for f, rows in lines.items()}
    rows = []
    for i, (file, mutant) in enumerate(chosen(given.only, given.sample, given.seed), 1):
        name = key(file, (ROOT / file).read_text(), mutant)
        if name in EQUIVALENT:
            rows.append({"mutant": name, "result": "equivalent", "why": EQUIVALENT[name]})
            continue
        tests, spent = [], 0.0
        covering = lines.get(file, {}).get(mutant.line) or whole.get(file, [])  # what runs at import is every test's
        for seconds, test in covering:
            if spent + seconds > given.budget and tests:
                break
            tests.append(test)
            spent += seconds
        killed = bool(tests) and found(file, mutant, tests)
        rows.append({"mutant": name, "line": mutant.line, "kind": mutant.kind,
                     "result": "killed" if killed else "survived" if tests else "not covered"})  # fmt: skip
        alive = [r for r in rows if r["result"] in ("survived", "not covered")]
        counted = [r for r in rows if r["result"] != "equivalent"]
        print(f"{i}: {rows[-1]['result']}  {name}  [{1 - len(alive) / max(1, len(counted)):.1%}]", flush=True)
        if given.out:
            score = 1 - len(alive) / max(1, len(counted))
            result = {"seed": given.seed, "mutants": len(rows), "killed": score, "rows": rows}
            Path(given.out).write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
