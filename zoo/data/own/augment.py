"""timm's training transforms under a generator of our own: a resumed run sees what an uninterrupted one sees."""

from __future__ import annotations

import random as python_random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


@contextmanager
def seeded(random: torch.Generator) -> Iterator[None]:
    """Scope in which the global states of Python, numpy and torch follow a generator; put back at its end."""
    seed = int(torch.randint(2**31, (), generator=random))
    states = python_random.getstate(), np.random.get_state(), torch.get_rng_state()
    python_random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    try:
        yield
    finally:
        python_random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


@dataclass(frozen=True, kw_only=True)
class Augment:
    """``timm.data.create_transform`` for training: a random crop of a random scale, a flip, colors, a policy, erasing.

    Args:
        size: height and width of what comes out.
        mean, std: of the training pictures in [0, 1], for each channel.
        scale: least and largest share of a picture's area that a crop has.
        flip: share of the pictures that are mirrored left to right.
        color_jitter: strength of random brightness, contrast and saturation; 0: none.
        policy: timm's name of an automatic augmentation, as ``rand-m9-mstd0.5``; empty: none.
        erase: share of the pictures of which a random box is filled with noise.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: tuple[float, float] = (0.35, 1.0)
    flip: float = 0.5
    color_jitter: float = 0.0
    policy: str = ""
    erase: float = 0.0

    @cached_property
    def transform(self) -> Any:
        """timm's transform of one PIL picture."""
        from timm.data import create_transform

        return create_transform(
            self.size,
            is_training=True,
            scale=self.scale,
            hflip=self.flip,
            color_jitter=self.color_jitter,
            auto_augment=self.policy or None,
            re_prob=self.erase,
            interpolation="bilinear",
            mean=self.mean,
            std=self.std,
        )

    def __call__(self, x: Tensor, random: torch.Generator) -> Tensor:
        """Turn one picture uint8 (C, H, W) into float32 (1, C, *size), by the generator."""
        from torchvision.transforms.functional import to_pil_image

        with seeded(random):
            return self.transform(to_pil_image(x))[None]
