"""What every data module shares: positions, ranks, what it decides of a model, and the splits by one door."""

from __future__ import annotations

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from zoo.data import DATA
from zoo.data.base import InMemoryDataModule, digest
from zoo.data.images import ImageData
from zoo.data.series import SeriesData
from zoo.data.tensors import TensorData
from zoo.data.text import TextData


@pytest.mark.parametrize("name", DATA.names())
def test_every_set_is_one_data_module(name):
    assert issubclass(DATA[name], InMemoryDataModule)


@pytest.mark.parametrize("kind", [InMemoryDataModule, ImageData, TensorData, SeriesData, TextData])
def test_what_is_shared_is_abstract(kind):
    assert inspect.isabstract(kind)


@pytest.mark.parametrize(
    ("name", "decided"),
    [
        ("digits", {"num_classes": 10, "in_chans": 1}),
        ("digit_episodes", {"in_chans": 1}),
        ("split_digits", {"num_classes": 2, "in_chans": 1, "features": 64}),
        ("two_moons", {"features": 2}),
        ("ideal_pendulum", {"features": 2}),
        ("photograph", {"features": 2, "targets": 3}),
        ("chains", {"num_classes": 2, "features": 100}),
        ("spirals", {"num_classes": 0, "features": 2}),
        ("shapes", {"num_classes": 5, "in_chans": 3}),
        ("sudoku6", {"symbols": 7, "num_classes": 6, "box": (2, 3), "grid": (6, 6)}),
        ("prefix_sums", {"symbols": 2, "num_classes": 2, "grid": (1, 16)}),
        ("mazes", {"symbols": 4, "num_classes": 2, "grid": (11, 11)}),
        ("qp_family", {"features": 50, "variables": 100, "inequalities": 50, "convex": True}),
        ("qp_family_nonconvex", {"features": 50, "variables": 100, "inequalities": 50, "convex": False}),
    ],
)
def test_a_set_says_what_it_decides_of_a_model(name, decided):
    assert DATA[name]().model_arguments() == decided


def test_a_text_decides_the_vocabulary(tmp_path):
    (tmp_path / "a.txt").write_text("abc\n" * 200)
    assert DATA["text"](path=str(tmp_path / "a.txt")).model_arguments() == {"vocab_size": 5}  # a b c \n unknown


def test_a_fit_in_progress_knows_its_position():
    data = DATA["two_moons"]()
    assert data.position() is None and data.ranks() == (0, 1)
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=3)),
        epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=7))),
    )
    data.trainer = SimpleNamespace(
        training=True, fit_loop=loop, overfit_batches=0.0, distributed_sampler_kwargs={"rank": 1, "num_replicas": 4}
    )
    assert data.position() == (3, 7) and data.ranks() == (1, 4)
    data.trainer.overfit_batches = 1
    assert data.position() == (0, 7)
    data.trainer.training, data.trainer.distributed_sampler_kwargs = False, None
    assert data.position() is None and data.ranks() == (0, 1)


def test_the_fingerprint_is_of_type_shape_and_values():
    x = np.arange(6, dtype=np.int64)
    others = [x.reshape(2, 3), x.astype(np.int32), x[::-1], x[:5]]
    assert len({digest([a]) for a in (x, *others)}) == 5
    assert digest([torch.from_numpy(x)]) == digest([torch.arange(6)]) != digest([x])


@pytest.mark.parametrize(("name", "begins"), [("digits", "c6e9ecdba921"), ("chains", "a43cb60ca69e")])
def test_fingerprints_of_kept_results_stay(name, begins):
    """Of sets without rounding, which are the same on every processor."""
    assert DATA[name]().fingerprint().startswith(begins)
