"""Evaluations of adaptive solves by the guess of their first step: ``python -m benchmarks.first_step [--out FILE]``.

Many fields, the adaptive explicit methods and three tolerances, each solved with zoo's own guess and with the rule of
Hairer, as it stands (it aims at a hundredth of the tolerance) and aimed at the tolerance. Its step is handed over as
the option ``first_step``, and the evaluation that it costs is added. Counts only: no timing.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from benchmarks.ode import ConvField, mlp
from benchmarks.record import write_record
from zoo.solve import make_solver, odeint
from zoo.solvers.ode.base import sample_norm

METHODS = ("heun", "bosh3", "dopri5", "tsit5", "dopri8")
TOLERANCES = (1e-3, 1e-5, 1e-7)
Field = Callable[[Tensor, Tensor], Tensor]


def fields() -> dict[str, tuple[Field, Tensor, float]]:
    """Name: field, start and end of the interval from 0."""
    torch.manual_seed(0)
    found: dict[str, tuple[Field, Tensor, float]] = {}
    for gain in (0.5, 1.0, 3.0, 6.0):
        for size in (4, 64):
            net = mlp(size, size, gain).double()
            found[f"MLP {size}, gain {gain}"] = (lambda t, y, net=net: net(y), torch.randn(32, size).double(), 1.0)
    for mu in (0.5, 5.0, 50.0):
        f = lambda t, y, mu=mu: torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)  # noqa: E731
        found[f"Van der Pol, mu {mu}"] = (f, 2 * torch.randn(32, 2).double(), 5.0)
    conv = ConvField(32).double()
    found["conv field 32x7x7"] = (conv, torch.randn(32, 32, 7, 7).double(), 1.0)
    speeds = torch.tensor([-1.0, -100.0]).double()
    return found | {
        "Lotka-Volterra": (
            lambda t, y: torch.stack([y[:, 0] * (1.1 - 0.4 * y[:, 1]), y[:, 1] * (0.1 * y[:, 0] - 0.4)], 1),
            1 + 5 * torch.rand(32, 2).double(),
            10.0,
        ),
        "Lorenz": (
            lambda t, y: torch.stack(
                [10 * (y[:, 1] - y[:, 0]), y[:, 0] * (28 - y[:, 2]) - y[:, 1], y[:, 0] * y[:, 1] - 8 / 3 * y[:, 2]], 1
            ),
            10 * torch.randn(32, 3).double(),
            1.0,
        ),
        "oscillator": (lambda t, y: torch.stack([y[:, 1], -25 * y[:, 0]], 1), torch.randn(32, 2).double(), 2.0),
        "stiff decay": (lambda t, y: y * speeds, torch.ones(8, 2).double(), 1.0),
        "decay": (lambda t, y: -y, 0.1 + torch.rand(8, 3).double(), 1.0),
        "forced from rest": (lambda t, y: torch.sin(20 * t) - y, torch.zeros(8, 3).double(), 2.0),
        "growth from zero": (lambda t, y: 3 * y + 1, torch.zeros(8, 3).double(), 1.0),
        "constant": (lambda t, y: torch.ones_like(y), torch.zeros(8, 3).double(), 1.0),
        "pulse": (lambda t, y: torch.exp(-((10 * (t - 1)) ** 2)).expand_as(y), torch.zeros(8, 3).double(), 2.0),
    }


def hairer(f: Field, y: Tensor, end: float, tol: float, order: int, aim: float) -> float:
    """The starting step of Hairer, Norsett and Wanner, II.4, for the worst of the samples."""
    norm, scale, t = sample_norm(y), tol + tol * y.abs(), torch.zeros((), dtype=y.dtype)
    k = f(t, y)
    d0, d1 = (float(norm(x / scale).max()) for x in (y, k))
    h0 = min(1e-6 if min(d0, d1) < 1e-5 else 0.01 * d0 / d1, end)
    fastest = max(d1, float(norm((f(t + h0, y + h0 * k) - k) / scale).max()) / h0)
    return min(100 * h0, (aim / fastest) ** (1 / order) if fastest > 1e-15 else max(1e-6, 1e-3 * h0), end)


def row(name: str, f: Field, y: Tensor, end: float, method: str, tol: float) -> dict[str, Any]:
    spec = {"name": method, "rtol": tol, "atol": tol}
    order = make_solver(spec).order
    found: dict[str, Any] = {"field": name, "method": method, "tolerance": tol}
    for way, aim in (("zoo", None), ("hairer", 0.01), ("hairer, at the tolerance", 1.0)):
        step = {} if aim is None else {"first_step": hairer(f, y, end, tol, order, aim)}
        stats = odeint(f, y, [0.0, end], spec | step).stats
        found[way] = stats.nfe + len(step)
        found[f"{way}, first step rejected"] = bool(stats.trace[0].max() > 1)
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("experiments/results/bench_first_step.json"))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--fields", default="", help="those whose name holds this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        row(name, f, y, end, method, tol)
        for name, (f, y, end) in fields().items()
        if options.fields in name
        for method in options.methods
        for tol in TOLERANCES
        if not (method == "heun" and tol < 1e-5)  # some hundred thousand steps
    ]
    summary = {
        way: {
            "zoo's evaluations, mean share": round(fmean(r["zoo"] / r[way] for r in rows), 3),
            "zoo takes fewer": sum(r["zoo"] < r[way] for r in rows),
            "zoo takes more": sum(r["zoo"] > r[way] for r in rows),
            "first steps rejected": sum(r[f"{way}, first step rejected"] for r in rows),
        }
        for way in ("zoo", "hairer", "hairer, at the tolerance")
    }
    for way, found in summary.items():
        print(f"{way:<26}{found}")
    write_record(options.out, rows, summary=summary, cases=len(rows), seed=0, threads=1)


if __name__ == "__main__":
    main()
