"""Expressiveness: nested annuli, which no flow of the plane can pull apart.

Points of an inner disc are of one class, points of the ring around it of the other. The map of a neural ODE on the
plane is a homeomorphism: the image of the disc stays enclosed by that of the ring, so that no line separates them
(Dupont, Doucet and Teh, 2019, proposition 2). Added dimensions lift this, and an equilibrium is no flow of its input:
``z*(x)`` may be any function that the equation defines.

Reference: Dupont, Doucet and Teh, "Augmented neural ODEs", NeurIPS 2019, https://arxiv.org/abs/1904.01681
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from zoo.compare.theory.scale import Scale
from zoo.solve import fixed_point, odeint

HIDDEN = 16


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Points (count, 2) and classes: 1 in the disc of radius 0.5, 0 in the ring between 1 and 1.5."""
    g = torch.Generator().manual_seed(seed)
    inner = torch.arange(count) % 2 == 1
    low, high = torch.where(inner, 0.0, 1.0), torch.where(inner, 0.5, 1.5)
    radius = (low**2 + (high**2 - low**2) * torch.rand(count, generator=g)).sqrt()
    angle = 2 * math.pi * torch.rand(count, generator=g)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), inner.float()


class Explicit(nn.Module):
    """Two layers: ``v^T tanh(W tanh(U x))``."""

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Linear(2, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1)
        self.body, self.nfe = nn.Sequential(*layers), 1

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)[:, 0]


class Flow(nn.Module):
    """``dy/dt = V tanh(W y + b) + c`` from ``[x, 0]`` for one unit of time, and one line to separate by."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra, self.nfe = extra, 0
        self.field = nn.Sequential(nn.Linear(2 + extra, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 2 + extra))
        self.read = nn.Linear(2 + extra, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([x, x.new_zeros(len(x), self.extra)], 1)
        solution = odeint(lambda t, y: self.field(y), y, (0.0, 1.0), {"name": "dopri5", "rtol": 1e-3, "atol": 1e-3})
        self.nfe = solution.stats.nfe
        return self.read(solution.value[-1])[:, 0]


class Equilibrium(nn.Module):
    """``z = tanh(W z + U x + b)`` and one line to separate by; a ``bound`` shrinks ``W`` to ``|W|_2 <= bound``."""

    def __init__(self, bound: float | None) -> None:
        super().__init__()
        self.bound = bound
        self.inner, self.inject = nn.Linear(HIDDEN, HIDDEN, bias=False), nn.Linear(2, HIDDEN)
        nn.init.orthogonal_(self.inner.weight, gain=0.5)
        self.read, self.nfe = nn.Linear(HIDDEN, 1), 0

    def forward(self, x: Tensor) -> Tensor:
        w = self.inner.weight
        if self.bound is not None:
            w = w * (self.bound / torch.linalg.matrix_norm(w, 2)).clamp(max=1.0)
        solution = fixed_point(
            lambda z, u: torch.tanh(z @ w.T + u), x.new_zeros(len(x), HIDDEN), args=(self.inject(x),)
        )
        self.nfe = solution.stats.nfe
        return self.read(solution.value)[:, 0]


MODELS: dict[str, Any] = {
    "explicit, 2 layers": Explicit,
    "Neural ODE": lambda: Flow(0),
    "augmented ODE, + 1": lambda: Flow(1),
    "augmented ODE, + 3": lambda: Flow(3),
    "DEQ": lambda: Equilibrium(0.95),
    "DEQ, W free": lambda: Equilibrium(None),
}


def train(model: nn.Module, steps: int, seed: int) -> list[float]:
    """The losses of Adam on 128 points a step."""
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(steps):
        x, y = points(128, seed * 100_000 + step)
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def digits(image: Tensor) -> list[str]:
    """An image in [0, 1] as a string of digits 0 to 9 a row: what a file keeps of it."""
    return ["".join(str(min(9, int(10 * v))) for v in row) for row in image.tolist()]


def measure(scale: Scale) -> dict[str, Any]:
    """Test accuracy over seeds, loss, evaluations, and the first seed's decisions on a grid, by model."""
    x, y = points(4000, 999)
    side = torch.linspace(-1.7, 1.7, 61)
    grid = torch.stack(torch.meshgrid(side, side, indexing="xy"), -1).view(-1, 2)
    out: dict[str, Any] = {"steps": scale.steps, "seeds": scale.seeds, "side": side.tolist(), "models": {}}
    for label, make in MODELS.items():
        accuracy, losses, nfe = [], [], []
        picture: list[Any] = []
        for seed in range(scale.seeds):
            torch.manual_seed(seed)
            model = make()
            losses.append(train(model, scale.steps, seed + 1))
            with torch.no_grad():
                accuracy.append(float(((model(x) > 0) == (y > 0.5)).float().mean()))
                nfe.append(int(model.nfe))
                if not picture:
                    picture = digits(torch.sigmoid(model(grid)).view(len(side), -1))
        out["models"][label] = {
            "parameters": sum(p.numel() for p in model.parameters()),
            "accuracy": accuracy,
            "nfe": nfe,
            "loss": [sum(run[-20:]) / len(run[-20:]) for run in losses],
            "picture": picture,
        }
    return out
