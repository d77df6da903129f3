"""PhysioNet 2012: who dies in hospital, from 48 irregular hours, by continuous models and GRU-D.

    OMP_NUM_THREADS=1 nice python -m experiments.physionet --models ode_rnn gru_d --out runs/physionet

Training is on four fifths of set A, the best epoch is chosen on the rest, and the test is all 4,000 records of set B.
The published areas under the curve stand beside ours, not among them: they are of other records of the same 8,000
(a random fifth), of finer steps in time, and averaged over seeds. Runs that are finished are read again.

Writes ``experiments/results/physionet.json``, one row a model; rows of earlier calls stay.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from zoo.cli import fit
from zoo.run import environment, write_json

FILE = Path(__file__).parent / "results" / "physionet.json"
EPOCHS = {"gru_d": 25, "ode_rnn": 25, "latent_ode": 20, "neural_cde": 10}
SOURCE = "Rubanova, Chen and Duvenaud 2019, https://arxiv.org/abs/1907.03907, mean and deviation over runs"
PUBLISHED = {
    "gru_d": {"auc": 0.818, "deviation": 0.008, "source": SOURCE},
    "ode_rnn": {"auc": 0.833, "deviation": 0.009, "source": SOURCE},
    "latent_ode": {"auc": 0.829, "deviation": 0.004, "source": SOURCE},
}


def measure(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train a model, unless its run is there, and read what it reached."""
    file = folder / "results.json"
    if not file.is_file():
        fit(name, "physionet", out=folder, seed=seed,
            trainer={"max_epochs": EPOCHS[name], "accelerator": "cpu", "enable_progress_bar": False})  # fmt: skip
    results = json.loads(file.read_text())
    return {
        "model": name,
        "seed": seed,
        "parameters": results["parameters"],
        "auc": results["test"]["auc"],
        "accuracy": results["test"]["accuracy"],
        "val auc": results["best"].get("val/auc"),
        "nfe": sum(v for k, v in results["test"].items() if k.endswith("nfe_forward")) or None,
        "epochs": results["epochs"],
        "training seconds": results["seconds"],
        "published": PUBLISHED.get(name),
        **environment(),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--out", type=Path, default=Path("runs/physionet"), help="folder of the runs")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--models", nargs="+", default=list(EPOCHS), choices=list(EPOCHS))
    given = options.parse_args()
    for name in given.models:
        row = measure(name, given.out / f"{name}_{given.seed}", given.seed)
        old = json.loads(FILE.read_text())["rows"] if FILE.is_file() else []
        kept = [r for r in old if (r["model"], r["seed"]) != (name, given.seed)]
        about = {"experiment": "physionet", "split": "set A 3,200 + 800, test set B 4,000", "step": "1 h"}
        write_json(FILE, {**about, "rows": sorted([*kept, row], key=lambda r: (r["model"], r["seed"]))})
        print(row, flush=True)


if __name__ == "__main__":
    main()
