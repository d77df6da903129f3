"""Compile what implicit layers evaluate, in place: ``--compile``.

The cell of a fixed point runs as code of ``torch.compile``; so does the field of an ODE, with the Runge-Kutta step
around it (`zoo.solvers.ode.compiled`). What is around a solve stays as it is, and so does its loop, which asks the
numbers when to stop. Nothing is wrapped: the keys of a state dict stay, and a copy or a saved model is one that was not
compiled. The first steps take longer, up to minutes: there is code for training and for evaluation, with a graph and
without, for whole batches and for those that samples have left.

The implicit adjoint evaluates a cell once with a graph, and takes all its products with the Jacobian through that:
this evaluation is left eager. The backward pass of compiled code computes the gradients of all parameters whichever
are asked for, which made a training step a fifth slower (`benchmarks.compile`, on a CPU).
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from zoo import _compat
from zoo.adjoints.phantom import Phantom
from zoo.adjoints.unroll import Unroll
from zoo.implicit import ImplicitMixin, implicit_modules
from zoo.penalties import differentiated_twice
from zoo.solvers.newton import Newton
from zoo.solvers.ode.base import ODESolver
from zoo.solvers.ode.runge_kutta import RungeKutta

ONCE = (Phantom, Unroll)  # adjoints whose graph one backward pass goes through, once
VARIANTS = 64  # of one function before torch gives up; its own 8 are too few for the ways that a cell is called in


def compile_maps(model: nn.Module, backend: str = "inductor") -> list[str]:
    """Compile the cells and fields of a model's implicit layers, in place.

    Args:
        model: of any family.
        backend: of ``torch.compile``, for cells.

    Returns:
        the names of what was compiled.

    Raises:
        ValueError: nothing in the model can be compiled.
    """
    _compat.allow_variants(VARIANTS)
    done: list[str] = []
    left: list[str] = []
    for name, layer in implicit_modules(model):
        part = _compile(layer, backend)
        (done if part else left).append(".".join(filter(None, (name, part))) or type(layer).__name__)
    if not done:
        raise ValueError(
            f"--compile: {type(model).__name__} has no cell or field that can be compiled. It must be a module named "
            "'cell' of a layer that solves for fixed points, by another solver than newton, or one named 'field' or "
            "'flow' of a layer that integrates by a Runge-Kutta method. Leave --compile out."
        )
    if left:
        warnings.warn(f"--compile left {', '.join(left)} as it is: no cell or field to compile.", stacklevel=2)
    return done


def _compile(layer: ImplicitMixin, backend: str) -> str:
    """Compile one layer; returns the name of its part that was, empty where there is none."""
    solvers = [s for s in (layer.solver, layer.eval_solver) if s is not None]
    parts: dict[str, nn.Module] = dict(layer.named_modules())  # type: ignore[attr-defined]
    if any(isinstance(s, ODESolver) for s in solvers):
        name = next((n for n in ("field", "flow") if n in parts), "")
        if not name or not all(isinstance(s, RungeKutta) for s in solvers):
            return ""
        if isinstance(layer.solver, RungeKutta):
            layer.solver = replace(layer.solver, compile=True)
        if isinstance(layer.eval_solver, RungeKutta):
            layer.eval_solver = replace(layer.eval_solver, compile=True)
        return name
    if any(isinstance(s, Newton) for s in solvers):
        return ""  # it differentiates forwards, which compiled code drops
    named = (n for n, part in parts.items() if n.rpartition(".")[2] == "cell" and _callable(part))
    name = next(named, "")
    if name:
        parts[name].compile(backend=backend)
        _compat.set_compiled_call(parts[name], _Call(parts[name], layer))
    return name


def _callable(part: nn.Module) -> bool:
    return type(part).forward is not nn.Module.forward  # some cells only make the map


class _Call:
    """A call of a layer's compiled cell; by the cell's own code where a graph is made that more than one pass uses.

    Compiled code has no second derivative, and is slow where single gradients are asked for again and again.
    """

    def __init__(self, cell: nn.Module, layer: ImplicitMixin) -> None:
        self.compiled, self.eager, self.layer = _compat.compiled_call(cell), _compat.eager_call(cell), layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        once = isinstance(self.layer.adjoint, ONCE) and not differentiated_twice()
        return (self.compiled if once or not torch.is_grad_enabled() else self.eager)(*args, **kwargs)
