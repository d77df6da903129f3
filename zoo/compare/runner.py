"""Run a comparison: one process for each model and seed, one line of JSON for each result. Imports no torch.

What cannot run at all (a wrong name, an option that no class has) is found before anything trains. A crash or a
time-out costs one row, which says so. Results are appended as they come; a comparison that was stopped goes on where it
was, the training that was under way from its last checkpoint, and tries again what failed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from zoo.compare.jobs import Job
from zoo.compare.rows import ROWS, append, failure, read_rows
from zoo.storage.files import write_json
from zoo.training.errors import UsageError

HALVINGS = 3  # of the batch, where memory runs out
KILLED = -9  # what the kernel does to a process that takes too much memory
EVERY = 20.0  # seconds between two lines of progress of one job, at least
POLL = 0.2  # seconds between two looks at a process
GRACE = 120.0  # seconds that an interrupted process has to save its state
Say = Callable[[str], None]


def run_all(
    jobs: Sequence[Job], folder: Path, *, timeout: float | None = None, say: Say = print
) -> list[dict[str, Any]]:
    """Run what is missing; returns the newest row of each job, in their order.

    Raises:
        UsageError: the folder cannot be written, or a job cannot run; nothing was trained then.
    """
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ROWS).open("a"):
            pass
    except OSError as error:
        raise UsageError(f"cannot write results to {folder}: {error.strerror}; choose another --out") from error
    rows = read_rows(folder)
    missing = [job for job in jobs if rows.get(job.key, {}).get("status") != "finished"]
    try:
        check(missing, folder)
    except UsageError:
        if made:
            _remove_empty(folder, made)
        raise
    begun = time.monotonic()
    taken: list[float] = []
    with interruptible():
        for i, job in enumerate(jobs, 1):
            place = f"[{i}/{len(jobs)}] {job.label}"
            if job not in missing:
                say(f"{place}: measured before")
                continue
            left = len(missing) - len(taken)
            guess = f", about {spell(sum(taken) / len(taken) * left)} to go" if taken else ""
            say(f"{place}: begins ({spell(time.monotonic() - begun)} so far{guess})")
            start = time.monotonic()
            row = run_one(job, folder, timeout, partial(_tell, say, place))
            taken.append(time.monotonic() - start)
            rows[job.key] = row
            try:
                append(folder / ROWS, json.dumps(row))
            except OSError as error:  # a full disk: the row is shown all the same
                say(f"{place}: its row could not be saved ({error.strerror})")
            say(f"{place}: {_outcome(row)}")
    return [rows[job.key] for job in jobs]


def _remove_empty(folder: Path, made: Sequence[Path]) -> None:
    """Take back the folders that a refused comparison has made, from the inside; what holds more than it, stays."""
    with suppress(OSError):
        if not (folder / ROWS).read_text(encoding="utf-8"):
            (folder / ROWS).unlink()
        for name in ("check.job.json", "check.json", "check.log"):
            (folder / "logs" / name).unlink(missing_ok=True)
        for place in (folder / "logs", *made):
            if place.exists():
                place.rmdir()


def check(jobs: Sequence[Job], folder: Path) -> None:
    """Build what each job will train, in a process of its own, so that what cannot run is known before anything trains.

    Raises:
        UsageError: a job cannot run; the message names the first.
    """
    distinct = list({replace(job, seed=0).key: job for job in jobs}.values())
    if not distinct:
        return
    logs = folder / "logs"
    file, answer, log = logs / "check.job.json", logs / "check.json", logs / "check.log"
    try:
        logs.mkdir(exist_ok=True)
        answer.unlink(missing_ok=True)
        write_json(file, {"check": [asdict(job) for job in distinct], "answer": str(answer)})
        with log.open("w", encoding="utf-8") as stream:
            command = [sys.executable, "-m", "zoo.compare.worker", str(file)]
            subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=_environment())
        problems: list[str] = json.loads(answer.read_text(encoding="utf-8"))["problems"]
        answer.unlink()
        file.unlink()
    except (OSError, ValueError, KeyError):  # no room, or a crash: each job then says for itself what is wrong
        return
    found = [(job, text) for job, text in zip(distinct, problems, strict=True) if text]
    if found:
        job, text = found[0]
        more = f" (and {len(found) - 1} more that cannot run)" if len(found) > 1 else ""
        raise UsageError(f"{job.label.rpartition(',')[0]}: {text}{more}")


def run_one(job: Job, folder: Path, timeout: float | None = None, say: Say = lambda line: None) -> dict[str, Any]:
    """Train and measure in a process of its own; where memory runs out, again with half the batch."""
    key, notes = job.key, []
    row: dict[str, Any] = {}
    for _ in range(HALVINGS + 1):
        row = _process(job, folder, timeout or job.patience, say)
        if row["status"] != "out of memory":
            break
        size = job.batch_size
        if size < 2:
            break
        notes.append(f"out of memory with batches of {size}")
        job = replace(job, options={**job.options, "data": {**job.options.get("data", {}), "batch_size": size // 2}})
    if notes:
        measured = [f"measured with {job.batch_size}"] if row["status"] == "finished" else []
        row["note"] = "; ".join([*notes, *measured])
    return {**row, "key": key}  # of what was asked for: halved batches are no other work


def _process(job: Job, folder: Path, patience: float | None, say: Say) -> dict[str, Any]:
    logs = folder / "logs"
    log, answer, file = logs / f"{job.key}.log", logs / f"{job.key}.json", logs / f"{job.key}.job.json"
    try:
        logs.mkdir(exist_ok=True)
        answer.unlink(missing_ok=True)
        write_json(file, {"job": asdict(job), "folder": str(folder), "answer": str(answer)})
        with log.open("w", encoding="utf-8") as stream:
            # in a group of its own, so that Ctrl-C comes to it through us, once
            process = subprocess.Popen(
                [sys.executable, "-m", "zoo.compare.worker", str(file)],
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=_environment(),
                process_group=0 if os.name == "posix" else None,
            )
        code = _wait(process, patience, log, say)
    except OSError as error:  # a full disk, or no room for another process
        return failure(job, f"could not be started with its log {log}: {error.strerror}; make room and call again")
    if code is None:
        return failure(job, f"stopped after {patience:.0f} s, which is --timeout; its output: {log}")
    try:
        row = json.loads(answer.read_text(encoding="utf-8"))
        answer.unlink()
        file.unlink(missing_ok=True)
        return {**row, "key": job.key}
    except (OSError, json.JSONDecodeError):
        pass
    if code == KILLED:
        return failure(job, f"killed, most likely out of memory; its output: {log}", "out of memory")
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    last = _last_line(log)
    return failure(job, f"ended with {ended}{': ' + last[:200] if last else ''}; its output: {log}")


def _wait(process: subprocess.Popen[Any], patience: float | None, log: Path, say: Say) -> int | None:
    """Wait for a process, and show its newest line now and then; its exit code, or None where it took too long.

    Raises:
        KeyboardInterrupt: Ctrl-C; the process has saved its state, or was stopped by a second one.
    """
    begun = shown_at = time.monotonic()
    shown = ""
    try:
        while (code := process.poll()) is None:
            now = time.monotonic()
            if patience is not None and now - begun > patience:
                process.kill()
                process.wait()
                return None
            if now - shown_at >= EVERY:
                shown_at = now
                line = _last_line(log)[:160]
                if line and line != shown:
                    say(line)
                    shown = line
            time.sleep(POLL)
        return code
    except KeyboardInterrupt:
        say("stopping after this step; press Ctrl-C again to stop now")
        try:
            process.send_signal(signal.SIGINT)
            process.wait(GRACE)
        except (KeyboardInterrupt, subprocess.TimeoutExpired):
            process.kill()
            process.wait()
        raise


@contextmanager
def interruptible() -> Iterator[None]:
    """Scope in which SIGTERM and a closed terminal stop a comparison as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signum: int, frame: Any) -> None:
        raise KeyboardInterrupt

    names = [s for s in ("SIGTERM", "SIGHUP") if hasattr(signal, s)]
    old = {name: signal.signal(getattr(signal, name), stop) for name in names}
    try:
        yield
    finally:
        for name, handler in old.items():
            signal.signal(getattr(signal, name), handler)


def _tell(say: Say, place: str, line: str) -> None:
    say(f"{place}: {line}")


def spell(seconds: float) -> str:
    """A duration in words: ``35 s``, ``12 min``, ``3 h 20 min``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min" if whole >= 120 else f"{whole} s"


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "ZOO_RUN_FOLDER"}


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _outcome(row: Mapping[str, Any]) -> str:
    if row["status"] != "finished":
        return f"{row['status']}: {row['error']}"
    score, name = row["values"].get("score"), row.get("metric", "score")
    if score is None:
        return "done"
    seconds = row["values"].get("seconds")
    return f"{name} {score:.4g}" + (f" in {seconds:.0f} s of training" if seconds is not None else "")
