"""ODE solvers side by side with torchdiffeq, and with torchode where it is installed.

    OMP_NUM_THREADS=1 nice python -m benchmarks.ode [--compile] [--pairs 15]

Every time is one half of an interleaved pair, ours and theirs within a moment of one another, and a row's number is
the median of the pairs' ratios, in CPU time of one thread: on a machine that other jobs share, ratios stand. Writes
``experiments/results/bench_ode.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torchdiffeq
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.solve import make_adjoint, make_solver, odeint
from zoo.training.environment import environment

SEED = 0
ROOT = Path(__file__).resolve().parents[1]
Solve = Callable[[Callable[..., Tensor], Tensor, list[float]], Tensor]


def mlp(size: int, hidden: int, gain: float) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, size))
    with torch.no_grad():
        net[0].weight.mul_(gain)
        net[2].weight.mul_(gain)
    return net


class ConvField(nn.Module):
    """Group norm, ReLU, 3x3 convolution with a time channel, twice: the field of the first neural ODE on images."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels + 1, channels, 3, padding=1) for _ in range(2))
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(32, channels) for _ in range(3))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        time = t.expand_as(y[:, :1])
        y = self.conv1(torch.cat([torch.relu(self.norm1(y)), time], 1))
        return self.norm3(self.conv2(torch.cat([torch.relu(self.norm2(y)), time], 1)))


def ours(tol: float, adjoint: str = "unroll", **options: Any) -> Solve:
    solver, way = make_solver({"name": "dopri5", "rtol": tol, "atol": tol, **options}), make_adjoint(adjoint)
    return lambda f, y0, ts: odeint(f, y0, ts, solver, way).value


def theirs(tol: float) -> Solve:
    return lambda f, y0, ts: torchdiffeq.odeint(f, y0, torch.tensor(ts, dtype=y0.dtype), rtol=tol, atol=tol)


def torchode_solve(tol: float) -> Solve:
    import torchode

    def solve(f: Callable[..., Tensor], y0: Tensor, ts: list[float]) -> Tensor:
        term = torchode.ODETerm(f)
        method = torchode.Dopri5(term=term)
        solver = torchode.AutoDiffAdjoint(method, torchode.IntegralController(atol=tol, rtol=tol, term=term))
        times = torch.tensor(ts, dtype=y0.dtype).repeat(len(y0), 1)
        return solver.solve(torchode.InitialValueProblem(y0=y0, t_eval=times)).ys.transpose(0, 1)

    return solve


class Counter:
    """A field that counts its calls."""

    def __init__(self, f: Callable[..., Tensor]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self.f(t, y)


def seconds(run: Callable[[], Any]) -> float:
    start = time.thread_time()  # of this one thread: what other jobs take of the machine does not count
    run()
    return time.thread_time() - start


def ratio(numerator: Callable[[], Any], denominator: Callable[[], Any], pairs: int) -> tuple[float, float, float]:
    """Median of the pairs' ratios, and the median times in milliseconds."""
    for run in (numerator, denominator, numerator, denominator):
        run()
    a, b = zip(*((seconds(numerator), seconds(denominator)) for _ in range(pairs)), strict=True)
    return median(x / y for x, y in zip(a, b, strict=True)), 1e3 * median(a), 1e3 * median(b)


def small_field(pairs: int, compiled: bool) -> dict[str, Any]:
    """MLP 64-64-64, batch 128, t in [0, 1], tolerance 1e-5."""
    net, y0, ts, tol = mlp(64, 64, 3.0), torch.randn(128, 64), [0.0, 1.0], 1e-5

    def field(t: Tensor, y: Tensor) -> Tensor:
        return net(y)

    def infer(solve: Solve) -> Callable[[], Any]:
        return torch.no_grad()(lambda: solve(field, y0, ts))

    def train(solve: Solve) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(solve(field, y0, ts)[-1].square().mean(), tuple(net.parameters()))

    def evaluations(solve: Solve) -> int:
        counter = Counter(field)
        with torch.no_grad():
            solve(counter, y0, ts)
        return counter.calls

    def alone(calls: int) -> Callable[[Tensor], Tensor]:
        def chain(y: Tensor) -> Tensor:
            for _ in range(calls):
                y = net(y)
            return y

        return chain

    def bare(run: Callable[[Tensor], Tensor], kind: str) -> Callable[[], Any]:
        """The field's evaluations one after another and, in training, their gradient: no solver at all."""
        if kind == "inference":
            return torch.no_grad()(lambda: run(y0))
        return lambda: torch.autograd.grad(run(y0).square().mean(), tuple(net.parameters()))

    peer, rows = theirs(tol), {}
    variants = {"eager": {}, "eager, torchdiffeq's error norm": {"norm": "mean"}}
    if compiled:
        variants |= {
            "compiled": {"compile": True},
            "compiled, torchdiffeq's error norm": {"compile": True, "norm": "mean"},
        }
    for kind, make, goals in (("inference", infer, (2.5, 5.0)), ("training", train, (1.8, 4.0))):
        for label, options in variants.items():
            solve, compile_it = ours(tol, **options), "compile" in options
            speedup, peer_ms, our_ms = ratio(make(peer), make(solve), pairs)
            calls = evaluations(ours(tol, norm=options.get("norm", "max")))
            chain = torch.compile(alone(calls)) if compile_it else alone(calls)
            bound, _, bare_ms = ratio(make(peer), bare(chain, kind), pairs)
            rows[f"dopri5 MLP field, {kind}, {label}"] = {
                "goal": f">= {goals[compile_it]}x torchdiffeq", "measured": round(speedup, 2),
                "bound": round(bound, 2), "ms": round(our_ms, 2), "peer ms": round(peer_ms, 2),
                "evaluations alone ms": round(bare_ms, 2), "nfe": calls, "peer nfe": evaluations(peer),
            }  # fmt: skip
    if find_spec("torchode"):
        speedup, peer_ms, our_ms = ratio(infer(torchode_solve(tol)), infer(ours(tol)), pairs)
        rows["dopri5 MLP field, inference, eager, against torchode"] = {
            "measured": round(speedup, 2), "ms": round(our_ms, 2), "peer ms": round(peer_ms, 2),
        }  # fmt: skip
    return rows


class Ops(TorchDispatchMode):
    """Counts aten operations and host reads outside of the field."""

    def __init__(self) -> None:
        super().__init__()
        self.ops = self.reads = 0
        self.inside = False

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.inside:
            self.ops += 1
            self.reads += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default)
        return function(*args, **(kwargs or {}))


def operations() -> dict[str, Any]:
    """Between a solve of one interval and one of a longer one: what a step costs, without what a solve costs once."""
    net, y0 = mlp(64, 64, 3.0), torch.randn(128, 64)

    def count(solve: Solve, end: float) -> tuple[int, int, int]:
        ops, calls = Ops(), 0

        def field(t: Tensor, y: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            ops.inside = True
            try:
                return net(y)
            finally:
                ops.inside = False

        with torch.no_grad(), ops:
            solve(field, y0, [0.0, end])
        return ops.ops, ops.reads, (calls - 2) // 6

    def a_step(solve: Solve) -> tuple[float, float]:
        (o1, r1, s1), (o2, r2, s2) = count(solve, 1.0), count(solve, 6.0)
        return round((o2 - o1) / (s2 - s1), 1), round((r2 - r1) / (s2 - s1), 2)

    (ops, reads), (peer_ops, peer_reads) = a_step(ours(1e-5)), a_step(theirs(1e-5))
    return {
        "dopri5 operations a step outside f": {"goal": "<= 45", "measured": ops, "peer": peer_ops},
        "dopri5 host reads a step": {"goal": "1", "measured": reads, "peer": peer_reads},
    }


def convolution(pairs: int) -> dict[str, Any]:
    """64 channels, 7x7, batch 128, tolerance 1e-3, inference: wall time over evaluations times one evaluation's."""
    net, y0 = ConvField(), torch.randn(128, 64, 7, 7)
    found = {}
    for name, solve in (("measured", ours(1e-3)), ("peer", theirs(1e-3))):
        counter = Counter(net)
        with torch.no_grad():
            solve(counter, y0, [0.0, 1.0])
            run, calls = (lambda solve=solve: solve(net, y0, [0.0, 1.0])), counter.calls
            t = torch.tensor(0.5)
            found[name], ms, _ = ratio(
                run, lambda calls=calls, t=t: [net(t, y0) for _ in range(calls)], max(3, pairs // 5)
            )
        found[f"{name} nfe"], found[f"{name} ms"] = calls, round(ms)
        found[name] = round(found[name], 3)
    return {"dopri5 conv field 64x7x7, overhead": {"goal": "<= 1.15", **found}}


def kept() -> dict[str, Any]:
    """State-sized tensors that a discrete gradient keeps, an evaluation (unroll) and an accepted step (checkpoint)."""
    net, y0 = mlp(64, 64, 3.0), torch.randn(128, 64, requires_grad=True)

    def count(solve: Solve) -> tuple[float, int]:
        counter, saved = Counter(lambda t, y: net(y)), {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda x: saved.setdefault((x.data_ptr(), x.shape), x), lambda x: x
        ):
            solve(counter, y0, [0.0, 1.0])
        weights = {p.data_ptr() for p in net.parameters()}
        stores = {x.untyped_storage().data_ptr(): x for x in saved.values() if x.data_ptr() not in weights}
        size = sum(x.untyped_storage().nbytes() for x in stores.values())
        return size / (4 * y0.numel()), counter.calls

    (a, n), (b, m) = count(ours(1e-5)), count(theirs(1e-5))
    return {
        "state-sized tensors kept an evaluation, discrete gradient": {
            "goal": "<= 2.1", "measured": round(a / n, 2), "peer": round(b / m, 2)},
        "states kept an accepted step, checkpoint": {"goal": "1", "measured": _checkpointed(net, y0)},
    }  # fmt: skip


def _checkpointed(net: nn.Module, y0: Tensor) -> float:
    import gc
    import weakref

    made = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = function(*args, **(kwargs or {}))
            if isinstance(out, Tensor) and out.shape == y0.shape:
                made.append((out.data_ptr(), weakref.ref(out)))
            return out

    with Watch():
        spec = {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}
        solution = odeint(lambda t, y: net(y), y0, [0.0, 1.0], spec, "checkpoint")
    gc.collect()
    return round(len({a for a, x in made if x() is not None}) / int(solution.stats.accepted[0]), 2)


def van_der_pol() -> dict[str, Any]:
    """mu in 0.5 .. 15, batch 128, T = 10, tolerance 1e-5, from random states."""
    mu = torch.linspace(0.5, 15, 128, dtype=torch.float64)[:, None]
    y0 = 2 * torch.randn(128, 2, dtype=torch.float64)

    def f(t: Tensor, y: Tensor, mu: Tensor = mu) -> Tensor:
        x, v = y[:, :1], y[:, 1:]
        return torch.cat([v, mu * (1 - x**2) * v - x], 1)

    def solve(tol: float, **options: Any) -> Any:
        return odeint(f, y0, [0.0, 10.0], {"name": "dopri5", "rtol": tol, "atol": tol, **options}, args=(mu,))

    def row(value: Tensor, samples: int, nfe: int, start: float) -> dict[str, Any]:
        error = (value - exact).abs().amax(1)
        worst, middle = (float(f"{x:.2g}") for x in (error.max(), error.median()))
        took = round(time.perf_counter() - start, 2)
        return {
            "sample evaluations": samples,
            "nfe": nfe,
            "worst error": worst,
            "median error": middle,
            "seconds": took,
        }

    cases = {
        "common step": (1e-5, {}),
        "per_sample": (1e-5, {"per_sample": True}),
        "per_sample at 1e-7": (1e-7, {"per_sample": True}),
    }
    with torch.no_grad():
        exact = solve(1e-11, per_sample=True, max_steps=200_000).value[-1]
        rows = {}
        for name, (tol, options) in cases.items():
            start = time.perf_counter()
            s = solve(tol, **options)
            rows[name] = row(s.value[-1], s.stats.sample_nfe, s.stats.nfe, start)
        counter, ts = Counter(f), torch.tensor([0.0, 10.0], dtype=y0.dtype)
        start = time.perf_counter()
        y = torchdiffeq.odeint(counter, y0, ts, rtol=1e-5, atol=1e-5)[-1]
        rows["torchdiffeq"] = row(y, counter.calls * 128, counter.calls, start)
    gain, same = (
        round(rows["torchdiffeq"]["sample evaluations"] / rows[name]["sample evaluations"], 1)
        for name in ("per_sample", "per_sample at 1e-7")
    )
    # One step for all over-solves the easy samples: at 1e-7 our worst error is below the peer's, our median is not.
    goal = {"goal": ">= 4x fewer", "measured": same, "measured at equal tolerance": gain}
    return {"mixed stiffness, sample evaluations against torchdiffeq": {**goal, **rows}}


def gradient_error() -> dict[str, Any]:
    """A 16-dimensional MLP of gain 3, t in [0, 3], loss on five times, tolerance 1e-3, against float64 at 1e-11."""
    ts = [0.0, 0.6, 1.2, 1.8, 2.4, 3.0]
    errors: dict[str, list[float]] = {"measured": [], "peer": []}
    for seed in range(5):
        torch.manual_seed(SEED + seed)
        net, y0, weights = mlp(16, 64, 3.0).double(), torch.randn(32, 16).double(), torch.randn(5, 32, 16).double()

        def gradient(solve: Solve, net=net, y0=y0, weights=weights) -> Tensor:
            loss = (solve(lambda t, y: net(y), y0, ts)[1:] * weights).sum()
            return torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(net.parameters()))])

        exact = gradient(ours(1e-11))
        for name, solve in (("measured", ours(1e-3)), ("peer", theirs(1e-3))):
            errors[name].append(float((gradient(solve) - exact).norm() / exact.norm()))
    return {"gradient error at tolerance 1e-3, five output times": {
        "goal": "<= 5e-2", **{k: float(f"{median(v):.2g}") for k, v in errors.items()},
        "measured over 5 seeds": [float(f"{v:.2g}") for v in errors["measured"]],
        "peer over 5 seeds": [float(f"{v:.2g}") for v in errors["peer"]]}}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15, help="interleaved pairs of timings a row")
    parser.add_argument("--compile", action="store_true", help="measure the compiled step too (a minute to compile)")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    for part in (operations, kept, van_der_pol, gradient_error, lambda: convolution(options.pairs),
                 lambda: small_field(options.pairs, options.compile)):  # fmt: skip
        torch.manual_seed(SEED)
        found = part()
        rows |= found
        print(json.dumps(found, indent=1), flush=True)
    report = {
        "benchmark": "ode", "command": "python -m benchmarks.ode" + " --compile" * options.compile, "seed": SEED,
        "timing": "one thread, ratios of interleaved pairs", **environment("torchode"), "pairs": options.pairs,
        "rows": rows,
    }  # fmt: skip
    path = ROOT / "experiments" / "results" / "bench_ode.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
