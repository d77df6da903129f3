"""What a learned energy is worth: long paths of a pendulum, by a Hamiltonian network and by a plain Neural ODE.

    OMP_NUM_THREADS=1 nice python -m experiments.hamiltonian [--epochs 1]

Both are trained by ``python -m zoo.fit`` with the cards' recipe on short paths (3 units of time) and followed for 50:
their weights are about as many. Each is integrated as it was trained, and the Hamiltonian network also with rk4 of the
same step, to tell apart what the structure gives and what the solver gives.

Writes ``experiments/results/hamiltonian.json`` and ``figures/hamiltonian.png``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zoo
from zoo.data import DATA
from zoo.training.build import load_run
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
MODELS = {
    "Hamiltonian, leapfrog": ("hamiltonian_separable", None),
    "Hamiltonian, rk4": ("hamiltonian_separable", {"name": "rk4", "step_size": 0.125}),
    "plain, rk4": ("hamiltonian_plain", None),
}
TIMES = 2001  # of the long path: 500 units of time, ten times the data's test


def figure(curves: dict[str, Tensor], paths: dict[str, Tensor], spacing: float, file: Path) -> None:
    """Left: energy over time, mean relative change. Right: one path in the plane of angle and momentum."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4), dpi=110, layout="constrained")
    left, right = picture.subplots(1, 2)
    styles = dict(zip(paths, ("#1f4e9c", "#7fa7e0", "#d9822b", "black"), strict=False))
    for label, curve in curves.items():
        left.semilogy(spacing * torch.arange(1, len(curve)), curve[1:], label=label, lw=1.0, color=styles[label])
    left.set(xlabel="time", ylabel="mean |H - H(0)| / mean H(0)")
    left.legend(frameon=False, fontsize=9)
    for label, path in paths.items():
        width = 2.0 if label == "truth" else 0.8
        name = label if label == "truth" else None  # the others are named on the left
        right.plot(path[:, 0], path[:, 1], lw=width, color=styles[label], label=name, zorder=-width)
    right.set(xlabel="angle", ylabel="momentum", aspect="equal")
    right.legend(frameon=False, fontsize=9, loc="upper left")
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, help="instead of the cards' own, to try the script")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    data = DATA["ideal_pendulum"]()
    truth = data.split("test")[0]
    start, h0 = truth[:, 0], data.energy(truth[:, 0])
    rows: dict[str, Any] = {}
    curves: dict[str, Tensor] = {}
    paths: dict[str, Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        for label, (card, solver) in MODELS.items():
            out = Path(folder) / card
            if not out.exists():
                options = {} if args.epochs is None else {"trainer": {"max_epochs": args.epochs}}
                run = zoo.train(card, "ideal_pendulum", out=out, seed=args.seed, **options)
            model: Any = load_run(out).model
            model.configure_implicit(solver)
            with torch.no_grad():
                found = model(start, torch.arange(TIMES, dtype=torch.float64) * data.spacing)
            curves[label] = (data.energy(found) - h0[:, None]).abs().mean(0) / h0.mean()
            paths[label] = found[3]
            rows[label] = {
                "parameters": run["parameters"],
                "validation mse": run["best"]["val/mse"],
                "test mse, 50 units of time": (found[:, 1:201] - truth[:, 1:]).square().mean().item(),
                "energy drift, 50 units of time": curves[label][200].item(),
                "energy drift, 500 units of time": curves[label][-1].item(),
                "training seconds": run["seconds"],
            }
            print(f"{label:<24}{rows[label]}", flush=True)
    paths["truth"] = truth[3]
    figure(curves, paths, data.spacing, args.out / "figures" / "hamiltonian.png")
    facts = {"experiment": "hamiltonian", "seed": args.seed, **environment(), "runs": rows}
    (args.out / "hamiltonian.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
