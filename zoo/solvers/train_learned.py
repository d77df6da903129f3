"""How the network of a learned solver is trained: by the distance of its iterates to the fixed point."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import cycle, islice

import torch
from torch import Tensor

from zoo.solvers.base import Map
from zoo.solvers.iterate import iterate
from zoo.solvers.learned import Learned, Proposer


@dataclass(frozen=True)
class Solved:
    """A batch of equations with their answers: ``f`` (B, N) -> (B, N), and ``exact`` (B, N) with ``f(exact) = exact``.

    ``f`` must be ready to be called again and again: bound to its inputs, without dropout, its weights detached.
    """

    f: Map
    exact: Tensor


def loss(network: Proposer, batch: Solved, steps: int, resolved: float = 1e-6) -> Tensor:
    """``mean_{k<=steps} log(|z_k - z*| / |z*|)``, averaged over the batch: every step should gain as many digits.

    The solve starts at zero and is unrolled; its iterates are what the map is asked for.

    Args:
        network: what is trained.
        batch: equations with their answers.
        steps: proposals that are unrolled.
        resolved: relative distance below which an iterate counts as the fixed point itself.
    """
    seen: list[Tensor] = []

    def watched(z: Tensor) -> Tensor:
        seen.append(z)
        return batch.f(z)

    solver = Learned(network=network, max_steps=steps, rtol=resolved, atol=0.0)
    last = iterate(watched, torch.zeros_like(batch.exact), solver, select="next").value
    size = torch.linalg.vector_norm(batch.exact, dim=1)
    terms = []
    for z in (*seen[1:], last)[:steps]:
        distance = torch.linalg.vector_norm(z - batch.exact, dim=1) / size
        terms.append(distance.square().add(resolved**2).log().mean() / 2)
    return torch.stack(terms).mean()


def train(
    network: Proposer,
    batches: Iterable[Solved],
    *,
    updates: int = 500,
    steps: int = 6,
    lr: float = 3e-3,
    clip: float = 1.0,
    report: Callable[[int, float], None] | None = None,
) -> Proposer:
    """Train a network on equations that a trained model has solved; the model itself is not touched.

    Args:
        network: changed in place.
        batches: equations with their answers, gone through again and again.
        updates: of the weights, by Adam with a rate that falls to zero along a cosine.
        steps: proposals that are unrolled (`loss`): about as many as a solve takes.
        lr: the first rate.
        clip: greatest norm of a gradient; a step of Anderson may be ill-conditioned, and its derivative large.
        report: called with the number of each update and its loss.

    Returns:
        the network.

    Raises:
        ValueError: no batches.

    Reference: Bai, Koltun and Kolter, "Neural Deep Equilibrium Solvers", ICLR 2022, section 4.
    """
    batches = list(batches)
    if not batches:
        raise ValueError("train needs at least one batch of solved equations; got none.")
    network.requires_grad_()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    for update, batch in enumerate(islice(cycle(batches), updates)):
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * update / updates)) / 2
        value = loss(network, batch, steps)
        optimizer.zero_grad()
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        if torch.isfinite(norm):
            optimizer.step()
        if report is not None:
            report(update, value.item())
    return network.requires_grad_(False)
