"""``metrics.csv``: appended row by row, continued by a resumed run, and whole whatever happens."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from zoo.storage.files import Whole
from zoo.training.metrics_log import MetricsLog, read_metrics


@pytest.fixture
def rewrites(monkeypatch):
    """How often a file was written anew."""
    seen = []
    enter = Whole.__enter__
    monkeypatch.setattr(Whole, "__enter__", lambda self: seen.append(self.file) or enter(self))
    return seen


def put(log, *rows):
    for step, values in rows:
        log.log_metrics(values, step)
        log.save()


def test_a_row_is_appended_and_a_new_column_rewrites(tmp_path, rewrites):
    log = MetricsLog(tmp_path)
    put(log, *((k, {"loss": 1 / (k + 1)}) for k in range(50)))
    assert len(rewrites) == 2  # the head, and the first column
    put(log, (49, {"val/loss": 0.5}), (50, {"loss": 0.1}), (50, {"val/loss": 0.25}), (51, {"loss": 2.0}))
    assert len(rewrites) == 3
    rows = read_metrics(log.file)
    assert [r["step"] for r in rows] == list(range(52))
    assert rows[7] == {"step": 7, "loss": 1 / 8}
    assert rows[49:] == [
        {"step": 49, "loss": 1 / 50, "val/loss": 0.5},
        {"step": 50, "loss": 0.1, "val/loss": 0.25},
        {"step": 51, "loss": 2.0},
    ]
    assert log.file.read_text().splitlines()[0] == "step,epoch,loss,val/loss"


def test_memory_holds_no_rows_and_the_figure_gets_a_thinned_copy(tmp_path):
    log = MetricsLog(tmp_path)
    put(log, *((k, {"loss": 1.0, **({"val/loss": 2.0} if k % 100 == 99 else {})}) for k in range(1000)))
    assert not [v for v in vars(log).values() if isinstance(v, (list, dict)) and len(v) > 10]
    assert len(log.rows()) == 1000
    few = log.rows(most=100)
    assert len(few) == 110 and sum("val/loss" in r for r in few) == 10


def test_a_resumed_run_goes_on_in_the_last_row_that_counts(tmp_path):
    put(MetricsLog(tmp_path), *((k, {"loss": float(k), "old": 1.0}) for k in range(6)))
    for folder in (tmp_path, tmp_path / "other"):  # in the same folder, or in another one
        folder.mkdir(exist_ok=True)
        log = MetricsLog(folder, tmp_path / "metrics.csv", below=4)
        put(log, (3, {"val/loss": 0.5}), (4, {"loss": 40.0}))
        rows = read_metrics(folder / "metrics.csv")
        assert [r["loss"] for r in rows] == [0, 1, 2, 3, 40] and rows[3]["val/loss"] == 0.5
    before = (tmp_path / "metrics.csv").read_bytes()
    log = MetricsLog(tmp_path, tmp_path / "metrics.csv", below=2)
    log.save()
    log.finalize("failed")
    assert (tmp_path / "metrics.csv").read_bytes() == before  # the run never began: its file stays
    log.begin()  # nothing is logged: it is cut all the same
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.csv")] == [0, 1]
    assert MetricsLog(tmp_path / "other").rows() == []


def test_a_row_that_was_cut_short_is_no_row(tmp_path):
    log = MetricsLog(tmp_path)
    put(log, (0, {"loss": 1.0}), (1, {"loss": 0.125}))
    log.file.write_bytes(log.file.read_bytes()[:-4])  # a crash in the middle of a write
    assert read_metrics(log.file) == [{"step": 0, "loss": 1.0}]


def test_a_full_disk_leaves_whole_rows(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path)
    put(log, (0, {"loss": 1.0}))
    made = Path.open

    class Full:
        """A file that takes three more bytes."""

        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *rest):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            return self.file.write(data[:3])

    monkeypatch.setattr(
        Path, "open", lambda self, *a, **k: Full(made(self, *a, **k)) if "r+b" in a else made(self, *a, **k)
    )
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        put(log, (1, {"loss": 0.5}))
    assert log.file.read_text().splitlines() == ["step,epoch,loss", "0,,1.0"]
