"""Draw README's picture from the weights that ship with the package: ``python docs/_ext/readme_picture.py``.

Three panels, one a family: what a training step keeps for its backward pass, by depth; the paths along which the
shipped flow carries noise onto two moons; kernels that the shipped hypernetwork wrote.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image

import zoo

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "_static" / "zoo.png"
INK = ("#111111", "#c2571a", "#1f4e9c")
WAYS = {  # of the experiment: how the picture calls them
    "explicit, L layers": "explicit network",
    "DEQ, unrolled": "equilibrium, unrolled",
    "DEQ, implicit": "equilibrium, implicit gradient",
}


def equilibrium(axis: Any) -> None:
    """What a training step keeps for its backward pass, as the theory's experiment measured it."""
    memory = json.loads((ROOT / "experiments" / "results" / "theory.json").read_text(encoding="utf-8"))["memory"]
    for (way, label), color, dash in zip(WAYS.items(), INK, ("-", "--", "-"), strict=True):
        axis.loglog(memory["depths"], [b / 1024 for b in memory["ways"][way]["bytes"]], dash, color=color, label=label)
    axis.set(title="z* = f(z*, x): as deep as you like", xlabel="layers, or evaluations of f", ylabel="KiB kept")
    axis.legend(frameon=False, fontsize=8)


def flow(axis: Any) -> None:
    """Paths of the shipped flow, from noise (gray) to data (blue)."""
    model = zoo.load("cnf_flow_matching.two_moons")
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(1))
    times = torch.linspace(model.end, 0, 25).tolist()
    with torch.no_grad():
        path = zoo.odeint(model.field.field, noise, times, "dopri5").value
    axis.plot(path[..., 0], path[..., 1], color="0.85", lw=0.4)
    axis.scatter(*noise.T, s=3, color="0.55", label="noise")
    axis.scatter(*path[-1].T, s=4, color=INK[2], label="carried onto the data")
    axis.set(title="dy/dt = f(t, y): noise onto data", xticks=[], yticks=[], aspect="equal", ylim=(-3.4, 2.6))
    axis.legend(frameon=False, fontsize=8, loc="lower center", ncols=2)


def kernels(axis: Any) -> None:
    """The first 8 x 8 kernels of the layer that the shipped hypernetwork writes."""
    model = zoo.load("hyper_cnn.mnist")
    with torch.no_grad():
        [written] = [w for w in model.features.generator(None).values() if w.dim() == 4]
    rows = [torch.cat([torch.nn.functional.pad(k, (0, 1, 0, 1), value=float("nan")) for k in r[:8]], 1)
            for r in written[:8]]  # fmt: skip
    axis.imshow(torch.cat(rows), cmap="RdBu", vmin=-written.abs().max() / 2, vmax=written.abs().max() / 2)
    axis.set(title="K = g(e): weights that a network wrote", xticks=[], yticks=[])


def main() -> None:
    torch.manual_seed(0)
    figure = Figure(figsize=(10.5, 3.3), dpi=110, layout="constrained")
    for axis, draw in zip(figure.subplots(1, 3), (equilibrium, flow, kernels), strict=True):
        draw(axis)
        axis.title.set_fontsize(10)
        axis.spines[["top", "right"]].set_visible(False)
    drawn = io.BytesIO()
    figure.savefig(drawn, facecolor="white")
    Image.open(drawn).convert("RGB").quantize(64).save(OUT, optimize=True)  # a third of the size
    print(OUT, f"{OUT.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
