"""Two processes (gloo, DDP) that need different numbers of evaluations equal one process on the joined batch."""

from __future__ import annotations

import copy
import os
import socket
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import SOLVES, matrix
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import zoo
from zoo.implicit import implicit_modules
from zoo.solvers.ode.base import ODESolver
from zoo.training.build import build_run
from zoo.training.options import Options
from zoo.training.request import resolve

N, BATCH = 8, 3
FAMILIES = zoo.list_models("test_*")


class Layer(zoo.ImplicitMixin, nn.Module):
    problem_types = ("fixed_point", "ode")

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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


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
        pytest.param("broyden", "implicit", True, marks=pytest.mark.slow),
        pytest.param("picard", "phantom", False, marks=pytest.mark.slow),
        pytest.param("ode", "checkpoint", True, marks=pytest.mark.slow),
    ],
)
def test_two_processes_equal_one(solver, adjoint, accumulate, tmp_path):
    context = mp.start_processes(
        work, (free_port(), solver, adjoint, accumulate, tmp_path), nprocs=2, join=False, start_method="fork"
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


class Loss(nn.Module):
    """What DDP wraps: the training loss of a task's half of the batch, with randomness that is the half's own."""

    def __init__(self, name: str) -> None:
        super().__init__()
        options = Options(resolve(["--model", name]))
        torch.manual_seed(0)
        self.task, data, _ = build_run(options, 0)
        data.prepare_data()
        data.setup()
        batches = iter(data.train_dataloader())
        self.halves = [next(batches), next(batches, None)]
        if self.halves[1] is None:  # a graph is one batch: both processes have it
            self.halves[1] = self.halves[0]

    def forward(self, half: int) -> torch.Tensor:
        torch.manual_seed(100 + half)
        return self.task.score(self.halves[half], "train").loss


def families(rank: int, port: int, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    modules = {name: Loss(name) for name in FAMILIES}  # before there is a group, by which loaders share out batches
    dist.init_process_group("gloo", rank=rank, world_size=2)
    for name, module in modules.items():
        try:
            wrapped = DistributedDataParallel(module, find_unused_parameters=True)  # whose hooks need it alive
            wrapped(rank).backward()
            found = {
                "grads": {k: p.grad for k, p in module.task.named_parameters() if p.grad is not None},
                "nfe": [m.last.stats.nfe for _, m in implicit_modules(module.task.model) if m.last is not None],
            }
        except Exception:  # the other process must not wait for this one
            found = {"error": traceback.format_exc()}
        torch.save(found, out / f"{name}.{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory):
    out = tmp_path_factory.mktemp("families")
    context = mp.start_processes(families, (free_port(), out), nprocs=2, join=False, start_method="fork")
    assert any(context.join(timeout=200) for _ in range(3))
    return out


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_familys_gradients_are_those_of_one_process(name, trained_by_two):
    ranks = [torch.load(trained_by_two / f"{name}.{r}.pt", weights_only=True) for r in range(2)]
    assert not any("error" in r for r in ranks), ranks
    single, exact = Loss(name), {}
    for half in range(2):  # of a loss that is a mean, over halves of one size: the mean over the joined batch
        one = copy.deepcopy(single)  # a language model keeps a memory from a batch to the next
        one(half).backward()
        for key, p in one.task.named_parameters():
            if p.grad is not None:
                exact[key] = exact.get(key, 0) + p.grad / 2
    scale = torch.cat([g.flatten() for g in exact.values()]).norm()
    assert scale > 0
    for r in ranks:
        assert r["grads"].keys() >= exact.keys()
        for key, grad in r["grads"].items():
            error = (grad - exact.get(key, torch.zeros_like(grad))).norm() / scale
            assert error <= 1e-6, (name, key, float(error))
