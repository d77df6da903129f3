"""Nested annuli: what a plain Neural ODE cannot separate, and an augmented one can.

    OMP_NUM_THREADS=1 nice python -m experiments.annuli [--steps 600] [--seeds 3]

A disc (label 0) lies within a ring (label 1). The flow of an ODE in the plane is a homeomorphism: the ring's image
still encloses the disc's, so that no line behind it separates the two, whatever the field. With one more coordinate,
which starts at 0, the disc can be lifted out. The plain model squeezes the disc through an ever thinner gap in the
ring: some points stay on the wrong side, and the loss shows it.

Writes ``experiments/results/annuli.json`` and ``annuli.png``.

Reference: Dupont, Doucet and Teh, "Augmented Neural ODEs", 2019, https://arxiv.org/abs/1904.01681
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.node.fields import MLPField
from zoo.node.odenet import ODEBlock
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
DISC, RING = 0.5, (1.0, 1.5)
MODELS = {"plain": 0, "augmented": 1}


def sample(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points (count, 2), uniform over the disc and over the ring, half each, and labels (count,)."""
    half = count // 2
    u = torch.rand(2 * half, generator=generator)
    angle = 2 * math.pi * torch.rand(2 * half, generator=generator)
    label = torch.arange(2 * half) % 2
    inner, outer = RING
    radius = torch.where(label == 0, DISC * u.sqrt(), (inner**2 + u * (outer**2 - inner**2)).sqrt())
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1), label.float()


class Classifier(nn.Module):
    """One ODE block and a line (a plane) behind it."""

    def __init__(self, augment: int) -> None:
        super().__init__()
        self.block = ODEBlock(MLPField(2 + augment, (32, 32), act="softplus"), augment=augment)
        self.line = nn.Linear(2 + augment, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.line(self.block(x))[:, 0]


def train(augment: int, seed: int, steps: int) -> tuple[Classifier, dict[str, Any]]:
    """Train one model; returns it with its curves and its errors on 20,000 fresh points."""
    torch.manual_seed(seed)
    model, generator = Classifier(augment), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    curve: list[tuple[int, float, int]] = []
    for step in range(1, steps + 1):
        x, y = sample(256, generator)
        loss = nn.functional.binary_cross_entropy_with_logits(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            curve.append((step, loss.item(), model.block.last.stats.nfe))
    x, y = sample(20_000, torch.Generator().manual_seed(10_000 + seed))
    with torch.no_grad():
        logits = model(x)
    wrong = (logits > 0).float() != y
    return model, {
        "seed": seed,
        "error": wrong.float().mean().item(),
        "test loss": nn.functional.binary_cross_entropy_with_logits(logits, y).item(),
        "nfe at the end": model.block.last.stats.nfe,
        "parameters": sum(p.numel() for p in model.parameters()),
        "curve": curve,
    }


def figure(models: dict[str, Classifier], runs: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Left: the plane as each model divides it. Middle: where its flow takes the points. Right: training."""
    from matplotlib.figure import Figure

    colors = ("#1f4e9c", "#d9822b")
    fig = Figure(figsize=(12, 7), dpi=120, layout="constrained")
    axes = fig.subplots(2, 3)
    x, y = sample(1200, torch.Generator().manual_seed(1))
    ticks = torch.linspace(-1.7, 1.7, 160)
    grid = torch.cartesian_prod(ticks, ticks)
    for row, (name, model) in enumerate(models.items()):
        with torch.no_grad():
            chance = torch.sigmoid(model(grid)).view(160, 160).T
            state, logits = model.block(x), model(x)
        wrong = (logits > 0).float() != y
        plane, after, curve = axes[row]
        plane.contourf(ticks, ticks, chance, levels=[0, 0.5, 1], colors=["#c9d8ef", "#f6dfc6"])
        for label, color, mark in ((0, colors[0], "o"), (1, colors[1], "^")):
            mine = y == label
            plane.plot(*x[mine].T, mark, color=color, ms=2)
            # seen along the line that the classifier draws: its own direction is the height
            w = model.line.weight[0].detach()
            across = torch.linalg.svd(w[None])[2][1]
            after.plot(state[mine] @ across, logits[mine], mark, color=color, ms=2)
        plane.plot(*x[wrong].T, "x", color="black", ms=5)
        plane.set_aspect("equal")
        errors = ", ".join(f"{r['error']:.1%}" for r in runs[name])
        plane.set_title(f"{name}, wrong: {errors}", fontsize=9)
        after.axhline(0, color="0.4", lw=0.8)
        after.set_title("behind the flow, the line at 0", fontsize=9)
        after.set_xlabel("coordinate along the line")
        after.set_ylabel("logit")
        for r in runs[name]:
            steps, losses, _ = zip(*r["curve"], strict=True)
            curve.semilogy(steps, losses, color="0.55", lw=0.8)
        curve.set_ylabel("training loss (gray)")
        curve.set_ylim(1e-5, 1)
        curve.set_xlabel("training step")
        twin = curve.twinx()
        for r in runs[name]:
            steps, _, nfe = zip(*r["curve"], strict=True)
            twin.plot(steps, nfe, color="black", lw=1.0)
        twin.set_ylabel("evaluations a solve (black)")
        twin.set_ylim(0, 120)
        curve.set_title("training, one line a seed", fontsize=9)
    fig.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, list[dict[str, Any]]] = {}
    shown: dict[str, Classifier] = {}
    for name, augment in MODELS.items():
        for seed in range(args.seeds):
            model, result = train(augment, seed, args.steps)
            shown.setdefault(name, model)
            runs.setdefault(name, []).append(result)
            print(
                f"{name:<10} seed {seed}   wrong {result['error']:.3%}   test loss {result['test loss']:.2e}   "
                f"nfe {result['nfe at the end']}",
                flush=True,
            )
    args.out.mkdir(parents=True, exist_ok=True)
    figure(shown, runs, args.out / "annuli.png")
    rows = {k: [{a: b for a, b in r.items() if a != "curve"} for r in v] for k, v in runs.items()}
    facts = {"experiment": "annuli", "steps": args.steps, **environment(), "runs": rows}
    (args.out / "annuli.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
