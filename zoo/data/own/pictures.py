"""Pictures in files of the user's own: found, looked at once, and read when a batch asks for them.

A picture that cannot be decoded is named; it stops the run, or is left out of its batch and counted.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zoo.data.files import DataError
from zoo.storage.guards import MiB, Refused, open_picture, picture_head

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST = (16_384, 16_384)  # height and width of a picture, at most
HASHED = 256 * MiB  # up to so many bytes a fingerprint is of the content, above of names and sizes
DEEP = "convert it to 8 bits a channel, as with PIL or ImageMagick"

OnCorrupt = Literal["raise", "skip"]


@dataclass(frozen=True)
class Look:
    """What the heads of some pictures say.

    Attributes:
        good: the rows that can be opened.
        sizes: (height, width) that occur among them.
        gray: whether none of them has a color.
    """

    good: list[int]
    sizes: set[tuple[int, int]]
    gray: bool


def find_pictures(folder: Path, endings: Sequence[str] = ENDINGS) -> list[Path]:
    """Return the pictures below a folder, in the order of their paths; hidden files and folders are passed over."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        found += [Path(place, n) for n in names if n.lower().endswith(tuple(endings)) and not n.startswith(".")]
    return sorted(found)


def look(paths: Sequence[Path], on_corrupt: OnCorrupt, *, whole: bool = False) -> Look:
    """Look at the head of every picture, or decode each as a whole.

    Raises:
        DataError: one cannot be opened and is not to be skipped, has more than 8 bits a channel, or none is left.
    """
    good, sizes, gray = [], set(), True
    for row, path in enumerate(paths):
        try:
            height, width, mode = picture_head(path, MOST)
            if whole:
                open_picture(path, path, MOST)
        except Refused as error:
            refuse(error, on_corrupt)
            continue
        if mode.startswith(("I", "F")):
            raise DataError(f"{path} has 16 or more bits a channel (mode {mode}); {DEEP}.")
        good.append(row)
        sizes.add((height, width))
        gray = gray and mode in ("1", "L", "LA")
    if paths and not good:
        raise DataError(f"None of the {len(paths):,} pictures can be opened; the last one is {paths[-1]}.")
    return Look(good, sizes, gray)


def refuse(error: Refused, on_corrupt: OnCorrupt) -> None:
    """Raise DataError for a picture that cannot be read, or warn where such ones are to be skipped."""
    if on_corrupt == "raise":
        raise DataError(
            f"{error.path} is no picture that can be read: {error.why}. Mend or remove it, or leave such pictures out "
            "with --data.on_corrupt skip."
        ) from error
    warnings.warn(f"{error.path} is left out: {error.why}.", stacklevel=3)


def check_on_corrupt(name: str, value: str) -> None:
    """Raise ValueError for anything but raise and skip."""
    if value not in ("raise", "skip"):
        raise ValueError(f"{name}: on_corrupt is 'raise' or 'skip'; got {value!r}.")


def picture_digest(paths: Iterable[Path], extra: Iterable[str] = ()) -> str:
    """Return the sha256 over names and content of files; of more than 256 MiB over names and sizes."""
    listed = list(paths)
    sizes = [p.stat().st_size for p in listed]
    small = sum(sizes) <= HASHED
    found = hashlib.sha256()
    for text in extra:
        found.update(f"{text}\n".encode())
    for path, size in zip(listed, sizes, strict=True):
        found.update(f"{path.parent.name}/{path.name} {size}\n".encode())
        if small:
            found.update(path.read_bytes())
    return found.hexdigest()


class PictureFiles:
    """Pictures in files; indexed by a tensor of rows it reads them, so that a set need not fit into memory.

    Args:
        paths: the files.
        mode: "L" or "RGB", that each is converted to; "" as it is.
        on_corrupt: raise, or give None in the place of one that cannot be decoded.
    """

    def __init__(self, paths: Sequence[Path], mode: str, on_corrupt: OnCorrupt = "raise") -> None:
        # one array of bytes: a list of a million objects would be copied into every worker by its reference counts
        self.paths = np.array([os.fsencode(p) for p in paths], dtype=np.bytes_)
        self.mode, self.on_corrupt = mode, on_corrupt

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, rows: Tensor) -> list[Tensor | None]:
        return [self.read(int(row)) for row in rows]

    def path(self, row: int) -> Path:
        """Return the file of a row."""
        return Path(os.fsdecode(self.paths[row]))

    def read(self, row: int) -> Tensor | None:
        """Return one picture, uint8 (C, H, W); None where it is to be skipped."""
        path = self.path(row)
        try:
            pixels = np.array(open_picture(path, path, MOST, self.mode))
        except Refused as error:
            refuse(error, self.on_corrupt)
            return None
        x = torch.from_numpy(pixels)
        return x[None] if x.dim() == 2 else x.permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class PictureBatch:
    """From the pictures of a batch, of any sizes, and their labels to tensors; what could not be read is left out.

    Attributes:
        evaluate: from one picture to (1, C, H, W), as the trained model prepares one.
        train: the same in training; None: as in evaluation.
    """

    evaluate: Callable[[Tensor], Tensor]
    train: Callable[[Tensor, torch.Generator], Tensor] | None = None

    def __call__(
        self, pictures: Sequence[Tensor | None], labels: Tensor, random: torch.Generator | None
    ) -> tuple[Tensor, Tensor]:
        kept = [(x, i) for i, x in enumerate(pictures) if x is not None]
        if not kept:
            raise DataError(
                f"None of the {len(pictures)} pictures of a batch can be read. Look at the warnings above, and remove "
                "the broken files; or take a larger --data.batch_size."
            )
        rows = torch.tensor([i for _, i in kept])
        if random is None or self.train is None:
            return torch.cat([self.evaluate(x) for x, _ in kept]), labels[rows]
        return torch.cat([self.train(x, random) for x, _ in kept]), labels[rows]
