"""Irregular time series: what every set of them shares, and noisy spirals made on the spot.

A batch is a `Series`. Times are divided by a set's horizon, so that a series observed to the end lasts about one unit.

Shape letters: ``n`` series of a set, ``B`` of a batch, ``T`` rows, ``D`` channels, ``Q`` asked times.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zoo.data.base import InMemoryDataModule, digest
from zoo.data.loader import ResumableLoader
from zoo.registry import unknown


class Series(NamedTuple):
    """A padded batch: rows and asked times after a series' end repeat its last time, with a mask of False.

    Attributes:
        times: (B, T), values (B, T, D) and mask (B, T, D) bool: what the model sees.
        query: (B, Q) times to predict at; target (B, Q, D) and target_mask (B, Q, D) bool: what is true there.
            Q = 0 where nothing is to be predicted.
        label: (B,) int64, of classes; -1 where there are none.
    """

    times: Tensor
    values: Tensor
    mask: Tensor
    query: Tensor
    target: Tensor
    target_mask: Tensor
    label: Tensor

    def rows(self, rows: Tensor) -> Series:
        """Return some of the series, cut to the longest of them."""
        part = Series(*(x[rows] for x in self))
        long = longest(part.mask)
        wide = longest(part.target_mask) if part.query.shape[1] else 0
        return part._replace(
            times=part.times[:, :long],
            values=part.values[:, :long],
            mask=part.mask[:, :long],
            query=part.query[:, :wide],
            target=part.target[:, :wide],
            target_mask=part.target_mask[:, :wide],
        )


class SeriesDataset:
    """Series by rows, as `ResumableLoader` takes them."""

    def __init__(self, series: Series) -> None:
        self.series = series

    def __len__(self) -> int:
        return len(self.series.times)

    def __getitem__(self, rows: Tensor) -> Series:
        return self.series.rows(rows)


def _batch(series: Series, labels: Tensor, random: torch.Generator | None) -> Series:
    """Return a batch as it is: it is complete as it lies in memory."""
    return series


def longest(mask: Tensor) -> int:
    """Return the rows of the longest series: after them nothing was seen in any."""
    used = mask.any(-1).any(0).nonzero()
    return int(used[-1]) + 1 if len(used) else 1


class SeriesData(InMemoryDataModule[Series]):
    """What every set of series shares: three splits in memory, and batches that resume exactly.

    Attributes:
        features: D, channels of a series.
        num_classes: of the labels; 0 where values are to be predicted.
    """

    features: int
    num_classes: int
    aims: tuple[str, ...]

    def __init__(self, root: str | None, batch_size: int, seed: int, aim: str) -> None:
        super().__init__(root, batch_size, seed)
        if aim not in self.aims:
            raise ValueError(unknown("aim", aim, self.aims))
        self.aim = aim

    @abstractmethod
    def read(self) -> dict[str, Series]:
        """Return the splits ``train``, ``val`` and ``test``; raises DataError where a file is missing or broken."""

    def load(self) -> tuple[dict[str, Series], str]:
        splits = self.read()
        return splits, digest(x for split in splits.values() for x in split)

    def loader(self, name: str) -> ResumableLoader:
        series, train = self.split(name), name == "train"
        return ResumableLoader(
            SeriesDataset(series),
            series.label,
            _batch,
            batch_size=self.batch_size,
            shuffle=train,
            seed=self.seed,
            where=self.position if train else None,
            ranks=self.ranks,
            joint=True,
        )


class Spirals(SeriesData):
    """Noisy planar spirals at irregular times, with known truth.

        x(t) = (r_0 + g t) (cos(p + w t), sin(p + w t)),    t in [0, 2]

    with random radius r_0, growth g, phase p and frequency w, half of them clockwise. Between 15 and 30 noisy
    observations at random times in [0, 1] are seen. ``extrapolation`` asks for 15 to 30 random times in [1, 2],
    ``interpolation`` for as many in [0, 1], ``direction`` for which way it turns. What is asked for is noisy in
    training and validation, as measurements are, and true in the test.

    Args:
        root: none is taken, as nothing is read.
        batch_size: series a batch.
        seed: of the order.
        aim: ``extrapolation``, ``interpolation`` or ``direction``.
        noise: standard deviation of an observation.
        spread: the frequencies are uniform in 0.8 (1 +- spread) turns a unit of time.
        train_size: series to train on; 128 validate and 512 test.

    Reference: after Chen et al., 2018, section 5.1, https://arxiv.org/abs/1806.07366
    """

    reads_files = False
    features = 2
    aims = ("extrapolation", "interpolation", "direction")

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        aim: Literal["extrapolation", "interpolation", "direction"] = "extrapolation",
        noise: float = 0.05,
        spread: float = 0.25,
        train_size: int = 512,
    ) -> None:
        super().__init__(root, batch_size, seed, aim)
        if not noise >= 0 or not 0 <= spread < 1 or train_size < 1:
            raise ValueError(
                "Spirals: noise must be at least 0, spread in [0, 1) and train_size at least 1; got "
                f"{noise}, {spread} and {train_size}."
            )
        self.noise, self.spread, self.train_size = noise, spread, train_size
        self.num_classes = 2 if aim == "direction" else 0

    def read(self) -> dict[str, Series]:
        sizes = {"test": 512, "val": 128, "train": self.train_size}
        return {name: self.make(n, key, noisy=name != "test") for key, (name, n) in enumerate(sizes.items())}

    def make(self, count: int, key: int, noisy: bool, asked: tuple[float, float] | None = None) -> Series:
        """Make so many series, by a key.

        Args:
            noisy: whether what is asked for is noisy too.
            asked: the span of the asked times; None: as the aim says.
        """
        random = np.random.Generator(np.random.PCG64(key))
        curve, turns = self._curves(random, count)
        times, mask = ragged(random, count, 0.0, 1.0)
        low, high = asked or ((1.0, 2.0) if self.aim == "extrapolation" else (0.0, 1.0))
        query, target_mask = ragged(random, count, low, high)
        values = curve(times) + self.noise * random.standard_normal((*times.shape, 2))
        target = curve(query) + (self.noise * random.standard_normal((*query.shape, 2)) if noisy else 0.0)
        if self.aim == "direction":
            query, target, target_mask = query[:, :0], target[:, :0], target_mask[:, :0]
        return as_series(times, values, mask, query, target, target_mask, turns if self.num_classes else None)

    def truth(self, count: int, key: int, times: np.ndarray) -> np.ndarray:
        """Return the true curves (count, N, 2) of the series of a key, at times (N,)."""
        curve, _ = self._curves(np.random.Generator(np.random.PCG64(key)), count)
        return curve(np.broadcast_to(times, (count, len(times))))

    def _curves(self, random: np.random.Generator, count: int) -> tuple[Callable[[np.ndarray], np.ndarray], np.ndarray]:
        r0, growth = random.uniform(0.2, 0.5, count), random.uniform(0.2, 0.5, count)
        phase = random.uniform(0, 2 * np.pi, count)
        frequency = 1.6 * np.pi * random.uniform(1 - self.spread, 1 + self.spread, count)
        turns = np.arange(count) % 2  # 1: clockwise
        frequency = np.where(turns == 1, -frequency, frequency)

        def curve(t: np.ndarray) -> np.ndarray:
            radius, angle = r0[:, None] + growth[:, None] * t, phase[:, None] + frequency[:, None] * t
            return np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)

        return curve, turns


def ragged(
    random: np.random.Generator, count: int, low: float, high: float, least: int = 15, most: int = 30
) -> tuple[np.ndarray, np.ndarray]:
    """Return sorted random times (count, most); each series has its own number of them, the last one repeated."""
    apart = 1e-5  # at least, as a share of the span: two of them must not become one in float32
    share = np.sort(random.uniform(0, 1 - apart * most, (count, most)), 1) + apart * np.arange(most)
    times = low + (high - low) * share
    keep = random.integers(least, most + 1, count)
    index = np.minimum(np.arange(most), keep[:, None] - 1)
    return np.take_along_axis(times, index, 1), np.arange(most) < keep[:, None]


def as_series(
    times: np.ndarray,
    values: np.ndarray,
    mask: np.ndarray,
    query: np.ndarray,
    target: np.ndarray,
    target_mask: np.ndarray,
    label: np.ndarray | None = None,
) -> Series:
    """Turn arrays into tensors: float32, zeros where nothing was seen; masks (n, T) stand for all channels."""
    full = [
        np.broadcast_to(m[..., None], v.shape) if m.ndim == 2 else m for m, v in ((mask, values), (target_mask, target))
    ]
    floats = [np.where(full[0], values, 0.0), np.where(full[1], target, 0.0)]
    labels = np.full(len(times), -1) if label is None else label
    return Series(
        torch.tensor(times, dtype=torch.float32),
        torch.tensor(floats[0], dtype=torch.float32),
        torch.tensor(full[0].copy()),
        torch.tensor(query, dtype=torch.float32),
        torch.tensor(floats[1], dtype=torch.float32),
        torch.tensor(full[1].copy()),
        torch.tensor(labels, dtype=torch.int64),
    )
