"""Flow matching: a flow's field learned by regression on velocities, without a solve.

A sample ``x`` and normal noise ``z`` are joined by a straight line, from the sample at t = 0 to the noise at t = T:

    y_t = (1 - t/T) x + (t/T) z,    dy/dt = (z - x) / T,    loss = E |f(t, y_t) - (z - x) / T|^2,  t uniform in (0, T)

The minimum over all fields is the mean velocity through ``y_t``, ``f(t, y) = E[z - x | y_t = y] / T``, and its flow
carries the data to the normal distribution, as maximum likelihood wants it: in the same direction, so that the same
field is sampled and judged by the same solves.

Which noise a sample is joined with is the *coupling*: ``independent``, or the one that makes the squared lines of a
batch shortest in sum (``optimal``), whose flow is straighter and takes fewer evaluations.

Reference: Lipman et al., "Flow matching for generative modeling", 2023, https://arxiv.org/abs/2210.02747;
Tong et al., "Improving and generalizing flow-based generative models with minibatch optimal transport", 2024,
https://arxiv.org/abs/2302.00482 (the couplings)

Shape letters: ``B`` samples, ``D`` dimensions of one sample.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

Coupling = Literal["independent", "optimal"]


def ot_pairing(x: Tensor, z: Tensor) -> Tensor:
    """The noise (B, D) in the order that joins it to the samples (B, D) at the least sum of squared distances.

    Exact, by the Hungarian method on the host: O(B^3) at worst, a few milliseconds for 256 samples.

    Raises:
        ValueError: fewer than two samples, different shapes, or values that are not finite.
    """
    from scipy.optimize import linear_sum_assignment

    if x.shape != z.shape or x.dim() != 2:
        raise ValueError(f"Samples and noise must both be (B, D); got {tuple(x.shape)} and {tuple(z.shape)}.")
    if len(x) < 2:
        raise ValueError(
            f"Optimal transport within a batch needs at least 2 samples to choose from; got {len(x)}. Use a larger "
            "batch, or independent couples (--task.objective flow_matching)."
        )
    cost = torch.cdist(x.detach().double(), z.detach().double()).square().cpu()
    if not torch.isfinite(cost).all():
        raise ValueError("Optimal transport needs finite samples; the batch holds NaN or infinity. Clean the data.")
    _, columns = linear_sum_assignment(cost.numpy())
    return z[torch.from_numpy(columns).to(z.device)]


def flow_matching_loss(
    field: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    *,
    end: float = 1.0,
    coupling: Coupling = "independent",
    z: Tensor | None = None,
    t: Tensor | None = None,
) -> Tensor:
    """The loss of flow matching on a batch, a mean over samples and dimensions.

    Args:
        field: ``f(t, y)``, with ``t`` of shape (B, 1): every sample is seen at a time of its own.
        x: samples (B, D).
        end: T.
        coupling: which noise a sample is joined with.
        z: the noise (B, D); None: drawn.
        t: the times (B, 1) in [0, T]; None: drawn, one from each of B equal parts of the span, which spreads them
            evenly and makes the loss less noisy than independent times.

    Raises:
        ValueError: no such coupling, or a batch that cannot be paired.
    """
    if coupling not in ("independent", "optimal"):
        raise ValueError(f"coupling must be 'independent' or 'optimal'; got {coupling!r}.")
    z = torch.randn_like(x) if z is None else z
    if coupling == "optimal":
        z = ot_pairing(x, z)
    if t is None:
        parts = torch.randperm(len(x), device=x.device).to(x.dtype)
        t = end * ((parts + torch.rand(len(x), dtype=x.dtype, device=x.device)) / len(x))[:, None]
    share = t / end
    velocity = field(t, torch.lerp(x, z, share))
    return (velocity - (z - x) / end).square().mean()
