"""Conservative systems: paths of a known energy, computed to twelve digits.

The state is ``[q, p]``, positions and momenta side by side, seen at regular times. Training and validation see short
paths; the test follows longer ones, where a model that loses or gains energy drifts away.

Shape letters: ``n`` paths, ``T`` times, ``D`` numbers of a state.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from zoo.data.loader import generator
from zoo.data.tensors import Split, TensorData
from zoo.solve import odeint


class Motion(TensorData):
    """Paths (n, T, D) of a system and their times (n, T), the same for all.

    Args:
        root: none is taken, as nothing is read.
        batch_size: paths a batch.
        seed: of the order; not of the paths.
        count: paths to train on; 128 validate, and 64 test.
    """

    reads_files = False
    features: ClassVar[int]
    spacing: ClassVar[float]  # between two times
    rows: ClassVar[int] = 13  # times of a path to train on
    test_rows: ClassVar[int] = 201

    def __init__(self, root: str | None = None, batch_size: int = 64, seed: int = 0, count: int = 512) -> None:
        super().__init__(root, batch_size, seed)
        if count < 1:
            raise ValueError(f"{type(self).__name__}: count must be at least 1; got {count}.")
        self.count = count

    @abstractmethod
    def start(self, n: int, random: torch.Generator) -> Tensor:
        """Return states (n, D) to start from, in float64."""

    @abstractmethod
    def energy(self, y: Tensor) -> Tensor:
        """Return ``H(y)``, (...), of states (..., D)."""

    @abstractmethod
    def field(self, t: Tensor, y: Tensor) -> Tensor:
        """Return ``[dH/dp, -dH/dq]``, (n, D)."""

    @torch.no_grad()
    def paths(self, n: int, rows: int, random: torch.Generator) -> Split:
        """Return paths and times, in float32; solved in float64."""
        ts = torch.arange(rows, dtype=torch.float64) * self.spacing
        tight = {"name": "dopri8", "rtol": 1e-12, "atol": 1e-12, "max_steps": 100_000}
        y = odeint(self.field, self.start(n, random), ts, tight, throw=True).value
        return y.transpose(0, 1).float(), ts.float().expand(n, rows)

    def read(self) -> dict[str, Split]:
        return {
            "val": self.paths(128, self.rows, generator(0)),
            "test": self.paths(64, self.test_rows, generator(1)),
            "train": self.paths(self.count, self.rows, generator(2)),
        }


class IdealPendulum(Motion):
    """A pendulum without friction, ``H = p^2/2 + 1 - cos q``: it swings, and never over the top (H < 1.8 < 2)."""

    features, spacing = 2, 0.25

    def start(self, n: int, random: torch.Generator) -> Tensor:
        """Return energies uniform in (0.1, 1.8), released at rest a random part of a swing ago: nearly."""
        h = 0.1 + 1.7 * torch.rand(n, generator=random, dtype=torch.float64)
        share = 2 * torch.rand(n, generator=random, dtype=torch.float64) - 1  # of the greatest angle
        q = share * torch.acos(1 - h)
        sign = torch.where(torch.rand(n, generator=random) < 0.5, 1.0, -1.0).double()
        return torch.stack([q, sign * (2 * (h - 1 + torch.cos(q)).clamp_min(0)).sqrt()], 1)

    def energy(self, y: Tensor) -> Tensor:
        q, p = y.unbind(-1)
        return p.square() / 2 + 1 - torch.cos(q)

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat([p, -torch.sin(q)], 1)


class TwoBody(Motion):
    """Two bodies of unit mass in a plane, ``H = |p|^2/2 - 1/|q_1 - q_2|``, on nearly circular orbits.

    ``y = [q_1, q_2, p_1, p_2]``, two numbers each. The bodies are half their distance ``r`` in (0.5, 1.5) from the
    center that rests; their speeds are within a tenth of those of a circle.
    """

    features, spacing, test_rows = 8, 0.25, 121

    def start(self, n: int, random: torch.Generator) -> Tensor:
        u = torch.rand(3, n, generator=random, dtype=torch.float64)
        r, angle, quick = 0.5 + u[0], 2 * math.pi * u[1], 0.9 + 0.2 * u[2]
        c, s = angle.cos(), angle.sin()
        q = r[:, None] * torch.stack([c, s], 1)
        p = (quick / (2 * r.sqrt()))[:, None] * torch.stack([-s, c], 1)  # v^2 / r = 1 / (2 r)^2 on a circle
        return torch.cat([q, -q, p, -p], 1)

    def energy(self, y: Tensor) -> Tensor:
        distance = torch.linalg.vector_norm(y[..., :2] - y[..., 2:4], dim=-1)
        return y[..., 4:].square().sum(-1) / 2 - 1 / distance

    def field(self, t: Tensor, y: Tensor) -> Tensor:
        apart = y[:, :2] - y[:, 2:4]
        pull = apart / torch.linalg.vector_norm(apart, dim=1, keepdim=True) ** 3
        return torch.cat([y[:, 4:], -pull, pull], 1)
