"""How many small faults in the numerics do the fast tests find?

    python tests/mutation/run.py --sample 300 --jobs 2 --out mutation.json     a quarter of an hour of two cores
    python tests/mutation/run.py --only zoo/solvers/anderson.py                the mutants of one file, all of them
    python tests/mutation/run.py --rerun mutation.json                         those that no test has found

The fast tests run once, over code that notes which of its statements run. Then every sampled mutant meets the tests of
its statement, the quickest first, until one fails. A mutant within a function is tried in a fork of a process that has
collected all tests; one of what runs at import (defaults, tables, class bodies) in a process that imports the package
anew. A mutant that no test fails on survives: a test is missing, or the change changes nothing (``equivalent.json`` has
the reason of each). Needs Linux.
"""

from __future__ import annotations

import argparse
import builtins
import collections
import gc
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from loader import install
from mutants import Mutant, mutants
from swap import Span, compiled, innermost, instrumented, living, statements, swap, swappable

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("zoo/solvers", "zoo/adjoints", "zoo/solve.py", "zoo/implicit.py")
TESTS = (
    "tests/solvers", "tests/adjoints", "tests/deq/test_layer.py", "tests/test_adjoints.py", "tests/test_implicit.py",
    "tests/test_implicit_faults.py", "tests/test_lost_samples.py", "tests/test_ode_adjoints.py",
    "tests/test_ode_promises.py", "tests/test_peer_defects.py", "tests/test_recompute.py", "tests/test_registry.py",
    "tests/node/test_cnf.py",
)  # fmt: skip
OPTIONS = ("-q", "-q", "--no-header", "--no-summary", "-m", "not slow", "-p", "no:cacheprovider", "-p", "no:xdist")
LIMIT = 150.0  # seconds of the processor, or of waiting for nothing, of a mutant at most; it counts as found then
EQUIVALENT: dict[str, str] = json.loads((Path(__file__).parent / "equivalent.json").read_text())


@dataclass
class Case:
    """A mutant to try, and the tests that may find it."""

    name: str
    file: str
    mutant: Mutant
    tests: list[str] = field(default_factory=list)


@dataclass
class Measured:
    """What one run of the tests has shown."""

    seconds: dict[str, float]  # of the processor, of each test
    hits: dict[str, dict[int, list[str]]]  # file -> statement -> the tests that run it, quickest first
    imported: dict[str, list[int]]  # file -> statements that run while the package is imported
    modules: list[str]  # of other packages, which every process needs
    failed: list[str]  # tests that failed: of the instrumentation, unless they fail without it too


def sources() -> dict[str, str]:
    """Every file that mutants are made of."""
    files = [p for t in TARGETS for p in ([ROOT / t] if t.endswith(".py") else sorted((ROOT / t).rglob("*.py")))]
    return {str(p.relative_to(ROOT)): p.read_text() for p in files}


def cases(texts: dict[str, str]) -> list[Case]:
    """Every mutant, by a name that stays when other lines change: where a name comes again, it is numbered."""
    out, seen = [], collections.Counter[str]()
    for file, source in texts.items():
        lines = source.splitlines()
        for m in mutants(source):
            name = f"{file}: {lines[m.line - 1].strip()} [{source[m.start : m.end].strip()} -> {m.new.strip()}]"
            seen[name] += 1
            out.append(Case(name if seen[name] == 1 else f"{name} #{seen[name]}", file, m))
    return out


class Plugin:
    """Take the place of pytest's loop over the tests, once they are collected."""

    def __init__(self, loop: Callable[[dict[str, Any]], None], seconds: dict[str, float]) -> None:
        self.loop, self.seconds, self.failed = loop, seconds, False

    def pytest_runtestloop(self, session: Any) -> bool:
        session.config.pluginmanager.unregister(name="terminalreporter")
        self.loop({item.nodeid: item for item in session.items})
        return True

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or report.failed

    def run(self, items: list[Any], each: Callable[[Any, float], None] = lambda item, seconds: None) -> bool:
        """Run tests in order until one fails; a test that takes many times its seconds ends the process."""
        for item, later in zip(items, [*items[1:], None], strict=True):
            start = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, 10 + 10 * self.seconds.get(item.nodeid, 10.0))
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=later)
            signal.setitimer(signal.ITIMER_PROF, 0)
            each(item, time.process_time() - start)
            if self.failed:
                return False
        return True


def collect(tests: Iterable[str], plugin: Plugin) -> int:
    """Collect tests as pytest does, and hand them to the plugin."""
    import pytest

    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    return int(pytest.main([*OPTIONS, *tests], plugins=[plugin]))


def fork(work: Callable[[], int], quiet: bool = True) -> int:
    """The id of a process that does the work and ends."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            if quiet:
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, 1)
                os.dup2(null, 2)
            code = work()
        finally:
            os._exit(code)
    return child


def each_of(todo: Iterable[Case], jobs: int, work: Callable[[Case], int], report: Callable[[Case, bool], None]) -> None:
    """Try mutants, ``jobs`` at a time, each in a fork of this process; the work's code is 0 where no test fails."""
    running: dict[int, tuple[Case, float, float]] = {}  # by process: its mutant, what it has used, and since when
    waiting: Iterator[Case] = iter(todo)
    case = next(waiting, None)
    while case or running:
        while case and len(running) < jobs:
            running[fork(lambda case=case: work(case))] = case, 0.0, time.monotonic()  # type: ignore[misc]
            case = next(waiting, None)
        for pid, (tried, used, since) in list(running.items()):
            done, status = os.waitpid(pid, os.WNOHANG)
            if not done and (now := processor(pid)) > used:
                running[pid] = tried, now, time.monotonic()
            if not done and (now > LIMIT or time.monotonic() - since > LIMIT):
                os.killpg(pid, signal.SIGKILL)
                done, status = os.waitpid(pid, 0)
            if done:
                del running[pid]
                report(tried, os.waitstatus_to_exitcode(status) != 0)
        time.sleep(0.05)


def processor(pid: int) -> float:
    """The seconds of the processor that a process and its ended children have used: a busy machine changes none."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def measure(texts: dict[str, str], tests: list[str], jobs: int) -> Measured:
    """Run the tests once over instrumented code, shared out among ``jobs`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        child = fork(lambda: _measure(texts, tests, jobs, Path(folder)), quiet=False)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit("the tests cannot be collected, or fail without any mutant: mend them first")
        parts = [json.loads(p.read_text()) for p in Path(folder).glob("*.json")]
    seconds = {t: s for part in parts for t, s in part.get("seconds", {}).items()}
    hits: dict[str, dict[int, list[str]]] = {}
    for part in parts:
        for file, rows in part.get("hits", {}).items():
            for number, found in rows.items():
                hits.setdefault(file, {}).setdefault(int(number), []).extend(found)
    for rows in hits.values():
        for found in rows.values():
            found.sort(key=seconds.__getitem__)
    (first,) = (p for p in parts if "modules" in p)
    failed = [t for part in parts for t in part.get("failed", ())]
    return Measured(seconds, hits, first["imported"], first["modules"], failed)


def _measure(texts: dict[str, str], tests: list[str], jobs: int, folder: Path) -> int:
    flags = {file: bytearray(len(statements(text))) for file, text in texts.items()}
    codes = {}
    for i, (file, text) in enumerate(texts.items()):
        setattr(builtins, f"__mutation_hits_{i}__", flags[file])
        codes[str(ROOT / file)] = compiled(ROOT / file, instrumented(text, f"__mutation_hits_{i}__"))
    install(codes)

    def loop(items: dict[str, Any]) -> None:
        imported = {file: [n for n, hit in enumerate(f) if hit] for file, f in flags.items()}
        foreign = [m for m in sys.modules if m.split(".")[0] not in {"zoo", "tests", "conftest", "__main__"}]
        (folder / "import.json").write_text(json.dumps({"imported": imported, "modules": foreign}))
        gc.freeze()
        everything = list(items.values())
        children = [fork(lambda i=i: share(everything[i::jobs], i)) for i in range(jobs)]  # type: ignore[misc]
        plugin.failed = any([os.waitpid(c, 0)[1] for c in children])

    def share(items: list[Any], place: int) -> int:
        seconds: dict[str, float] = {}
        hits: dict[str, dict[int, list[str]]] = {}

        def note(item: Any, took: float) -> None:
            if plugin.failed:  # instrumented code is not what torch.compile takes
                plugin.failed = False
                skipped.append(item.nodeid)
            seconds[item.nodeid] = took
            for file, f in flags.items():
                rows = hits.setdefault(file, {})
                for n, hit in enumerate(f):
                    if hit:
                        rows.setdefault(n, []).append(item.nodeid)
                f[:] = bytes(len(f))

        skipped: list[str] = []
        for f in flags.values():
            f[:] = bytes(len(f))
        plugin.run(items, note)
        part = {"seconds": seconds, "hits": hits, "failed": skipped}
        (folder / f"{place}.json").write_text(json.dumps(part))
        return 0

    plugin = Plugin(loop, {})
    code = collect(tests, plugin)
    return int(plugin.failed or code not in (0, 5))


def choose(case: Case, texts: dict[str, str], spans: list[Span], m: Measured, budget: float) -> bool:
    """Give a mutant its tests; returns whether it can be tried in functions that are imported already."""
    file, source, path = case.file, texts[case.file], ROOT / case.file
    number = innermost(spans, case.mutant.line)
    hits = m.hits.get(file, {})
    swapped = number is not None and number not in m.imported.get(file, [])
    swapped = swapped and swappable(compiled(path, source), compiled(path, case.mutant.apply(source)))
    if swapped or (number is not None and number in hits and number not in m.imported.get(file, [])):
        covering = hits.get(number, []) if number is not None else []
    else:  # what runs at import is every test's
        covering = sorted({t for tests in hits.values() for t in tests} or m.seconds, key=m.seconds.__getitem__)
    spent = 0.0
    for test in covering:
        spent += m.seconds[test]
        if spent > budget and case.tests:
            break
        case.tests.append(test)
    return swapped


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", metavar="FILE", help="all mutants of this file")
    parser.add_argument("--rerun", metavar="JSON", help="only those that survived there, or were not covered")
    parser.add_argument("--coverage", metavar="JSON", help="keep what the tests run there, or read it if it is there")
    parser.add_argument("--out", metavar="JSON")
    parser.add_argument("--tests", nargs="*", help="files of tests, in place of the usual ones")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests a mutant may ask for")
    given = parser.parse_args()
    import hypothesis  # noqa: F401
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    texts, began = sources(), time.monotonic()
    tests = [t for t in given.tests or TESTS if (ROOT / t).exists()]
    kept = Path(given.coverage) if given.coverage else None
    if kept and kept.is_file():
        read = json.loads(kept.read_text())
        read["hits"] = {f: {int(n): v for n, v in rows.items()} for f, rows in read["hits"].items()}
        measured = Measured(**read)
    else:
        measured = measure(texts, tests, given.jobs)
        if kept:
            kept.write_text(json.dumps(vars(measured)))
    print(f"{len(measured.seconds)} tests, measured in {time.monotonic() - began:.0f} s", flush=True)

    every = cases(texts)
    if given.rerun:
        wanted = {r["mutant"] for r in json.loads(Path(given.rerun).read_text())["rows"]
                  if r["result"] in ("survived", "not covered")}  # fmt: skip
        chosen = [c for c in every if c.name in wanted]
    elif given.only:
        chosen = [c for c in every if c.file == given.only]
    else:
        chosen = random.Random(given.seed).sample(every, min(given.sample, len(every)))
    rows: list[dict[str, Any]] = []
    terminal = os.dup(1)

    def report(case: Case, result: str) -> None:
        m = case.mutant
        rows.append({"mutant": case.name, "line": m.line, "kind": m.kind, "result": result})
        text = f"{len(rows)}/{len(chosen)}: {result}  {case.name}  [{score(rows):.1%}]\n"
        os.write(terminal, text.encode())
        if given.out:
            done = {"seed": given.seed, "mutants": len(rows), "killed": score(rows), "rows": rows}
            Path(given.out).write_text(json.dumps(done, indent=1) + "\n")

    spans = {file: statements(text) for file, text in texts.items()}
    quick, anew = [], []
    for case in chosen:
        if case.name in EQUIVALENT:
            report(case, "equivalent")
            continue
        swapped = choose(case, texts, spans[case.file], measured, given.budget)
        if case.tests:
            (quick if swapped else anew).append(case)
        else:
            report(case, "not covered")

    def found(case: Case, killed: bool) -> None:
        report(case, "killed" if killed else "survived")

    with tempfile.TemporaryDirectory() as folder:
        kept_rows = Path(folder, "rows.json")
        child = fork(lambda: _in_place(quick, texts, tests, given.jobs, measured, found, rows, kept_rows), quiet=False)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the tests cannot be collected")
        rows[:] = json.loads(kept_rows.read_text())
    for name in measured.modules:
        try:
            importlib.import_module(name)
        except Exception:
            continue
    gc.freeze()
    each_of(anew, given.jobs, lambda case: _anew(case, texts, measured), found)
    minutes = (time.monotonic() - began) / 60
    print(f"{score(rows):.1%} of {len(rows)} mutants found, in {minutes:.1f} minutes")
    return 0


def score(rows: list[dict[str, Any]]) -> float:
    """The share of mutants that were found, of those that change something."""
    counted = [r["result"] for r in rows if r["result"] != "equivalent"]
    return counted.count("killed") / max(1, len(counted))


def _in_place(
    todo: list[Case], texts: dict[str, str], tests: list[str], jobs: int, m: Measured,
    report: Callable[[Case, bool], None], rows: list[dict[str, Any]], kept: Path,
) -> int:  # fmt: skip
    def loop(items: dict[str, Any]) -> None:
        for file in texts:
            importlib.import_module(file.removesuffix("/__init__.py").removesuffix(".py").replace("/", "."))
        alive = living({str(ROOT / f) for f in texts})
        gc.freeze()

        def work(case: Case) -> int:
            path, source = ROOT / case.file, texts[case.file]
            old, new = compiled(path, source), compiled(path, case.mutant.apply(source))
            swap(old, new, alive[str(path)])
            return 0 if plugin.run([items[t] for t in case.tests if t in items]) else 1

        for test in m.failed:
            if os.waitpid(fork(lambda test=test: 0 if plugin.run([items[test]]) else 1), 0)[1]:  # type: ignore[misc]
                os.write(2, f"left out, as it fails without any mutant: {test}\n".encode())
                broken.add(test)
        for case in todo:
            case.tests[:] = [t for t in case.tests if t not in broken]
        each_of(todo, jobs, work, report)
        kept.write_text(json.dumps(rows))

    broken: set[str] = set()
    plugin = Plugin(loop, m.seconds)
    collect(tests, plugin)
    return 0 if kept.is_file() else 1


def _anew(case: Case, texts: dict[str, str], m: Measured) -> int:
    path = ROOT / case.file
    install({str(path): compiled(path, case.mutant.apply(texts[case.file]))})
    passed = []
    plugin = Plugin(lambda items: passed.append(plugin.run([items[t] for t in case.tests])), m.seconds)
    collect(case.tests, plugin)
    return 0 if passed == [True] else 1


if __name__ == "__main__":
    raise SystemExit(main())
