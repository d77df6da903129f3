"""From a picture to what a trained model expects: size, channels, mean and deviation; the names of the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.registry import unknown
from zoo.storage.guards import open_picture

LARGEST = 8192  # pixels of a side that pictures are resized to, at most
PIXELS = (16_384, 16_384)  # height and width of a picture that is opened, at most


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """``(x - mean) / std`` of pictures in [0, 1], resized to the size that the model was trained on.

    Args:
        size: height and width of the pictures: one number, or both; None: each keeps its own.
        mean, std: of the training pictures in [0, 1], one number for each channel.
        white: the value of a full pixel in arrays of whole numbers; a picture of a file or of PIL has 255.
        classes: the names of the answers in the order of the logits; empty: numbers.
        data: the data set that they come from.
        kind: "image".
    """

    size: int | tuple[int, int] | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: int = 255
    classes: tuple[str, ...] = ()
    data: str = ""
    kind: str = "image"

    @property
    def in_chans(self) -> int:
        return len(self.mean)

    @property
    def frame(self) -> tuple[int, int] | None:
        """Height and width of the pictures; None: those of each."""
        return self.size if self.size is None or isinstance(self.size, tuple) else (self.size, self.size)

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Preprocessing:
        """Return that of the mapping in a ``config.json``.

        Raises:
            ValueError: a key is unknown or missing, or of a wrong kind.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in given:
            if key not in known:
                raise ValueError(f"preprocessing: {unknown('key', key, known)}")
        if given.get("kind", "image") != "image":
            raise ValueError(f"preprocessing of kind {given['kind']!r} is not known for pictures; known: 'image'.")
        if missing := [k for k in ("size", "mean", "std") if k not in given]:
            raise ValueError(f"preprocessing: the key {missing[0]!r} is missing.")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        size = values["size"]
        frame = size if isinstance(size, tuple) else (size, size)
        whole = len(frame) == 2 and all(type(n) is int and 1 <= n <= LARGEST for n in frame)
        if size is not None and not whole:
            raise ValueError(
                f"preprocessing: size must be a whole number from 1 to {LARGEST:,}, or height and width; got {size!r}."
            )
        for key in ("mean", "std"):
            numbers = values[key]
            plain = isinstance(numbers, tuple) and all(type(n) in (int, float) and abs(n) < 1e6 for n in numbers)
            if not plain or not numbers or (key == "std" and min(numbers) <= 0):
                more = "positive " if key == "std" else ""
                raise ValueError(f"preprocessing: {key} must be a list of {more}numbers; got {values[key]!r}.")
        if len(values["mean"]) != len(values["std"]):
            raise ValueError(f"preprocessing: {len(values['mean'])} means for {len(values['std'])} deviations.")
        if len(values["mean"]) not in (1, 3):
            raise ValueError(f"preprocessing: pictures have 1 or 3 channels; got {len(values['mean'])} means.")
        white, classes = values.get("white", 255), values.get("classes", ())
        if type(white) is not int or not 1 <= white < 1 << 32:
            raise ValueError(f"preprocessing: white must be a whole number above 0; got {white!r}.")
        if not isinstance(classes, tuple) or not all(isinstance(name, str) for name in classes):
            raise ValueError(f"preprocessing: classes must be a list of names; got {str(classes)[:80]}.")
        if not isinstance(values.get("data", ""), str):
            raise ValueError(f"preprocessing: data must be the name of a data set; got {values['data']!r}.")
        return cls(**values)

    @classmethod
    def of(cls, data: Any, name: str) -> Preprocessing:
        """Return that of an image data set."""
        return cls(
            size=getattr(data, "image_size", None),
            mean=tuple(data.mean),
            std=tuple(data.std),
            white=getattr(data, "white", 255),
            classes=tuple(getattr(data, "classes", ())),
            data=name,
        )

    def check_classes(self, count: int) -> None:
        """Raise ValueError where there are names of the answers, but not one for each of so many logits."""
        if self.classes and len(self.classes) != count:
            raise ValueError(f"preprocessing: {len(self.classes)} classes are named, and the model answers {count}.")

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for ``config.json``."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    def __call__(self, images: Any) -> Tensor:
        """Turn one picture or several into a batch (B, in_chans, size, size).

        Args:
            images: a path, a PIL image, or an array or tensor (H, W), (H, W, C), (C, H, W) or (B, C, H, W), whole
                numbers from 0 to ``white`` or floats in [0, 1]; or a list of these. Color becomes gray, and gray is
                repeated, where the model's channels ask for it.

        Raises:
            ValueError: a shape or values that cannot be a picture, or a file that holds none.
        """
        if isinstance(images, (list, tuple)):
            if not images:
                raise ValueError("No picture was given; the list is empty.")
            return torch.cat([self(one) for one in images])
        x = self._fit(self._unit(images))
        mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (self.mean, self.std))
        return (x - mean) / std

    def _unit(self, image: Any) -> Tensor:
        """Return floats in [0, 1], (B, C, H, W)."""
        white = self.white
        if isinstance(image, (str, Path)):
            return self._unit(open_picture(Path(image), Path(image), PIXELS, "L" if self.in_chans == 1 else "RGB"))
        if hasattr(image, "getbands"):  # PIL's, without importing it
            image = np.asarray(image.convert("L" if self.in_chans == 1 else "RGB"))
            white = 255
        x = torch.from_numpy(np.array(image)) if isinstance(image, np.ndarray) else torch.as_tensor(image)
        if x.dim() == 2:
            x = x[None, None]
        elif x.dim() == 3:
            last = x.shape[-1] in (1, 3) and x.shape[0] not in (1, 3)
            x = (x.permute(2, 0, 1) if last else x)[None]
        if x.dim() != 4 or x.shape[1] not in (1, 3) or min(x.shape) < 1:
            raise ValueError(
                f"A picture is (H, W), (H, W, C), (C, H, W), or (B, C, H, W) for several, with 1 or 3 channels; got "
                f"{tuple(x.shape)}."
            )
        if x.is_floating_point():
            white = 1
        x = x.float()
        low, high = float(x.min()), float(x.max())
        if not (low >= 0 and high <= white):  # NaN is neither
            raise ValueError(
                f"Pixels must lie between 0 and {white}; got {low:g} to {high:g}. Give floats in [0, 1] that are not "
                f"normalized yet, or whole numbers up to {self.white}."
            )
        return x / white

    def _fit(self, x: Tensor) -> Tensor:
        """Return the picture in the model's channels and size."""
        if self.in_chans == 1 and x.shape[1] == 3:
            x = (x * torch.tensor([0.299, 0.587, 0.114]).view(-1, 1, 1)).sum(1, keepdim=True)
        elif self.in_chans == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.frame is not None and x.shape[-2:] != self.frame:
            x = F.interpolate(x, self.frame, mode="bilinear", antialias=True, align_corners=False)
        return x
