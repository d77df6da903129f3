"""Causal self-attention with relative positions and a memory of past states, as in Transformer-XL.

    s_ij = ((q_i + a)^T k_j + (q_i + b)^T r_{i-j}) / sqrt(d)          for 0 <= i - j < window
    A(z)_i = W_o [sum_j softmax_j(s_ij) v_j]                          over all heads, stacked

``[q, k, v]_j = W z_j + x_j`` holds an injection ``x``; ``r_n = W_r sinusoid(n)`` belongs to the distance ``n``; ``a``
and ``b`` are learned for each head. Keys and values of the memory precede those of the sequence.

Reference: Dai et al., "Transformer-XL: Attentive language models beyond a fixed-length context", 2019,
https://arxiv.org/abs/1901.02860

Shape letters: ``B`` sequences, ``T`` places, ``M`` of the memory, ``K = M + T``, ``D`` width, ``H`` heads of ``d``.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.norm import weight_norm


def sinusoids(length: int, width: int, like: Tensor) -> Tensor:
    """Return ``[sin(n f_1), ..., sin(n f_m), cos(n f_1), ..., cos(n f_m)]``, (length, width).

    The distances ``n`` run from ``length - 1`` down to 0; ``f_k = 10000^(-2(k-1)/width)`` and ``m = width / 2``.
    """
    frequency = 1 / 10000 ** (torch.arange(0.0, width, 2.0, device=like.device) / width)
    angle = torch.arange(length - 1, -1, -1.0, device=like.device)[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(like.dtype)


def relative_shift(scores: Tensor) -> Tensor:
    """Turn scores by distance into scores by place, (..., T, K) both.

    Column ``p`` of the input belongs to the distance ``K - 1 - p``; in the output column ``j`` of row ``i`` belongs to
    place ``j``, which lies ``K - T + i - j`` back. Where that is negative, the output has no meaning.
    """
    *front, t, k = scores.shape
    return F.pad(scores, (1, 0)).reshape(*front, k + 1, t)[..., 1:, :].reshape(*front, t, k)


def causal_mask(t: int, m: int, window: int, device: torch.device) -> Tensor:
    """Return (T, M + T), True where a place must not look: ahead, or ``window`` places back and further."""
    ahead = torch.arange(m + t, device=device) - torch.arange(m, m + t, device=device)[:, None]
    return (ahead > 0) | (ahead <= -window)


class RelativeAttention(nn.Module):
    """Self-attention over a sequence and the memory before it.

    Args:
        width: ``D``.
        heads: ``H``.
        head_width: ``d``; None: ``D / H``.
        normalize: weight normalization of the three linear maps.

    Raises:
        ValueError: an odd width, or a width that the heads do not divide.
    """

    def __init__(self, width: int, heads: int, head_width: int | None = None, normalize: bool = True) -> None:
        super().__init__()
        if width < 2 or width % 2 or heads < 1 or (head_width is None and width % heads):
            raise ValueError(
                f"Attention needs an even width, of sines and cosines, and a whole number of places a head; got "
                f"width={width} for heads={heads}. Choose a width divisible by both 2 and heads, or give head_width."
            )
        self.heads, self.head_width = heads, head_width or width // heads
        inner = self.heads * self.head_width
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.position = nn.Linear(width, inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.content_bias = nn.Parameter(torch.empty(heads, self.head_width))
        self.position_bias = nn.Parameter(torch.empty(heads, self.head_width))
        for p in (self.content_bias, self.position_bias):
            nn.init.normal_(p, std=0.01)
        if normalize:
            for layer in (self.qkv, self.position, self.out):
                weight_norm(layer)

    def distances(self, length: int, like: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return ``r`` of the distances below ``length``, the largest first, (H, length, d). ``mask``: (D,) or none."""
        encoded = sinusoids(length, self.position.in_features, like)
        encoded = encoded if mask is None else encoded * mask
        return self.position(encoded).view(length, self.heads, self.head_width).transpose(0, 1)

    def split(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each (B, H, N, d), of states (B, N, D) with injections (B, N, 3 H d)."""
        q, k, v = (self.qkv(z) + x).chunk(3, dim=-1)
        shape = (*z.shape[:2], self.heads, self.head_width)
        return q.view(shape).transpose(1, 2), k.view(shape).transpose(1, 2), v.view(shape).transpose(1, 2)

    def forward(
        self,
        z: Tensor,
        x: Tensor,
        past_k: Tensor,
        past_v: Tensor,
        r: Tensor,
        hidden: Tensor,
        drop: Tensor | None = None,
    ) -> Tensor:
        """Return ``A(z)``, (B, T, D).

        Args:
            z, x: states (B, T, D) and injections (B, T, 3 H d).
            past_k, past_v: keys and values of the memory, (B, H, M, d); ``M`` may be 0.
            r: of `distances`, (H, K, d).
            hidden: True where a place must not look, (T, K).
            drop: a dropout mask for the weights, (B, H, T, K), or none.
        """
        q, k, v = self.split(z, x)
        k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
        content = (q + self.content_bias[:, None]) @ k.transpose(-1, -2)
        position = relative_shift((q + self.position_bias[:, None]) @ r.transpose(-1, -2))
        scores = (content + position) / math.sqrt(self.head_width)
        weights = scores.masked_fill(hidden, -math.inf).softmax(dim=-1)
        if drop is not None:
            weights = weights * drop
        return self.out((weights @ v).transpose(1, 2).flatten(2))
