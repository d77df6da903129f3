"""PhysioNet 2012: who dies in hospital, and what hidden rows held, from 48 irregular hours, by continuous models.

    OMP_NUM_THREADS=1 nice python -m experiments.physionet --models ode_rnn gru_d --out runs/physionet
    OMP_NUM_THREADS=1 nice python -m experiments.physionet --aim interpolation --out runs/physionet

Training is on four fifths of set A, the best epoch is chosen on the rest, and the test is all 4,000 records of set B.
Interpolation hides three tenths of the rows of every record; its error is the mean square of channels mapped to [0, 1].
GRU-D and the ODE-RNN know only what came before a hidden row, the latent ODE and the neural CDE the whole record.

The published numbers stand beside ours, not among them: they are of other records of the same 8,000 (a random fifth),
of finer steps in time, of models of other sizes, and averaged over seeds; the published interpolation rebuilds all rows
from a part of them. Runs that are finished are read again.

Writes ``experiments/results/physionet.json``, one row a model; rows of earlier calls stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import zoo
from zoo.storage.files import write_json
from zoo.training.environment import environment

FILE = Path(__file__).parent / "results" / "physionet.json"
EPOCHS = {  # as many as lower the validation error
    "mortality": {"gru_d": 25, "ode_rnn": 25, "latent_ode": 20, "neural_cde": 10},
    "interpolation": {"gru_d": 25, "ode_rnn": 20, "latent_ode": 20, "neural_cde": 10},
}
SOURCE = "Rubanova, Chen and Duvenaud 2019, https://arxiv.org/abs/1907.03907, mean and deviation over runs"
PUBLISHED = {
    ("mortality", "gru_d"): {"auc": 0.818, "deviation": 0.008, "source": SOURCE},
    ("mortality", "ode_rnn"): {"auc": 0.833, "deviation": 0.009, "source": SOURCE},
    ("mortality", "latent_ode"): {"auc": 0.829, "deviation": 0.004, "source": SOURCE},
    ("interpolation", "latent_ode"): {"mse": 2.118e-3, "deviation": 0.271e-3, "source": SOURCE},
}


def measure(name: str, aim: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train a model, unless its run is there, and read what it reached."""
    file = folder / "results.json"
    if not file.is_file():
        data = {"name": "physionet", "aim": aim} | ({"scale": "range"} if aim == "interpolation" else {})
        task = {"noise": 0.05} if aim == "interpolation" else {}
        trainer = {"max_epochs": EPOCHS[aim][name], "accelerator": "cpu", "enable_progress_bar": False}
        zoo.train(name, data, out=folder, seed=seed, task=task, trainer=trainer)
    results = json.loads(file.read_text())
    key = "auc" if aim == "mortality" else "mse"
    return {
        "model": name,
        "aim": aim,
        "seed": seed,
        "parameters": results["parameters"],
        key: results["test"][key],
        f"val {key}": results["best"].get(f"val/{key}"),
        "nfe": sum(v for k, v in results["test"].items() if k.endswith("nfe_forward")) or None,
        "epochs": results["epochs"],
        "training seconds": results["seconds"],
        "published": PUBLISHED.get((aim, name)),
        **environment(),
    }


def key(row: dict[str, Any]) -> tuple[str, str, int]:
    """What a row is of."""
    return row["aim"], row["model"], row["seed"]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("runs/physionet"), help="folder of the runs")
    options.add_argument("--seed", type=int, default=0)
    names = list(EPOCHS["mortality"])
    options.add_argument("--models", nargs="+", default=names, choices=names)
    options.add_argument("--aim", default="mortality", choices=list(EPOCHS))
    options.add_argument("--results", type=Path, default=FILE, help="file of the rows")
    given = options.parse_args()
    for name in given.models:
        row = measure(name, given.aim, given.out / f"{given.aim}_{name}_{given.seed}", given.seed)
        old = json.loads(given.results.read_text())["rows"] if given.results.is_file() else []
        kept = [r for r in old if key(r) != key(row)]
        about = {"experiment": "physionet", "split": "set A 3,200 + 800, test set B 4,000", "step": "1 h"}
        write_json(given.results, {**about, "rows": sorted([*kept, row], key=key)})
        print(row, flush=True)


if __name__ == "__main__":
    main()
