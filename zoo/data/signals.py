"""One signal to be represented: its samples are places and what is there."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.tensors import Split, TensorData


class Photograph(TensorData):
    """A photograph that ships with scikit-learn (a temple in China), one sample a pixel.

    Every second pixel of every second row is for training. Of the others, which the model has to fill in, one in ten is
    for validation, the rest is the test.

    Args:
        root: none is taken, as nothing is read.
        batch_size: pixels a batch.
        seed: of the order of the pixels.
        side: height and width that the middle of the photograph is scaled to.

    Raises:
        ValueError: a side below 8, or above the 424 pixels of the photograph's middle.
    """

    reads_files = False
    features, targets = 2, 3

    def __init__(self, root: str | None = None, batch_size: int = 512, seed: int = 0, side: int = 96) -> None:
        super().__init__(root, batch_size, seed)
        if not 8 <= side <= 424:
            raise ValueError(f"side must lie between 8 and 424 pixels; got {side}.")
        self.side = side

    def image(self) -> Tensor:
        """Return the photograph (3, side, side), in [0, 1]."""
        from sklearn.datasets import load_sample_image

        pixels = torch.from_numpy(np.array(load_sample_image("china.jpg"))).permute(2, 0, 1).float() / 255
        middle = pixels[:, :424, 108:532]
        small = F.interpolate(middle[None], size=(self.side, self.side), mode="area")[0]
        return small.clamp(0, 1)

    def read(self) -> dict[str, Split]:
        image = self.image()
        axis = (torch.arange(self.side) + 0.5) / self.side
        places = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).flatten(0, 1)
        colors = image.flatten(1).T
        index = torch.arange(self.side)
        even = ((index[:, None] % 2 == 0) & (index[None] % 2 == 0)).flatten()
        order = np.random.Generator(np.random.PCG64(0)).permutation(int((~even).sum()))
        others = torch.nonzero(~even)[:, 0][torch.from_numpy(order)]
        held = len(others) // 10
        rows = {"train": torch.nonzero(even)[:, 0], "val": others[:held], "test": others[held:]}
        return {name: (places[r], colors[r]) for name, r in rows.items()}
