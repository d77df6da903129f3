"""Families of dynamical systems: one law, parameters of every series' own."""

from __future__ import annotations

import numpy as np

from zoo.data.series import Series, SeriesData, as_series

HORIZON = 3.0  # times to predict at end here; what is seen ends at 1
SUBSTEPS = 20  # of the integration between two rows


class Pendulums(SeriesData):
    """Damped pendulums of unknown length and friction: predict the motion from a short, noisy look at it.

        a'' = -k sin(a) - d a',    k in [2, 12],  d in [0, 0.6],  |a(0)| <= 2.5,  |a'(0)| <= 2

    Angle and velocity are seen with noise at 20 regular times in [0, 1]; 20 regular times in (1, 3] are asked for. The
    parameters stay hidden. What is asked for is noisy in training and validation, as measurements are, and true in the
    test. All series have the same times.

    Args:
        root: none is taken, as nothing is read.
        batch_size: series a batch.
        seed: of the order.
        noise: standard deviation of an observation.
        train_size: series to train on; 256 validate and 512 test.
    """

    reads_files = False
    features, num_classes, aims = 2, 0, ("forecast",)

    def __init__(
        self, root: str | None = None, batch_size: int = 64, seed: int = 0, noise: float = 0.05, train_size: int = 1024
    ) -> None:
        super().__init__(root, batch_size, seed, "forecast")
        if not noise >= 0 or train_size < 1:
            raise ValueError(
                f"Pendulums: noise must be at least 0 and train_size at least 1; got {noise}, {train_size}."
            )
        self.noise, self.train_size = noise, train_size

    def read(self) -> dict[str, Series]:
        sizes = {"test": 512, "val": 256, "train": self.train_size}
        return {name: self.make(n, key, noisy=name != "test") for key, (name, n) in enumerate(sizes.items())}

    def make(self, count: int, key: int, noisy: bool) -> Series:
        """Make so many series, by a key."""
        random = np.random.Generator(np.random.PCG64(key))
        k, d = random.uniform(2, 12, count), random.uniform(0, 0.6, count)
        start = np.stack([random.uniform(-2.5, 2.5, count), random.uniform(-2, 2, count)], -1)
        times = np.concatenate([np.linspace(0, 1, 20), np.linspace(1, HORIZON, 21)[1:]])
        path = pendulum(start, times, k, d)
        seen = path[:, :20] + self.noise * random.standard_normal((count, 20, 2))
        target = path[:, 20:] + (self.noise * random.standard_normal((count, 20, 2)) if noisy else 0.0)
        rows = np.broadcast_to(times, (count, 40))
        every = np.ones((count, 20), dtype=bool)
        return as_series(rows[:, :20], seen, every, rows[:, 20:], target, every)


def pendulum(start: np.ndarray, times: np.ndarray, k: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Return angle and velocity (n, T, 2) at the times, from the first of them, by the classical Runge-Kutta method."""

    def slope(y: np.ndarray) -> np.ndarray:
        return np.stack([y[:, 1], -k * np.sin(y[:, 0]) - d * y[:, 1]], -1)

    y, out = start, [start]
    for gap in np.diff(times):
        h = gap / SUBSTEPS
        for _ in range(SUBSTEPS):
            a = slope(y)
            b = slope(y + h / 2 * a)
            c = slope(y + h / 2 * b)
            y = y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c))
        out.append(y)
    return np.stack(out, 1)
