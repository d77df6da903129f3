"""What fewer bits cost a solve: evaluations and accuracy of the shipped models in float32, bfloat16 and float64.

    OMP_NUM_THREADS=1 nice python -m experiments.precision

The weights that come with the package classify the digits of the test part as ``--trainer.precision`` 32-true,
bf16-mixed and 64-true would have them: under autocast or in the dtype itself, the backward pass behind it. Evaluations
are those of a batch; the backward ones are the products of the adjoint's linear solve, and none where gradients cross
the solver's own steps.

Writes ``experiments/results/precision.json``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import zoo
from zoo.data.vision import Digits
from zoo.implicit import implicit_modules
from zoo.storage.files import write_json
from zoo.training.environment import environment

RESULT = Path(__file__).parent / "results" / "precision.json"
MODELS = ("mdeq_tiny.digits", "odenet_mnist.digits")
PRECISIONS = ("32-true", "bf16-mixed", "64-true")
GOAL = 1.3  # evaluations in bfloat16 over those in float32, at most


def measure(name: str, precision: str, batches: int | None = None, batch_size: int = 64) -> dict[str, Any]:
    """Accuracy and mean evaluations of a solve of one shipped model, over the test part or its first ``batches``."""
    model: Any = zoo.load(name)
    dtype = torch.float64 if precision == "64-true" else torch.float32
    model.to(dtype)
    data = Digits(batch_size=batch_size)
    data.setup()
    right = count = converged = 0.0
    forward, backward = [], []
    for i, (x, y) in enumerate(data.test_dataloader()):
        if i == batches:
            break
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
            answer = model(x.to(dtype))
            loss = cross_entropy(answer, y)
        loss.backward()
        right += float((answer.argmax(1) == y).sum())
        count += len(y)
        solves = [m.last.stats for _, m in implicit_modules(model)]
        forward.append(sum(s.nfe for s in solves))
        backward += [sum(b.nfe for s in solves for b in s.backward)] if any(s.backward for s in solves) else []
        converged += min(float(s.converged.float().mean()) for s in solves) * len(y)
    return {
        "accuracy": right / count,
        "nfe_forward": sum(forward) / len(forward),
        "nfe_backward": sum(backward) / len(backward) if backward else None,
        "converged": converged / count,
        "samples": int(count),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, help="of the test part, to try the script")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models: dict[str, Any] = {}
    for name in MODELS:
        models[name] = {precision: measure(name, precision, args.batches) for precision in PRECISIONS}
        plain, half = models[name]["32-true"], models[name]["bf16-mixed"]
        ways = [k for k in ("nfe_forward", "nfe_backward") if plain[k]]
        models[name]["bf16_over_32"] = {k: half[k] / plain[k] for k in ways}
        for precision in PRECISIONS:
            print(f"{name:<22}{precision:<12}{models[name][precision]}", flush=True)
    facts = {"experiment": "precision", "seed": 0, "data": "digits, test part", "goal": GOAL, **environment()}
    write_json(args.out, {**facts, "models": models})


if __name__ == "__main__":
    main()
