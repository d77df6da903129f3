"""Ask models about pictures: which class one shows, or each of its pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo.hub.answers import Answer, Prediction, Segmented, Solved, ranked
from zoo.hub.inputs import Inputs
from zoo.layers.sliding_window import whole
from zoo.storage.arrays import read_npy, read_npz
from zoo.storage.preprocessing import Preprocessing

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}  # pictures of a folder


def pictures_of(given: Any) -> tuple[list[Any], bool]:
    """The pictures one by one, and whether several were asked about."""
    if isinstance(given, (str, Path)) and Path(given).is_dir():
        found = sorted(p for p in Path(given).rglob("*") if p.suffix.lower() in ENDINGS)
        if not found:
            raise ValueError(f"{given} holds no pictures; their names end in {', '.join(sorted(ENDINGS))}.")
        return list(found), True
    if isinstance(given, (str, Path)) and Path(given).suffix.lower() in (".npy", ".npz"):
        return list(array_of(Path(given))), True
    if isinstance(given, (list, tuple)):
        if not given:
            raise ValueError("No picture was given; the list is empty.")
        return list(given), True
    shape = tuple(getattr(given, "shape", ()))
    if len(shape) == 4:
        return list(given), True
    if len(shape) == 3 and not {shape[0], shape[-1]} & {1, 3}:
        raise ValueError(
            f"Neither a picture (H, W), (C, H, W) or (H, W, C), nor several (B, C, H, W): got {shape}. Give several "
            "pictures without an axis of channels as a list, predict(model, list(images))."
        )
    return [given], False


def array_of(path: Path) -> Any:
    """Return the samples of a file of arrays, first axis first: the array ``x`` of an ``.npz``, or its only one.

    Raises:
        ValueError: a file of several arrays, none of which is ``x``; a damaged one.
    """
    if path.suffix.lower() == ".npy":
        return read_npy(path)
    arrays = read_npz(path)
    if "x" not in arrays and len(arrays) != 1:
        raise ValueError(f"{path} holds the arrays {', '.join(sorted(arrays))}; one named x is expected.")
    return arrays["x"] if "x" in arrays else next(iter(arrays.values()))


class Pictures(Inputs):
    """Pictures for a classifier.

    Args:
        given: one picture (path, PIL image, array), a list or batch (B, C, H, W) of them, an ``.npy`` or ``.npz`` of
            several, or a folder, whose pictures are taken in the order of their names.
        prepare: how the model's pictures were prepared.
    """

    noun = "picture"

    def __init__(self, model: nn.Module, given: Any, top: int, prepare: Preprocessing) -> None:
        super().__init__(model, top)
        self.preprocessing = prepare
        self.items, self.several = pictures_of(given)

    @property
    def classes(self) -> Sequence[str]:
        return self.preprocessing.classes

    def prepare(self, i: int) -> tuple[Tensor, ...]:
        return (self.preprocessing(self.items[i]),)

    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        logits = self.model(batch[0].to(self.device, self.dtype))
        self._check(logits.shape[1])
        return (logits.float().softmax(-1),)

    def _check(self, count: int) -> None:
        if self.classes and len(self.classes) != count:
            raise ValueError(
                f"The model has {count} classes, its configuration names {len(self.classes)}; they do not belong "
                "together."
            )

    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        p, order = out[0].topk(min(self.top, len(out[0])))
        names = [self.classes[k] if self.classes else str(k) for k in order.tolist()]
        named = tuple(zip(names, p.tolist(), strict=True))
        return Prediction(named[0][0], named[0][1], named, source=self.source(i), **vars(solved))

    def unread(self, i: int, error: str) -> Answer:
        return Prediction("", 0.0, (), converged=False, source=self.source(i), error=error)

    def columns(self) -> tuple[str, ...]:
        return ranked(self.top)


class Scenes(Pictures):
    """Pictures for a model of segmentation; each keeps its size. The answer is a mask."""

    def ask(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        scores = whole(self.model, batch[0].to(self.device, self.dtype), int(self.model.unit))  # type: ignore[arg-type]
        self._check(scores.shape[1])
        chance, mask = scores.float().softmax(1).max(1)
        return mask, chance.mean((1, 2))

    def answer(self, out: tuple[Tensor, ...], i: int, solved: Solved) -> Answer:
        return Segmented(out[0], float(out[1]), tuple(self.classes), source=self.source(i), **vars(solved))

    def unread(self, i: int, error: str) -> Answer:
        empty = torch.zeros(0, 0, dtype=torch.int64)
        return Segmented(empty, 0.0, converged=False, source=self.source(i), error=error)

    def columns(self) -> tuple[str, ...]:
        return Segmented.columns
