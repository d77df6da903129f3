"""A learned solver: Anderson acceleration whose first iterate and mixing weights a small network corrects.

Shape letters as in `zoo.solvers.base`; ``m`` iterates in the window.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.solvers import anderson
from zoo.solvers.anderson import Anderson
from zoo.solvers.base import FixedPointSolver

SHIPPED = Path(__file__).resolve().parent.parent / "weights"


class First(nn.Module):
    """The correction of the first iterate: ``f(0) -> z* - f(0)``, as far as a small network can tell.

    Every part of the state that is a feature map (C, H, W) goes through two convolutions with an offset of its own
    shape; any other part, flattened, through a bottleneck. All parts see the mean features of all others.

    Args:
        shapes: of the state's parts, for one sample.
        hidden: channels (or width of the bottleneck) within.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], hidden: int) -> None:
        super().__init__()
        self.shapes = [tuple(s) for s in shapes]
        self.sizes = [prod(s) for s in self.shapes]
        maps = [len(s) == 3 for s in self.shapes]
        self.enter = nn.ModuleList(
            nn.Conv2d(s[0], hidden, 3, padding=1) if m else nn.Linear(n, hidden)
            for s, n, m in zip(self.shapes, self.sizes, maps, strict=True)
        )
        self.share = nn.Linear(hidden * len(self.shapes), hidden * len(self.shapes))
        self.leave = nn.ModuleList(
            nn.Conv2d(hidden, s[0], 3, padding=1) if m else nn.Linear(hidden, n)
            for s, n, m in zip(self.shapes, self.sizes, maps, strict=True)
        )
        self.offset = nn.Parameter(torch.zeros(sum(self.sizes)))
        for p in self.leave.parameters():  # an untrained network changes nothing
            nn.init.zeros_(p)

    def forward(self, f: Tensor) -> Tensor:
        """From (B, N) to (B, N)."""
        parts = [p.view(len(f), *s) for p, s in zip(f.split(self.sizes, dim=1), self.shapes, strict=True)]
        parts = [p if len(s) == 3 else p.flatten(1) for p, s in zip(parts, self.shapes, strict=True)]
        inner = [torch.relu(layer(p)) for layer, p in zip(self.enter, parts, strict=True)]
        shared = self.share(torch.cat([h.flatten(2).mean(2) if h.dim() == 4 else h for h in inner], dim=1))
        news = shared.chunk(len(inner), dim=1)
        inner = [torch.relu(h + (s[:, :, None, None] if h.dim() == 4 else s)) for h, s in zip(inner, news, strict=True)]
        out = [layer(h).flatten(1) for layer, h in zip(self.leave, inner, strict=True)]
        return torch.cat(out, dim=1) + self.offset


class Residual(nn.Module):
    """What the inverse Jacobian adds to a residual, ``g -> (I - J)^{-1} g - g``: linear in ``g``, gated by the state.

        M(z, g) = leave(h_i + sum_{j != i} h_j),        h_i = sigmoid(gate(z_i)) * enter(g_i)

    Feature maps (C, H, W) go through convolutions, other parts through linear layers; parts of other sizes are pooled
    or repeated to meet.

    Args:
        shapes, hidden: as for `First`.
    """

    def __init__(self, shapes: Sequence[Sequence[int]], hidden: int) -> None:
        super().__init__()
        self.shapes = [tuple(s) for s in shapes]
        self.sizes = [prod(s) for s in self.shapes]

        def layers(inwards: bool, bias: bool) -> nn.ModuleList:
            out = nn.ModuleList()
            for s, n in zip(self.shapes, self.sizes, strict=True):
                a, b = (s[0] if len(s) == 3 else n, hidden) if inwards else (hidden, s[0] if len(s) == 3 else n)
                out.append(nn.Conv2d(a, b, 3, padding=1, bias=bias) if len(s) == 3 else nn.Linear(a, b, bias=bias))
            return out

        self.gate, self.enter, self.leave = layers(True, True), layers(True, False), layers(False, False)
        for p in self.leave.parameters():  # an untrained network changes nothing
            nn.init.zeros_(p)

    def forward(self, z: Tensor, g: Tensor) -> Tensor:
        """From state and residual (B, N) to (B, N)."""
        states, residuals = (
            [p.view(len(z), *s) if len(s) == 3 else p for p, s in zip(x.split(self.sizes, 1), self.shapes, strict=True)]
            for x in (z, g)
        )
        h = [
            torch.sigmoid(gate(a)) * enter(b)
            for gate, enter, a, b in zip(self.gate, self.enter, states, residuals, strict=True)
        ]
        met = [sum((_like(b, a) for j, b in enumerate(h) if j != i), start=a) for i, a in enumerate(h)]
        return torch.cat([leave(a).flatten(1) for leave, a in zip(self.leave, met, strict=True)], dim=1)


def _like(part: Tensor, other: Tensor) -> Tensor:
    """Features of one part where another part lies: pooled or repeated."""
    if part.dim() == other.dim():
        return nn.functional.adaptive_avg_pool2d(part, (other.shape[-2], other.shape[-1])) if part.dim() == 4 else part
    return part.mean((2, 3)) if part.dim() == 4 else part[:, :, None, None]


class Proposer(nn.Module):
    """The network of a learned solver: what it adds to Anderson's first iterate, weights, damping and residual.

    For weights and damping its features are the angles between the residuals in the window, their sizes, the weights
    that Anderson would take, and how far the solve has come: they change neither with the scale of the state nor with
    its size.

    Args:
        shapes: of the state's parts, for one sample; None leaves the first iterate to Anderson.
        window: iterates that the solver keeps.
        hidden: channels of the networks for the first iterate and for the residual.
        width: of the network for the weights.
        residual: correct the mixed residual too (`Residual`), which costs two to three convolutions a step.
    """

    def __init__(
        self,
        shapes: Sequence[Sequence[int]] | None = None,
        window: int = 5,
        hidden: int = 16,
        width: int = 32,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if window < 1 or hidden < 1 or width < 1:
            raise ValueError(f"Proposer: window, hidden and width must be at least 1; got {window}, {hidden}, {width}.")
        if residual and not shapes:
            raise ValueError("Proposer: residual=True needs the shapes of the state's parts.")
        self.config = {
            "shapes": shapes and [list(s) for s in shapes],
            "window": window,
            "hidden": hidden,
            "width": width,
            "residual": residual,
        }
        self.window = window
        self.first = First(shapes, hidden) if shapes else None
        self.residual = Residual(shapes, hidden) if shapes and residual else None
        self.mixer = nn.Sequential(
            nn.Linear(window * (window + 3) // 2 + 2, width), nn.Tanh(), nn.Linear(width, window + 1)
        )
        for p in self.mixer[2].parameters():
            nn.init.zeros_(p)

    def correct(
        self, gram: Tensor, live: Tensor, weights: Tensor, progress: Tensor, step: int
    ) -> tuple[Tensor, Tensor]:
        """What to add to the weights (B, n) and to the damping (B, 1); newest iterate first.

        Args:
            gram: (B, n, n) inner products of the residuals.
            live: (B, n) 1 for the iterates in use, 0 for those that a restart has forgotten.
            weights: (B, n) Anderson's.
            progress: (B,) logarithm of the newest residual against the first.
            step: how many evaluations there were.
        """
        n, m = weights.shape[1], self.window
        size = gram.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
        ratio = (size / size[:, :1]).log() * live
        angle = gram / (size[:, :, None] * size[:, None]) * live[:, :, None] * live[:, None]
        rows, columns = torch.tril_indices(m, m, -1, device=gram.device)
        pad = m - n
        angle = nn.functional.pad(angle, (0, pad, 0, pad))[:, rows, columns]
        ratio, share = (nn.functional.pad(v, (0, pad)) for v in (ratio, weights * live))
        late = torch.full_like(progress, min(step, 10) / 10)
        features = torch.cat([angle, ratio, share, progress[:, None], late[:, None]], dim=1)
        out = self.mixer(features.to(next(self.mixer.parameters()).dtype)).to(weights.dtype)
        delta = out[:, :n] * live
        return delta - live * (delta.sum(1, keepdim=True) / live.sum(1, keepdim=True)), out[:, m:]

    def save(self, file: str | Path) -> None:
        """Write the weights (safetensors), with what `load` needs to build the network again."""
        save_file(self.state_dict(), file, metadata={"proposer": json.dumps(self.config)})

    @staticmethod
    def load(file: str | Path) -> Proposer:
        """Read what `save` wrote."""
        with safe_open(file, "pt") as stored:
            described = (stored.metadata() or {}).get("proposer")
            if described is None:
                raise ValueError(f"{file} holds no network of a learned solver; write one by Proposer.save.")
            network = Proposer(**json.loads(described))
            network.load_state_dict({k: stored.get_tensor(k) for k in stored.keys()})  # noqa: SIM118 (not a mapping)
        return network.requires_grad_(False)


class State(NamedTuple):
    inner: anderson.State
    start: Tensor  # (B,) residual of the first evaluation
    trusted: Tensor  # (B,) whether the network may still propose for a sample

    @property
    def z(self) -> Tensor:
        return self.inner.z

    @property
    def norm(self) -> Tensor:
        return self.inner.norm


@dataclass(frozen=True, kw_only=True)
class Learned(FixedPointSolver):
    """Anderson acceleration corrected by a small network, trained on the solves of one model.

    The solver starts as Anderson does. The network adds to its first iterate, ``z_1 = f(z_0) + P(f(z_0))`` where
    ``z_0 = 0``, and later to its weights and damping:

        z_{k+1} = sum_i (a_i + da_i) (z_i + (1 + db) g_i) [+ M g],      sum_i da_i = 0,   g_i = f(z_i) - z_i

    with ``da, db`` from the angles and sizes of the residuals, and M on the mixed residual where it is asked for. The
    fixed points are those of the map whatever the network says, and gradients cross the solve by the adjoint as ever:
    only the number of evaluations is learned. A sample whose residual does not fall after a proposal is solved by plain
    Anderson from then on, so that a network that is untrained, or trained for another model, costs evaluations and not
    convergence.

    Without a network this is `anderson`. `zoo.solvers.train_learned.train` trains one.

    Args:
        weights: a file that `Proposer.save` wrote, or the name of weights that ship with the package
            ("mdeq_tiny.digits").
        network: a `Proposer`, instead of weights.
        ridge: share by which the diagonal of the residuals' products is raised, as in `anderson`.
        restart: growth of the residual that empties a sample's window, as in `anderson`.

    Raises:
        ValueError: an option out of its range, weights that are not there, or (when it solves) a state of another size
            than the network was made for.

    Reference: Bai, Koltun and Kolter, "Neural Deep Equilibrium Solvers", ICLR 2022. There the weights are the
    network's alone; here it corrects Anderson's, so that nothing is lost where it has nothing to say.
    """

    weights: str | None = None
    network: Proposer | None = field(default=None, repr=False)
    ridge: float | None = None
    restart: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network is None and self.weights is not None:
            object.__setattr__(self, "network", _load(self.weights))
        self._plain  # noqa: B018 (checks its options)

    @functools.cached_property
    def _plain(self) -> Anderson:
        window = self.network.window if self.network else Anderson.window
        return Anderson(window=window, max_steps=self.max_steps, ridge=self.ridge, restart=self.restart)

    def start(self, z: Tensor, fz: Tensor) -> State:
        inner = self._plain.start(z, fz)
        if self.network is not None:
            first = self.network.first
            if first is not None and first.offset.numel() != z.shape[1]:
                raise ValueError(
                    f"The network of this learned solver is for states of {first.offset.numel()} numbers a sample, "
                    f"shaped {first.shapes}; got {z.shape[1]}. Train one for this model and this size of its inputs, "
                    "or make one without shapes, which leaves the first iterate to Anderson."
                )
            if next(self.network.mixer.parameters()).device != z.device:
                self.network.to(z.device)  # it is no part of the model, and follows its states
        # A warm start knows more than the network does, which has seen solves from zero.
        return State(inner, inner.norm, (z.detach() == 0).all(dim=1))

    def propose(self, state: State) -> tuple[Tensor, State]:
        inner, network = state.inner, self.network
        f, g = inner.f, inner.g
        if network is None or g.pushed == 1:
            z, _ = self._plain.propose(inner)
            if network is not None and network.first is not None:
                more = network.first(f.newest.to(network.first.offset.dtype))
                z = z + state.trusted[:, None] * more.to(z.dtype)
            return z, state
        weights = self._plain.weights(inner)
        order = [(g.pushed - 1 - i) % g.size for i in range(g.used)]  # newest first
        back = [order.index(i) for i in range(g.used)]
        tiny = torch.finfo(inner.norm.dtype).tiny  # of a residual that is 0, no infinity may reach the network
        progress = (inner.norm.clamp_min(tiny) / state.start.clamp_min(tiny)).log().to(weights.dtype)
        delta, extra = network.correct(
            inner.gram[:, order][:, :, order], inner.ones[:, order, 0], weights[:, order], progress, g.pushed
        )
        trusted = state.trusted[:, None]
        weights = weights + trusted * delta[:, back]
        z, mixed = f.mix(weights), g.mix(weights)
        more = extra.to(z.dtype) * mixed
        if network.residual is not None:
            kind = next(network.residual.leave.parameters()).dtype
            more = more + network.residual(z.to(kind), mixed.to(kind)).to(z.dtype)
        return z + trusted * more, state

    def absorb(self, state: State, z: Tensor, fz: Tensor) -> State:
        inner = self._plain.absorb(state.inner, z, fz)
        return State(inner, state.start, state.trusted & (inner.norm < state.norm))

    @property
    def forgets_at(self) -> float:
        return self.restart

    def residual(self, state: State) -> Tensor:
        return state.inner.g.newest

    def forget(self, state: State, mask: Tensor) -> State:
        return state._replace(inner=self._plain.forget(state.inner, mask))


@functools.lru_cache(maxsize=8)
def _load(weights: str) -> Proposer:
    """The network from a file, or from those that ship with the package; one object for equal names."""
    shipped = SHIPPED / weights / "solver.safetensors"
    file = Path(weights) if Path(weights).is_file() else shipped
    if not file.is_file():
        known = ", ".join(sorted(p.parent.name for p in SHIPPED.glob("*/solver.safetensors"))) or "none"
        raise ValueError(
            f"Learned: no weights {weights!r}: it is neither a file nor shipped with the package (those are: {known}). "
            "Train a network by zoo.solvers.train_learned.train and save it by Proposer.save."
        )
    return Proposer.load(file)
