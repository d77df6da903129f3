"""One cell, every adjoint, two losses, equal seconds: which training finds fixed points that solve.

    OMP_NUM_THREADS=1 nice python -m experiments.reasoner_gradients --data sudoku6 --seconds 120 --seeds 0 1 2

`EquivariantReasoner` begins from the same weights and sees the puzzles in the same order each time, for so many seconds
of processor time (not of the clock, so that other work on the machine does not count), then solves unseen puzzles by
plain iteration at several depths. Learning rate constant after a warm-up, average of the weights with decay 0.99.

    segments      loss after each of 2 segments of 4 steps, after 0 to 16 free steps; the gradient crosses a segment
    equilibrium   loss at the end of one solve of at most 32 steps

The adjoint ``reversible`` comes with its own solver, damped so much that its steps can be undone. Writes
``experiments/results/reasoner_gradients_<data>.json`` after each run, and goes on where it was left.
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer, seed_everything

from experiments.reasoners import ask
from zoo.callbacks.weight_ema import WeightEMA
from zoo.data import DATA
from zoo.deq.reasoner.equivariant import EquivariantReasoner
from zoo.storage.files import write_json
from zoo.tasks.optim import Optim
from zoo.tasks.reasoning import Reasoning
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
STEPS = 32  # of the one solve of the loss at its end
LOSSES: dict[str, dict[str, Any]] = {
    "segments": {"segments": 2, "steps": 4, "free_steps": 16},
    "equilibrium": {"segments": 1, "steps": STEPS, "free_steps": 0},
}
ADJOINTS: dict[str, Any] = {
    "unroll": "unroll",
    "jfb": "jfb",
    "phantom": {"name": "phantom", "steps": 4},
    "neumann": "neumann",
    "implicit": "implicit",
    "reversible": "reversible",
}
DAMPING = {"segments": 0.5, "equilibrium": 0.2}  # of the solver reversible
PLAIN = {"name": "picard", "rtol": 1e-4, "max_steps": 128}
DEPTHS = (16, 32, 64, 128)


class ProcessorTime(Callback):
    """End a training after so many seconds of processor time."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.begin = seconds, 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begin = time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.should_stop = time.process_time() - self.begin >= self.seconds


def run(name: str, loss: str, adjoint: str, seconds: float, seed: int, channels: int, puzzles: int) -> dict[str, Any]:
    """Train once and measure; the row of one run."""
    seed_everything(seed, verbose=False)
    data: Any = DATA[name](batch_size=32, seed=seed)
    model = EquivariantReasoner(channels, data.box)
    if adjoint == "reversible":
        solver = {"name": "reversible", "damping": DAMPING[loss], "rtol": 1e-4, "max_steps": STEPS}
        model.configure_implicit(solver, adjoint)
    else:
        model.configure_implicit(PLAIN, ADJOINTS[adjoint])
    task = Reasoning(model, Optim(lr=3e-3, weight_decay=1e-2, schedule="constant", warmup=0.0), **LOSSES[loss])
    trainer = Trainer(
        max_epochs=-1, accelerator="cpu", callbacks=[WeightEMA(0.99), ProcessorTime(seconds)], gradient_clip_val=1.0,
        limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    row: dict[str, Any] = {"loss": loss, "adjoint": adjoint, "seed": seed, "seconds (processor)": seconds}
    try:
        trainer.fit(task, datamodule=data)
    except (RuntimeError, ValueError) as error:  # a training that diverged is a result
        return {**row, "steps": trainer.global_step, "failed": " ".join(str(error).split())[:300]}
    model.eval().configure_implicit(PLAIN, "unroll")
    givens = data.split("test")[0][:puzzles]
    found = {str(depth): ask(model, data, givens, depth).row() for depth in DEPTHS}
    kept = ("solved", "converged", "mean iterations", "ROC area", "wrong below 1e-3", "median residual right")
    return {**row, "steps": trainer.global_step, "test": {d: {k: r[k] for k in kept} for d, r in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="sudoku6", choices=["sudoku4", "sudoku6", "sudoku9"])
    parser.add_argument("--seconds", type=float, default=120.0, help="of processor time, for each run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--adjoints", nargs="+", default=list(ADJOINTS), choices=list(ADJOINTS))
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--puzzles", type=int, default=500, help="test puzzles")
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)

    file = args.out / f"reasoner_gradients_{args.data}.json"
    facts = json.loads(file.read_text()) if file.is_file() else {}
    asked = {"data": args.data, "channels": args.channels, "seconds": args.seconds, "test puzzles": args.puzzles}
    if any(facts.get(k, v) != v for k, v in asked.items()):
        raise SystemExit(f"{file} was measured with other options; move it away, or choose another --out")
    rows = facts.get("rows", [])
    done = {(r["loss"], r["adjoint"], r["seed"]) for r in rows}
    args.out.mkdir(parents=True, exist_ok=True)
    for seed, loss, adjoint in product(args.seeds, args.losses, args.adjoints):
        if (loss, adjoint, seed) in done:
            continue
        row = run(args.data, loss, adjoint, args.seconds, seed, args.channels, args.puzzles)
        rows.append(row)
        shown = row["failed"] if "failed" in row else {d: f"{r['solved']:.1%}" for d, r in row["test"].items()}
        print(f"seed {seed}  {loss:<12} {adjoint:<11} {row['steps']:>5} steps  {shown}", flush=True)
        write_json(file, {"experiment": "reasoner_gradients", **asked, "rows": rows, **environment()})


if __name__ == "__main__":
    main()
