"""Steps to a given accuracy, from trained weights and from scratch: MDEQ of Fashion-MNIST on MNIST.

    ZOO_DATA=... OMP_NUM_THREADS=1 nice python -m experiments.finetune --out runs/finetune

Both follow one recipe for as many steps, with each of the same learning rates, and the better one counts on either
side. Validated every few steps on the same 2,048 images. About ten minutes of one core. Writes
``experiments/results/finetune.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import zoo
from zoo.storage.files import write_json
from zoo.training.environment import environment
from zoo.training.metrics_log import read_metrics

OUT = Path(__file__).parent / "results" / "finetune.json"
WEIGHTS, MODEL, DATA = "mdeq_tiny.fashion_mnist", "mdeq_tiny", "mnist"
ACCURACY, STEPS, EVERY = 0.97, 240, 20
RATES = (3e-3, 6e-3)  # learning rates; the first is the recipe's


def curve(folder: Path, pretrained: str | None, rate: float, seed: int) -> dict[str, Any]:
    """Validation accuracy over the steps of one run, unless it is there already."""
    if not (folder / "results.json").is_file():
        trainer = {
            "max_steps": STEPS, "max_epochs": 1, "val_check_interval": EVERY, "limit_val_batches": 16,
            "accelerator": "cpu", "enable_progress_bar": False,
        }  # fmt: skip
        # without the unrolled warm-up of a long recipe: equilibria from the first step on both sides
        kit = {"task": {"warmup_steps": 0}, "optim": {"lr": rate}, "trainer": trainer}
        zoo.train(MODEL, DATA, out=folder, seed=seed, pretrained=pretrained, **kit)
    rows = [r for r in read_metrics(folder / "metrics.csv") if "val/accuracy" in r]
    return {"step": [int(r["step"]) + 1 for r in rows], "accuracy": [r["val/accuracy"] for r in rows]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/finetune"), help="folder of the runs")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    curves: dict[str, Any] = {}
    reached: dict[str, int | None] = {}
    for name, weights in {"pretrained": WEIGHTS, "scratch": None}.items():
        found = [curve(given.out / f"{name}_{rate:g}_{given.seed}", weights, rate, given.seed) for rate in RATES]
        first = [next((s for s, a in zip(c["step"], c["accuracy"], strict=True) if a >= ACCURACY), None) for c in found]
        reached[name] = min((s for s in first if s), default=None)
        curves[name] = {f"{rate:g}": c for rate, c in zip(RATES, found, strict=True)}
    about = {"what": "steps to an accuracy, from trained weights and from scratch", "seed": given.seed}
    names = {"model": MODEL, "data": DATA, "weights": WEIGHTS, "accuracy": ACCURACY, "steps": STEPS}
    write_json(OUT, {**about, **names, "steps to the accuracy": reached, "curves": curves, **environment()})
    print(reached)


if __name__ == "__main__":
    main()
