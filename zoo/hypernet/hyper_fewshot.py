"""A hypernetwork that writes the classifier of a task from its support set, in one pass.

    p_c = mean of the features of class c          theta = base(p) + delta(p)          logits = classifier(theta, query)

The base is the linear classifier that measures the distance to each ``p_c``: ``W_c = s p_c, b_c = -s |p_c|^2 / 2``. The
delta comes from a network over the classes that lets them look at one another (attention without positions), so the
order of the classes has no say and their number is free. It also writes a scale and a shift of the query's features
(FiLM), one for each task. All is batched over tasks: ``M`` tasks have ``M`` classifiers.

References: Ha, Dai, Le, "HyperNetworks", 2016, arXiv:1609.09106; Gidaris and Komodakis, "Dynamic few-shot visual
learning without forgetting", CVPR 2018; the base: Snell, Swersky, Zemel, "Prototypical networks", NeurIPS 2017.

Shape letters: M tasks, N ways, S support images and Q query images of a task, D features.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hypernet.compression import BatchSize, GeneratedWeights, GeneratesWeights
from zoo.hypernet.target import HyperTarget
from zoo.layers.autocast import vmap
from zoo.layers.conv4 import Conv4
from zoo.layers.fewshot_checks import check_episode


class FilmClassifier(nn.Module):
    """``W (x * scale + shift) + b``: what the hypernetwork writes."""

    def __init__(self, features: int, ways: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.ones(features)), nn.Parameter(torch.zeros(features))
        self.linear = nn.Linear(features, ways)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.addcmul(self.shift, x, self.scale))


@lru_cache(maxsize=32)
def target(features: int, ways: int) -> HyperTarget:
    """Return a classifier with holes for weights, for each number of ways; it owns no parameter."""
    return HyperTarget(FilmClassifier(features, ways))


class HyperClassifier(GeneratesWeights, nn.Module):
    """Few-shot classifier whose last layers are written from the support set.

    Args:
        in_chans: channels of the images.
        channels: of every convolution, and the width of the feature.
        downsample: how many of the four convolutions halve the image.
        norm: ``group``, or ``batch`` by the statistics of the images given together (transductive).
        hidden: width of the network that writes; 0: the base alone, which is a prototypical network.
        heads: of its attention; they divide ``hidden``.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        in_chans: int = 1,
        channels: int = 64,
        downsample: int = 4,
        norm: Literal["group", "batch"] = "group",
        hidden: int = 64,
        heads: int = 4,
    ) -> None:
        super().__init__()
        if hidden < 0 or heads < 1 or hidden % heads:
            raise ValueError(f"hidden must be a multiple of heads, or 0; got hidden={hidden}, heads={heads}.")
        self.in_chans = in_chans
        self.body = Conv4(in_chans, channels, downsample, norm)
        self.log_scale = nn.Parameter(torch.zeros(()))  # s of the base
        self.writer = Writer(channels, hidden, heads) if hidden else None

    def forward(self, support_x: Tensor, support_y: Tensor, query_x: Tensor) -> Tensor:
        """Return logits (M, Q, N) of query images (M, Q, C, H, W), from a support set (M, S, ...) with labels (M, S).

        Raises:
            ValueError: see `zoo.layers.fewshot_checks.check_episode`.
        """
        ways = check_episode(support_x, support_y, query_x, self.in_chans)
        features = vmap(self.body, support_x.device.type)(torch.cat([support_x, query_x], 1))
        seen, asked = features.split([support_x.shape[1], query_x.shape[1]], 1)
        return target(seen.shape[-1], ways)(self.write(seen, support_y, ways), asked, batched=True)

    def write(self, seen: Tensor, labels: Tensor, ways: int) -> dict[str, Tensor]:
        """Return the weights of ``M`` classifiers from support features (M, S, D) and labels (M, S)."""
        member = F.one_hot(labels, ways).to(seen.dtype)  # (M, S, N)
        p = torch.bmm(member.mT, seen) / member.sum(1)[..., None]
        s = self.log_scale.exp()
        weight, bias = s * p, -0.5 * s * p.square().sum(-1)
        scale, shift = torch.ones_like(p[:, 0]), torch.zeros_like(p[:, 0])
        if self.writer is not None:
            delta, extra, film = self.writer(p)
            weight, bias = weight + delta, bias + extra
            scale, shift = scale + film[0], shift + film[1]
        return {"scale": scale, "shift": shift, "linear.weight": weight, "linear.bias": bias}

    def written(self, batch: BatchSize) -> GeneratedWeights:
        """Count a classifier for every task; the parameters are the writer's, and the scale of the base."""
        writers = (self.log_scale, *(self.writer.parameters() if self.writer is not None else ()))
        row = self.body.width + 1  # of the linear layer, with its bias; beside it a scale and a shift of the features
        return GeneratedWeights(batch.ways * row + 2 * self.body.width, writers, batch.samples)


class Writer(nn.Module):
    """From the classes' mean features (M, N, D) to what is added to the base; 0 at the start."""

    def __init__(self, features: int, hidden: int, heads: int) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.LayerNorm(features), nn.Linear(features, hidden))
        self.mix = nn.TransformerEncoderLayer(
            hidden, heads, 2 * hidden, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.row = nn.Linear(hidden, features + 1)
        self.film = nn.Linear(hidden, 2 * features)
        for layer in (self.row, self.film):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, p: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        h = self.mix(self.read(p))  # (M, N, hidden)
        row = self.row(h)
        scale, shift = self.film(h.mean(1)).chunk(2, -1)
        return row[..., :-1], row[..., -1], (scale, shift)
