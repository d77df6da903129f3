"""The folder of a run: metrics, results, environment, written so that a crash leaves whole files."""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from zoo.data import DATA
from zoo.measures import headline
from zoo.solvers import SOLVERS

PACKAGES = ("torch", "lightning", "torchmetrics", "timm", "torchdiffeq", "numpy", "jsonargparse")


class MetricsLog(Logger):
    """``metrics.csv``: one row a step, one column a metric, an empty cell where nothing was logged.

    Unlike Lightning's, it continues the file of a run that is resumed, without the rows behind the checkpoint.

    Args:
        folder: the run folder.
        before: rows of the run that is resumed.
        clock: seconds of training so far; noted beside each validation as ``seconds``.
    """

    def __init__(
        self, folder: Path, before: list[dict[str, float]] | None = None, clock: Callable[[], float] | None = None
    ) -> None:
        super().__init__()
        self.clock = clock
        self.file = folder / "metrics.csv"
        self.rows: list[dict[str, float]] = list(before or [])
        self._written = 0  # rows in the file; 0: write it anew
        self._columns: list[str] = []

    @property
    def name(self) -> str:
        return "metrics"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        place = int(step) if step is not None else int(self.rows[-1]["step"]) if self.rows else 0
        values = {k: float(v) for k, v in metrics.items()}
        if self.clock is not None and any(k.startswith("val/") for k in values):
            values["seconds"] = round(self.clock(), 2)
        if self.rows and self.rows[-1]["step"] == place:
            self.rows[-1].update(values)
            self._written = min(self._written, len(self.rows) - 1)
        else:
            self.rows.append({"step": place, **values})

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: ``config.yaml`` holds them."""

    @rank_zero_only
    def save(self) -> None:
        columns = ["step", "epoch", *sorted({k for row in self.rows for k in row} - {"step", "epoch"})]
        if columns == self._columns and self._written == len(self.rows):
            return
        self._columns, self._written = columns, len(self.rows)
        with Whole(self.file) as part, part.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(self.rows)

    def finalize(self, status: str) -> None:
        self.save()


def read_metrics(file: Path, below: float = math.inf) -> list[dict[str, float]]:
    """The rows of a ``metrics.csv`` whose step lies below a number."""
    if not file.is_file():
        return []
    with file.open(newline="") as stream:
        rows = [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(stream)]
    return [{**row, "step": int(row["step"])} for row in rows if row["step"] < below]


class Whole:
    """A file that is either the old one or the new one, never a part: written beside its place, then moved there."""

    def __init__(self, file: Path) -> None:
        self.file, self.part = file, file.with_name(f".{file.name}.part")

    def __enter__(self) -> Path:
        return self.part

    def __exit__(self, kind: Any, *rest: Any) -> None:
        if kind is None:
            os.replace(self.part, self.file)
        else:
            self.part.unlink(missing_ok=True)


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; a number that is not finite becomes null, as JSON has none."""
    with Whole(file) as part:
        part.write_text(json.dumps(_finite(content), indent=2) + "\n", encoding="utf-8")


def write_yaml(file: Path, content: Mapping[str, Any]) -> None:
    with Whole(file) as part:
        part.write_text(dump_yaml(content), encoding="utf-8")


def dump_yaml(content: Mapping[str, Any]) -> str:
    """YAML in the given order, with short lists on one line."""
    return yaml.dump(dict(content), Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=110)


class _Dumper(yaml.SafeDumper):
    """Lists of numbers on one line, floats that YAML reads back as floats (1.0e-06)."""


_Dumper.add_representer(list, lambda d, v: d.represent_sequence("tag:yaml.org,2002:seq", v, flow_style=True))


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


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
