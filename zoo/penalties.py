"""Penalties and measurements at a fixed point: Jacobian norm, spectral radius.

A penalty is asked for by a scope around the forward pass, and handed over when it ends; nothing is kept on the model::

    with penalties.collect(jacobian=True) as terms:
        loss = loss_of(model(x))
    loss = loss + weight * terms["jacobian"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from zoo.solvers.packing import Packing, Tensors

_twice: ContextVar[bool] = ContextVar("zoo_differentiated_twice", default=False)
_observers: ContextVar[tuple[Callable[..., None], ...]] = ContextVar("zoo_penalty_observers", default=())


def jacobian_norm(f: Callable[[Tensors], Tensors], z: Tensors, samples: int = 1) -> Tensor:
    """Hutchinson's estimate of ``|df/dz|_F^2 / N``, the mean over the batch; differentiable in what ``f`` depends on.

    ``|J|_F^2 = E |v^T J|^2`` for ``v ~ N(0, 1)``. One evaluation, and one product with its Jacobian a sample.

    Args:
        f: the map.
        z: where; taken as a constant.
        samples: vectors ``v``; the estimate's standard deviation falls with their square root.

    Reference: Bai, Koltun and Kolter, "Stabilizing equilibrium models by Jacobian regularization", ICML 2021.
    """
    packing = Packing.of(z, "z")
    with torch.enable_grad():
        flat = packing.pack(z).detach().requires_grad_()
        token = _twice.set(True)
        try:
            out = packing.wrap(f)(flat)
        finally:
            _twice.reset(token)
        total = flat.new_zeros(())
        for _ in range(samples):
            v = torch.randn_like(out)
            total = total + torch.autograd.grad(out, flat, v, create_graph=True)[0].square().sum()
    return total / (samples * flat.numel())


def differentiated_twice() -> bool:
    """Whether the map is evaluated for a penalty, which differentiates it twice: no work for compiled code."""
    return _twice.get()


def spectral_radius(f: Callable[[Tensors], Tensors], z: Tensors, steps: int = 20) -> Tensor:
    """(B,): the largest absolute eigenvalue of ``df/dz`` by power iteration on its transpose. No graph is kept.

    Below 1, plain iteration converges near ``z``. Complex pairs make single ratios oscillate, so that the geometric
    mean over the second half of the steps is taken.
    """
    packing = Packing.of(z, "z")
    with torch.enable_grad():
        flat = packing.pack(z).detach().requires_grad_()
        out = packing.wrap(f)(flat)
    v = torch.randn_like(out)
    v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True)
    logs = []
    for k in range(steps):
        v = torch.autograd.grad(out, flat, v, retain_graph=True, materialize_grads=True)[0]
        size = torch.linalg.vector_norm(v, dim=1, keepdim=True)
        v = v / size.clamp_min(torch.finfo(v.dtype).tiny)
        if k >= steps // 2:
            logs.append(size[:, 0].log())
    return torch.stack(logs).mean(dim=0).exp()


@contextmanager
def collect(*, jacobian: bool = False, samples: int = 1) -> Iterator[dict[str, Tensor]]:
    """Scope that gathers penalties over the implicit solves within it.

    Args:
        jacobian: whether to estimate the Jacobian's norm at each fixed point (`jacobian_norm`).
        samples: of that estimate.

    Yields:
        a dictionary; when the scope ends ``"jacobian"`` holds the sum over the solves, if there were any.
    """
    terms: dict[str, Tensor] = {}

    def observe(module: Any, f: Callable[..., Tensors], z: Tensors) -> None:
        if jacobian and torch.is_grad_enabled():
            norm = jacobian_norm(f, z, samples)
            terms["jacobian"] = terms["jacobian"] + norm if "jacobian" in terms else norm

    with _observing(observe):
        yield terms


@contextmanager
def capture() -> Iterator[list[tuple[Any, Callable[[Tensors], Tensors], Tensors]]]:
    """Scope that lists the solves within it, each as ``(module, f, z*)`` with ``f`` bound to its arguments."""
    solves: list[tuple[Any, Callable[[Tensors], Tensors], Tensors]] = []
    with _observing(lambda module, f, z: solves.append((module, f, z))):
        yield solves


def observe(module: Any, f: Callable[..., Tensors], z: Tensors, args: tuple[Tensor, ...] | None) -> None:
    """Show a finished solve to the scopes that are open; called by `ImplicitMixin.solve`."""
    for watch in _observers.get():
        watch(module, lambda state: f(state, *(args or ())), z)


@contextmanager
def _observing(watch: Callable[..., None]) -> Iterator[None]:
    token = _observers.set((*_observers.get(), watch))
    try:
        yield
    finally:
        _observers.reset(token)
