"""Where runs lie: the checkpoint that a word means, the folder that may be written, the rank of this process.

Imports no torch.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path

from zoo.training.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # mypy knows the platform that it runs on

RUNS = Path("runs")
AUTO = "auto"


def find_checkpoint(
    word: str, out: Path | None, names: Mapping[str, Mapping[str, str]]
) -> tuple[Path | None, Path | None]:
    """The checkpoint and the run folder that ``--resume`` means; None and None where it means to start.

    ``last``: of ``--out``, else of the newest run under ``runs/`` of the model and data set that were named. ``auto``:
    of ``--out`` if there is one, else a start: the same command begins a run and goes on with it after a restart.
    """
    if word == AUTO:
        if out is None:
            raise UsageError("--resume auto goes on with the run in --out DIR: name it")
        file = out / "checkpoints" / "last.ckpt"
        return (file, out) if file.is_file() else (None, None)
    if word == "last" and out is not None:
        file = out / "checkpoints" / "last.ckpt"
        if not file.is_file():
            raise UsageError(f"nothing to resume: {file} does not exist; leave --resume out to start there")
        return file, out
    if word == "last":
        stem = f"{names.get('model', {}).get('name', '*')}_{names.get('data', {}).get('name', '*')}".replace(":", "_")
        found = sorted(RUNS.glob(f"{stem}/*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime)
        if not found:
            raise UsageError(
                f"nothing to resume: no {RUNS}/{stem}/*/checkpoints/last.ckpt; leave --resume out to start"
            )
        return found[-1], found[-1].parents[1]
    path = Path(word)
    if path.is_dir():
        path = path / "checkpoints" / "last.ckpt"
    if not path.is_file():
        raise UsageError(f"cannot resume: {path} does not exist; give 'last', a run folder, or a .ckpt file")
    folder = path.parents[1] if len(path.parents) > 1 else path.absolute().parent.parent
    if not (folder / "config.yaml").is_file():
        raise UsageError(f"cannot resume: {folder / 'config.yaml'} is missing, which says how the run was made")
    return path, folder


def check_out(out: Path, resuming: bool) -> None:
    """Refuse a run folder that cannot be written, or that holds another run, before anything is computed."""
    there = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not there.is_dir():
        raise UsageError(f"cannot write the run to {out}: {there} is not a folder; choose another --out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write the run to {out}: no permission in {there}; choose another --out")
    if not resuming and (out / "config.yaml").exists():
        raise UsageError(f"{out} holds a run already; continue it with --resume {out}, or choose another --out")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run folder for this process; the system takes the lock away when the process ends, however it does.

    Raises:
        UsageError: another process trains there.
    """
    if fcntl is None:
        yield
        return
    file = folder / ".lock"
    with file.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"another run is writing to {folder}; wait for its end, or choose another --out") from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            file.unlink(missing_ok=True)


def rank() -> int:
    """Return this process's rank in the run, as launchers set it; 0 where there is one process."""
    return next(
        (int(os.environ[k]) for k in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if os.environ.get(k, "").isdigit()), 0
    )


def new_folder(root: Path, name: str) -> Path:
    """``root/name/<time>``, with a counter where that second is taken."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = root / name / stamp
    count = 1
    while folder.exists():
        count += 1
        folder = root / name / f"{stamp}-{count}"
    return folder
