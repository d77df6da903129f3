"""Export what the playground reads: its maps, and residual curves of zoo's own solvers on them; before each build."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import zoo

if TYPE_CHECKING:
    from sphinx.application import Sphinx

TURN = 1.1  # radians of the rotation of the plane
TRACES = [("picard", 5, 0.9, False), ("picard", 5, 0.7, True), ("anderson", 2, 0.9, True), ("anderson", 3, 0.6, True)]


def data() -> dict[str, Any]:
    """The content of data.js."""
    random = torch.Generator().manual_seed(0)
    Q = torch.tensor([[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]], dtype=torch.float64)
    b, start = torch.tensor([0.6, -0.2], dtype=torch.float64), torch.tensor([[-0.9, 0.8]], dtype=torch.float64)
    basis = torch.linalg.qr(torch.randn(16, 16, dtype=torch.float64, generator=random))[0]
    traces = []
    for solver, window, rate, bent in TRACES:
        options = {"window": window} if solver == "anderson" else {}

        def f(z: torch.Tensor, rate: float = rate, bent: bool = bent) -> torch.Tensor:
            inner = z @ (rate * Q).T + b
            return torch.tanh(inner) if bent else inner

        seen: list[float] = []

        def watched(z: torch.Tensor, f: Any = f, seen: list[float] = seen) -> torch.Tensor:
            fz: torch.Tensor = f(z)
            seen.append(float((fz - z).norm() / z.norm()))
            return fz

        with torch.no_grad():
            zoo.fixed_point(watched, start, {"name": solver, "rtol": 1e-9, "max_steps": 12, **options})
        traces.append({"solver": solver, "window": window, "rate": rate, "bent": bent, "residuals": seen[:12]})
    return {
        "version": zoo.__version__,
        "plane": {"Q": Q.tolist(), "b": b.tolist(), "start": start[0].tolist()},
        "linear": {
            "basis": basis.tolist(),
            "spread": torch.linspace(1, -0.6, 16, dtype=torch.float64).tolist(),
            "b": torch.randn(16, dtype=torch.float64, generator=random).tolist(),
        },
        "traces": traces,
    }


def write(file: Path) -> None:
    """Write data.js."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"const DATA = {json.dumps(data())};\nif (typeof module !== 'undefined') module.exports = DATA;\n")


def _write(app: Sphinx) -> None:
    write(Path(app.srcdir) / "generated" / "extra" / "playground" / "data.js")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
