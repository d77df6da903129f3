"""A training step of neural ODEs side by side with the same model on torchdiffeq.

    OMP_NUM_THREADS=1 nice python -m benchmarks.odenet [--compile] [--pairs 15]

Both sides hold the same weights and integrate by dopri5 at the same tolerance, with the error norm that torchdiffeq
takes, so that both make nearly the same evaluations; the loss is differentiated through the steps on both. Times are
interleaved pairs of CPU time of one thread, and a row's number is the median of the pairs' ratios: on a machine that
other jobs share, ratios stand. Writes ``experiments/results/bench_odenet.json``.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn

from benchmarks.record import ROOT, write_record
from zoo.hub.factory import create_model
from zoo.node.fields import MLPField
from zoo.node.odenet import ODEBlock
from zoo.solve import make_adjoint

SEED = 0
OUT = ROOT / "experiments" / "results" / "bench_odenet.json"


class Peer(nn.Module):
    """An ODE block that torchdiffeq integrates, forwards and through its own backward pass."""

    def __init__(self, block: ODEBlock, tolerance: float, adjoint: bool = False) -> None:
        super().__init__()
        self.field, self.end, self.tolerance = block.field, block.end, tolerance
        self.odeint = torchdiffeq.odeint_adjoint if adjoint else torchdiffeq.odeint
        self.calls = 0
        self.field.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1

    def forward(self, x: Tensor) -> Tensor:
        times = torch.tensor([0.0, self.end], dtype=x.dtype)
        return self.odeint(self.field, x, times, rtol=self.tolerance, atol=self.tolerance, method="dopri5")[-1]


class Alone(nn.Module):
    """The field's evaluations of a block one after another, without a solver: what no way of ours can be faster than.

    The compiled form is one function, as the compiled step holds the field too.
    """

    def __init__(self, block: ODEBlock, calls: int, compiled: bool) -> None:
        super().__init__()
        self.field, self.calls = block.field, calls
        self.run = torch.compile(self.chain) if compiled else self.chain

    def chain(self, x: Tensor) -> Tensor:
        t = x.new_zeros(())
        for _ in range(self.calls):
            x = self.field(t, x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


class Vectors(nn.Module):
    """A classifier of vectors around one ODE block, whose weights are as large as training makes them."""

    def __init__(self, width: int, hidden: tuple[int, ...], gain: float = 3.0) -> None:
        super().__init__()
        field = MLPField(width, hidden)
        with torch.no_grad():
            for layer in field.layers:
                layer.base.weight.mul_(gain)
        self.blocks = nn.ModuleList([ODEBlock(field)])
        self.classifier = nn.Linear(width, 10)

    def configure_implicit(self, solver: Any = None, adjoint: Any = None) -> None:
        self.blocks[0].configure_implicit(solver, adjoint)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks[0](x))


def problems() -> dict[str, tuple[nn.Module, Tensor, float]]:
    """Model, batch and tolerance: the published sizes, and a small field whose solver is all the cost."""
    torch.manual_seed(SEED)
    return {
        "conv field, ODE-Net of 0.21M parameters, 128 images 28x28": (
            create_model("odenet_mnist"),
            torch.randn(128, 1, 28, 28),
            1e-3,
        ),
        "conv field, ODE-Net for digits, 64 images 8x8": (
            create_model("odenet_mnist", downsample=1, padding=1),
            torch.randn(64, 1, 8, 8),
            1e-3,
        ),
        "MLP field 64-64-64, 128 vectors": (Vectors(64, (64,)), torch.randn(128, 64), 1e-5),
        "MLP field 16-32-16, 64 vectors": (Vectors(16, (32,)), torch.randn(64, 16), 1e-5),
    }


def training_step(model: nn.Module, x: Tensor) -> Callable[[], None]:
    target = torch.arange(len(x)) % 10

    def step() -> None:
        model.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()

    return step


def cpu_seconds(run: Callable[[], None]) -> float:
    start = time.process_time()  # the backward pass has a thread of its own
    run()
    return time.process_time() - start


def interleaved(theirs: Callable[[], None], ours: Callable[[], None], pairs: int) -> dict[str, float]:
    """Median ratio and times in milliseconds, and the middle half of the ratios."""
    for run in (theirs, ours, theirs, ours):
        run()
    times = [(cpu_seconds(theirs), cpu_seconds(ours)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in times)
    return {
        "speedup": median(ratios),
        "lower quartile": ratios[pairs // 4],
        "upper quartile": ratios[(3 * pairs) // 4],
        "ms": 1e3 * median(b for _, b in times),
        "peer ms": 1e3 * median(a for a, _ in times),
    }


def compare(name: str, model: nn.Module, x: Tensor, tol: float, pairs: int, compiled: bool) -> list[dict[str, Any]]:
    """Rows for one problem: our ways against torchdiffeq's direct gradient, and backsolve against its adjoint."""
    solver = {"name": "dopri5", "rtol": tol, "atol": tol, "norm": "mean"}
    ways: dict[str, tuple[dict[str, Any], str, bool]] = {
        "unroll": (solver, "unroll", False),
        "unroll, error norm of the worst sample": ({**solver, "norm": "max"}, "unroll", False),
        "checkpoint": (solver, "checkpoint", False),
        "backsolve": (solver, "backsolve", True),
    }
    if compiled:
        ways["unroll, compiled"] = ({**solver, "compile": True}, "unroll", False)
    rows = []
    for label, (spec, adjoint, peer_adjoint) in ways.items():
        ours, theirs = copy.deepcopy(model), copy.deepcopy(model)
        ours.configure_implicit(spec, make_adjoint(adjoint))
        theirs.blocks[0] = Peer(theirs.blocks[0], tol, peer_adjoint)
        times = interleaved(training_step(theirs, x), training_step(ours, x), pairs)
        with torch.no_grad():
            theirs.blocks[0].calls = 0
            gap = (ours(x) - theirs(x)).abs().max().item()
        nfe, peer_nfe = ours.blocks[0].last.stats.nfe, theirs.blocks[0].calls
        row = {"problem": name, "ours": label, "tolerance": tol, **times, "nfe": nfe, "peer nfe": peer_nfe,
               "largest difference of the logits": gap}  # fmt: skip
        if adjoint == "unroll":  # one evaluation, that of the first step's guess, has no gradient
            ours.blocks[0] = Alone(ours.blocks[0], nfe - 1, spec.get("compile", False))
            row["bound"] = interleaved(training_step(theirs, x), training_step(ours, x), pairs)["speedup"]
        rows.append(row)
        print(f"{name:<58}{label:<40}{times['speedup']:.2f}x of {row.get('bound', 0):.2f}x  {times['ms']:.1f} ms  "
              f"nfe {nfe} / {peer_nfe}", flush=True)  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--compile", action="store_true", help="measure the compiled step too")
    parser.add_argument("--only", default="", help="problems whose name holds this")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name, (model, x, tol) in problems().items():
        if args.only in name:
            rows += compare(name, model, x, tol, args.pairs, args.compile)
    flags = " --compile" if args.compile else ""
    write_record(
        args.out, rows, packages=("torchdiffeq",), benchmark="odenet", seed=SEED, pairs=args.pairs,
        command=f"OMP_NUM_THREADS=1 python -m benchmarks.odenet{flags} --pairs {args.pairs}",
        times="CPU time of one thread, medians of interleaved pairs; a machine shared with other jobs: ratios stand",
    )  # fmt: skip


if __name__ == "__main__":
    main()
