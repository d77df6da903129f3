"""How large generated weights are at the start: the scale of activations must not explode with the target's depth.

A head ``W = A h`` with independent entries gives ``Var(W) = width * Var(A) * E[h^2]``. Default initializations choose
``Var(A)`` for the head's own outputs, and the target's activations grow to 1e5 within six layers. Here every layer of a
generator keeps ``E[h^2] = 1``, and the last one has the variance that the target's layer wants:

    match         the variance that the target's own initialization gave (the rule of Chang et al., for any law)
    hyperfan_in   gain / fan_in, which keeps the variance of activations
    hyperfan_out  gain / fan_out, which keeps the variance of gradients

Codes come in as they are (``plain``), or in one of the two encodings of constant norm of Gonzalez Ortiz et al. (MIP),
which together with ``base + delta`` make the size of the weights independent of the size of the code.

References: Chang, Flokas and Lipson, "Principled weight initialization for hypernetworks", ICLR 2020,
https://arxiv.org/abs/2312.08399; Gonzalez Ortiz, Guttag and Dalca, "Magnitude invariant parametrizations improve
hypernetwork learning", ICLR 2024, https://arxiv.org/abs/2304.07645.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.target import Slot

LAWS = ("match", "hyperfan_in", "hyperfan_out")
ENCODINGS = ("plain", "unit", "cos_sin")
SMALL = 1e-4  # root mean square of a code below which it has no direction
FLOOR = 0.02  # of a deviation: a slot that starts constant (a bias of zeros, a scale of ones) must be able to learn


def deviations(slots: Sequence[Slot], initial: Mapping[str, Tensor], law: str, gain: float = 2.0) -> dict[str, float]:
    """Return the standard deviation that each slot's generated values start with, when nothing else is added to them.

    Args:
        slots: of the target.
        initial: the target's own initial values, read by ``match``.
        law: one of `LAWS`. The hyperfan laws speak of weights and the biases beside them; other slots match.
        gain: of the activation after a layer, 2 for ReLU and 1 for none; read by the hyperfan laws.

    A weight whose bias is generated too shares its variance with it, half and half, as in the paper.
    """
    if law not in LAWS:
        raise ValueError(f"init must be one of {', '.join(LAWS)}; got {law!r}.")
    biases = {s.name for s in slots if s.role == "bias"}
    out = {}
    for s in slots:
        if law == "match" or s.role not in ("weight", "bias"):
            out[s.name] = max(float(initial[s.name].float().std(unbiased=False)), FLOOR)
            continue
        if s.role == "bias":
            out[s.name] = math.sqrt(gain / 2)
            continue
        stem, _, local = s.name.rpartition(".")
        beside = local.replace("weight", "bias")
        half = 2 if (f"{stem}.{beside}" if stem else beside) in biases else 1
        out[s.name] = math.sqrt(gain / half / (s.fan_in if law == "hyperfan_in" else s.fan_out))
    return out


def head(rows: int, width: int, std: float = 1.0) -> nn.Parameter:
    """Draw a matrix (rows, width) whose product with features of mean square 1 has deviation ``std`` (hyperfan)."""
    return nn.Parameter(torch.randn(rows, width) * (std / math.sqrt(width)))


def trunk(width: int, hidden: Sequence[int]) -> nn.Sequential:
    """Return hidden layers that keep mean 0: SELU after LeCun's initialization; their output has mean square 1 exactly.

    Rectified features would have a common positive part, and weights made of them would resemble one another. Without
    the normalization a mean square of 1.2, as chance has it, would be 9 after twelve layers of the target.
    Reference: Klambauer et al., "Self-normalizing neural networks", 2017, https://arxiv.org/abs/1706.02515.
    """
    layers = nn.Sequential()
    for wide in hidden:
        linear = nn.Linear(width, wide)
        nn.init.normal_(linear.weight, std=width**-0.5)
        nn.init.zeros_(linear.bias)
        layers.extend([linear, nn.SELU()])
        width = wide
    if hidden:
        layers.append(nn.RMSNorm(width, elementwise_affine=False))
    return layers


class SlotEmbedding(nn.Module):
    """Features of every place that a shared head writes (a chunk, a tile, a layer): ``e_i * (1 + P c)``, normalized.

    The code scales the embeddings instead of standing beside them: a part common to all places would make the target's
    layers resemble one another, and layers that are alike amplify what they have in common, layer by layer (measured
    without a base: 1e6 after twelve layers of tiles). Without a code they are the embeddings.

    Args:
        count: of places.
        size: of an embedding.
        code_size: length of the code's features; 0 for none.
    """

    def __init__(self, count: int, size: int, code_size: int) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(count, size))
        self.code = nn.Linear(code_size, size, bias=False) if code_size else None
        if self.code is not None:
            nn.init.normal_(self.code.weight, std=code_size**-0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Return features (..., count, size) of codes (..., C)."""
        if self.code is None:
            return self.embedding
        return F.rms_norm(self.embedding * (1 + self.code(features)).unsqueeze(-2), self.embedding.shape[-1:])


def encoded_size(code_size: int, encoding: str) -> int:
    """Return how many features `encode` makes of a code."""
    return 2 * code_size if encoding == "cos_sin" else code_size


def encode(code: Tensor, encoding: str) -> Tensor:
    """Return features of a code (..., C), of mean square 1 unless ``plain``.

    ``unit``: the code's direction times the root of C. A code whose root mean square is at most 1e-4 has no direction:
    it is taken as it is, so that a code of zeros gives zeros, with a gradient of ordinary size.
    ``cos_sin``: ``sqrt(2) [cos(c pi/2), sin(c pi/2)]``, (..., 2C), for codes in [0, 1] whose size means something (a
    hyperparameter).
    """
    if encoding == "unit":
        rms = torch.linalg.vector_norm(code, dim=-1, keepdim=True) / math.sqrt(code.shape[-1])
        return code / torch.where(rms > SMALL, rms, 1.0)
    if encoding == "cos_sin":
        angle = code * (math.pi / 2)
        return math.sqrt(2) * torch.cat([angle.cos(), angle.sin()], -1)
    return code
