"""The folder of a run: metrics, results, environment, written so that a crash leaves whole files."""

from __future__ import annotations

import csv
import errno
import io
import math
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from zoo.data import DATA
from zoo.solvers import SOLVERS
from zoo.storage.files import Whole
from zoo.tasks.metrics import headline

PACKAGES = ("torch", "lightning", "torchmetrics", "timm", "torchdiffeq", "numpy", "jsonargparse")


class MetricsLog(Logger):
    """``metrics.csv``: one row a step, one column a metric, an empty cell where nothing was logged.

    Unlike Lightning's, it continues the file of a run that is resumed, without the rows behind the checkpoint. A row is
    appended as it is logged, and only a new column writes the file anew; memory holds the newest row alone.

    Args:
        folder: the run folder.
        before: ``metrics.csv`` of the run that is resumed, its rows below the step ``below`` being kept.
        clock: seconds of training so far; noted beside each validation as ``seconds``.
    """

    def __init__(
        self,
        folder: Path,
        before: Path | None = None,
        below: float = math.inf,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__()
        self.file, self.before, self.below, self.clock = folder / "metrics.csv", before, below, clock
        self._columns: list[str] = []  # of the file; none: it was not begun
        self._older = 0  # rows in the file before the newest one
        self._newest: dict[str, float] = {}
        self._at = 0  # where the newest row begins, in bytes
        self._due = False  # the newest row was not written as it is now

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self._begin()
        values = {k: float(v) for k, v in metrics.items()}
        if self.clock is not None and any(k.startswith("val/") for k in values):
            values["seconds"] = round(self.clock(), 2)
        place = int(step) if step is not None else int(self._newest.get("step", 0))
        if self._newest and self._newest["step"] != place:
            self.save()
            self._older, self._at = self._older + 1, self.file.stat().st_size
            self._newest = {}
        self._newest = {"step": place, **self._newest, **values}
        self._due = True

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def save(self) -> None:
        self._begin()
        if not self._due:
            return
        self._due = False  # a disk that is full is not tried again
        if self._newest.keys() <= set(self._columns) and self.file.is_file():
            self._append()
        else:
            self._columns = _ordered({*self._columns, *self._newest})
            self._rewrite(islice(_cells(self.file), self._older))

    def finalize(self, status: str) -> None:
        self.save()

    def rows(self, most: int = 5000) -> list[dict[str, float]]:
        """The rows, evenly thinned to about ``most`` where there are more; those of a validation all stay."""
        self.save()
        every = max(1, (self._older + 1) // most)
        rows = enumerate(_numbers(self.file))
        return [row for i, row in rows if i % every == 0 or any(k.startswith("val/") for k in row)]

    def _begin(self) -> None:
        """The file of a run that starts, or that of the run that is resumed up to where it goes on."""
        if self._columns:
            return
        self._columns = ["step", "epoch"]
        if self.before is not None and self.before.is_file():
            with self.before.open(newline="") as stream:
                self._columns = _ordered({*self._columns, *next(csv.reader(stream), [])})
        self._rewrite(self._taken_over())

    def _taken_over(self) -> Iterator[Mapping[str, Any]]:
        for row in _numbers(self.before, self.below) if self.before is not None else ():
            if self._newest:
                self._older += 1
                yield self._newest
            self._newest = row

    def _rewrite(self, older: Iterable[Mapping[str, Any]]) -> None:
        with Whole(self.file) as part, part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self._columns)
            writer.writeheader()
            writer.writerows(older)
            self._at = stream.tell()
            if self._newest:
                writer.writerow(self._newest)

    def _append(self) -> None:
        """Write the newest row in its place, the file's end; of a row that does not fit, nothing stays."""
        text = io.StringIO(newline="")
        csv.DictWriter(text, self._columns).writerow(self._newest)
        row = text.getvalue().encode()
        with self.file.open("r+b", buffering=0) as stream:
            stream.truncate(self._at)
            stream.seek(self._at)
            try:
                if stream.write(row) < len(row):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.file))
            except OSError:
                stream.truncate(self._at)
                raise


def _ordered(columns: Iterable[str]) -> list[str]:
    return ["step", "epoch", *sorted({*columns} - {"step", "epoch"})]


def read_metrics(file: Path, below: float = math.inf) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv`` whose step lies below a number."""
    return list(_numbers(file, below))


def _numbers(file: Path, below: float = math.inf) -> Iterator[dict[str, float]]:
    for row in _cells(file):
        if float(row["step"]) < below:
            yield {**{k: float(v) for k, v in row.items() if v}, "step": int(row["step"])}


def _cells(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a ``metrics.csv`` as text, without one that a crash cut short: its line has no end."""
    if not file.is_file():
        return
    with file.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(line for line in stream if line.endswith("\n"))


def new_folder(root: Path, name: str) -> Path:
    """``root/name/<time>``, with a counter where that second is taken."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = root / name / stamp
    count = 1
    while folder.exists():
        count += 1
        folder = root / name / f"{stamp}-{count}"
    return folder


def environment(*peers: str) -> dict[str, Any]:
    """What a number was measured on: versions (of ``peers`` too, where they are installed), hardware, commit.

    No word of the machine's folders: what this returns is kept beside published numbers.
    """
    from zoo import __version__

    return {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {
            "zoo": __version__,
            **{name: _version(name) for name in PACKAGES},
            **{name: v for name in peers if (v := _version(name))},
        },
        "hardware": hardware(),
        "commit": commit(),
    }


def hardware() -> dict[str, Any]:
    """CPU threads, and the CUDA devices if any."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"cpu": _cpu(), "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpus": gpus}


def commit() -> str | None:
    """The commit of the package's checkout, with ``+changes`` where files differ from it; None outside of one."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", "--", str(here / "registry.py")):
            return None  # installed below somebody else's checkout
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "-uno", "--", str(here)) else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


TWIN = "resnet_tiny"  # the explicit model that a classifier is best compared with


def closing(results: Mapping[str, Any], folder: Path, short: str, others: Sequence[str], epochs: int) -> str:
    """The last lines of a run: what it reached, what it took, where it lies, what to try next.

    Args:
        results: the content of ``results.json``.
        folder: the run folder.
        short: the name to call the model by.
        others: other data sets that it trains on.
        epochs: a number of epochs to continue to; below 1 where the clock ended the run.
    """
    test, train, data = results["test"], results["train"], results["data"]
    lines = []
    best, shown = results["best"], headline(results)
    if shown.key in test:
        score = best.get(f"val/{shown.key}")
        note = f"weights of epoch {best['epoch']}"
        if score is not None and math.isfinite(score):
            note += f", validation {shown.write(score)}"
        name = shown.key if len(shown.key) <= 10 else shown.short
        lines.append((f"test {name}", f"{shown.write(test[shown.key])}   ({note})"))
    lines.append(
        ("training time", f"{spell(results['seconds'])}   ({results['epochs']} epochs, {results['steps']} steps)")
    )
    if "nfe_forward" in test:
        ended = "reached the last time" if "accepted" in test and "residual" not in test else "converged"
        text = f"{test['nfe_forward']:.1f} forward at the test, {test['converged']:.0%} of the samples {ended}"
        if "nfe_forward" in train:
            back = f" + {train['nfe_backward']:.1f} backward" if "nfe_backward" in train else ""
            text = f"{train['nfe_forward']:.1f} forward{back} a training step; {text}"
        lines.append(("evaluations", text))
    lines.append(("run folder", f"{folder}   (training.png, results.json, metrics.csv, config.yaml, checkpoints/)"))
    commands = [f"--model {short} --data {others[0]}"] if others else []
    if results["solver"]:
        name = results["solver"]["name"]
        usual = ("dopri5", "tsit5") if name in SOLVERS.names(kind="ode") else ("anderson", "broyden")
        other = usual[0] if name != usual[0] else usual[1]
        commands.append(f"--model {short} --data {data} --solver {other}")
    if epochs > 0:
        commands.append(f"--resume {folder} --trainer.max_epochs {epochs}")
    commands = [f"python -m zoo.fit {c}" for c in commands]
    if DATA.entry(data).kind == "classification" and results["model"] != TWIN:
        commands.append(f"python -m zoo.compare --models {results['model']} {TWIN} --data {data}")
    lines += [("try next" if i == 0 else "", c) for i, c in enumerate(commands)]
    return "\n" + "\n".join(f"{label:<16}{text}" for label, text in lines)


def spell(seconds: float) -> str:
    """A time as a person says it."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{seconds:.1f} s"
