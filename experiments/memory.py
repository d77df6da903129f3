"""Bytes kept for the backward pass by the number of forward iterations: equilibrium models beside their unrolled twins.

    OMP_NUM_THREADS=1 python -m experiments.memory

Each model solves with a tolerance that is never met, so that every iteration of its budget is spent: with its card's
solver and the implicit adjoint, and as its unrolled twin, whose every iteration is kept. The transformer does so in
float64: in float32 its residual is 0 after some 40 iterations, and the rest would not be made. What is counted are the
bytes of the tensors that a forward pass in training mode made and that are alive when it has ended (`held_bytes`). It
is one sample: those that leave a batch early leave buffers for the next solve behind, which are not the backward
pass's.

Writes ``experiments/results/memory.json`` and ``memory.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import zoo
from zoo.hub import cards
from zoo.reporting.counters import held_bytes
from zoo.reporting.plots import legend, panels, style
from zoo.storage.files import write_json
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
ITERATIONS = (5, 20, 80)
NEVER = {"rtol": 1e-30, "atol": 1e-30}


def image_loss(model: nn.Module, batch: int) -> Callable[[], Tensor]:
    """The loss of one batch of random images 3x32x32."""
    x, y = torch.randn(batch, 3, 32, 32), torch.arange(batch) % 10
    return lambda: cross_entropy(model(x), y)


def text_loss(model: Any, batch: int) -> Callable[[], Tensor]:
    """The loss of a segment of 64 random symbols, behind a memory of 64."""
    x = torch.randint(0, model.vocab_size, (batch, 65))
    _, memory = model.loss(x[:, :-1], x[:, 1:])
    return lambda: model.loss(x[:, :-1], x[:, 1:], memory)[0].mean()


MODELS: dict[str, tuple[dict[str, Any], torch.dtype, Callable[[Any, int], Callable[[], Tensor]]]] = {
    "mdeq_tiny": ({"num_classes": 10, "in_chans": 3}, torch.float32, image_loss),
    "deq_transformer_small": ({"vocab_size": 66}, torch.float64, text_loss),
}


def measure(name: str, iterations: tuple[int, ...] = ITERATIONS, batch: int = 1) -> dict[str, Any]:
    """Bytes by iterations of one model, with the implicit adjoint and unrolled, and how often its map was evaluated.

    Raises:
        RuntimeError: a solve ended before its budget did.
    """
    options, dtype, loss = MODELS[name]
    out: dict[str, Any] = {"batch": batch, "dtype": str(dtype).removeprefix("torch."), "iterations": list(iterations)}
    out |= {"implicit": [], "unrolled": [], "nfe": []}
    card = cards.card(name)
    for steps in iterations:
        for way, solver, adjoint in (
            ("implicit", {**card.solver, **NEVER}, dict(card.adjoint)),
            ("unrolled", {"name": "picard", **NEVER}, "unroll"),
        ):
            torch.manual_seed(0)
            model: Any = zoo.create_model(name, **options).to(dtype)
            model.configure_implicit({**solver, "max_steps": steps}, adjoint)
            out[way].append(held_bytes(loss(model, batch)))
            spent = int(model.last.stats.steps.min())
            if spent != steps:
                raise RuntimeError(f"{name}, {way}: {spent} of {steps} iterations were made; take a wider dtype.")
            if way == "implicit":
                out["nfe"].append(model.last.stats.nfe)
    out["spread"] = max(out["implicit"]) / min(out["implicit"]) - 1
    return out


def figure(models: dict[str, dict[str, Any]], file: Path) -> None:
    picture, axes = panels(1, len(models))
    for axis, (name, m) in zip(axes[0], models.items(), strict=True):
        for i, (way, label) in enumerate((("unrolled", "unrolled twin"), ("implicit", "implicit"))):
            axis.plot(m["iterations"], [b / 2**20 for b in m[way]], label=label, **style(i))
        axis.set(xscale="log", yscale="log", xlabel="forward iterations")
        axis.set_xticks(m["iterations"], [str(k) for k in m["iterations"]])
        axis.minorticks_off()
        axis.set_title(f"{name}, batch {m['batch']}", fontsize=10)
        legend(axis, 2)
    axes[0, 0].set_ylabel("kept for the backward pass (MiB)")
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = {}
    for name in MODELS:
        models[name] = m = measure(name)
        for k, implicit, unrolled in zip(m["iterations"], m["implicit"], m["unrolled"], strict=True):
            print(
                f"{name:<24}{k:>4} iterations   implicit {implicit:>12,}   unrolled {unrolled:>12,} bytes", flush=True
            )
        print(f"{name:<24}implicit differs by {m['spread']:.2%}")
    figure(models, args.out / "memory.png")
    write_json(args.out / "memory.json", {"experiment": "memory", "seed": 0, **environment(), "models": models})


if __name__ == "__main__":
    main()
