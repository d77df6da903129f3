"""Noisy spirals at irregular times: what continuous models extrapolate, beside recurrent networks of equal size.

    OMP_NUM_THREADS=1 nice python -m experiments.spirals --out runs/spirals [--models gru latent_ode]

Every model is trained by the same recipe, for as many steps, on the same 512 series: it sees 15 to 30 noisy points of
the first unit of time and predicts the second. The test compares with the true curve there; ``beyond`` with that of the
third unit, of which no model saw anything in training. The noise that a latent ODE reckons with is its card's. Runs
that are finished are read again, not made again.

More epochs and more series make all of them better, the GRU most (``--epochs 300``, kept as ``spirals_300.json``;
``--series 2048 --epochs 60``, kept as ``spirals_2048.json``, by an earlier recipe).

Writes ``experiments/results/spirals.json`` and ``spirals.png``; the runs lie below ``--out``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo.data.series import Series, Spirals
from zoo.storage.files import write_json
from zoo.training.build import load_run
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
MODELS = {  # arguments for equal numbers of parameters
    "gru": {"width": 52},
    "gru_d": {"width": 51},
    "ode_rnn": {"width": 36, "hidden": [80]},
    "latent_ode": {},
    "latent_ode_rule": {"refine": 0},
    "neural_cde": {},
}
TITLES = {
    "gru": "GRU", "gru_d": "GRU-D", "ode_rnn": "ODE-RNN", "latent_ode": "latent ODE",
    "latent_ode_rule": "latent ODE with rule", "neural_cde": "neural CDE"
}  # fmt: skip
BEYOND = (2.0, 3.0)
RECIPE = {"optim": {"weight_decay": 0.1}, "task": {"thin": 0.6}}  # of all; thinned, the GRU errs an eighth less
REFINE = 4  # steps by which a latent ODE with a rule is refined where it is measured; choosing its weights needs none


def errors(model: nn.Module, series: Series) -> dict[str, float]:
    """Mean squared error per coordinate against the truth, and its root."""
    with torch.no_grad():
        found = model(series.times, series.values, series.mask, series.query).values
    mse = float((found - series.target)[series.target_mask].square().mean())
    return {"mse": mse, "rmse": mse**0.5}


def further(data: Spirals) -> Series:
    """The test series, asked on through the third unit of time, of which alone the error counts.

    The second unit is asked on the way, as in training: a recurrent network goes from one asked time to the next.
    """
    test, later = data.split("test"), data.make(512, 0, noisy=False, asked=BEYOND)
    return test._replace(
        query=torch.cat([test.query, later.query], 1),
        target=torch.cat([test.target, later.target], 1),
        target_mask=torch.cat([torch.zeros_like(test.target_mask), later.target_mask], 1),
    )


def measure(name: str, folder: Path, epochs: int, series: int, seed: int) -> tuple[nn.Module, dict[str, Any]]:
    """Train a model, unless its run is there, and measure it."""
    file = folder / "results.json"
    if not file.is_file():
        zoo.train({"name": name, **MODELS[name]}, {"name": "spirals", "train_size": series}, out=folder, seed=seed,
            **RECIPE,
            trainer={"max_epochs": epochs, "accelerator": "cpu", "enable_progress_bar": False})  # fmt: skip
    results = json.loads(file.read_text())
    model = load_run(folder).model
    if name == "latent_ode_rule":
        model.refine = REFINE
    data = Spirals()
    test = data.split("test")
    row: dict[str, Any] = {
        "model": name,
        "seed": seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "extrapolation": errors(model, test),
        "beyond": errors(model, further(data)),
        "nfe": sum(v for k, v in results["test"].items() if k.endswith("nfe_forward")) or None,
        "epochs": results["epochs"],
        "training seconds": results["seconds"],
    }
    return model, row


def draw(models: dict[str, nn.Module], rows: list[dict[str, Any]], file: Path) -> None:
    """Three test series a row: truth, observations, extrapolations. The first half is seen, the rest is not."""
    from matplotlib.figure import Figure

    data = Spirals()
    seen = data.split("test").rows(torch.tensor([0, 1, 7]))
    times = torch.linspace(0.0, 3.0, 76)  # as dense as in training
    figure = Figure(figsize=(2.5 * len(models), 7.4), dpi=120, layout="constrained")
    axes = figure.subplots(3, len(models), sharex=True, sharey=True, squeeze=False)
    curve = data.truth(512, 0, times.numpy())[[0, 1, 7]]
    error = {r["model"]: r["extrapolation"]["mse"] for r in rows}
    for column, (name, model) in enumerate(models.items()):
        found = predict(model, seen, times)
        axes[0, column].set_title(f"{TITLES[name]}\nmse {error[name]:.2g}", fontsize=10)
        for k, axis in enumerate(axes[:, column]):
            axis.plot(*curve[k].T, color="0.75", lw=3, solid_capstyle="round", label="truth, t = 0 to 3")
            late, last = (times >= 1.0) & (times <= 2.0), times >= 2.0
            axis.plot(*found[k, late].T, color="#1f4e9c", lw=1.4, label="extrapolated, t = 1 to 2")
            axis.plot(*found[k, last].T, color="#c2410c", lw=1.2, ls="--", label="beyond training, t = 2 to 3")
            dots = seen.values[k][seen.mask[k].all(-1)]
            axis.plot(*dots.T, "o", color="black", ms=2.6, label="observed, t = 0 to 1")
            axis.set_aspect("equal")
            axis.set_xlim(-2.1, 2.1)
            axis.set_ylim(-2.1, 2.1)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.spines[:].set_color("0.85")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=4 if len(models) > 3 else 2, frameon=False, fontsize=9
    )
    figure.savefig(file)


def predict(model: nn.Module, seen: Series, times: Tensor) -> Tensor:
    """The model's curve (3, N, 2) behind the last observation."""
    asked = times[times >= 1.0].expand(len(seen.times), -1)
    with torch.no_grad():
        found = model(seen.times, seen.values, seen.mask, asked.contiguous()).values
    blank = torch.full((len(found), int((times < 1.0).sum()), 2), float("nan"))
    return torch.cat([blank, found], 1)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("runs/spirals"), help="folder of the runs")
    options.add_argument("--epochs", type=int, default=150)
    options.add_argument("--series", type=int, default=512, help="series to train on")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    given = options.parse_args()
    models, rows = {}, []
    for name in given.models:
        models[name], row = measure(name, given.out / f"{name}_{given.seed}", given.epochs, given.series, given.seed)
        rows.append(row)
        print(row, flush=True)
        best = next((r for r in rows if r["model"] == "gru"), None)
        write_json(
            HERE / "spirals.json",
            {
                "experiment": "spirals",
                "noise": Spirals().noise,
                "series": given.series,
                "recipe": RECIPE,
                "goal": "extrapolation mse at least 3 times below the GRU's",
                "rows": rows,
                "times below the gru": {
                    r["model"]: {k: best[k]["mse"] / r[k]["mse"] for k in ("extrapolation", "beyond")} for r in rows
                }
                if best
                else {},
                **environment(),
            },
        )
    draw(models, rows, HERE / "spirals.png")


if __name__ == "__main__":
    main()
