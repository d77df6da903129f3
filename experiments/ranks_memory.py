"""What a process keeps between steps: FSDP2 against DDP, bytes of parameters, gradients and Adam's state.

    OMP_NUM_THREADS=1 nice python -m experiments.ranks_memory

Two CPU processes (gloo) take one Adam step of a large MDEQ each way, on one small image a process and with two steps
of the solver: what is counted depends on neither. What a step holds for a while is not counted: FSDP2 gathers all
parameters for the forward and for the backward pass, and both ways keep the activations of one evaluation.

Writes ``experiments/results/ranks_memory.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import zoo
from zoo.storage.files import write_json
from zoo.tasks.classification import Classification
from zoo.tasks.sharding import shard
from zoo.training.environment import environment

RESULT = Path(__file__).parent / "results" / "ranks_memory.json"
PROCESSES = 2
WAYS = ("ddp", "fsdp2")


class Loss(nn.Module):
    """The task's loss as a forward pass, which DDP wraps."""

    def __init__(self, task: Classification) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Any) -> Tensor:
        return self.task.score(batch, "train").loss


def local_bytes(tensors: Iterable[Tensor]) -> int:
    parts = (t.to_local() if isinstance(t, DTensor) else t for t in tensors)
    return sum(t.numel() * t.element_size() for t in parts)


def work(rank: int, port: int, name: str, way: str, out: Path) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=PROCESSES)
    torch.manual_seed(0)
    model: Any = zoo.create_model(name, solver={"name": "picard", "max_steps": 2}, adjoint="jfb", num_classes=10)
    task = Classification(model)
    loss: nn.Module = Loss(task)
    if way == "fsdp2":
        shard(task, dist.device_mesh.init_device_mesh("cpu", (PROCESSES,)), ("score",))
    else:
        loss = DistributedDataParallel(loss)
    adam = torch.optim.Adam(task.parameters())
    size = model.unit * 2
    loss((torch.randn(2, model.in_chans, size, size), torch.arange(2))).backward()
    adam.step()
    parameters = list(task.parameters())
    state = [v for s in adam.state.values() for v in s.values() if isinstance(v, Tensor) and v.dim()]
    row = {
        "parameters": local_bytes(parameters),
        "gradients": local_bytes(p.grad for p in parameters if p.grad is not None),
        "adam": local_bytes(state),
    }
    (out / f"{rank}.json").write_text(json.dumps({**row, "in_all": sum(row.values())}))
    dist.barrier()
    dist.destroy_process_group()


def measure(name: str, way: str) -> list[dict[str, int]]:
    """Bytes of each process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (port, name, way, Path(folder)), nprocs=PROCESSES, start_method="fork")
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(PROCESSES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mdeq_large")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    count = sum(p.numel() for p in zoo.create_model(args.model).parameters())
    rows = {way: measure(args.model, way) for way in WAYS}
    share = max(r["in_all"] for r in rows["fsdp2"]) / max(r["in_all"] for r in rows["ddp"])
    for way, ranks in rows.items():
        for rank, row in enumerate(ranks):
            sizes = "   ".join(f"{k} {v / 2**20:.1f} MiB" for k, v in row.items())
            print(f"{way:<8}rank {rank}   {sizes}")
    print(f"FSDP2 keeps {share:.1%} of what DDP keeps, on {PROCESSES} processes")
    facts = {"experiment": "ranks_memory", "model": args.model, "parameters": count, "processes": PROCESSES, "seed": 0}
    write_json(args.out, {**facts, **environment(), "share": share, "ranks": rows})


if __name__ == "__main__":
    main()
