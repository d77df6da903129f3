"""A batch of generated weights, through `HyperTarget` and written by hand: ``python -m benchmarks.hypernet``.

By hand means one batched matrix product or one grouped convolution for each layer, which is what a person writes who
knows the module; `HyperTarget` runs any module by ``torch.func.vmap``. A step is forward and backward, with gradients
into weights and inputs, as a generator and an encoder need them. Both sides take turns in one process; a row is the
median over the pairs of ours / by hand: CPU time of the process, and wall time. Values and gradients are compared
first. Writes ``experiments/results/bench_hypernet.json``.
"""

from __future__ import annotations

import argparse
import copy
import os
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as zoo.fit: threads that spin measure the machine's other jobs

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.record import ROOT, write_record
from zoo.hypernet import HyperTarget

SEED, GOAL = 0, 1.3
OUT = ROOT / "experiments" / "results" / "bench_hypernet.json"
Weights = dict[str, Tensor]
Problem = tuple[nn.Module, Tensor, bool, Callable[[Weights, Tensor], Tensor]]


def dense(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Linear layers (B, out, in) on (B, n, in)."""
    return torch.baddbmm(b.unsqueeze(1), x, w.transpose(1, 2))


def conv(w: Tensor, b: Tensor, x: Tensor) -> Tensor:
    """Convolutions (B, out, in, 3, 3) on tasks of n images (B, n, in, H, W), as one convolution of B groups."""
    sets, n = x.shape[:2]
    wide = x.transpose(0, 1).reshape(n, -1, *x.shape[3:])
    y = F.conv2d(wide, w.flatten(0, 1), b.flatten(), padding=1, groups=sets)
    return y.unflatten(1, (sets, -1)).transpose(0, 1)


def mlp_by_hand(w: Weights, x: Tensor) -> Tensor:
    h = x if x.dim() == 3 else x.unsqueeze(1)
    last = max(int(k.partition(".")[0]) for k in w)
    for k in range(0, last + 1, 2):
        h = dense(w[f"{k}.weight"], w[f"{k}.bias"], h)
        h = F.relu(h) if k < last else h
    return h if x.dim() == 3 else h.squeeze(1)


def conv_by_hand(w: Weights, x: Tensor) -> Tensor:
    tasks = x if x.dim() == 5 else x.unsqueeze(1)
    y = conv(w["weight"], w["bias"], tasks)
    return y if x.dim() == 5 else y.squeeze(1)


def net_by_hand(w: Weights, x: Tensor) -> Tensor:
    """Convolution, group normalization, ReLU, twice; then a linear layer on the mean of the map."""
    z = x
    for k in (0, 3):
        z = conv(w[f"{k}.weight"], w[f"{k}.bias"], z)
        sets, n = z.shape[:2]
        z = F.group_norm(z.flatten(0, 1), 4).unflatten(0, (sets, n))
        scale, shift = (w[f"{k + 1}.{name}"][:, None, :, None, None] for name in ("weight", "bias"))
        z = F.relu(z * scale + shift)
    return dense(w["8.weight"], w["8.bias"], z.mean((3, 4)))


def problems() -> dict[str, Problem]:
    """Module, inputs, whether every sample has its own weights, and the same by hand."""
    torch.manual_seed(SEED)
    small = nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))
    deep, tiny = (
        nn.Sequential(nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d), nn.ReLU(), nn.Linear(d, d)) for d in (256, 64)
    )
    one = nn.Conv2d(16, 16, 3, padding=1)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip
    return {
        "MLP 784-100-10, 64 samples, a set each": (small, torch.randn(64, 784), True, mlp_by_hand),
        "MLP 256-256-256-256, 16 tasks of 32 samples": (deep, torch.randn(16, 32, 256), False, mlp_by_hand),
        "MLP 64-64-64-64, 16 tasks of 32 samples": (tiny, torch.randn(16, 32, 64), False, mlp_by_hand),
        "conv 3x3 16-16, 64 images 16x16, a set each": (one, torch.randn(64, 16, 16, 16), True, conv_by_hand),
        "conv 3x3 16-16, 16 tasks of 8 images 16x16": (one, torch.randn(16, 8, 16, 16, 16), False, conv_by_hand),
        "conv, norm, conv, norm, linear, 16 tasks of 8": (net, torch.randn(16, 8, 3, 16, 16), False, net_by_hand),
    }  # fmt: skip


def steps(problem: Problem) -> tuple[Callable[[], list[Tensor]], Callable[[], list[Tensor]]]:
    """Ours and by hand: both return the output and the gradients of weights and inputs."""
    module, x, each, by_hand = problem
    values = {n: p.detach().clone() for n, p in module.named_parameters()}
    sets = len(x)
    weights = {n: (v + 0.01 * torch.randn(sets, *v.shape)).requires_grad_() for n, v in values.items()}
    x = x.clone().requires_grad_()
    target = HyperTarget(copy.deepcopy(module))
    leaves = [*weights.values(), x]

    def step(call: Callable[[], Tensor]) -> list[Tensor]:
        y = call()
        return [y.detach(), *torch.autograd.grad(y.square().sum(), leaves)]

    def ours() -> Tensor:
        return target.each(weights, x) if each else target(weights, x, batched=True)

    return lambda: step(ours), lambda: step(lambda: by_hand(weights, x))


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, float]:
    """CPU and wall seconds of one call, averaged."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.process_time() - cpu) / repeats, (time.perf_counter() - wall) / repeats


def measure(name: str, problem: Problem, threads: int, pairs: int) -> dict[str, Any]:
    torch.set_num_threads(threads)
    ours, hand = steps(problem)
    for a, b in zip(ours(), hand(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    hand()
    repeats = max(1, round(0.03 / timed(hand, 3)[1]))
    times = []
    for k in range(pairs):  # each side goes first every other time
        first, second = (ours, hand) if k % 2 else (hand, ours)
        a, b = timed(first, repeats), timed(second, repeats)
        times.append((a, b) if k % 2 else (b, a))
    cpu, wall = (sorted(o[i] / h[i] for o, h in times) for i in (0, 1))
    row = {
        "problem": name, "threads": threads, "goal": GOAL,
        "ratio": median(cpu), "lower quartile": cpu[pairs // 4], "upper quartile": cpu[3 * pairs // 4],
        "wall ratio": median(wall),
        "wall lower quartile": wall[pairs // 4], "wall upper quartile": wall[3 * pairs // 4],
        "ms": 1e3 * median(o[1] for o, _ in times), "by hand ms": 1e3 * median(h[1] for _, h in times),
    }  # fmt: skip
    print(f"{name:<58}{threads} threads  CPU {row['ratio']:.2f}  wall {row['wall ratio']:.2f}", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", default="", help="problems whose name holds this")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rows = [
        measure(name, problem, threads, args.pairs)
        for threads in args.threads
        for name, problem in problems().items()
        if args.only in name
    ]
    write_record(
        args.out, rows, benchmark="hypernet", seed=SEED, pairs=args.pairs,
        command=f"python -m benchmarks.hypernet --pairs {args.pairs}",
        times="training steps, ours over by hand, medians of interleaved pairs; CPU time of the process, and wall time",
    )  # fmt: skip


if __name__ == "__main__":
    main()
