"""Distributions in the plane, for density estimation: drawn here, so that they need no file.

The sets are those that continuous flows are usually shown on, at the sizes of FFJORD's experiments (about 8 across).
Where the density is known in closed form (`log_density`), `entropy` is the negative log-likelihood that no model can
beat, up to the chance of a finite test set.

Reference: Grathwohl et al., "FFJORD", 2019, https://arxiv.org/abs/1810.01367 (the choice of the sets)

Shape letters: ``n`` samples, ``D`` = 2.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from scipy.special import i0e
from sklearn.datasets import make_moons, make_swiss_roll
from torch import Tensor

from zoo.data.tensors import Split, TensorData

Random = np.random.Generator
COUNTS = {"val": 2_000, "test": 10_000}


class Plane(TensorData):
    """A distribution in the plane: ``count`` samples to train on, 2,000 to validate on, 10,000 for the test.

    Args:
        root: none is taken, as nothing is read.
        batch_size: samples a batch.
        seed: of the order; not of the samples.
        count: samples to train on.
    """

    reads_files = False
    features: ClassVar[int] = 2

    def __init__(self, root: str | None = None, batch_size: int = 256, seed: int = 0, count: int = 20_000) -> None:
        super().__init__(root, batch_size, seed)
        if count < 1:
            raise ValueError(f"{type(self).__name__}: count must be at least 1; got {count}.")
        self.count = count

    @abstractmethod
    def draw(self, n: int, random: Random) -> np.ndarray:
        """Draw samples (n, 2)."""

    def log_density(self, x: np.ndarray) -> np.ndarray | None:
        """Return ``log p(x)`` in nats, (n,), of points (n, 2); None where it is not known in closed form."""
        return None

    def read(self) -> dict[str, Split]:
        splits = {}
        for key, (name, n) in enumerate(
            {**COUNTS, "train": self.count}.items()
        ):  # the held-out ones are always the same
            x = self.draw(n, np.random.Generator(np.random.PCG64(key)))
            splits[name] = torch.from_numpy(x.astype(np.float32)), torch.zeros(n)
        return splits

    def optimum(self) -> float | None:
        """Return the true density's negative log-likelihood of the test set, in nats; None where it is not known."""
        found = self.log_density(self.split("test")[0].double().numpy())
        return None if found is None else -float(found.mean())

    def entropy(self, side: int = 800, reach: float = 8.0) -> float | None:
        """Return ``-int p log p`` in nats, by the midpoint rule on a grid; None where the density is not known."""
        ticks = (np.arange(side) + 0.5) * (2 * reach / side) - reach
        log_p = self.log_density(np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2))
        if log_p is None:
            return None
        p = np.exp(log_p)
        return -float((p[p > 0] * log_p[p > 0]).sum() * (2 * reach / side) ** 2)


class EightGaussians(Plane):
    """Eight normal distributions on a circle: the density is known."""

    radius, scale = 4 / math.sqrt(2), 0.5 / math.sqrt(2)

    def _centers(self) -> np.ndarray:
        angle = np.arange(8) * math.pi / 4
        return self.radius * np.stack([np.cos(angle), np.sin(angle)], 1)

    def draw(self, n: int, random: Random) -> np.ndarray:
        return self._centers()[random.integers(8, size=n)] + self.scale * random.standard_normal((n, 2))

    def log_density(self, x: np.ndarray) -> np.ndarray:
        square = ((x[:, None] - self._centers()) ** 2).sum(2) / (2 * self.scale**2)
        return np.logaddexp.reduce(-square, axis=1) - math.log(8 * 2 * math.pi * self.scale**2)


class Checkerboard(Plane):
    """Uniform over the eight black fields of a board of 4 x 4, 8 across: the density is 1/32 or 0."""

    def draw(self, n: int, random: Random) -> np.ndarray:
        x = random.uniform(-4, 4, size=n)
        row = random.integers(2, size=n)  # 2 of the 4 fields of a column are black, by the parity of the column
        y = random.uniform(0, 2, size=n) + 4 * row - 4 + 2 * (np.floor(x / 2) % 2)
        return np.stack([x, y], 1)

    def log_density(self, x: np.ndarray) -> np.ndarray:
        inside = (np.abs(x) < 4).all(1)
        black = (np.floor(x[:, 0] / 2) + np.floor(x[:, 1] / 2)) % 2 == 0
        return np.where(inside & black, -math.log(32), -np.inf)


class Rings(Plane):
    """Four concentric circles with normal noise: the density is known."""

    radii, noise = np.array([0.75, 1.5, 2.25, 3.0]), 0.08

    def draw(self, n: int, random: Random) -> np.ndarray:
        angle = random.uniform(0, 2 * math.pi, size=n)
        on = random.choice(self.radii, size=n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
        return on + self.noise * random.standard_normal((n, 2))

    def log_density(self, x: np.ndarray) -> np.ndarray:
        """Sum circles: each is ``exp(-(r^2 + R^2) / 2 s^2) I_0(r R / s^2) / (2 pi s^2)`` at the distance r."""
        r, s = np.sqrt((x**2).sum(1))[:, None], self.noise
        log_each = -((r - self.radii) ** 2) / (2 * s**2) + np.log(i0e(r * self.radii / s**2))
        return np.logaddexp.reduce(log_each, axis=1) - math.log(len(self.radii) * 2 * math.pi * s**2)


class TwoMoons(Plane):
    """Two half circles that reach into one another, with normal noise."""

    def draw(self, n: int, random: Random) -> np.ndarray:
        x, _ = make_moons(n, noise=0.1, random_state=int(random.integers(2**31)))
        return 2 * x - np.array([1.0, 0.2])


class SwissRoll(Plane):
    """A spiral with normal noise, seen along the roll's axis."""

    def draw(self, n: int, random: Random) -> np.ndarray:
        x, _ = make_swiss_roll(n, noise=1.0, random_state=int(random.integers(2**31)))
        return x[:, [0, 2]] / 5


class TwoSpirals(Plane):
    """Two spirals around one another, from a thin layer to a broad one, with normal noise."""

    def draw(self, n: int, random: Random) -> np.ndarray:
        turn = np.sqrt(random.uniform(size=n)) * 3 * math.pi
        arm = np.stack([-np.cos(turn), np.sin(turn)], 1) * turn[:, None] + random.uniform(0, 0.5, size=(n, 2))
        sign = np.where(random.integers(2, size=n), 1.0, -1.0)[:, None]
        return sign * arm / 3 + 0.1 * random.standard_normal((n, 2))


class Pinwheel(Plane):
    """Five arms of a wheel, bent the more the farther out."""

    def draw(self, n: int, random: Random) -> np.ndarray:
        arm = random.integers(5, size=n)
        along, across = 1 + 0.3 * random.standard_normal(n), 0.1 * random.standard_normal(n)
        angle = 2 * math.pi * arm / 5 + 0.25 * np.exp(along)
        c, s = np.cos(angle), np.sin(angle)
        return 2 * np.stack([along * c + across * s, across * c - along * s], 1)


def grid(side: int, reach: float = 4.5) -> Tensor:
    """Return points (side^2, 2) of a square of the plane, row by row from the bottom: where figures show a density."""
    ticks = torch.linspace(-reach, reach, side)
    y, x = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([x.reshape(-1), y.reshape(-1)], 1)
