"""Maximum likelihood and flow matching side by side: the same field, the same sampler, the same measure.

    OMP_NUM_THREADS=1 nice python -m experiments.flows [--sets eight_gaussians two_moons checkerboard] [--epochs 1]

Each pair is two runs of ``python -m zoo.fit`` with the cards ``cnf_ffjord`` and ``cnf_flow_matching``, whose models
are the same; they differ in ``--task.objective`` and in how long they train, a step of flow matching being a
regression without a solve. The negative log-likelihood is that of 10,000 test samples with the exact trace, at a
tolerance of 1e-5; where the true density is known, its own negative log-likelihood of these samples stands beside.

Writes ``experiments/results/flows.json`` and ``figures/flows.png``.
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
from zoo.data.density import grid
from zoo.training.build import load_run
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
MODELS = {"maximum likelihood": "cnf_ffjord", "flow matching": "cnf_flow_matching"}
TIGHT = {"name": "dopri5", "rtol": 1e-5, "atol": 1e-5}
SIDE, REACH = 120, 4.5


@torch.no_grad()
def log_prob(model: Any, x: Tensor) -> Tensor:
    return torch.cat([model.log_prob(part) for part in x.split(2000)])


def one(card: str, data: str, folder: Path, seed: int, epochs: int | None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Train and measure one flow; returns its numbers, and what the figure shows."""
    out = folder / f"{card}_{data}"
    options = {} if epochs is None else {"trainer": {"max_epochs": epochs, "check_val_every_n_epoch": 1}}
    run = zoo.train(card, data, out=out, seed=seed, **options)
    model: Any = load_run(out).model
    model.configure_implicit(TIGHT)
    nll = -log_prob(model, DATA[data]().split("test")[0]).double()
    with torch.no_grad():
        samples = model.sample(4000, torch.Generator().manual_seed(seed))
    row = {
        "nll": nll.mean().item(),
        "standard error": (nll.std() / len(nll) ** 0.5).item(),
        "evaluations a sample": model.last.stats.nfe,
        "evaluations a training step": run["train"].get("nfe_forward"),
        "steps": run["steps"],
        "seconds": run["seconds"],
        "parameters": run["parameters"],
    }
    return row, {"density": log_prob(model, grid(SIDE, REACH)).exp().view(SIDE, SIDE), "samples": samples}


def figure(shown: dict[str, dict[str, dict[str, Tensor]]], rows: dict[str, Any], file: Path) -> None:
    """A row a set: the data, then each model's density and its samples."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(12, 2.6 * len(shown)), dpi=110, layout="constrained")
    axes = picture.subplots(len(shown), 1 + 2 * len(MODELS), squeeze=False)
    for line, (data, models) in zip(axes, shown.items(), strict=True):
        best = rows[data].get("truth")
        line[0].set_title(f"{data}" + (f", truth {best:.3f} nats" if best else ""), fontsize=9)
        points = [(line[0], DATA[data]().split("test")[0][:4000])]
        for k, (label, drawn) in enumerate(models.items()):
            density, samples = line[1 + 2 * k], line[2 + 2 * k]
            top = float(drawn["density"].flatten().quantile(0.995))
            box = (-REACH, REACH, -REACH, REACH)
            density.imshow(drawn["density"], origin="lower", extent=box, cmap="magma", vmin=0, vmax=top)
            density.set_title(f"{label}: {rows[data][label]['nll']:.3f} nats", fontsize=9)
            samples.set_title("its samples", fontsize=9)
            points.append((samples, drawn["samples"]))
        for axis, x in points:
            axis.plot(x[:, 0], x[:, 1], ".", ms=1, color="#1f4e9c", alpha=0.5)
        for axis in line:
            axis.set(xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", xticks=[], yticks=[])
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=["eight_gaussians", "two_moons", "checkerboard"])
    parser.add_argument("--epochs", type=int, help="instead of the cards' own, to try the script")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: dict[str, Any] = {}
    shown: dict[str, dict[str, dict[str, Tensor]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for data in args.sets:
            rows[data], shown[data] = {"truth": DATA[data]().optimum()}, {}
            for label, card in MODELS.items():
                rows[data][label], shown[data][label] = one(card, data, Path(folder), args.seed, args.epochs)
            a, b = (rows[data][label]["nll"] for label in MODELS)
            rows[data]["difference"] = b - a
            print(f"{data:<18}{rows[data]}", flush=True)
            # after each set, so that what was measured is not lost
            facts = {"experiment": "flows", "seed": args.seed, "tolerance": TIGHT["rtol"], **environment()}
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "flows.json").write_text(json.dumps({**facts, "sets": rows}, indent=2) + "\n", encoding="utf-8")
    figure(shown, rows, args.out / "figures" / "flows.png")


if __name__ == "__main__":
    main()
