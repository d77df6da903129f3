"""Networks that obey constraints, beside their twins: the problems of DC3, three seeds each.

    OMP_NUM_THREADS=1 nice python -m experiments.constraints [--epochs 1]

`constrained_net` ends in a projection; `penalty_net` has a penalty in its loss, and `penalty_net_completed` obeys the
equalities by construction. All are trained by ``zoo.train`` with their cards' recipes. A row has the mean relative gap
to the optimum over the test and the largest violation of any constraint of any problem. The optima of the nonconvex
family are local ones, found from ``A^+ x`` on, so that a gap below 0 can be.

Writes ``experiments/results/constraints.json``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo.data import DATA
from zoo.deq.optimization import QP
from zoo.training.build import load_run
from zoo.training.environment import environment

OUT = Path(__file__).parent / "results" / "constraints.json"
PAIRS = {
    "qp_family": ("constrained_net", "penalty_net", "penalty_net_completed"),
    "qp_family_nonconvex": ("constrained_net_nonconvex", "penalty_net"),
}
# Table 1 and Table 2 of Donti, Rolnick and Kolter (2021): objectives of the optimizer and of DC3. Their problems are
# drawn alike, not the same, so that gaps compare and objectives do not.
PUBLISHED = {"qp_family": (-15.05, -13.46), "qp_family_nonconvex": (-11.59, -10.66)}


def local_optima(family: Any, x: Tensor) -> Tensor:
    """Objectives (B,) of local optima of the nonconvex family, by sequential quadratic programs from ``A^+ x`` on.

    Raises:
        RuntimeError: a problem is not at a stationary point after 60 programs.
    """
    solver, y = QP(throw=True, rounds=50), family.guess(x)
    value = family.objective(y)
    lengths = 0.5 ** torch.arange(8, dtype=y.dtype)
    for _ in range(60):
        curved = (family.Q - family.p * y.sin()).clamp_min(0.05)  # positive, so that each step descends
        slope = family.Q * y + family.p * y.cos()
        d = solver(torch.diag_embed(curved), slope - curved * y, family.A, x, family.G, family.h) - y
        tried = torch.stack([family.objective(y + t * d) for t in lengths])
        least, which = tried.min(0)
        better = least < value
        y = torch.where(better[:, None], y + lengths[which][:, None] * d, y)
        value = torch.where(better, least, value)
        if bool(((slope * d).sum(1) > -1e-6 * value.abs()).all()):  # no descent to first order
            return value
    raise RuntimeError("Local optima were not found in 60 quadratic programs.")


def measure(folder: Path, data: Any, best: Tensor) -> dict[str, float]:
    """The gap and the violation of a trained network on the test problems."""
    model: Any = load_run(folder).model.eval()
    x = data.split("test")[0]
    with torch.no_grad():
        y = torch.cat([model(part) for part in x.split(200)]).double()
    objective = data.family.objective(y)
    return {
        "objective": objective.mean().item(),
        "gap": ((objective - best) / best.abs()).mean().item(),
        "violation": data.family.violation(x.double(), y).max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="instead of the cards' own, to try the script")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, models in PAIRS.items():
        data: Any = DATA[name]()
        x, best = data.split("test")
        with torch.no_grad():
            best = best[:, 0] if data.family.convex else local_optima(data.family, x.double())
        for card in models:
            found = []
            for seed in args.seeds:
                with tempfile.TemporaryDirectory() as folder:
                    options: dict[str, Any] = {} if args.epochs is None else {"trainer": {"max_epochs": args.epochs}}
                    run = zoo.train(card, name, out=Path(folder) / "run", seed=seed, **options)
                    seconds = json.loads((Path(folder) / "run" / "results.json").read_text())["seconds"]
                    found.append({"seed": seed, "seconds": seconds, **measure(run.folder, data, best)})
                print(name, card, found[-1], flush=True)
            gaps = [f["gap"] for f in found]
            rows.append(
                {
                    "data": name,
                    "model": card,
                    "gap": mean(gaps),
                    "gap_sd": stdev(gaps) if len(gaps) > 1 else 0.0,
                    "violation": max(f["violation"] for f in found),
                    "seconds": mean(f["seconds"] for f in found),
                    "optimum": best.mean().item(),
                    "published": dict(zip(("optimizer", "dc3"), PUBLISHED[name], strict=True)),
                    "runs": found,
                }
            )
    facts = {"experiment": "constraints", "seeds": args.seeds, **environment(), "rows": rows}
    args.out.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
