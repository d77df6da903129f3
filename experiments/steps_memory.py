"""Whether a long run grows: resident memory over 2,000 training steps of a tiny DEQ.

    OMP_NUM_THREADS=1 nice python -m experiments.steps_memory

`test_mdeq` learns digits by its recipe, with the callbacks, the log and the checkpoints of ``python -m zoo.fit``.
Resident memory, as the system counts it, is read every 200 steps. The first readings still load code and fill pools;
what is judged is the growth over the second half.

Writes ``experiments/results/steps_memory.json``.
"""

from __future__ import annotations

import argparse
import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

from zoo.storage.files import write_json
from zoo.training import run
from zoo.training.environment import environment
from zoo.training.request import resolve
from zoo.training.run import run_training

RESULT = Path(__file__).parent / "results" / "steps_memory.json"
GOAL = 0.01  # of the memory at half time, at most


class Resident(Callback):
    """Bytes in memory every ``every`` steps, as ``(step, bytes)``."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.seen: list[tuple[int, int]] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            gc.collect()
            self.seen.append((trainer.global_step, resident()))


def resident() -> int:
    """Bytes of this process in memory, by Linux's ``/proc``."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(steps: int, every: int, folder: Path) -> list[tuple[int, int]]:
    watch, made = Resident(every), run.make_trainer

    def watched(*arguments: Any) -> Trainer:
        trainer = made(*arguments)
        trainer.callbacks.append(watch)  # type: ignore[attr-defined]
        return trainer

    flags = [f"--out={folder}", f"--trainer.max_steps={steps}", "--trainer.max_epochs=-1", "--trainer.accelerator=cpu"]
    run.make_trainer = watched
    try:
        run_training(
            resolve(["--model", "test_mdeq", "--data", "digits", *flags, "--trainer.enable_progress_bar=false"])
        )
    finally:
        run.make_trainer = made
    return watch.seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seen = measure(args.steps, args.every, Path(folder) / "run")
    half = next(b for step, b in seen if step >= args.steps / 2)
    growth = seen[-1][1] / half - 1
    for step, size in seen:
        print(f"{step:>6} steps  {size / 2**20:.1f} MiB")
    print(f"growth over the second half: {growth:.2%} (goal: at most {GOAL:.0%})")
    facts = {"experiment": "steps_memory", "model": "test_mdeq", "data": "digits", "seed": 0, "goal": GOAL}
    rows = [{"step": step, "resident_bytes": size} for step, size in seen]
    write_json(args.out, {**facts, **environment(), "growth": growth, "rows": rows})


if __name__ == "__main__":
    main()
