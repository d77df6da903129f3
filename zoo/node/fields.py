"""Fields ``f(t, y)`` of neural ODEs, built from layers that know the time.

A field is a module called as ``field(t, y)`` that returns ``dy/dt`` of y's shape. Each of its layers is one of these,
``h`` being the layer's input and ``*`` a matrix product or a convolution:

    plain           W * h + b                                   the same at all times: an autonomous field
    concat          W * [h, t] + b                              time as one more input (channel)
    concat_squash   (W * h + b) sigmoid(G t + c) + H t          a gate and an offset for every output channel
    hyper           (W_0 + sum_k a_k(t) W_k) * h + b(t)         weights generated from the time, by a small network

Every layer takes ``t`` as the solvers give it: 0-dimensional, or (B, 1, ..., 1) where every sample has its own time.

Reference: Chen et al., "Neural Ordinary Differential Equations", 2018 (concat), https://arxiv.org/abs/1806.07366;
Grathwohl et al., "FFJORD", 2019 (concat_squash, hyper), https://arxiv.org/abs/1810.01367

Shape letters: ``B`` samples, ``N`` numbers of a vector, ``C, H, W`` channels and size of a map, ``K`` basis weights.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.norm import group_norm
from zoo.registry import unknown

Time = Literal["plain", "concat", "concat_squash", "hyper"]


class TimeLayer(nn.Module, ABC):
    """A linear map or a convolution whose output depends on the time: ``layer(t, h)``.

    Args:
        c_in, c_out: numbers in and out (``kernel=0``, along the last dimension), or channels (dimension 1).
        kernel: odd size of the convolution, which keeps the map's size; 0 for a linear map.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 0) -> None:
        super().__init__()
        if min(c_in, c_out) < 1 or kernel < 0 or (kernel and kernel % 2 == 0):
            raise ValueError(
                "A layer needs at least one number in and out and an odd kernel, or kernel=0 for a linear map; got "
                f"c_in={c_in}, c_out={c_out}, kernel={kernel}."
            )
        self.c_in, self.c_out, self.kernel = c_in, c_out, kernel

    @abstractmethod
    def forward(self, t: Tensor, h: Tensor) -> Tensor: ...

    def extra_repr(self) -> str:
        return f"{self.c_in}, {self.c_out}" + (f", kernel={self.kernel}" if self.kernel else "")

    def _base(self, c_in: int, c_out: int, bias: bool = True) -> nn.Linear | nn.Conv2d:
        if not self.kernel:
            return nn.Linear(c_in, c_out, bias)
        return nn.Conv2d(c_in, c_out, self.kernel, padding=self.kernel // 2, bias=bias)

    def _spread(self, v: Tensor, h: Tensor) -> Tensor:
        """A vector for the outputs, (1 or B, c_out), in a shape that broadcasts against the layer's output."""
        ones = (1,) * (h.dim() - 2)
        return v.view(-1, self.c_out, *ones) if self.kernel else v.view(-1, *ones, self.c_out)


class Plain(TimeLayer):
    """``W * h + b``, whatever the time."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 0) -> None:
        super().__init__(c_in, c_out, kernel)
        self.base = self._base(c_in, c_out)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        return self.base(h)


class Concat(TimeLayer):
    """``W * [h, t] + b``.

    The column (channel) of weights that the time meets is a parameter of its own, ``V``: ``W * h + b + t (V * 1)``
    gives the same numbers without copying the state to make room for a constant. ``V * 1`` is not constant over a map,
    as a convolution sees zeros beyond the border.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 0) -> None:
        super().__init__(c_in, c_out, kernel)
        self.base = self._base(c_in, c_out)
        area = max(kernel, 1) ** 2
        self.weight_t = nn.Parameter(torch.empty(c_out, 1, kernel, kernel) if kernel else torch.empty(c_out))
        bound = 1 / math.sqrt((c_in + 1) * area)  # as a layer of c_in + 1 inputs would draw it
        assert self.base.bias is not None
        for p in (self.base.weight, self.base.bias, self.weight_t):
            nn.init.uniform_(p, -bound, bound)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        if self.kernel:
            seen = F.conv2d(h.new_ones(1, 1, *h.shape[2:]), self.weight_t, padding=self.kernel // 2)
            return torch.addcmul(self.base(h), t, seen)
        if t.dim():
            return torch.addcmul(self.base(h), t, self.weight_t)
        assert self.base.bias is not None
        return F.linear(h, self.base.weight, torch.addcmul(self.base.bias, t, self.weight_t))


class ConcatSquash(TimeLayer):
    """``(W * h + b) sigmoid(G t + c) + H t``: time opens and closes every output channel."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 0) -> None:
        super().__init__(c_in, c_out, kernel)
        self.base = self._base(c_in, c_out)
        self.gate = nn.Linear(1, c_out)
        self.offset = nn.Linear(1, c_out, bias=False)

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        column = t.reshape(-1, 1)
        gate, offset = self._spread(torch.sigmoid(self.gate(column)), h), self._spread(self.offset(column), h)
        return self.base(h) * gate + offset


class Hyper(TimeLayer):
    """``W(t) * h + b(t)``, the weights generated from the time: ``W(t) = W_0 + sum_k a_k(t) W_k``, likewise b.

    ``a(t)`` (K,) is a network of one hidden layer, in (-1, 1): the basis weights are its last layer. They are drawn
    ``1 / sqrt(K)`` as large as the constant ones, so that W(t) starts at the scale of an ordinary layer at every time.

    Args:
        c_in, c_out, kernel: as in every layer.
        basis: K, the number of basis weights; the layer has ``K + 1`` times the weights of an ordinary one.
        hidden: units of the network's hidden layer.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int = 0, *, basis: int = 4, hidden: int = 16) -> None:
        super().__init__(c_in, c_out, kernel)
        self.base = self._base(c_in, c_out)
        self.coefficients = nn.Sequential(nn.Linear(1, hidden), nn.Tanh(), nn.Linear(hidden, basis), nn.Tanh())
        layers = [self._base(c_in, c_out) for _ in range(basis)]
        self.weights = nn.Parameter(torch.stack([x.weight.detach() for x in layers]) / math.sqrt(basis))
        biases = [x.bias.detach() for x in layers if x.bias is not None]
        self.biases = nn.Parameter(torch.stack(biases) / math.sqrt(basis))

    def generate(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Weight and bias at the times ``t``, each with the times (1 or B) first."""
        a = self.coefficients(t.reshape(-1, 1))
        weight, bias = self.base.weight, self.base.bias
        return weight + torch.tensordot(a, self.weights, 1), bias + a @ self.biases

    def forward(self, t: Tensor, h: Tensor) -> Tensor:
        weight, bias = self.generate(t)
        if weight.shape[0] == 1:
            if not self.kernel:
                return F.linear(h, weight[0], bias[0])
            return F.conv2d(h, weight[0], bias[0], padding=self.kernel // 2)
        if not self.kernel:
            rows = h.reshape(h.shape[0], -1, self.c_in)
            return torch.baddbmm(bias[:, None], rows, weight.mT).view(*h.shape[:-1], self.c_out)
        # every sample has a kernel of its own: one convolution of B groups
        one = h.reshape(1, -1, *h.shape[2:])
        out = F.conv2d(one, weight.flatten(0, 1), bias.flatten(), padding=self.kernel // 2, groups=h.shape[0])
        return out.view(h.shape[0], self.c_out, *h.shape[2:])


LAYERS: dict[str, type[TimeLayer]] = {"plain": Plain, "concat": Concat, "concat_squash": ConcatSquash, "hyper": Hyper}
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": F.relu,
    "softplus": F.softplus,
    "silu": F.silu,
    "elu": F.elu,
}


def time_layer(time: str, c_in: int, c_out: int, kernel: int = 0) -> TimeLayer:
    """A layer by the name of how it knows the time.

    Raises:
        ValueError: no such name; the nearest is named.
    """
    if time not in LAYERS:
        raise ValueError(unknown("time conditioning", time, LAYERS))
    return LAYERS[time](c_in, c_out, kernel)


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """An activation function by name. Raises ValueError, naming the nearest, where there is none."""
    if name not in ACTIVATIONS:
        raise ValueError(unknown("activation", name, ACTIVATIONS))
    return ACTIVATIONS[name]


class MLPField(nn.Module):
    """A field of vectors: ``L_n(t, s(... s(L_1(t, y))))`` with time-conditioned layers and an activation between them.

    Args:
        width: N, numbers in a state (along its last dimension).
        hidden: units of each hidden layer; empty for a linear field.
        time: how the layers know the time.
        act: between the layers; smooth ones (``tanh``, ``softplus``, ``silu``) suit methods of high order.
    """

    def __init__(self, width: int, hidden: Sequence[int] = (64, 64), time: Time = "concat", act: str = "tanh") -> None:
        super().__init__()
        self.act = activation(act)
        sizes = [width, *hidden, width]
        self.layers = nn.ModuleList(time_layer(time, a, b) for a, b in pairwise(sizes))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``dy/dt`` for y (B, ..., N)."""
        for layer in self.layers[:-1]:
            y = self.act(layer(t, y))
        return self.layers[-1](t, y)


class RuledField(nn.Module):
    """A linear field whose matrix a hypernetwork writes, from a part of the state that rests.

        y = [c, d],    dc/dt = 0,    dd/dt = A(c) d + b(c),    [A, b] = net(c)

    What ``c`` says of a series holds for all times, so that the field may be followed further than it was seen in
    training: a linear one turns, grows and decays as it did before.

    Args:
        width: N, numbers in a state.
        rule: of them the first that rest, and write A and b.
        hidden: units of the hidden layers of the network that writes them.

    Raises:
        ValueError: no number is left to move, or none to write the rule.
    """

    def __init__(self, width: int, rule: int, hidden: Sequence[int] = (64,)) -> None:
        super().__init__()
        if not 0 < rule < width:
            raise ValueError(f"The rule must be at least 1 number and fewer than the state's {width}; got {rule}.")
        self.rule, self.moving = rule, width - rule
        layers: list[nn.Module] = []
        for a, b in pairwise([rule, *hidden]):
            layers += [nn.Linear(a, b), nn.Tanh()]
        self.net = nn.Sequential(*layers, nn.Linear([rule, *hidden][-1], self.moving * (self.moving + 1)))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``dy/dt`` for y (B, N)."""
        c, d = y.split([self.rule, self.moving], 1)
        written = self.net(c).view(-1, self.moving, self.moving + 1)
        slope = torch.baddbmm(written[:, :, -1:], written[:, :, :-1], d[:, :, None])[:, :, 0]
        return torch.cat([torch.zeros_like(c), slope], 1)


class ConvField(nn.Module):
    """The field of the ODE-Net: ``GN L_2(t, s(GN L_1(t, s(GN y))))``, 3x3 convolutions that know the time.

    Args:
        channels: of the state, in and out.
        hidden: channels between the convolutions; None: as many as the state has.
        groups: of group normalization, at most; the largest number below that divides the channels.
        time: how the convolutions know the time.
        act: after the first two normalizations.
    """

    def __init__(
        self, channels: int, hidden: int | None = None, groups: int = 32, time: Time = "concat", act: str = "relu"
    ) -> None:
        super().__init__()
        hidden = channels if hidden is None else hidden
        if hidden < 1:
            raise ValueError(f"hidden must be at least 1 channel, or None for as many as the state has; got {hidden}.")
        self.act = activation(act)
        self.norm1 = norm(groups, channels)
        self.layer1 = time_layer(time, channels, hidden, 3)
        self.norm2 = norm(groups, hidden)
        self.layer2 = time_layer(time, hidden, channels, 3)
        self.norm3 = norm(groups, channels)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``dy/dt`` for y (B, C, H, W)."""
        h = self.layer1(t, self.act(self.norm1(y)))
        h = self.layer2(t, self.act(self.norm2(h)))
        return self.norm3(h)


def fitting(groups: int, channels: int) -> int:
    """Return the largest number of groups, ``groups`` at most, that divides the channels; 1 where there are none."""
    return next((g for g in range(min(groups, channels), 0, -1) if channels % g == 0), 1)


def norm(groups: int, channels: int) -> nn.GroupNorm:
    """Group normalization of at most ``groups`` groups: the largest number that divides the channels."""
    return group_norm(fitting(groups, channels), channels)


class SecondOrder(nn.Module):
    """A field for ``[h, v]``, position and velocity side by side along dimension 1, from a field ``f`` of positions.

        h' = v,    v' = f(t, h) - gamma v

    With a learned ``gamma`` in (0, ``damping``) this is the heavy-ball ODE; with ``damping = 0`` Newton's equation,
    whose trajectories may cross in position space, which those of a first-order ODE cannot.

    Args:
        field: ``f``, of the positions alone.
        damping: the largest gamma; 0 for none.

    Reference: Xia et al., "Heavy Ball Neural Ordinary Differential Equations", 2021, https://arxiv.org/abs/2110.04840;
    Norcliffe et al., "On Second Order Behaviour in Augmented Neural ODEs", 2020, https://arxiv.org/abs/2006.07220
    """

    def __init__(self, field: nn.Module, damping: float = 0.0) -> None:
        super().__init__()
        if not damping >= 0:
            raise ValueError(f"damping must not be negative: that would drive the velocity up; got {damping}.")
        self.field, self.damping = field, damping
        self.gamma: nn.Parameter | None = None
        if damping:
            self.gamma = nn.Parameter(torch.tensor(-3.0))  # the heavy ball's authors begin there, at sigmoid(-3) = 0.05

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """``[v, dv/dt]`` for ``[h, v]`` (B, 2C, ...)."""
        h, v = y.chunk(2, 1)
        dv = self.field(t, h)
        if self.gamma is not None:
            dv = dv - self.damping * torch.sigmoid(self.gamma) * v
        return torch.cat([v, dv], 1)
