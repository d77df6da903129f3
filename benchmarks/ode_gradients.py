"""How accurate gradients of ODE solves are: every ODE solver with every adjoint, against a reference of 1e-10.

    OMP_NUM_THREADS=1 nice python -m benchmarks.ode_gradients

One problem for all: 8 positions and 8 momenta, ``dq/dt = g(p)``, ``dp/dt = h(q)`` with two networks, so that methods
for separable equations run too; float64, t in [0, 3], and a loss that looks at five times, where every step lands. The
error is ``|g - g_ref| / |g_ref|`` (euclidean) of the gradients to the start and to all weights. Adaptive methods run at
two tolerances, methods of fixed steps at two counts. The reference is dopri8 with unroll at rtol 1e-12; what it differs
by from dopri5 at 1e-12 is printed, and has to lie below 1e-10.

The error holds two parts: that of the solve, which no adjoint can mend, and the adjoint's own. ``unroll`` and
``checkpoint`` give the exact gradient of the steps that were taken; ``backsolve`` solves another equation.

Writes ``experiments/results/ode_gradients.json``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import ROOT, write_record
from zoo.adjoints import ADJOINTS
from zoo.solve import odeint
from zoo.solvers import SOLVERS
from zoo.solvers.ode.implicit_rk import ImplicitRungeKutta

SEED, TIMES = 0, [0.0, 0.6, 1.2, 1.8, 2.4, 3.0]
TOLERANCES, COUNTS = (1e-3, 1e-6), (20, 80)
# torchdiffeq's methods of fixed steps; its others adapt
FIXED = {"euler", "midpoint", "heun2", "heun3", "rk4", "explicit_adams", "implicit_adams", "fixed_adams"}


class Field(nn.Module):
    """``[g(p), h(q)]``."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 8)).double() for _ in range(2)
        )
        with torch.no_grad():
            for p in self.parameters():
                p.mul_(2.0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        q, p = y.chunk(2, 1)
        return torch.cat([self.parts[0](p), self.parts[1](q)], 1)


def settings(name: str) -> list[dict[str, Any]]:
    """How a solver is run: tolerances, or counts of steps."""
    own = ":" not in name
    adaptive = SOLVERS[name].embedded if own else name.partition(":")[2] not in FIXED
    if adaptive:
        return [{"name": name, "rtol": tol, "atol": tol} for tol in TOLERANCES]
    implicit = own and issubclass(SOLVERS[name], ImplicitRungeKutta)  # ten times the work of a step
    return [{"name": name, "steps": n // (2 if implicit else 1)} for n in COUNTS]


def gradients(field: Field, y0: Tensor, weights: Tensor, solver: Any, adjoint: str) -> tuple[list[Tensor], Any]:
    """The gradients (to the start, to the weights in one vector), and the solution."""
    solution = odeint(field, y0, TIMES, solver, adjoint)
    if not solution.result.success:
        raise RuntimeError(solution.message)
    found = torch.autograd.grad((solution.value[1:] * weights).sum(), (y0, *field.parameters()))
    return [found[0].flatten(), torch.cat([g.flatten() for g in found[1:]])], solution


def apart(found: list[Tensor], reference: list[Tensor]) -> list[float]:
    return [float((a - b).norm() / b.norm()) for a, b in zip(found, reference, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "experiments" / "results" / "ode_gradients.json")
    parser.add_argument("--solvers", nargs="+", default=SOLVERS.names(kind="ode"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    field, y0 = Field(), torch.randn(4, 16, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(len(TIMES) - 1, 4, 16, dtype=torch.float64)
    tight = {"rtol": 1e-12, "atol": 1e-13}
    reference, _ = gradients(field, y0, weights, {"name": "dopri8", **tight}, "unroll")
    other, _ = gradients(field, y0, weights, {"name": "dopri5", **tight}, "unroll")
    doubt = max(apart(other, reference))
    assert doubt < 1e-10, f"the reference is not good enough: two methods differ by {doubt:.1e}"
    print(f"reference: two methods at 1e-12 differ by {doubt:.1e}\n")
    print(f"{'solver':<28}{'adjoint':<12}{'setting':<14}{'dL/dy0':>9}{'dL/dw':>9}{'nfe':>7}{'back':>7}{'ms':>7}")
    adjoints = [e.name for e in ADJOINTS.entries() if e.kind in ("ode", "any")]
    rows: list[dict[str, Any]] = []
    for name in args.solvers:
        for adjoint in adjoints:
            for solver in settings(name):
                setting = f"tol {solver['rtol']:.0e}" if "rtol" in solver else f"{solver['steps']} steps"
                row: dict[str, Any] = {"solver": name, "adjoint": adjoint, "setting": setting}
                rows.append(row)
                begun = time.thread_time()
                try:
                    found, solution = gradients(field, y0, weights, solver, adjoint)
                except (TypeError, ValueError, RuntimeError) as error:
                    row["refused"] = " ".join(str(error).split())
                    print(f"{name:<28}{adjoint:<12}{'':<14}refused: {row['refused'][:90]}", flush=True)
                    break  # whatever the setting
                to_y0, to_weights = apart(found, reference)
                back = sum(s.nfe for s in solution.stats.backward)
                row |= {"dy0": to_y0, "dweights": to_weights, "nfe": solution.stats.nfe, "nfe_backward": back,
                        "ms": 1e3 * (time.thread_time() - begun)}  # fmt: skip
                print(
                    f"{name:<28}{adjoint:<12}{setting:<14}{to_y0:>9.1e}{to_weights:>9.1e}{row['nfe']:>7}{back:>7}"
                    f"{row['ms']:>7.0f}",
                    flush=True,
                )
    facts = {"benchmark": "ode_gradients", "seed": SEED, "times": TIMES, "reference_doubt": doubt}
    write_record(args.out, rows, packages=("torchdiffeq",), **facts)


if __name__ == "__main__":
    main()
