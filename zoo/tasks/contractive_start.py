"""A contractive start: scale a map's weights down until plain iteration would converge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo import penalties
from zoo.solvers.autograd import leaves
from zoo.solvers.packing import Packing, Tensors


def contract(
    run: Callable[[], Any], target: float = 0.9, *, agree: Callable[[Tensor], Tensor] | None = None, tries: int = 40
) -> float:
    """Scale the matrices and kernels of each map within a model by a common factor until ``rho(df/dz(z*)) < target``.

    It is for maps whose weights act on the state with nothing after them that undoes their scale, such as
    ``tanh(W z + x)``. In MDEQ and the DEQ transformer a normalization does, so that they are refused.

    The radius is measured at the fixed points of one forward pass, by power iteration, the largest over its samples;
    the pass is repeated as the weights shrink, since the fixed points move. Biases and the scales of normalizations,
    which have one dimension, stay as they are.

    Args:
        run: a forward pass of the model, over samples like those it will be trained on.
        target: bound of the spectral radius, above 0.
        agree: the largest over the processes that share the weights, of a radius (); None: there is one process.
        tries: times that the weights are scaled by 0.8, at most; 40 leave 1e-4 of them. It ends sooner where ten in a
            row, which leave a tenth of them, lower the radius by less than a tenth.

    Returns:
        the largest radius that is left.

    Raises:
        ValueError: the radius does not fall below the target, as where a normalization after the weights undoes any
            scale; the weights are then what they were.
    """
    if not target > 0:
        raise ValueError(f"target must be above 0; got {target}.")
    before: dict[Tensor, Tensor] = {}
    seen: list[float] = []
    while True:
        with torch.no_grad(), penalties.capture() as solves:
            run()
        radii: dict[int, tuple[Tensor, list[Tensor]]] = {}
        for module, f, z in solves:
            radius, weights = penalties.spectral_radius(f, z).max(), _weights(f, z)
            known = radii.get(id(module))
            radii[id(module)] = (radius if known is None else torch.maximum(known[0], radius), weights)
        worst = 0.0
        larger: list[Tensor] = []
        for radius, weights in radii.values():
            size = float(agree(radius) if agree else radius)
            worst = max(worst, size)
            if not size < target:  # NaN is not, either
                larger += weights
        if not larger:
            return worst
        seen.append(worst)
        if len(seen) > tries or (len(seen) > 10 and not worst < 0.9 * seen[-11]):
            break
        with torch.no_grad():
            for weight in larger:
                before.setdefault(weight, weight.clone())
                weight.mul_(0.8)
    with torch.no_grad():
        for weight, old in before.items():
            weight.copy_(old)
    raise ValueError(
        f"The map's spectral radius was {seen[0]:.3g}, and still is {worst:.3g} with its weights scaled to "
        f"{0.8 ** (len(seen) - 1):.1g} of what they were, so no scale brings it below {target}. A normalization after "
        "the weights undoes their scale, as in MDEQ and the DEQ transformer; a contractive start is for maps without "
        "one, such as tanh(W z + x). Set task.contract to 0, and use the Jacobian penalty, task.jacobian_weight."
    )


def _weights(f: Callable[[Tensors], Tensors], z: Tensors) -> list[Tensor]:
    """The matrices and kernels that a map's value depends on."""
    packing = Packing.of(z, "z")
    with torch.enable_grad():
        out = packing.wrap(f)(packing.pack(z).detach())
    return [leaf for leaf in leaves(out) if leaf.dim() >= 2]
