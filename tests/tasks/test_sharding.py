"""Parameters split over two processes (FSDP2 on gloo): the gradients of one process on the joined batch."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from problems import SOLVES, matrix
from torch import nn
from torch.distributed.tensor import DTensor

import zoo
from zoo.implicit import implicit_modules
from zoo.tasks.classification import Classification
from zoo.tasks.sharding import shard, whole

HALF, N = 6, 8


class Model(zoo.ImplicitMixin, nn.Module):
    """Images to classes through ``z = tanh(W z + x)``, or through the same as a field."""

    problem_types = ("fixed_point", "ode")
    num_classes = 4

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.inject, self.linear, self.head = nn.Linear(64, N), nn.Linear(N, N), nn.Linear(N, 4)
        with torch.no_grad():
            self.linear.weight.copy_(matrix(N, 0.95))
        self.configure_implicit(*SOLVES[kind])

    def forward(self, images):
        x = self.inject(images.flatten(1))
        if self.kind == "ode":
            params = tuple(self.linear.parameters())
            return self.head(self.integrate(lambda t, y: torch.tanh(self.linear(y)), x, (0.0, 1.0), params=params)[-1])
        return self.head(self.solve(lambda z, x: torch.tanh(self.linear(z) + x), torch.zeros_like(x), args=(x,)))


def build(name: str) -> Classification:
    torch.manual_seed(0)
    return Classification(Model(name).double())


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(2 * HALF, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    size = torch.cat((torch.full((HALF, 1, 1, 1), 40.0), torch.full((HALF, 1, 1, 1), 0.05)))  # of unequal difficulty
    return x * size, torch.arange(2 * HALF) % 4


def work(rank: int, port: int, name: str, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    task = build(name)
    shard(task, dist.device_mesh.init_device_mesh("cpu", (2,)), ("score",))
    x, y = batch()
    mine = slice(rank * HALF, (rank + 1) * HALF)
    task.score((x[mine], y[mine]), "train").loss.backward()
    split = all(isinstance(p, DTensor) for p in task.parameters())
    grads = {k: whole(p.grad) for k, p in task.named_parameters()}
    nfe = [m.last.stats.nfe for _, m in implicit_modules(task.model)]
    norm = float(whole(torch.nn.utils.get_total_norm([p.grad for p in task.parameters()])))
    torch.save({"grads": grads, "nfe": nfe, "split": split, "norm": norm}, out / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def refuse(rank: int, port: int, out: Path) -> None:
    from torch.distributed.fsdp import fully_shard

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    task = build("equilibrium")
    fully_shard(task.model, mesh=mesh)
    try:
        shard(task, mesh, ("score",))
    except ValueError as error:
        (out / f"{rank}.txt").write_text(str(error))
    dist.destroy_process_group()


def start(function, *arguments) -> None:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    context = mp.start_processes(function, (port, *arguments), nprocs=2, join=False, start_method="fork")
    assert any(context.join(timeout=60) for _ in range(3))


@pytest.mark.parametrize("name", SOLVES)
def test_gradients_of_split_parameters_are_exact(name, tmp_path):
    start(work, name, tmp_path)
    ranks = [torch.load(tmp_path / f"{r}.pt", weights_only=True) for r in range(2)]
    single = build(name)
    single.score(batch(), "train").loss.backward()
    assert all(r["split"] for r in ranks)
    if name == "equilibrium":
        assert ranks[0]["nfe"] != ranks[1]["nfe"]
    exact = {k: p.grad for k, p in single.named_parameters()}
    total = torch.nn.utils.get_total_norm(exact.values())
    for r in ranks:
        assert r["norm"] == pytest.approx(float(total), rel=1e-5)
        for key, value in exact.items():
            assert (r["grads"][key] - value).norm() <= 1e-6 * total, key


def test_a_part_sharded_by_itself_is_refused_in_words(tmp_path):
    start(refuse, tmp_path)
    assert "shard the root only" in (tmp_path / "0.txt").read_text()
