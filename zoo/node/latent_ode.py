"""Latent ODE: a series is one trajectory of an ODE, found from its observations as a variational autoencoder does.

    q(z_0 | x) = N(mu, s),  [mu, log s] = g(ODE-RNN run back over the observations)
    dz/dt = f(z),   z(t_0) = z_0 ~ q,      x(t) ~ N(d(z(t)), noise)

Training maximizes ``E_q log p(x | z_0) - KL(q | N(0, 1))``; the model gives the mean of x and the divergence, the task
(`zoo.tasks.series`) weighs them. In evaluation z_0 is the mean of q, so that an answer is not random.

The encoder's answer may be refined in evaluation, as the decoder tells how well it explains what was seen:

    z_0 = argmin_z  sum_i |d(z(t_i)) - x_i|^2 / noise^2 + |z - mu|^2

by steps of Levenberg and Marquardt from ``mu``. With a ``rule``, a part of z rests and writes the linear field of the
other (`RuledField`): what a series is, and where it is.

Reference: Rubanova, Chen and Duvenaud, "Latent Ordinary Differential Equations for Irregularly-Sampled Time Series",
2019, https://arxiv.org/abs/1907.03907; Chen et al., "Neural Ordinary Differential Equations", 2018; Kim et al.,
"Semi-Amortized Variational Autoencoders", 2018, https://arxiv.org/abs/1802.02550 (refining an encoder's answer);
Norcliffe et al., "Neural ODE Processes", 2021, https://arxiv.org/abs/2103.12413 (a part of the latent that rests).

What differs from the paper: as in `zoo.node.ode_rnn`; the classifier reads z_0, and one sample of it a step in training
(they average three). ``t_0`` is the earliest time observed or asked.

Shape letters: ``B`` series, ``T`` rows, ``D`` channels, ``Q`` asked times, ``Z`` latent numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.implicit import DelegatesImplicit, SolveRecord
from zoo.layers.series import Events, Outcome, check_series, check_sizes, gaps, readout
from zoo.node.ode_rnn import Flow, Recurrent
from zoo.node.piecewise import merge_records, reduce_copies

SMALL = 3e-3  # of a latent number, whose posterior is some hundredths wide: differences by it are good to a per mille


class LatentODE(DelegatesImplicit, nn.Module):
    """Latent ODE that predicts values at asked times, and classifies where it has classes.

    Args:
        features: D, channels of the series.
        num_classes: 0 to predict values alone; else of the classifier, which is trained along with the values.
        latent: Z, numbers of a trajectory's state.
        width: numbers of the encoder's state.
        hidden: units of the hidden layers of both fields.
        head: units of the hidden layer of each read-out.
        rule: of the latent numbers those that rest and write the field of the others; 0: one field for all series.
        refine: steps that refine z_0 in evaluation. They have no gradient: where one is recorded, the encoder's own
            answer stands.
        noise: deviation of an observation around the trajectory, by which refining weighs it beside the encoder's word.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self,
        features: int = 2,
        num_classes: int = 0,
        latent: int = 8,
        width: int = 32,
        hidden: Sequence[int] = (64,),
        head: int = 64,
        rule: int = 0,
        refine: int = 0,
        noise: float = 0.2,
    ) -> None:
        super().__init__()
        check_sizes("A latent ODE", features, num_classes, latent=latent, width=width, head=head)
        if not 0 <= rule < latent or refine < 0 or not noise > 0:
            raise ValueError(
                f"A latent ODE needs a rule of 0 to {latent - 1} of its {latent} numbers, refine of at least 0 and a "
                f"noise above 0; got rule={rule}, refine={refine} and noise={noise}."
            )
        self.features, self.num_classes, self.latent = features, num_classes, latent
        self.refine, self.noise = refine, noise
        self.encoder = Recurrent(features, width, hidden)
        self.posterior = readout(width, head, 2 * latent)
        self.flow = Flow(latent, hidden, rule)
        self.decoder = readout(latent, head, features)
        self.classifier = readout(latent, head, num_classes) if num_classes else None

    def encode(self, times: Tensor, values: Tensor, mask: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (B, Z) of z_0 at the times ``start`` (B,), from the last row to the first."""
        back = torch.cat([times.flip(1), start[:, None]], 1)
        none = values.new_zeros(len(values), 1, values.shape[2])
        weight = torch.cat([mask.flip(1).to(values.dtype), none], 1)
        x = torch.cat([torch.where(mask, values, 0.0).flip(1), none], 1)
        seen = weight.any(-1)
        order = Events(back, gaps(back), x, weight, seen, torch.zeros_like(seen), back[:, :0].long())
        mean, log_scale = self.posterior(self.encoder.run(order)[1]).chunk(2, 1)
        return mean, log_scale.clamp(-8, 4)  # a scale of e^-8 is no scale; beyond it the divergence only overflows

    def decode(self, z: Tensor, start: Tensor, query: Tensor, records: list[SolveRecord]) -> Tensor:
        """Values (B, Q, D) at the times ``query`` of the trajectories that leave z (B, Z) at ``start`` (B,)."""
        states = []
        for dt in gaps(torch.cat([start[:, None], query], 1)).unbind(1)[1:]:
            z = self.flow.over(dt, z, records)
            states.append(z)
        return self.decoder(torch.stack(states, 1))

    def refined(
        self, mean: Tensor, times: Tensor, values: Tensor, mask: Tensor, start: Tensor, records: list[SolveRecord]
    ) -> Tensor:
        """The z (B, Z) that explains best what was seen, near ``mean``: ``refine`` damped Gauss-Newton steps.

        The slope of the predictions by z comes from Z trajectories beside each, which share its steps in time: those
        are of a batch of its own, so that differences are smooth, whatever the solver's tolerance.
        """
        copies = self.latent + 1
        shift = torch.cat([torch.zeros_like(mean[:1]), SMALL * torch.eye(self.latent).to(mean)])[:, None]
        starts, rows = start.repeat(copies), times.repeat(copies, 1)

        def look(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            """Residuals (B, N), their slope (B, N, Z) and the energy (B,)."""
            parts: list[SolveRecord] = []
            found = self.decode((z + shift).flatten(0, 1), starts, rows, parts)
            whole = merge_records(parts)
            if whole is not None:
                records.append(reduce_copies(whole, copies))
                self.flow.record(records[-1], parts)
            off = torch.where(mask, found.view(copies, *values.shape) - values, 0.0).flatten(2) / self.noise
            energy = off[0].square().sum(1) + (z - mean).square().sum(1)
            return off[0], (off[1:] - off[0]).permute(1, 2, 0) / SMALL, energy

        z, damping = mean, torch.ones_like(mean[:, :1])
        off, slope, energy = look(z)
        for _ in range(self.refine):
            square = slope.transpose(1, 2) @ slope + torch.eye(self.latent).to(z)
            square = square + torch.diag_embed(damping * square.diagonal(dim1=1, dim2=2))
            down = (off[:, None] @ slope)[:, 0] + z - mean
            trial = z - torch.linalg.solve_ex(square, down)[0]
            seen = look(trial)
            better = seen[2] < energy  # False where it is not finite
            keep = better[:, None]
            z, damping = torch.where(keep, trial, z), torch.where(keep, damping / 5, damping * 4)
            off, slope = torch.where(keep, seen[0], off), torch.where(keep[:, None], seen[1], slope)
            energy = torch.where(better, seen[2], energy)
        return z

    def forward(self, times: Tensor, values: Tensor, mask: Tensor, query: Tensor | None = None) -> Outcome:
        """Values (B, Q, D) at the asked times, logits where there are classes, and the divergence (B,).

        Args:
            times: (B, T); values: (B, T, D), of any content where ``mask`` (B, T, D) is False.
            query: (B, Q) times to predict at; None only for classes.

        Raises:
            ValueError: series that no model can use, or nothing to say.
        """
        check_series(times, values, mask, query, self.features)
        if query is None and self.classifier is None:
            raise ValueError("A model without classes predicts values: give the times to predict at as query (B, Q).")
        start = times[:, 0] if query is None else torch.minimum(times[:, 0], query[:, 0])
        mean, log_scale = self.encode(times, values, mask, start)
        records: list[SolveRecord] = []
        z = mean + log_scale.exp() * torch.randn_like(mean) if self.training else mean
        if self.refine and not self.training and not torch.is_grad_enabled():
            z = self.refined(mean, times, values, mask, start, records)
        kl = 0.5 * (mean.square() + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(1)
        found = None if query is None else self.decode(z, start, query, records)
        self.flow.record(merge_records(records), records)
        return Outcome(values=found, logits=None if self.classifier is None else self.classifier(z), kl=kl)
