"""Omniglot as few-shot episodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F

from zoo.data import files
from zoo.data.episodes import Episodes
from zoo.data.images import Arrays
from zoo.storage.arrays import read_npz
from zoo.storage.guards import MiB, is_file, open_picture, read_zip


class Omniglot(Episodes):
    """1,623 handwritten characters of 50 alphabets, 20 drawings each, 28x28: ink 1 on paper 0.

    The usual split for few-shot learning: both published parts together, in an order fixed once, 1,200 characters for
    training (100 of them for validation) and 423 for the test; each turned by 90, 180 and 270 degrees makes three
    more classes. The published drawings of 105x105 are averaged down to 28x28.

    Read from ``Omniglot/compact/images_background.npz`` and ``images_evaluation.npz`` in the root (``bits``: ink,
    packed along rows; ``label``; ``classes``), else from the published archives ``images_background.zip`` and
    ``images_evaluation.zip`` in ``omniglot-py/``, where torchvision keeps them.

    Reference: Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction",
    Science 350, 2015; the split: Santoro et al., "Meta-learning with memory-augmented neural networks", ICML 2016.
    """

    in_chans = 1
    image_size = 28
    mean = (0.0,)
    std = (1.0,)
    classes = ()
    turned = True
    published: ClassVar[dict[str, int]] = {"images_background": 964, "images_evaluation": 659}  # characters
    drawings: ClassVar[int] = 20  # of each character
    width: ClassVar[int] = 105  # pixels of a published drawing
    parts: ClassVar[tuple[int, int]] = (1100, 100)  # characters for training and for validation

    def _candidates(self, part: str) -> list[Path]:
        return [self.root / "Omniglot" / "compact" / f"{part}.npz", self.root / "omniglot-py" / f"{part}.zip"]

    def fetch(self) -> None:
        for part in self.published:
            looked = self._candidates(part)
            if any(is_file(p) for p in looked):
                continue
            why = "Downloading is off (download=false)."
            if self.download:
                from torchvision.datasets import Omniglot as Source

                url, checksum = f"{Source.download_url_prefix}/{part}.zip", Source.zips_md5[part]
                why = files.first_that_works([partial(files.download, url, looked[1], checksum)])
                if not why:
                    continue
                why = f"The download failed ({why})."
            raise files.missing("Omniglot", looked, "Omniglot/compact or omniglot-py", why)

    def read(self) -> Arrays:
        images = np.concatenate([self._part(part) for part in self.published])
        images = images[np.random.Generator(np.random.PCG64(0)).permutation(len(images))]  # by character
        train = sum(self.parts)
        labels = np.repeat(np.arange(len(images), dtype=np.int64), self.drawings)
        flat = images.reshape(-1, 1, self.image_size, self.image_size)
        rows = train * self.drawings
        return Arrays(flat[:rows], labels[:rows], flat[rows:], labels[rows:])

    def held_out(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hold out whole characters: those of validation are not trained on."""
        return np.flatnonzero(labels < self.parts[0]), np.flatnonzero(labels >= self.parts[0])

    def _part(self, part: str) -> np.ndarray:
        """Return uint8 (characters, 20, 28, 28) of one published part, the characters sorted by name."""
        path = next((p for p in self._candidates(part) if is_file(p)), None)
        if path is None:
            raise files.missing("Omniglot", self._candidates(part), "Omniglot/compact or omniglot-py",
                                "It may be downloaded by prepare_data().")  # fmt: skip
        ink, names = (self._compact if path.suffix == ".npz" else self._archive)(path)
        count = self.published[part]
        if ink.shape != (count * self.drawings, self.width, self.width):
            raise files.corrupt(path, f"it holds {ink.shape} pixels; {count} characters of 20 drawings were published")
        order = np.argsort(names, kind="stable")
        kinds, times = np.unique(names, return_counts=True)
        if len(kinds) != count or not (times == self.drawings).all():
            raise files.corrupt(path, f"it holds {len(kinds)} characters; {count} of 20 drawings each were published")
        return self._shrink(ink[order]).reshape(count, self.drawings, self.image_size, self.image_size)

    def _compact(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        with files.checked():
            content = read_npz(path, ("bits", "label", "classes"), 256 * MiB)
        bits, label, kinds = (content[k] for k in ("bits", "label", "classes"))
        packed = -(-self.width // 8)
        count = len(bits) if bits.ndim else 0
        plain = bits.dtype == np.uint8 and bits.shape == (count, self.width, packed) and kinds.ndim == 1
        if not plain or label.shape != (count,) or label.dtype.kind not in "iu" or kinds.dtype.kind not in "SU":
            raise files.corrupt(path, f"its arrays are bits {bits.shape}, label {label.shape}, classes {kinds.shape}")
        if count and not 0 <= label.min() <= label.max() < len(kinds):
            raise files.corrupt(path, f"its labels go from {label.min()} to {label.max()}, of {len(kinds)} classes")
        return np.unpackbits(bits, axis=-1)[..., : self.width], kinds[label]

    def _archive(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        side = (self.width, self.width)
        names, ink = [], []
        with files.checked():
            for name, data in read_zip(path, lambda name: name.endswith(".png"), 256 * MiB, MiB):
                names.append("/".join(name.split("/")[-3:-1]))
                ink.append(np.asarray(open_picture(data, path / name, side, "L")) < 128)
        if not ink or any(drawing.shape != side for drawing in ink):
            raise files.corrupt(path, f"it does not hold drawings of {side[0]}x{side[1]}")
        return np.stack(ink).astype(np.uint8), np.array(names)

    def _shrink(self, ink: np.ndarray) -> np.ndarray:
        """Average 105x105 down to 28x28, some drawings at a time; 255 is full ink."""
        out = []
        for rows in np.array_split(ink, max(1, len(ink) // 1000)):
            x = torch.from_numpy(rows)[:, None].float()
            x = F.interpolate(x, (self.image_size, self.image_size), mode="bilinear", antialias=True)
            out.append((255 * x).round().clamp(0, 255).byte().numpy())
        return np.concatenate(out)
