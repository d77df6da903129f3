"""Fixed-point solvers and their gradients, beside TorchDEQ: ``python -m benchmarks.fixed_point [--out FILE]``.

Every row is measured with its peer in one process, the two taking turns, and reported as the median over the turns.
Times are CPU time of one thread (a busy machine stretches wall time, and both sides alike). *Overhead* is the time of a
whole solve over the time spent inside the map, or inside the products with its transposed Jacobian. The peer is
optional (``pip install torchdeq``); without it its columns stay empty.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cells import conv_problem, transformer_problem
from benchmarks.record import write_record
from zoo.adjoints.implicit import Implicit
from zoo.penalties import spectral_radius
from zoo.solve import fixed_point, make_solver
from zoo.solvers.base import Affine, Solution
from zoo.solvers.iterate import iterate

try:
    from torchdeq import get_deq
    from torchdeq.solver import get_solver
except ImportError:
    get_deq = get_solver = None

clock = time.thread_time
PEER_NAME = {"picard": "fixed_point_iter"}
BACKWARD = ("anderson", "fixed_point_iter", "broyden")  # the peer's ways to solve the adjoint system
Row = dict[str, Any]


class Timed:
    """A map that adds up the time spent inside it."""

    def __init__(self, f: Callable[[Tensor], Tensor]) -> None:
        self.f, self.calls, self.seconds = f, 0, 0.0

    def __call__(self, z: Tensor) -> Tensor:
        start = clock()
        out = self.f(z)
        self.seconds += clock() - start
        self.calls += 1
        return out


def flat_map(problem: tuple[nn.Module, Tensor, Tensor]) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    cell, x, z0 = problem
    return lambda z: cell(z.view_as(z0), x).reshape(len(z0), -1), z0.flatten(1)


def residual(f: Callable[[Tensor], Tensor], z: Tensor) -> float:
    return float(((f(z) - z).norm(dim=1) / z.norm(dim=1)).max())


def ours(f: Any, z0: Tensor, name: str, rtol: float, cap: int) -> Tensor:
    return iterate(f, z0, make_solver({"name": name, "rtol": rtol, "atol": 0.0, "max_steps": cap})).value


def peers(f: Any, z0: Tensor, name: str, rtol: float, cap: int) -> Tensor:
    solver = get_solver(PEER_NAME.get(name, name))
    return solver(f, z0, max_iter=cap, tol=rtol, stop_mode="rel")[0]


@torch.no_grad()
def traffic(name: str, f: Callable[[Tensor], Tensor], z: Tensor, evaluations: int) -> float:
    """Seconds of the large operations that a method cannot do without, on vectors like ``z``: the floor of a solve.

    An evaluation of ``f`` before each leaves the caches as a solve would find them; it does not count.
    """
    rows = torch.randn(40, len(z), z.shape[1]).transpose(0, 1)
    out, spent = torch.empty_like(z), 0.0
    for k in range(1, evaluations + (name == "gmres")):  # the last product's step counts as well
        n = min(k, 5) if name == "anderson" else k
        kept, weights = rows[:, :n], rows[:, :1, :n].contiguous()
        w = f(z)
        start = clock()
        if name == "gmres":
            torch.mul(w, weights[:, :, 0], out=rows[:, n])  # the product, to where it is kept
            torch.bmm(rows[:, n : n + 1], kept.transpose(1, 2))  # its products with what is kept
            out[:, None].baddbmm_(weights, kept)  # and what they take off it
            torch.linalg.vector_norm(out, dim=1)
        else:
            torch.sub(w, z, out=rows[:, n])  # the residual
            torch.bmm(w[:, None], kept.transpose(1, 2))  # the products with what is kept
            torch.bmm(weights, kept)  # and its combination
            torch.linalg.vector_norm(z, dim=1)
            if name == "anderson":
                rows[:, n + 6].copy_(w)  # a second vector kept
            else:
                torch.linalg.vector_norm(w, dim=1)
                torch.addcmul(z, w, weights[:, 0, :1], out=out)
        spent += clock() - start
    return spent


@torch.no_grad()
def forward_row(what: str, problem: Any, name: str, turns: int, goal: float | None) -> Row:
    """Overhead, evaluations and residual of one solver on one cell."""
    f, z0 = flat_map(problem)
    sides = {"zoo": ours} | ({"torchdeq": peers} if get_solver else {})
    seen: dict[str, list[tuple[float, float, int, float]]] = {k: [] for k in sides}
    for turn in range(turns + 1):
        for side, solve in sides.items():
            timed = Timed(f)
            start = clock()
            z = solve(timed, z0, name, 1e-3, 30)
            total = clock() - start
            if turn:  # the first turn warms up
                seen[side].append((total / timed.seconds, total, timed.calls, residual(f, z)))
    row: Row = {"what": f"{name} forward, {what}", "goal_overhead": goal}
    for side, runs in seen.items():
        overhead, total, calls, rest = (statistics.median(r[i] for r in runs) for i in range(4))
        row |= {
            f"{side}_overhead": overhead,
            f"{side}_ms": 1e3 * total,
            f"{side}_evaluations": calls,
            f"{side}_residual": rest,
        }
    if name != "picard":
        bare = row["zoo_ms"] / 1e3 / row["zoo_overhead"]
        floor = statistics.median(traffic(name, f, z0, int(row["zoo_evaluations"])) for _ in range(turns))
        row["floor_overhead"] = 1 + floor / bare
    return row


@torch.no_grad()
def evaluations_row(what: str, problem: Any, cap: int = 100) -> Row:
    """Evaluations until a relative residual of 1e-3; None where that is not met within ``cap`` steps."""
    f, z0 = flat_map(problem)
    row: Row = {"what": f"evaluations to a residual of 1e-3, {what}", "evaluations": True}
    for side, solve in ({"zoo": ours} | ({"torchdeq": peers} if get_solver else {})).items():
        for name in ("picard", "anderson", "broyden"):
            timed = Timed(f)
            z = solve(timed, z0, name, 1e-3, cap)
            row[f"{side}_{name}"] = timed.calls if residual(f, z) <= 1e-3 else None
    return row


def adjoint_row(what: str, problem: Any, name: str, turns: int, goal: float | None) -> Row:
    """The linear solve u = J^T u + g at a fixed point, over the time inside its products."""
    f, z0 = flat_map(problem)
    with torch.no_grad():
        z = ours(f, z0, "anderson", 1e-3, 30)
    z = z.requires_grad_()
    fz = f(z)
    g = torch.randn_like(z)
    product = lambda u: torch.autograd.grad(fz, z, u, retain_graph=True)[0]  # noqa: E731
    row: Row = {"what": f"implicit backward by {name}, {what}", "goal_overhead": goal}
    seen: dict[str, list[tuple[float, int, float]]] = {"zoo": []} | ({"torchdeq": []} if get_solver else {})
    with torch.no_grad():
        for turn in range(turns + 1):
            for side, runs in seen.items():
                timed = Timed(product)
                start = clock()
                if side == "zoo":
                    solver = make_solver({"name": name, "rtol": 1e-3, "atol": 0.0, "max_steps": 30})
                    iterate(*Affine(timed, g).start(solver), solver)
                else:
                    peers(lambda u, timed=timed: timed(u) + g, torch.zeros_like(g), "anderson", 1e-3, 30)
                total = clock() - start
                if turn:
                    runs.append((total / timed.seconds, timed.calls, timed.seconds))
    floor = statistics.median(traffic(name, product, g, seen["zoo"][0][1]) for _ in range(turns))
    row["floor_overhead"] = 1 + floor / statistics.median(r[2] for r in seen["zoo"])
    for side, runs in seen.items():
        row |= {f"{side}_overhead": statistics.median(r[0] for r in runs), f"{side}_products": runs[0][1]}
    row["torchdeq_solver"] = "anderson"
    return row


def products_row(what: str, problem: Any, rho: float, goal: int) -> Row:
    """Products to a *true* adjoint residual of 1e-5, worst of the samples, with a cell's Jacobian scaled to ``rho``."""
    f, z0 = flat_map(problem)
    with torch.no_grad():
        z = ours(f, z0, "anderson", 1e-5, 100)
    radius = spectral_radius(f, z, steps=100).max()
    z = z.requires_grad_()
    fz = f(z)
    torch.manual_seed(1)
    g = torch.randn_like(z)
    row: Row = {"what": f"products to a true residual of 1e-5, {what}, spectral radius {rho}", "goal_products": goal}

    def product(u: Tensor) -> Tensor:
        return torch.autograd.grad(fz, z, u, retain_graph=True)[0] * (rho / radius)

    for name in ("gmres", "bicgstab", "anderson", "broyden", "picard"):
        row[f"zoo_{name}"] = None  # not within 100 steps
        for rtol in (1e-5, 8e-6, 5e-6, 3e-6, 2e-6, 1e-6):  # the loosest setting whose true residual is met
            solver = make_solver({"name": name, "rtol": rtol, "atol": 0.0, "max_steps": 100} | window(name))
            with torch.no_grad():
                solution = iterate(*Affine(product, g).start(solver), solver)
            true = ((g + product(solution.value) - solution.value).norm(dim=1) / g.norm(dim=1)).max()
            if true <= 1e-5:
                row[f"zoo_{name}"] = solution.stats.nfe
                break
    row["floor_products"] = fewest(product, g, 1e-5, 100)
    return row


def fewest(product: Callable[[Tensor], Tensor], g: Tensor, rtol: float, most: int) -> int | None:
    """The products after which the best ``u`` in ``span(g, Lg, ...)`` solves ``u = L u + g`` for every sample.

    No method that forms products with ``L`` alone can do with fewer. The space is orthogonalised twice, in float64.
    """
    basis = (g / g.norm(dim=1, keepdim=True)).double()[:, None]  # (B, k, N)
    images: list[Tensor] = []
    for k in range(1, most + 1):
        newest = basis[:, -1]
        w = product(newest.to(g.dtype)).double()
        images.append(newest - w)  # (I - L) v
        a = torch.stack(images, 2)
        y = torch.linalg.lstsq(a, g.double()[:, :, None]).solution
        rest = (g.double()[:, :, None] - a @ y).norm(dim=1) / g.double().norm(dim=1, keepdim=True)
        if float(rest.max()) <= rtol:
            return k
        for _ in range(2):
            w = w - torch.bmm(torch.bmm(w[:, None], basis.transpose(1, 2)), basis)[:, 0]
        basis = torch.cat([basis, (w / w.norm(dim=1, keepdim=True).clamp_min(1e-300))[:, None]], 1)
    return None


def window(name: str) -> dict[str, int]:
    return {"window": 100} if name in ("gmres", "broyden") else {}


def step_row(what: str, problem: Any, turns: int, goal: float) -> Row:
    """A whole training step, forward and backward, to the same residual on both sides.

    The loss is a fixed random projection: both cells end with a normalization, which fixes the norm of a state, so that
    the gradient of its square would be next to nothing and the backward solve over after a product. The peer solves
    the adjoint system in each of its three ways; the fastest of them counts.
    """
    cell, x, z0 = problem
    w = torch.randn(z0.shape, generator=torch.Generator().manual_seed(2))
    loss = lambda z: (z * w).mean()  # noqa: E731
    row: Row = {"what": f"training step (forward + backward), {what}", "goal_speedup": goal}

    did: list[Solution[Tensor]] = []

    def zoo_step() -> Tensor:
        f = lambda z: cell(z, x)  # noqa: E731
        solver = {"name": "anderson", "rtol": 1e-3, "atol": 0.0, "max_steps": 60}
        adjoint = Implicit(solver=make_solver({"name": "gmres", "rtol": 1e-3, "atol": 0.0, "max_steps": 60}))
        did[:] = [fixed_point(f, z0, solver, adjoint)]
        return did[0].value

    def peer_step(backward: str) -> Tensor:
        options = {"f_max_iter": 60, "b_max_iter": 60, "f_tol": 1e-3, "b_tol": 1e-3}
        modes = {"f_stop_mode": "rel", "b_stop_mode": "rel", "f_solver": "anderson", "b_solver": backward}
        deq = get_deq(ift=True, **options, **modes)
        deq.train()
        return deq(lambda z: cell(z, x), z0)[0][0]

    ways = {f"torchdeq_{b}": partial(peer_step, b) for b in BACKWARD} if get_deq else {}
    steps: dict[str, Callable[[], Tensor]] = {"zoo": zoo_step, **ways}
    seen: dict[str, list[float]] = {k: [] for k in steps}
    gradients = {}
    for turn in range(turns + 1):
        for side, step in steps.items():
            cell.zero_grad()
            start = clock()
            z = step()
            loss(z).backward()
            if turn:
                seen[side].append(clock() - start)
            gradients[side] = torch.cat([p.grad.flatten() for p in cell.parameters()])
            row["zoo_residual" if side == "zoo" else "torchdeq_residual"] = residual(
                flat_map(problem)[0], z.detach().flatten(1)
            )
    stats = did[0].stats
    products = sum(b.nfe for b in stats.backward)
    row |= {"zoo_evaluations": stats.nfe, "zoo_products": products}
    bare = statistics.median(maps_alone(problem, loss, stats.nfe, products) for _ in range(turns))
    exact = reference_gradient(problem, loss)
    for side, times in seen.items():
        row[f"{side}_ms"] = 1e3 * statistics.median(times)
        row[f"{side}_gradient_error"] = float((gradients[side] - exact).norm() / exact.norm())
    if ways:  # beside the fastest way that the peer has
        best = min(ways, key=lambda side: row[f"{side}_ms"])
        row |= {"torchdeq_ms": row[f"{best}_ms"], "torchdeq_backward": best.removeprefix("torchdeq_")}
        row["speedup"] = statistics.median(b / a for a, b in zip(seen["zoo"], seen[best], strict=True))
        row["floor_speedup"] = row["torchdeq_ms"] / (1e3 * bare)
    return row


def maps_alone(problem: Any, loss: Callable[[Tensor], Tensor], evaluations: int, products: int) -> float:
    """Seconds of a training step's evaluations and products alone, without any work of the methods: its floor."""
    cell, x, z0 = problem
    cell.zero_grad()
    start = clock()
    with torch.no_grad():
        for _ in range(evaluations - 1):
            cell(z0, x)
    z = z0.clone().requires_grad_()
    fz = cell(z, x)
    for _ in range(products):
        torch.autograd.grad(fz, z, z0, retain_graph=True)
    loss(fz).backward()
    return clock() - start


def reference_gradient(problem: Any, loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The implicit gradient of the same loss, forward and backward to 1e-6."""
    cell, x, z0 = problem
    cell.zero_grad()
    tight = make_solver({"name": "gmres", "rtol": 1e-6, "atol": 0.0, "max_steps": 100})
    solver = {"name": "anderson", "rtol": 1e-6, "atol": 0.0, "max_steps": 150}
    loss(fixed_point(lambda z: cell(z, x), z0, solver, Implicit(solver=tight)).value).backward()
    return torch.cat([p.grad.flatten() for p in cell.parameters()])


def compaction_row() -> Row:
    """Samples of very different difficulty: evaluations by sample, with and without taking finished ones out."""
    torch.manual_seed(0)
    w = torch.linalg.qr(torch.randn(64, 64))[0]
    rate = torch.linspace(0.1, 0.97, 128)[:, None]
    x = torch.randn(128, 64)
    f = lambda z, x, rate: torch.tanh(rate * (z @ w.T) + 0.1 * x)  # noqa: E731
    row: Row = {"what": "mixed difficulty (contraction rates 0.1 .. 0.97), 128 samples: sample-evaluations"}
    for name in ("picard", "anderson", "broyden"):
        solver = make_solver({"name": name, "rtol": 1e-5, "atol": 0.0, "max_steps": 300})
        with torch.no_grad():
            cut = fixed_point(f, torch.zeros_like(x), solver, args=(x, rate)).stats
            whole = fixed_point(lambda z: f(z, x, rate), torch.zeros_like(x), solver).stats
        row |= {f"{name}_compacted": cut.sample_nfe, f"{name}_whole": whole.sample_nfe}
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/bench_fixed_point.json"))
    parser.add_argument("--turns", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    conv, small, large = conv_problem(), transformer_problem(64, 4, 32), transformer_problem(256, 16, 128)
    cells = {
        "conv 64x16x16, batch 64": conv,
        "transformer width 64, 4x32": small,
        "transformer width 256, 16x128": large,
    }
    goals = {"anderson": 1.15, "broyden": 1.4}
    rows: list[Row] = []
    for what, problem in cells.items():
        for name in ("picard", "anderson", "broyden"):
            rows.append(forward_row(what, problem, name, options.turns, goals.get(name) if problem is conv else None))
            print(rows[-1], flush=True)
        rows.append(evaluations_row(what, problem))
        print(rows[-1], flush=True)
        rows.append(adjoint_row(what, problem, "gmres", options.turns, 1.15 if problem is conv else None))
        print(rows[-1], flush=True)
    rows.append(products_row("conv cell, batch 8", conv_problem(8), 0.8, 12))
    rows.append(products_row("transformer cell, 4x32", small, 0.98, 55))
    rows.append(step_row("conv 64x16x16, batch 64", conv, options.turns, 1.5))
    rows.append(step_row("transformer width 64, 4x32", small, 4 * options.turns, 1.5))
    rows.append(compaction_row())
    for row in rows[-5:]:
        print(row, flush=True)
    write_record(
        options.out,
        rows,
        packages=("torchdeq",),
        seed=0,
        threads=1,
        timing="CPU time of one thread, median of interleaved turns",
    )


if __name__ == "__main__":
    main()
