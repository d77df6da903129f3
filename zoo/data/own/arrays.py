"""Arrays of the user's own: images or vectors with labels or numbers, out of .npz, .npy or .safetensors files."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zoo.data.base import InMemoryDataModule, digest
from zoo.data.files import DataError, checked
from zoo.data.loader import ResumableLoader
from zoo.data.own.columns import find_file
from zoo.data.own.pictures import HASHED
from zoo.data.own.splits import check_fractions, cut_rows
from zoo.registry import unknown
from zoo.storage.arrays import read_npz
from zoo.storage.guards import free_memory, opened, reason
from zoo.storage.preprocessing import Preprocessing
from zoo.storage.table_preprocessing import TablePreprocessing

MEASURED = 10_000  # rows of the training part that mean and deviation are taken of
PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Rows:
    """Some rows of an array that may lie on disk; indexed by a tensor it reads those that are asked for."""

    array: Any
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: Tensor) -> Tensor:
        # in the order of the file, which a disk reads fastest, and back
        wanted = self.index[rows.numpy()]
        order = np.argsort(wanted, kind="stable")
        back = np.argsort(order, kind="stable")
        return torch.from_numpy(np.array(self.array[wanted[order]])[back])


@dataclass(frozen=True)
class Standardize:
    """``(x - mean) / std`` as float32; images in a last axis of channels get it first."""

    mean: Tensor
    std: Tensor
    channels_last: bool = False

    def __call__(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        if self.channels_last:
            x = x.permute(0, 3, 1, 2)
        return ((x.float() - self.mean) / self.std).contiguous()


class Arrays(InMemoryDataModule[Any]):
    """Arrays ``x`` (n, ...) and ``y`` (n,) or (n, targets).

    ``.npz``: both in one file, read into memory. ``.safetensors``: likewise, mapped. ``.npy``: x in ``path`` and y in
    ``targets_path``, both mapped, so that they need not fit into memory. Arrays named ``x_train``, ``y_train`` and so
    on are the parts; else the rows are cut by a fixed seed, of every class its share.

    Images are (n, H, W), (n, C, H, W) or (n, H, W, C) with 1 or 3 channels, uint8 or floats in [0, 1]; all else of two
    axes is vectors. Both are standardized by the training part, and so are the targets of a regression.

    Args:
        path: the file: absolute, from the present folder, or from the root.
        targets_path: the file of y, where path is a ``.npy``.
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: samples a batch.
        aim: classification or regression; follows the model.
        x, y: the names of the arrays in the file.
        val_fraction: the part that is held out for validation, where the file holds none.
        test_fraction: the part that is held out for the test, where the file holds none.
        num_workers: processes that read batches ahead.
        seed: of the order; not of the parts.

    Raises:
        DataError: at ``setup``: the file is missing or broken, arrays have other lengths than one another, or labels
            are none.
        ValueError: an argument is out of range, or does nothing.
    """

    aims: ClassVar[tuple[str, ...]] = ("classification", "regression")

    def __init__(
        self,
        path: str = "",
        targets_path: str = "",
        root: str | None = None,
        batch_size: int = 64,
        aim: Literal["classification", "regression"] = "classification",
        x: str = "x",
        y: str = "y",
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, seed)
        check_fractions("Arrays", val_fraction, test_fraction)
        if aim not in self.aims:
            raise ValueError(f"Arrays: {unknown('aim', aim, self.aims)}")
        if num_workers < 0:
            raise ValueError(f"Arrays: num_workers must not be negative; got {num_workers}.")
        if not path:
            raise ValueError("The data set 'arrays' needs a file: --data.path FILE.")
        apart = path.endswith(".npy")
        if apart and not targets_path:
            raise ValueError("A .npy file holds one array: name the file of y by --data.targets_path FILE.")
        if not apart:
            self.refuse_idle("x and y lie in one file", targets_path=targets_path)
        else:
            self.refuse_idle("a .npy file has no names of arrays", x=x, y=y)
        self.path, self.targets_path, self.aim, self.x, self.y = path, targets_path, aim, x, y
        self.val_fraction, self.test_fraction, self.num_workers = val_fraction, test_fraction, num_workers

    def prepare_data(self) -> None:
        self.setup()

    # ------------------------------------------------------------------------------------------------------- reading
    def load(self) -> tuple[dict[str, Any], str]:
        file = find_file("arrays", self.path, self.root)
        found = self._open(file)
        parts = {p: (f"{self.x}_{p}", f"{self.y}_{p}") for p in PARTS if f"{self.x}_{p}" in found}
        if "train" not in parts:
            parts = {"train": (self.x, self.y)}
        for name in [n for pair in parts.values() for n in pair]:
            if name not in found:
                raise DataError(f"{file}: {unknown('array', name, found)} Name them by --data.x and --data.y.")
        arrays = {part: (found[a], found[b]) for part, (a, b) in parts.items()}
        for part, (x, y) in arrays.items():
            if len(x.shape) < 1 or len(y.shape) < 1 or len(x) != len(y):
                raise DataError(f"{file}: {parts[part][0]} has the shape {tuple(x.shape)} and {parts[part][1]} "
                                f"{tuple(y.shape)}; both need one row for each sample.")  # fmt: skip
            if tuple(x.shape[1:]) != tuple(arrays["train"][0].shape[1:]):
                raise DataError(f"{file}: {parts[part][0]} has rows of {tuple(x.shape[1:])}, and those of training are "
                                f"{tuple(arrays['train'][0].shape[1:])}.")  # fmt: skip
        given = {part: self._targets(np.asarray(y), part, file) for part, (_, y) in arrays.items()}
        rows = self._rows({part: len(y) for part, y in given.items()}, given["train"])
        source = {part: part if part in arrays else "train" for part in PARTS}
        self._prepare(Rows(arrays["train"][0], rows["train"]), given["train"][rows["train"]], file)
        splits = {}
        for part in PARTS:
            x, y = arrays[source[part]][0], given[source[part]][rows[part]]
            if self.aim == "regression":
                y = ((y - self._target_mean) / self._target_std).astype(np.float32)
            splits[part] = (Rows(x, rows[part]), torch.from_numpy(y))
        return splits, self._digest(file, arrays)

    def _open(self, file: Path) -> Mapping[str, Any]:
        """Return the arrays of a file by name; those of .npy and .safetensors stay on disk."""
        with checked():
            if file.suffix == ".npz":
                return read_npz(file, limit=max(free_memory() // 2, 1))
            with opened(file, 1 << 62):
                pass
        if file.suffix == ".safetensors":
            try:
                with safe_open(file, framework="pt") as opened_file:
                    return {name: opened_file.get_tensor(name).numpy() for name in opened_file.keys()}  # noqa: SIM118
            except (SafetensorError, OSError, TypeError, RuntimeError) as error:
                raise DataError(f"{file} is no .safetensors file that can be read: {reason(error)}.") from error
        if file.suffix == ".npy":
            targets = find_file("arrays", self.targets_path, self.root)
            return {self.x: _mapped(file), self.y: _mapped(targets)}
        raise DataError(f"{file}: arrays are read from .npz, .npy and .safetensors files.")

    def _targets(self, y: np.ndarray, part: str, file: Path) -> np.ndarray:
        """Return labels int64 (n,), or numbers float64 (n, targets).

        Raises:
            DataError: labels that are negative, no whole numbers, or none of training's; numbers that are not finite.
        """
        if self.aim == "regression":
            numbers = y.reshape(len(y), -1) if y.dtype.kind in "fiub" else None
            if numbers is None or y.ndim > 2 or not np.isfinite(numbers).all():
                raise DataError(f"{file}: y of {part} is {y.dtype} {y.shape}; a regression needs finite numbers (n,) "
                                "or (n, targets).")  # fmt: skip
            return numbers.astype(np.float64)
        flat = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
        whole = flat.dtype.kind in "iub" or (flat.dtype.kind == "f" and bool((flat == np.round(flat)).all()))
        if flat.ndim != 1 or not whole:
            raise DataError(f"{file}: y of {part} is {y.dtype} {y.shape}; labels are whole numbers (n,). For numbers "
                            "take a model of regression, as deq_mlp_regressor.")  # fmt: skip
        labels = flat.astype(np.int64)
        low, high = int(labels.min(initial=0)), int(labels.max(initial=0))
        if part == "train":
            self.num_classes = high + 1
            if len(np.unique(labels)) < 2:
                raise DataError(f"{file}: y holds one class alone; a classifier needs two at least.")
        if low < 0 or high >= self.num_classes:
            raise DataError(f"{file}: the label {low if low < 0 else high} of {part} is out of range; labels go from 0 "
                            f"to {self.num_classes - 1}, the largest of training.")  # fmt: skip
        return labels

    def _rows(self, counts: Mapping[str, int], y: np.ndarray) -> dict[str, np.ndarray]:
        """Return the rows of each part, in the array that it comes from."""
        for part in ("val", "test"):
            if part in counts:
                share = {f"{part}_fraction": getattr(self, f"{part}_fraction")}
                self.refuse_idle(f"the file holds {self.x}_{part}", **share)
        rows = cut_rows(len(y), self.val_fraction, self.test_fraction, y if self.aim == "classification" else None)
        given = {part: np.arange(count) for part, count in counts.items() if part != "train"}
        freed = [rows[part] for part in given]  # of a part that the file holds, nothing is cut out of training
        return {**rows, "train": np.sort(np.concatenate([rows["train"], *freed])), **given}

    def _digest(self, file: Path, arrays: Mapping[str, Any]) -> str:
        """Return the sha256 over types, shapes and values; of more than 256 MiB over shapes and the file's size."""
        pairs = [np.asarray(a) for part in arrays.values() for a in part]
        if sum(a.nbytes for a in pairs) <= HASHED:
            return digest(pairs)
        text = f"{[(a.dtype.str, a.shape) for a in pairs]} {file.stat().st_size}"
        return hashlib.sha256(text.encode()).hexdigest()

    # ---------------------------------------------------------------------------------------------------- preparing
    def _prepare(self, x: Rows, y: np.ndarray, file: Path) -> None:
        """Find out what the samples are, and their mean and deviation."""
        shape = x.array.shape[1:]
        kind = np.dtype(x.array.dtype).kind
        if kind not in "fiub":
            raise DataError(f"{file}: x holds {x.array.dtype}, not numbers.")
        last = len(shape) == 3 and shape[-1] in (1, 3) and shape[0] not in (1, 3)
        pictures = len(shape) == 2 or (len(shape) == 3 and (last or shape[0] in (1, 3)))
        if len(shape) != 1 and not pictures:
            raise DataError(f"{file}: x has rows of {shape}; a row is a vector (D,), or an image (H, W), (C, H, W) or "
                            "(H, W, C) with 1 or 3 channels.")  # fmt: skip
        few = x[torch.from_numpy(np.linspace(0, len(x) - 1, min(len(x), MEASURED)).astype(np.int64))].double()
        if not torch.isfinite(few).all():
            raise DataError(f"{file}: x holds NaN or infinity; clean it first.")
        self.images = pictures
        if pictures:
            few = few[:, None] if few.dim() == 3 else few.permute(0, 3, 1, 2) if last else few
            mean, std = few.mean((0, 2, 3)), few.std((0, 2, 3), correction=0)
            self.in_chans, self.frame, self.last = few.shape[1], (few.shape[2], few.shape[3]), last
        else:
            mean, std = few.mean(0), few.std(0, correction=0)
            self.features = int(shape[0])
        std = torch.where(std > 0, std, torch.ones_like(std))
        self._mean, self._std = mean.float(), std.float()
        scale = 255.0 if kind in "iub" else 1.0
        if pictures and (float(few.min()) < 0 or float(few.max()) > scale):
            warnings.warn(f"{file}: pixels go from {float(few.min()):g} to {float(few.max()):g}, and pictures from 0 "
                          f"to {scale:g}; the trained model answers tensors alone.", stacklevel=2)  # fmt: skip
            scale = 0.0
        self._scale = scale
        if self.aim == "regression":
            deviation = y.std(0)
            self._target_mean, self._target_std = y.mean(0), np.where(deviation > 0, deviation, 1.0)
            self.targets = y.shape[1]

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Plain values from which `Preprocessing` or `TablePreprocessing` prepares a sample for the trained model."""
        self.setup()
        number = [float(v) for v in self._mean], [float(v) for v in self._std]
        names = tuple(map(str, range(self.num_classes))) if self.aim == "classification" else ()
        if self.images:
            if not self._scale or self.aim == "regression":
                return {}
            height, width = self.frame
            size = height if height == width else (height, width)
            mean, std = (tuple(v / self._scale for v in values) for values in number)
            return Preprocessing(size=size, mean=mean, std=std, classes=names, data="arrays").as_dict()
        made = TablePreprocessing(
            columns=tuple(map(str, range(self.features))), mean=tuple(number[0]), std=tuple(number[1]), classes=names,
            data="arrays",
            target_mean=tuple(map(float, self._target_mean)) if self.aim == "regression" else (),
            target_std=tuple(map(float, self._target_std)) if self.aim == "regression" else (),
        )  # fmt: skip
        return made.as_dict()

    def model_arguments(self) -> dict[str, int]:
        self.setup()
        found = {"in_chans": self.in_chans} if self.images else {"features": self.features}
        if self.images:
            found["features"] = self.in_chans * self.frame[0] * self.frame[1]
        return found | (
            {"num_classes": self.num_classes} if self.aim == "classification" else {"targets": self.targets}
        )

    def loader(self, name: str) -> ResumableLoader:
        x, y = self.split(name)
        train = name == "train"
        shape = (-1, 1, 1) if self.images else (-1,)
        change = Standardize(self._mean.view(shape), self._std.view(shape), self.images and self.last)
        return ResumableLoader(
            _Images(x) if self.images and len(x.array.shape) == 3 else x,
            y,
            change,
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            workers=self.num_workers,
            where=self.position if train else None,
            ranks=self.ranks,
        )


@dataclass(frozen=True)
class _Images:
    """Images (n, H, W) with an axis of channels."""

    rows: Rows

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.rows[rows][:, None]


def _mapped(file: Path) -> np.ndarray:
    """Return the array of a .npy file, which stays on disk."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{file} is no .npy file of numbers that can be read: {reason(error)}.") from error
