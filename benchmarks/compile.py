"""A training step with the cell or field compiled, as ``--compile`` does, beside the same model's eager step.

    OMP_NUM_THREADS=1 nice python -m benchmarks.compile [--pairs 15]

Both hold the same weights and draw the same dropout masks, so that both solve the same equations. Times are
interleaved pairs of CPU time of one thread, and a row's number is the median of the pairs' ratios: on a machine that
other jobs share, ratios stand. How long the first steps took, which compile, is said beside it, by the clock of the
wall. Writes ``experiments/results/bench_compile.json``.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.odenet import interleaved
from benchmarks.record import ROOT, write_record
from zoo.hub.factory import create_model
from zoo.implicit import implicit_modules
from zoo.training.compile import compile_maps

SEED = 0
OUT = ROOT / "experiments" / "results" / "bench_compile.json"
WARM = 3  # steps that compile: whole batches, batches that samples have left, and once more with what was found
Loss = Callable[[Any], Tensor]


def problems(batch: int) -> dict[str, tuple[nn.Module, Loss]]:
    """Trained models, whose solves converge, and the loss of one batch."""
    torch.manual_seed(SEED)
    digits = load_digits()
    images = torch.tensor(digits.images[:batch, None] / 16, dtype=torch.float32)
    labels = torch.tensor(digits.target[:batch])
    text = torch.randint(0, 66, (max(batch // 8, 1), 65))

    def classify(model: Any) -> Tensor:
        return cross_entropy(model(images), labels)

    def read(model: Any) -> Tensor:
        return model.loss(text[:, :-1], text[:, 1:])[0].mean()

    return {
        f"mdeq_tiny, {batch} images 8x8": (create_model("mdeq_tiny.digits", pretrained=True), classify),
        f"odenet_mnist, {batch} images 8x8": (create_model("odenet_mnist.digits", pretrained=True), classify),
        f"deq_transformer_small, {len(text)} x 64 characters": (
            create_model("deq_transformer_small.tiny_shakespeare", pretrained=True),
            read,
        ),
    }


def training_step(model: nn.Module, loss: Loss) -> Callable[[], None]:
    def step() -> None:
        torch.manual_seed(SEED)
        model.zero_grad()
        loss(model).backward()

    return step


def measure(name: str, model: nn.Module, loss: Loss, pairs: int, backend: str) -> dict[str, Any]:
    """One row: how much faster the compiled step is, its times, its evaluations, and how far gradients differ."""
    eager, compiled = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    compile_maps(compiled, backend)
    plain, fast = training_step(eager, loss), training_step(compiled, loss)
    start = time.perf_counter()
    for _ in range(WARM):
        fast()
    seconds = time.perf_counter() - start
    times = interleaved(plain, fast, pairs)
    both = zip(eager.parameters(), compiled.parameters(), strict=True)
    grads = [(a.grad, b.grad) for a, b in both if a.grad is not None and b.grad is not None]
    # of all gradients: a bias in front of a normalization has none but rounding
    total = nn.utils.get_total_norm([a for a, _ in grads])
    gap = float(nn.utils.get_total_norm([a - b for a, b in grads]) / total)
    row = {
        "problem": name,
        "speedup": times["speedup"],
        "lower quartile": times["lower quartile"],
        "upper quartile": times["upper quartile"],
        "eager ms": times["peer ms"],
        "compiled ms": times["ms"],
        "first steps s": seconds,
        "nfe": sum(m.last.stats.nfe for _, m in implicit_modules(compiled)),
        "eager nfe": sum(m.last.stats.nfe for _, m in implicit_modules(eager)),
        "relative difference of the gradients": gap,
    }
    print(f"{name:<48}{row['speedup']:.2f}x  {row['eager ms']:.1f} -> {row['compiled ms']:.1f} ms", flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64, help="images; an eighth as many texts")
    parser.add_argument("--only", default="", help="problems whose name holds this")
    parser.add_argument("--backend", default="inductor", help="of torch.compile, for cells")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [
        measure(name, model, loss, args.pairs, args.backend)
        for name, (model, loss) in problems(args.batch).items()
        if args.only in name
    ]
    write_record(
        args.out, rows, benchmark="compile", seed=SEED, pairs=args.pairs, backend=args.backend,
        command=f"OMP_NUM_THREADS=1 python -m benchmarks.compile --pairs {args.pairs} --batch {args.batch}",
        times="CPU time of one thread, medians of interleaved pairs; a machine shared with other jobs: ratios stand",
    )  # fmt: skip


if __name__ == "__main__":
    main()
