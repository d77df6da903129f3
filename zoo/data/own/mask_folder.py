"""Pictures with masks of the user's own: the same names in two folders, classes by number or by color."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from zoo.data.files import DataError
from zoo.data.images import Arrays, Pair
from zoo.data.masks import IGNORE, MaskData
from zoo.data.own.image_folder import PARTS
from zoo.data.own.pictures import MOST, PictureFiles, find_pictures, picture_digest
from zoo.data.own.splits import check_fractions, cut_rows
from zoo.storage.guards import Refused, is_folder, open_picture, picture_head

Pairs = list[tuple[Path, Path]]


class MaskFiles(PictureFiles):
    """Masks in files; indexed by a tensor of rows it reads them: a list of uint8 (H, W).

    Args:
        paths: one file a picture.
        colors: of the classes, (C, 3) uint8, in order; none: a pixel's number is its class.
        num_classes: C; a number from there on is refused, but for 255, which is not counted.
    """

    def __init__(self, paths: Sequence[Path], colors: np.ndarray | None, num_classes: int = IGNORE) -> None:
        super().__init__(paths, "" if colors is None else "RGB")
        self.colors, self.num_classes = colors, num_classes

    def read(self, row: int) -> Tensor:
        """Return one mask; raises DataError where a pixel is of no class."""
        path = self.path(row)
        try:
            pixels = np.array(open_picture(path, path, MOST, self.mode))
        except Refused as error:
            raise DataError(f"{path} is no mask that can be read: {error.why}. Mend or remove it.") from error
        if self.colors is not None:
            return torch.from_numpy(self._by_color(pixels, path))
        if pixels.ndim != 2 or pixels.dtype != np.uint8:
            raise DataError(f"{path} is a mask of {pixels.dtype} {pixels.shape}; one number of 8 bits a pixel is a "
                            "class. For masks of colors give --data.palette [000000,ff0000].")  # fmt: skip
        if (wrong := pixels[(pixels >= self.num_classes) & (pixels != IGNORE)]).size:
            raise DataError(f"{path}: the label {wrong[0]} is out of range; classes go from 0 to {self.num_classes - 1}"
                            f", and {IGNORE} is not counted.")  # fmt: skip
        return torch.from_numpy(pixels)

    def _by_color(self, pixels: np.ndarray, path: Path) -> np.ndarray:
        assert self.colors is not None
        weights = np.array([65536, 256, 1])
        codes, known = pixels.astype(np.int64) @ weights, self.colors.astype(np.int64) @ weights
        order = np.argsort(known)
        place = np.minimum(np.searchsorted(known[order], codes), len(known) - 1)
        if (strange := codes[known[order][place] != codes]).size:
            raise DataError(f"{path}: the color {int(strange[0]):06x} is none of the palette "
                            f"({', '.join(f'{c:06x}' for c in known)}).")  # fmt: skip
        return order[place].astype(np.uint8)


class MaskFolder(MaskData):
    """Pictures and masks of the same names: ``images/a.jpg`` and ``masks/a.png``, read from their files batch by batch.

    The root holds ``images`` and ``masks``, or ``train``, ``val`` and ``test`` with these two in each. What is missing
    of validation and test is cut out of the training part, the same for all seeds. A mask has one number a pixel, its
    class (also PNGs with a palette of their own), or a color each, with ``palette``. 255 is not counted.

    Args:
        root: the folder; None: the environment's ZOO_DATA, else ./data.
        batch_size: pictures a batch (and a device).
        num_workers: processes that decode batches ahead.
        augment: random crops and flips in training; None: yes.
        val_fraction: the part that is held out for validation, where there is no folder val.
        test_fraction: the part that is held out for the test, where there is no folder test.
        seed: of the order and the augmentation; not of the split.
        crop: side of the crops that training sees, or their height and width; 0: those of the largest picture, up to
            256.
        num_classes: of masks of numbers; 0: one more than the largest of all masks, which takes reading them once.
        palette: the colors of the classes in order, ``[000000,ff0000]``; none: masks of numbers.
        images, masks: the names of the two folders.

    Raises:
        DataError: at ``setup``: a folder is missing or empty, a picture has no mask, a mask has another size than its
            picture, or a pixel is of no class.
        ValueError: an argument is out of range, or does nothing.
    """

    in_chans = 3
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    classes = ()
    usual_crop: ClassVar[tuple[int, int]] = (256, 256)
    frame = (256, 256)

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        augment: bool | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        seed: int = 0,
        crop: int | tuple[int, int] = 0,
        num_classes: int = 0,
        palette: list[str] | None = None,
        images: str = "images",
        masks: str = "masks",
    ) -> None:
        super().__init__(root, batch_size, num_workers, augment, val_fraction, seed, False, crop)
        check_fractions("MaskFolder", val_fraction, test_fraction)
        self.colors: np.ndarray | None = None
        if palette:
            self.refuse_idle("the palette has a color for each class", num_classes=num_classes)
            codes = [str(c).removeprefix("#") for c in palette]
            if len(set(codes)) < len(codes) or not all(re.fullmatch("[0-9a-fA-F]{6}", c) for c in codes):
                raise ValueError(f"MaskFolder: palette is a list of colors such as ff0000, each once; got {palette}.")
            self.colors = np.array([list(bytes.fromhex(c)) for c in codes], np.uint8)
        if num_classes not in (0, *range(2, IGNORE)):
            raise ValueError(f"MaskFolder: num_classes must be 2 to {IGNORE - 1}, or 0; got {num_classes}.")
        self.told, self.asked_crop = num_classes, crop
        self.test_fraction, self.images, self.masks = test_fraction, images, masks

    def fetch(self) -> None:
        self.setup()

    def read(self) -> Arrays:
        raise NotImplementedError("Pictures are read batch by batch, see split().")

    def pairs(self, folder: Path) -> Pairs:
        """Return the pictures of a part with their masks.

        Raises:
            DataError: a folder is missing or empty, a picture has no mask, or one of another size.
        """
        places = [folder / self.images, folder / self.masks]
        for place in places:
            if not is_folder(place):
                raise DataError(f"{place} is no folder. Expected {self.images}/ and {self.masks}/ in DIR, or in "
                                "DIR/train; name DIR by --data.root.")  # fmt: skip
        pictures, masks = (find_pictures(p) for p in places)
        if not pictures:
            raise DataError(f"{places[0]} holds no pictures.")
        by_name = {p.relative_to(places[1]).with_suffix(""): p for p in masks}
        found = []
        for picture in pictures:
            mask = by_name.get(picture.relative_to(places[0]).with_suffix(""))
            if mask is None:
                raise DataError(f"{picture} has no mask: {places[1] / picture.stem}.png was not found.")
            try:
                (h, w, _), (mh, mw, _) = (picture_head(p, MOST) for p in (picture, mask))
            except Refused as error:
                raise DataError(f"{error.path} is no picture: {error.why}. Mend or remove it, and its pair.") from error
            if (h, w) != (mh, mw):
                raise DataError(f"{mask} is {mh}x{mw}, and its picture {picture.name} is {h}x{w}; they must be alike.")
            self._sides.append((h, w))
            found.append((picture, mask))
        return found

    def load(self) -> tuple[dict[str, Pair], str]:
        self._sides: list[tuple[int, int]] = []
        folders = {part: next((self.root / n for n in names if is_folder(self.root / n)), None)
                   for part, names in PARTS.items()}  # fmt: skip
        parts = {part: self.pairs(f) for part, f in folders.items() if f is not None and folders["train"] is not None}
        for part in ("val", "test"):
            if part in parts:
                share = {f"{part}_fraction": getattr(self, f"{part}_fraction")}
                self.refuse_idle(f"the pictures of {folders[part]} are taken", **share)
        whole = parts.get("train") or self.pairs(self.root)
        rows = cut_rows(len(whole), self.val_fraction, self.test_fraction)
        given = {part: pairs for part, pairs in parts.items() if part != "train"}
        kept = np.sort(np.concatenate([rows["train"], *(rows[p] for p in given)]))
        parts = {part: [whole[i] for i in index] for part, index in {**rows, "train": kept}.items()} | given
        every = [pair for part in ("train", "val", "test") for pair in parts[part]]
        self.num_classes = self._count([mask for _, mask in every])  # type: ignore[misc]
        height, width = (max(side) for side in zip(*self._sides, strict=True))
        self.frame = (height, width)  # type: ignore[misc]
        if not self.asked_crop:
            self.crop = min(height, 256), min(width, 256)
        splits: dict[str, Any] = {
            part: (
                PictureFiles([a for a, _ in pairs], "RGB"),
                MaskFiles([b for _, b in pairs], self.colors, self.num_classes),
            )
            for part, pairs in parts.items()
        }
        colors = "" if self.colors is None else self.colors.tobytes().hex()
        return splits, picture_digest((p for pair in every for p in pair), [colors, str(self.num_classes)])

    def _count(self, masks: list[Path]) -> int:
        """Return the number of classes."""
        if self.colors is not None:
            return len(self.colors)
        if self.told:
            return self.told
        files, most = MaskFiles(masks, None), 0
        for row in range(len(files)):
            numbers = files.read(row)
            counted = numbers[numbers != IGNORE]
            most = max(most, int(counted.max()) if counted.numel() else 0)
        if most < 1:
            raise DataError(f"All masks below {self.root} hold the class 0 alone; two classes at least can be learned.")
        return most + 1

    def model_arguments(self) -> dict[str, int]:
        self.setup()
        return {"num_classes": self.num_classes, "in_chans": self.in_chans}

    @property
    def transform(self) -> Any:
        self.setup()
        return super().transform
