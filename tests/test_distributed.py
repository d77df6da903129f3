"""Two processes (gloo, DDP) that need different numbers of evaluations equal one process on the joined batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import matrix
from test_sharding import SOLVES
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import zoo
from zoo.solvers.ode import ODESolver

N, BATCH = 8, 3


class Layer(zoo.ImplicitMixin, nn.Module):
    problems = ("fixed_point", "ode")

    def __init__(self, solver: Any, adjoint: Any) -> None:
        super().__init__()
        self.inject, self.linear, self.head = (nn.Linear(N, N).double() for _ in range(3))
        with torch.no_grad():
            self.linear.weight.copy_(matrix(N, 0.95))
        self.unused = nn.Linear(2, 2).double()
        self.configure_implicit(solver, adjoint)

    def forward(self, x):
        x = self.inject(x)
        if isinstance(self.solver, ODESolver):
            params = tuple(self.linear.parameters())
            field = lambda t, y: torch.tanh(self.linear(y))  # noqa: E731
            return self.head(self.integrate(field, x, (0.0, 1.0), params=params)[-1])
        return self.head(self.solve(lambda z, x: torch.tanh(self.linear(z) + x), torch.zeros_like(x), args=(x,)))


def build(solver: str, adjoint: str) -> Layer:
    torch.manual_seed(0)
    if solver == "ode":
        return Layer(*SOLVES["ode"])
    spec = {"name": solver, "rtol": 1e-10, "atol": 0.0, "max_steps": 300}
    return Layer(spec, SOLVES["equilibrium"][1] if adjoint == "implicit" else adjoint)


def data() -> torch.Tensor:
    """One half saturates the tanh and converges at once, the other is as hard as the weight allows."""
    x = torch.randn(2 * BATCH, N, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return x * torch.cat((torch.full((BATCH, 1), 40.0), torch.full((BATCH, 1), 0.05))).double()


def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


def work(rank: int, port: int, solver: str, adjoint: str, accumulate: bool, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    layer = build(solver, adjoint)
    model = DistributedDataParallel(layer, find_unused_parameters=True)
    mine = data()[rank * BATCH : (rank + 1) * BATCH]
    if accumulate:
        with model.no_sync():
            loss(model, mine).backward()
    loss(model, mine).backward()
    grads = {k: p.grad for k, p in layer.named_parameters() if p.grad is not None}
    torch.save({"grads": grads, "nfe": layer.last.stats.nfe}, out / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("solver", "adjoint", "accumulate"),
    [
        ("anderson", "implicit", False),
        ("broyden", "implicit", True),
        ("picard", "phantom", False),
        ("ode", "checkpoint", True),
    ],
)
def test_two_processes_equal_one(solver, adjoint, accumulate, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.start_processes(
        work, (port, solver, adjoint, accumulate, tmp_path), nprocs=2, join=False, start_method="fork"
    )
    assert any(context.join(timeout=60) for _ in range(3))  # returns early as each process ends
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    assert ranks[0]["nfe"] != ranks[1]["nfe"]
    single = build(solver, adjoint)
    for _ in range(1 + accumulate):
        loss(single, data()).backward()
    for name, exact in ((k, p.grad) for k, p in single.named_parameters() if p.grad is not None):
        for r in ranks:
            error = (r["grads"][name] - exact).norm() / exact.norm()
            assert error <= 1e-6, (name, float(error))
