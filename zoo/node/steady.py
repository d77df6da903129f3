"""The bridge from Neural ODEs to deep equilibrium models: an ODE at rest is a fixed point.

    dz/dt = f(z, x) - z  comes to rest where  z* = f(z*, x)

One model runs as either, by the solver that it is given. A fixed-point solver (``anderson``) looks for z* directly; an
ODE solver (``dopri5``) follows the flow from z = 0 until it rests: Picard's iteration is its Euler method with steps of
one. The gradient is a choice of its own, again one for both: ``implicit`` takes it at the equilibrium, however that was
found, by the implicit function theorem; ``unroll`` and ``checkpoint`` follow the path that led there.

The map is a convolution that is a contraction in the largest absolute value, so that the equilibrium exists, is unique
and attracts both: ``f(z, x) = s(A * z + x)``, where the sum of absolute weights of each output channel of A is at most
``contraction`` < 1 and the slope of ``s`` is at most 1. Along the flow, ``|z - z*| <= e^(-(1 - contraction) t) |z*|``.

Reference: El Ghaoui et al., "Implicit Deep Learning", 2021 (well-posedness), https://arxiv.org/abs/1908.06315;
Bai, Kolter and Koltun, "Deep Equilibrium Models", 2019, https://arxiv.org/abs/1909.01377

Shape letters: ``B`` images, ``C, H, W`` channels and size of a map, ``N = C H W``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.adjoints.backsolve import Backsolve
from zoo.adjoints.base import Adjoint
from zoo.adjoints.unroll import Unroll
from zoo.implicit import DelegatesImplicit, ImplicitMixin, SolveRecord, serves
from zoo.layers.head import ImageClassifier, check_images
from zoo.layers.stem import stem
from zoo.node.fields import activation, fitting, norm
from zoo.node.piecewise import sum_stats
from zoo.penalties import observe
from zoo.solve import fixed_point, odeint
from zoo.solvers.base import Result, Solution
from zoo.solvers.ode.base import ODESolver


class Contraction(nn.Module):
    """``f(z, x) = s(A * z + x)`` with ``sum |A_c| <= contraction`` for every output channel ``c``.

    Args:
        channels: of the state.
        contraction: Lipschitz constant of f in the largest absolute value, in (0, 1).
        act: ``s``, of slope at most 1.
    """

    def __init__(self, channels: int, contraction: float = 0.9, act: Literal["relu", "tanh", "elu"] = "relu") -> None:
        super().__init__()
        if not 0 < contraction < 1:
            raise ValueError(f"contraction must lie in (0, 1), else no equilibrium is certain; got {contraction}.")
        if act not in ("relu", "tanh", "elu"):
            raise ValueError(f"act must be relu, tanh or elu, whose slopes are at most 1; got {act!r}.")
        self.contraction, self.act = contraction, activation(act)
        self.weight = nn.Parameter(torch.randn(channels, channels, 3, 3) / (3 * channels**0.5))

    def bounded(self) -> Tensor:
        """The weight A: channels whose absolute sum is too large are scaled down to it."""
        size = self.weight.abs().sum((1, 2, 3), keepdim=True)
        return self.weight * (self.contraction / size.clamp_min(self.contraction))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        """f of a state and an injection, both (B, C, H, W)."""
        return self.act(F.conv2d(z, self.bounded(), padding=1) + x)


class Relaxation(nn.Module):
    """The flow whose rest is the fixed point of a map: ``(t, z, x) -> f(z, x) - z``."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, t: Tensor, z: Tensor, *args: Tensor) -> Tensor:
        return self.cell(z, *args) - z


class Equilibrium(ImplicitMixin, nn.Module):
    """``z* = f(z*, x)``, by a fixed-point solver or by an ODE solver.

    Under an ODE solver the flow is followed to the times 4, 8, 16, ... until every sample rests:
    ``|f(z) - z| <= atol sqrt(N) + rtol |z|`` with the solver's tolerances, which is what fixed-point solvers stop by.
    In `last`, ``residual`` and ``converged`` are those of the state at rest, as in a fixed-point solve.

    Args:
        cell: the map, called as ``cell(z, x)``.
        horizon: time after which the flow is left even if it does not rest.
    """

    problem_types: ClassVar[tuple[str, ...]] = ("fixed_point", "ode")

    def __init__(self, cell: nn.Module, horizon: float = 128.0) -> None:
        super().__init__()
        if not horizon > 0:
            raise ValueError(f"horizon must be above 0; got {horizon}.")
        self.flow, self.horizon = Relaxation(cell), horizon
        self.configure_implicit({"name": "anderson", "rtol": 1e-3, "max_steps": 30}, "implicit")

    def configure_implicit(
        self, solver: Any = None, adjoint: Any = None, *, eval_solver: Any = None, throw: bool | None = None
    ) -> None:
        """Choose the solver, of fixed points or of ODEs, and the adjoint; see `ImplicitMixin.configure_implicit`.

        Raises:
            ValueError: the adjoint cannot differentiate what the solver finds.
        """
        super().configure_implicit(solver, adjoint, eval_solver=eval_solver, throw=throw)
        _, across = self._present("anderson", "implicit")
        how = type(across).__name__
        if isinstance(across, Backsolve):
            raise ValueError(
                "The adjoint Backsolve cannot follow a flow back from its rest: all that the flow has forgotten would "
                "grow again without bound. Use implicit, unroll or checkpoint."
            )
        if not isinstance(self.solver, ODESolver) and "fixed_point" not in serves(across):
            raise ValueError(
                f"The adjoint {how} differentiates paths in time, and {type(self.solver).__name__} follows none; use "
                "the adjoint implicit or unroll, or an ODE solver, such as dopri5."
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return the equilibrium (B, C, H, W) of an injection of the same shape."""
        solver, across = self._present("anderson", "implicit")
        z0 = torch.zeros_like(x)
        if not isinstance(solver, ODESolver):
            return self.solve(self.flow.cell, z0, args=(x,))
        if "ode" in serves(across):
            z, found, parts = self._follow(solver, across, z0, x)
            self._finish(z, found, parts)
            return z
        with torch.no_grad():
            z, found, parts = self._follow(solver, Unroll(), z0, x)
        # one step at the equilibrium, across which the adjoint takes the gradient of the fixed point
        touch = {"name": "picard", "max_steps": 1, "rtol": solver.rtol, "atol": solver.atol}
        solution = fixed_point(self.flow.cell, z, touch, across, args=(x,))
        nfe = found.stats.nfe + solution.stats.nfe
        stats = replace(found.stats, nfe=nfe, backward=solution.stats.backward)
        self._finish(solution.value, replace(found, stats=stats), parts)
        observe(self, self.flow.cell, solution.value, (x,))
        return solution.value

    def _follow(
        self, solver: ODESolver, adjoint: Adjoint, z: Tensor, x: Tensor
    ) -> tuple[Tensor, SolveRecord, list[SolveRecord]]:
        """Go along the flow to its rest: the state there, the record of the whole way, and those of its parts."""
        t, span = 0.0, min(4.0, self.horizon)
        parts: list[SolveRecord] = []
        while True:
            solution = odeint(self.flow, z, (0.0, span), solver, adjoint, args=(x,))  # the same flow at all times
            z = solution.value[-1]
            parts.append(SolveRecord(solution.result, solution.stats))
            t += span
            norm, scale = _residual(self.flow.cell, z, x)
            rests = norm <= solver.atol * z[0].numel() ** 0.5 + solver.rtol * scale
            if rests.all() or t >= self.horizon or not solution.result.success:
                break
            span = min(t, self.horizon - t)
        stats = replace(
            sum_stats([p.stats for p in parts]),
            nfe=sum(p.stats.nfe + 1 for p in parts),
            converged=rests,
            residual=norm / scale.clamp_min(torch.finfo(scale.dtype).tiny),
            trace=parts[-1].stats.trace,
            backward=parts[-1].stats.backward,
        )
        result = parts[-1].result
        if result.success:  # whatever the steps, the rest was measured
            result = Result.converged if rests.all() else Result.max_steps
        return z, SolveRecord(result, stats), parts

    def _finish(self, z: Tensor, found: SolveRecord, parts: list[SolveRecord]) -> None:
        self.record(found, parts)
        self._refuse_unfinished(Solution(z, found.result, found.stats))


@torch.no_grad()
def _residual(f: nn.Module, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``|f(z) - z|`` and ``|z|`` of each sample, on the host."""
    sizes = (torch.linalg.vector_norm(v.flatten(1), dim=1) for v in (f(z, x) - z, z))
    first, second = (v.double().cpu() for v in sizes)
    return first, second


class SteadyNet(DelegatesImplicit, ImageClassifier):
    """Image classifier on an equilibrium that a DEQ's solver or an ODE's finds, with timm's conventions.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels: of the state.
        downsample: how often the stem halves the image.
        groups: of group normalization, at most.
        contraction, act: of the map, see `Contraction`.
        horizon: time after which an ODE solver gives up, see `Equilibrium`.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: int = 64,
        downsample: int = 1,
        groups: int = 8,
        contraction: float = 0.9,
        act: Literal["relu", "tanh", "elu"] = "relu",
        horizon: float = 128.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        self.stem = stem(in_chans, channels, downsample, fitting(groups, channels))
        self.in_chans, self.num_features = in_chans, channels
        self.equilibrium = Equilibrium(Contraction(channels, contraction, act), horizon)
        self.norm = norm(groups, channels)
        self.feature_info = [{"num_chs": channels, "reduction": 2**downsample, "module": "norm"}]
        self.reset_classifier(num_classes, global_pool)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's grouping of parameters by depth: the stem, the one implicit layer, the rest."""
        return {"stem": r"^stem", "blocks": [(r"^equilibrium", None)]}

    def forward_features(self, images: Tensor) -> Tensor:
        """The equilibrium, normalized, (B, channels, H', W'), of images (B, in_chans, H, W)."""
        check_images(images, self.in_chans)
        return self.norm(self.equilibrium(self.stem(images)))
