"""Quadratic programs and projections as layers, beside qpth and cvxpylayers: ``python -m benchmarks.optimization``.

A batch of programs with data of each sample's own; a step is forward and backward, with gradients into every argument.
The layers take turns in one process of one thread; a row is the median over the rounds of CPU seconds, with the worst
relative residual of the optimality conditions that each answer leaves, so that speed stands beside accuracy, and
the largest relative distance of its gradients from those of the optimality system, solved directly in float64. A peer
that is not installed has no row. Writes ``experiments/results/bench_optimization.json``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import ROOT, write_record
from zoo.deq.optimization import QP

SEED = 0
OUT = ROOT / "experiments" / "results" / "bench_optimization.json"
# batch and variables
SIZES = [(256, 100), (64, 100), (16, 100), (64, 25), (64, 50), (16, 200), (4, 500), (2, 1000), (1, 2000)]
NAMES = ("Q", "q", "A", "b", "G", "h")
Solve = Callable[..., Tensor]


def programs(batch: int, n: int, equal: int, below: int, projection: bool) -> tuple[Tensor, ...]:
    """Feasible, strictly convex programs; of a projection Q is the identity."""
    g = torch.Generator().manual_seed(SEED)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    L, x = draw(batch, n, n), draw(batch, n)
    eye = torch.eye(n, dtype=torch.float64).expand(batch, n, n)
    Q = eye.clone() if projection else L @ L.transpose(1, 2) / n + 0.1 * eye
    A, G = draw(batch, equal, n) / n**0.5, draw(batch, below, n) / n**0.5
    slack = torch.rand(batch, below, generator=g, dtype=torch.float64)
    return Q, draw(batch, n), A, (A @ x[..., None])[..., 0], G, (G @ x[..., None])[..., 0] + slack


def ours(rtol: float) -> Solve:
    layer = QP({"name": "anderson", "window": 5, "rtol": rtol, "atol": 1e-9, "max_steps": 50})
    return layer


def by_qpth(rtol: float) -> Solve:
    from qpth.qp import QPFunction

    solve = QPFunction(verbose=-1, eps=rtol, maxIter=50, check_Q_spd=False)
    return lambda Q, q, A, b, G, h: solve(Q, q, G, h, A, b)


def by_cvxpylayers(rtol: float) -> Solve:
    import cvxpy as cp
    from cvxpylayers.torch import CvxpyLayer

    made: dict[tuple[int, ...], Any] = {}

    def solve(Q: Tensor, q: Tensor, A: Tensor, b: Tensor, G: Tensor, h: Tensor) -> Tensor:
        n, equal, below = q.shape[1], b.shape[1], h.shape[1]
        if (n, equal, below) not in made:
            x, root = cp.Variable(n), cp.Parameter((n, n))
            p, A_, b_ = cp.Parameter(n), cp.Parameter((equal, n)), cp.Parameter(equal)
            G_, h_ = cp.Parameter((below, n)), cp.Parameter(below)
            goal = cp.Minimize(0.5 * cp.sum_squares(root @ x) + p @ x)
            problem = cp.Problem(goal, [A_ @ x == b_, G_ @ x <= h_])
            made[n, equal, below] = CvxpyLayer(problem, parameters=[root, p, A_, b_, G_, h_], variables=[x])
        root = torch.linalg.cholesky(Q).transpose(1, 2)
        options = {"eps": rtol, "n_jobs_forward": 1, "n_jobs_backward": 1}
        return made[n, equal, below](root, q, A, b, G, h, solver_args=options)[0]

    return solve


def residual(data: tuple[Tensor, ...], x: Tensor) -> float:
    """The worst violation and the worst stationarity that any multipliers reach, relative to the data's size."""
    Q, q, A, b, G, h = (t.detach() for t in data)
    x = x.detach().double()
    slack = h - (G @ x[..., None])[..., 0]
    active = slack < 1e-4
    C = torch.cat([A, torch.where(active[..., None], G, 0.0)], 1).transpose(1, 2)
    slope = (Q @ x[..., None])[..., 0] + q
    y = -torch.linalg.lstsq(C, slope[..., None], driver="gelsd").solution
    left = ((C @ y)[..., 0] + slope).abs().amax(1) / slope.abs().amax(1)
    broken = torch.maximum(((A @ x[..., None])[..., 0] - b).abs().amax(1), (-slack).clamp_min(0).amax(1))
    return max(left.max().item(), (broken / x.abs().amax(1)).max().item())


def reference(data: tuple[Tensor, ...], weight: Tensor) -> tuple[Tensor, ...]:
    """The gradients of ``sum(weight * x)`` by the linear system of the active constraints, for x from a tight solve."""
    Q, q, A, b, G, h = (t.detach() for t in data)
    layer = QP({"name": "anderson", "window": 5, "rtol": 1e-12, "atol": 1e-13, "max_steps": 400})
    with torch.no_grad():
        x = layer(Q, q, A, b, G, h)
    y = layer.program.y
    below, B, n = G.shape[1], len(q), q.shape[1]
    active = y[:, -below:] > 1e-9 if below else torch.zeros(B, 0, dtype=torch.bool)
    grads = [torch.zeros_like(t) for t in (Q, q, A, b, G, h)]
    for i in range(B):
        rows = torch.cat([A[i], G[i][active[i]]])
        m = len(rows)
        K = torch.zeros(n + m, n + m, dtype=torch.float64)
        K[:n, :n], K[:n, n:], K[n:, :n] = Q[i], rows.T, rows
        d = torch.linalg.solve(K, torch.cat([-weight[i], torch.zeros(m, dtype=torch.float64)]))
        dx, dy = d[:n], d[n:]
        lam = torch.cat([y[i, : A.shape[1]], y[i, A.shape[1] :][active[i]]])
        grads[0][i] = 0.5 * (torch.outer(dx, x[i]) + torch.outer(x[i], dx))
        grads[1][i] = dx
        of_rows = torch.outer(lam, dx) + torch.outer(dy, x[i])
        e = A.shape[1]
        grads[2][i], grads[3][i] = of_rows[:e], -dy[:e]
        grads[4][i][active[i]], grads[5][i][active[i]] = of_rows[e:], -dy[e:]
    return tuple(grads)


def compare(batch: int, n: int, equal: int, below: int, projection: bool, rounds: int, slow: bool) -> list[dict]:
    """The rows of one problem: CPU seconds, residual and gradient error of every layer."""
    layers = {"zoo": ours(1e-7)}
    if find_spec("qpth"):
        layers["qpth"] = by_qpth(1e-9)
    if find_spec("cvxpylayers") and slow:
        layers["cvxpylayers"] = by_cvxpylayers(1e-8)
    data = programs(batch, n, equal, below, projection)
    weight = torch.randn(batch, n, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = reference(data, weight)
    seconds: dict[str, list[tuple[float, float]]] = {k: [] for k in layers}
    rows = []
    for k in range(rounds):
        for name, solve in layers.items():
            if name == "cvxpylayers" and k:
                continue  # once: it takes minutes
            given = [t.clone().requires_grad_() for t in data]
            start = time.process_time()
            x = solve(*given)
            middle = time.process_time()
            (x * weight).sum().backward()
            seconds[name].append((middle - start, time.process_time() - middle))
            if k == 0:
                error = max(
                    float((g.grad - e).norm() / e.norm()) for g, e in zip(given, exact, strict=True) if e.norm() > 0
                )
                kind = "projection" if projection else "program"
                rows.append(
                    {"layer": name, "kind": kind, "batch": batch, "n": n, "equalities": equal, "inequalities": below}
                    | {"residual": residual(data, x), "gradient_error": error}
                )
                print(rows[-1], flush=True)
    for row in rows:
        taken = seconds[row["layer"]]
        row["forward_s"], row["backward_s"] = (median(t[i] for t in taken) for i in range(2))
        row["step_s"] = median(sum(t) for t in taken)
        row["over_zoo"] = median(sum(t) / sum(z) for t, z in zip(taken, seconds["zoo"][-len(taken) :], strict=True))
        print({k: row[k] for k in ("layer", "kind", "batch", "n", "forward_s", "backward_s", "over_zoo")}, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes: see that it runs")
    given = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    sizes = [(8, 10)] if given.quick else SIZES
    for i, (batch, n) in enumerate(sizes):
        for projection in (False, True):
            rows += compare(batch, n, n // 2, n // 2, projection, given.rounds, slow=i == 0 or given.quick)
    write_record(given.out, rows, packages=("qpth", "cvxpylayers", "diffcp", "cvxpy"), seed=SEED, threads=1)


if __name__ == "__main__":
    main()
