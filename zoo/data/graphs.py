"""Graphs with a label for every node."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.tensors import Split, TensorData
from zoo.layers.graphs import UNKNOWN


class Chains(TensorData):
    """Chains whose nodes all have the class that only the first node tells: a test of long range.

    Nodes stand in a row and each speaks to the next. The first one's features hold its class as a one among zeros, all
    others are zero. One node in twenty is labeled for training, one in ten for validation, the rest is the test. A
    model that sees ``k`` edges far can do no better than chance on nodes further down.

    Args:
        root: none is taken, as nothing is read.
        batch_size: chains a batch.
        seed: of the order of the chains.
        length: nodes of a chain.
        kinds: classes.
        each: chains of each class.
        features: of a node, at least as many as classes.

    Raises:
        ValueError: a size that makes no chain.

    Reference: Gu et al., "Implicit graph neural networks", 2020, section 5 (synthetic chains).
    """

    reads_files = False
    joint: ClassVar[bool] = True

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 10,
        seed: int = 0,
        length: int = 50,
        kinds: int = 2,
        each: int = 20,
        features: int = 100,
    ) -> None:
        super().__init__(root, batch_size, seed)
        if length < 2 or kinds < 2 or each < 1 or features < kinds:
            raise ValueError(
                "Chains have a length of at least 2, at least 2 kinds, one of each, and as many features as kinds; got "
                f"length={length}, kinds={kinds}, each={each}, features={features}."
            )
        self.length, self.each, self.features, self.num_classes = length, each, features, kinds

    def read(self) -> dict[str, Split]:
        count = self.num_classes * self.each
        labels = torch.arange(self.num_classes).repeat_interleave(self.each)
        nodes = torch.zeros(count, self.length, self.features)
        nodes[torch.arange(count), 0, labels] = 1
        order = np.random.Generator(np.random.PCG64(0)).permutation(count * self.length)
        share = torch.from_numpy(order.reshape(count, self.length) / order.size)

        def known(low: float, high: float) -> Tensor:
            return torch.where((share >= low) & (share < high), labels[:, None], UNKNOWN)

        return {"train": (nodes, known(0, 0.05)), "val": (nodes, known(0.05, 0.15)), "test": (nodes, known(0.15, 1))}

    @property
    def transform(self) -> ChainGraphs:
        return ChainGraphs()


class ChainGraphs:
    """Adds the adjacency of a chain: a batch is nodes (B, N, F), adjacency (B, N, N), labels (B, N)."""

    def __call__(self, nodes: Tensor, labels: Tensor, random: torch.Generator | None = None) -> tuple[Tensor, ...]:
        adjacency = torch.diag(torch.ones(nodes.shape[1] - 1), -1)
        return nodes, adjacency.expand(len(nodes), -1, -1), labels
