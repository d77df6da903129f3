"""The five tabular sets that density models are compared on: POWER, GAS, HEPMASS, MINIBOONE, BSDS300.

They are read from the layout in which they were published with masked autoregressive flows, and prepared as there: the
same columns, the same noise, the same split, the same normalization. Negative log-likelihoods in nats are comparable
with published ones only then.

    power/data.npy    gas/ethylene_CO.pickle    hepmass/1000_train.csv, 1000_test.csv
    miniboone/data.npy    BSDS300/BSDS300.hdf5            (all in the root, or in its folder ``data``)

Reference: Papamakarios, Pavlakou and Murray, "Masked autoregressive flow for density estimation", 2017,
https://arxiv.org/abs/1705.07057; the files: https://zenodo.org/records/1161203

Shape letters: ``n`` samples, ``D`` dimensions.
"""

from __future__ import annotations

import io
import warnings
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from zoo.data.files import DataError, checked, corrupt, missing
from zoo.data.tensors import Split, TensorData
from zoo.storage.arrays import read_frame, read_npy
from zoo.storage.guards import Refused, affordable, free_memory, is_file, opened, read_file, reason

PACKED = 1100  # deflate, the strongest of HDF5's usual filters, makes zeros at most so many times smaller


class Parts(NamedTuple):
    """Samples (n, D) to train on, to validate on, and to test on."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray


def tail_split(data: np.ndarray) -> Parts:
    """Split: the last tenth tests, the last tenth of the others validates."""
    test = len(data) - int(0.1 * len(data))
    val = test - int(0.1 * test)
    return Parts(data[:val], data[val:test], data[test:])


def normalized(parts: Parts, by: np.ndarray) -> Parts:
    """Return the parts with mean 0 and deviation 1 of what is given as ``by``."""
    mean, deviation = by.mean(0), by.std(0)
    return Parts(*((x - mean) / deviation for x in parts))


class Tabular(TensorData):
    """Rows of numbers, with the published split.

    Args:
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: samples a batch.
        seed: of the order.

    Raises:
        DataError: at ``setup``: a file is missing, or holds something else.
    """

    files: ClassVar[tuple[str, ...]]  # below the root
    published: ClassVar[int]  # D

    def __init__(self, root: str | None = None, batch_size: int = 1000, seed: int = 0) -> None:
        super().__init__(root, batch_size, seed)

    @abstractmethod
    def prepare(self, *paths: Path) -> Parts:
        """Return the samples as they were published for density estimation."""

    @property
    def features(self) -> int:
        """D."""
        return self.split("train")[0].shape[1]

    def prepare_data(self) -> None:
        self._paths()

    def _paths(self) -> list[Path]:
        for folder in (self.root, self.root / "data"):
            if all(is_file(folder / f) for f in self.files):
                return [folder / f for f in self.files]
        looked = [folder / f for folder in (self.root, self.root / "data") for f in self.files]
        raise missing(type(self).__name__, looked, self.files[0], "It is not downloaded; its files are those of "
                      "https://zenodo.org/records/1161203 (data.tar.gz).")  # fmt: skip

    def read(self) -> dict[str, Split]:
        paths = self._paths()
        parts = self.prepare(*paths)
        splits = {}
        for name, x in parts._asdict().items():
            if len(x) == 0 or not np.isfinite(x).all():
                what = "holds no samples" if len(x) == 0 else "holds values that are not finite"
                raise corrupt(paths[0], f"its part for {name} {what}")
            splits[name] = torch.from_numpy(np.ascontiguousarray(x, np.float32)), torch.zeros(len(x))
        return splits


def _array(path: Path) -> np.ndarray:
    with checked():
        data = read_npy(path)
    if data.ndim != 2 or data.dtype.kind != "f":
        raise corrupt(path, f"it holds {data.dtype} {data.shape}, not rows of floating-point numbers")
    return data


class Power(Tabular):
    """Electric power of a household, minute by minute: 6 dimensions. Published columns 1 and 3 are left out, and noise
    of the meter's resolution is added, from a fixed seed."""

    files, published = ("power/data.npy",), 6

    def prepare(self, *paths: Path) -> Parts:
        data = _array(paths[0])
        if data.shape[1] != 8:
            raise corrupt(paths[0], f"it has {data.shape[1]} columns; 8 were published")
        random = np.random.RandomState(42)  # the published generator, in the published order of calls
        random.shuffle(data)
        data = np.delete(data, [1, 3], axis=1)
        n = len(data)
        voltage, power, meters = 0.01 * random.rand(n, 1), 0.001 * random.rand(n, 1), random.rand(n, 3)
        parts = tail_split(data + np.hstack([power, voltage, meters, np.zeros((n, 1))]))
        return normalized(parts, np.vstack(parts[:2]))


class Miniboone(Tabular):
    """Events of a neutrino experiment: 43 dimensions."""

    files, published = ("miniboone/data.npy",), 43

    def prepare(self, *paths: Path) -> Parts:
        parts = tail_split(_array(paths[0]))
        return normalized(parts, np.vstack(parts[:2]))


class Hepmass(Tabular):
    """Particle collisions with a signal of mass 1000: 21 dimensions, those that repeat no value often."""

    files, published = ("hepmass/1000_train.csv", "hepmass/1000_test.csv"), 21

    def prepare(self, *paths: Path) -> Parts:
        train, test = (self._rows(p) for p in paths)
        width = train.shape[1]
        if test.shape[1] < width:
            raise corrupt(paths[1], f"it has {test.shape[1]} columns; {width} are needed, as in {paths[0].name}")
        # class 1 alone, without the column of the class; the published test file has a column too many at its end
        train, test = (x[x[:, 0] == 1][:, 1:width] for x in (train, test))
        if not (len(train) and len(test)):
            raise corrupt(paths[0], "it holds no sample of class 1")
        parts = normalized(Parts(train, train[:0], test), train)
        # the published rule: leave a column out whose smallest value occurs more than five times
        keep = [(c == c.min()).sum() <= 5 for c in parts.train.T]
        train, test = parts.train[:, keep], parts.test[:, keep]
        val = int(0.1 * len(train))
        return Parts(train[: len(train) - val], train[len(train) - val :], test)

    @staticmethod
    def _rows(path: Path) -> np.ndarray:
        with (
            checked(),
            opened(path, free_memory() // 4) as raw,
            io.TextIOWrapper(raw, "utf-8") as file,
            warnings.catch_warnings(),
        ):
            try:
                warnings.simplefilter("ignore", UserWarning)  # of an empty file, which is refused below
                return np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)
            except (OSError, ValueError, MemoryError) as e:
                raise corrupt(path, f"it is no table of numbers after one line of names ({reason(e)})") from e


class Gas(Tabular):
    """Sensors in a mixture of gases: 8 dimensions, those that no other one repeats."""

    files, published = ("gas/ethylene_CO.pickle",), 8

    def prepare(self, *paths: Path) -> Parts:
        data = self._sensors(paths[0])
        while True:  # the published rule: drop the first column that another one repeats, and look again
            repeats = (np.corrcoef(data, rowvar=False) > 0.98).sum(1)
            if not (repeats > 1).any():
                break
            data = np.delete(data, int(np.argmax(repeats > 1)), axis=1)
        return tail_split((data - data.mean(0)) / data.std(0, ddof=1))

    @staticmethod
    def _sensors(path: Path) -> np.ndarray:
        with checked():
            table = read_frame(read_file(path, free_memory() // 4), path)
        left_out = {"Meth", "Eth", "Time"}
        if not left_out < table.keys():
            raise corrupt(path, f"it is no table with the columns Meth, Eth and Time ({', '.join(table)[:80]})")
        columns = [column for name, column in table.items() if name not in left_out]
        if any(column.ndim != 1 or column.dtype.kind not in "fiu" for column in columns):
            raise corrupt(path, "its columns are no numbers")
        return np.stack(columns, 1).astype(np.float64)


class BSDS300(Tabular):
    """Patches of 8x8 gray pixels of photographs, the mean taken off and the last pixel left out: 63 dimensions. Needs
    h5py."""

    files, published = ("BSDS300/BSDS300.hdf5",), 63

    def prepare(self, *paths: Path) -> Parts:
        h5py = _library("h5py", paths[0])
        with checked(), opened(paths[0], free_memory() // 2) as raw:
            try:
                with h5py.File(raw, "r") as file:
                    return Parts(*(self._part(file, name, paths[0]) for name in ("train", "validation", "test")))
            except (Refused, DataError):
                raise
            except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError) as e:
                raise corrupt(paths[0], f"it lacks the arrays train, validation and test ({reason(e)})") from e

    @staticmethod
    def _part(file: Any, name: str, path: Path) -> np.ndarray:
        """Return one array of the file itself: no link to another file, and no more values than are stored."""
        link = file.get(name, getlink=True)
        if link is not None and type(link).__name__ != "HardLink":
            raise corrupt(path, f"its array {name} is a link")
        data = file[name]
        shape, kind = getattr(data, "shape", None), getattr(getattr(data, "dtype", None), "kind", "")
        if shape is None or len(shape) != 2 or kind != "f" or data.is_virtual or data.external:
            raise corrupt(path, f"its array {name} is none of rows of floating-point numbers")
        if data.nbytes > PACKED * max(data.id.get_storage_size(), 1):
            raise corrupt(path, f"its array {name} declares {shape}, which is more than it stores")
        affordable(path, 2 * data.nbytes, f"its array {name}")
        return np.asarray(data)


def _library(name: str, path: Path) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as e:
        raise DataError(f"{path.name} is read by {name}, which is not installed: pip install {name}") from e
