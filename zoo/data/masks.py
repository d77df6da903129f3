"""Images with a class for every pixel: what the data sets share, and the transform that moves masks with images.

Shape letters: ``B`` images a batch, ``C H W`` channels, height, width; a mask is (H, W), uint8 in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data.images import ImageData

IGNORE = 255  # the label of pixels that count neither in the loss nor in the metrics


@dataclass(frozen=True, kw_only=True)
class SceneTransform:
    """From images and masks of any size to a batch: scaled, cropped, mirrored in training; padded in evaluation.

    Args:
        mean, std: of the training images in [0, 1], for each channel.
        crop: height and width of what training sees.
        frame: height and width of what evaluation sees: every image is padded to it, at its right and at its bottom.
        scales: least and largest factor of the size in training.
        mirrored: whether every second image is flipped left to right.
        augment: False: training sees the upper left crop as it is.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: tuple[int, int]
    frame: tuple[int, int]
    scales: tuple[float, float] = (1.0, 1.0)
    mirrored: bool = True
    augment: bool = True

    def __call__(
        self, images: Sequence[Tensor] | Tensor, masks: Sequence[Tensor] | Tensor, random: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor]:
        """Turn images uint8 (C, H, W) and masks (H, W), any number, into float32 (B, C, h, w) and int64 (B, h, w).

        Raises:
            ValueError: a mask has another size than its image; evaluation meets an image larger than ``frame``.
        """
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        draws = torch.rand(len(masks), 4, generator=random).tolist() if random is not None else None
        xs, ys = [], []
        for i in range(len(masks)):
            if images[i].shape[1:] != masks[i].shape:
                raise ValueError(
                    f"Mask {i} of this batch is {tuple(masks[i].shape)}, its image {tuple(images[i].shape)}; a mask "
                    "(H, W) has one label for each pixel of its image (C, H, W). Resize the mask (nearest neighbor) "
                    "or the image."
                )
            x, y = (images[i].float() / 255 - mean) / std, masks[i].float()
            if draws is None:
                if any(have > most for have, most in zip(y.shape, self.frame, strict=True)):
                    raise ValueError(
                        f"An image of {y.shape[0]}x{y.shape[1]} is larger than the frame of {self.frame[0]}x"
                        f"{self.frame[1]} that evaluation works in; resize it, or give the data set a larger frame."
                    )
                x, y = self._fit(x, y, self.frame)
            else:
                x, y = self._training(x, y, draws[i])
            xs.append(x)
            ys.append(y)
        return torch.stack(xs), torch.stack(ys).long()

    def _training(self, x: Tensor, y: Tensor, draws: Sequence[float]) -> tuple[Tensor, Tensor]:
        scale, down, right, side = draws if self.augment else (0.0, 0.0, 0.0, 1.0)
        low, high = self.scales
        if self.augment and high > low:
            factor = low + scale * (high - low)
            size = [max(1, round(s * factor)) for s in y.shape]
            x = F.interpolate(x[None], size=size, mode="bilinear", align_corners=False, antialias=factor < 1)[0]
            y = F.interpolate(y[None, None], size=size, mode="nearest")[0, 0]
        height, width = self.crop
        x, y = self._fit(x, y, self.crop)
        top, left = (
            int(d * (have - want + 1)) for d, have, want in zip((down, right), y.shape, self.crop, strict=True)
        )
        x, y = x[:, top : top + height, left : left + width], y[top : top + height, left : left + width]
        if self.mirrored and side < 0.5:
            x, y = x.flip(2), y.flip(1)
        return x, y

    @staticmethod
    def _fit(x: Tensor, y: Tensor, least: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Pad to a size at least: the image by its mean, which is 0 here, the mask by what is ignored."""
        below, beside = (max(0, want - have) for want, have in zip(least, y.shape, strict=True))
        return F.pad(x, (0, beside, 0, below)), F.pad(y, (0, beside, 0, below), value=IGNORE)


class MaskData(ImageData):
    """A data set of images and masks; see `ImageData` for the order, the seeds and the arguments they share.

    Args:
        root, batch_size, num_workers, val_fraction, seed, download: see `ImageData`.
        augment: random scales, crops and flips; None: yes.
        crop: side of the crops that training sees, or their height and width, ``[768,1024]``; 0: as is usual for the
            set.
    """

    joint: ClassVar[bool] = True
    downloads: ClassVar[bool] = False  # whether its files can be fetched
    augmented: ClassVar[bool] = True
    mirrored: ClassVar[bool] = True
    scales: ClassVar[tuple[float, float]] = (1.0, 1.0)
    usual_crop: ClassVar[tuple[int, int]]
    frame: ClassVar[tuple[int, int]]  # that every image fits into; evaluation sees images of this size

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        augment: bool | None = None,
        val_fraction: float = 0.1,
        seed: int = 0,
        download: bool = False,
        crop: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__(root, batch_size, num_workers, augment, val_fraction, seed, download)
        if not self.downloads:
            self.refuse_idle("nothing is downloaded", download=download)
        sides = (crop, crop) if isinstance(crop, int) else tuple(crop)
        if len(sides) != 2 or min(sides) < 0 or (crop != 0 and 0 in sides):
            raise ValueError(
                f"{type(self).__name__}: crop must not be negative, and one number or two, height and width; got "
                f"{crop}. 0: {self.usual_crop}."
            )
        self.crop = sides if crop else self.usual_crop

    @property
    def transform(self) -> SceneTransform:
        return SceneTransform(
            mean=self.mean,
            std=self.std,
            crop=self.crop,
            frame=self.frame,
            scales=self.scales,
            mirrored=self.mirrored,
            augment=self.augment,
        )

    def held_out(self, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        """Hold out a fixed random part, as images have no class of their own."""
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(labels))
        count = round(self.val_fraction * len(labels))
        return np.sort(order[count:]), np.sort(order[:count])
