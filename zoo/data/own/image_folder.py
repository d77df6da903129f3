"""Pictures of the user's own, a folder a class; ImageNet is one such folder."""

from __future__ import annotations

import warnings
from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from zoo.data.files import DataError
from zoo.data.images import Arrays, ImageData, Pair, stratified
from zoo.data.own.augment import Augment
from zoo.data.own.pictures import (
    ENDINGS,
    Look,
    OnCorrupt,
    PictureBatch,
    PictureFiles,
    check_on_corrupt,
    find_pictures,
    look,
    picture_digest,
)  # fmt: skip
from zoo.registry import unknown
from zoo.storage.guards import is_folder
from zoo.storage.preprocessing import LARGEST, Preprocessing

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
OWN_SIZE, USUAL_SIZE = 256, 224  # pictures of one size keep it up to the first; others become the second
MEASURED = 512  # training pictures that mean and deviation are taken of
Listed = list[tuple[Path, int]]


class ImageFolder(ImageData):
    """Pictures in folders, one folder a class, read from their files batch by batch.

    The root holds ``train``, ``val`` and ``test`` with a folder for each class (torchvision's layout), or the classes'
    folders themselves. What is missing of validation and test is cut out of the training part: a fixed share of every
    class, the same for all seeds. Classes are the names of the folders, in order; `zoo.predict` answers with them.

    Pictures may be gray and colored, and of any size: they become gray only where all are, and are resized to
    ``image_size`` as `zoo.storage.preprocessing.Preprocessing` does for a trained model. So validation sees exactly
    what `zoo.predict` sees. Mean and deviation are those of up to 512 training pictures.

    Args:
        root: the folder; None: the environment's ZOO_DATA, else ./data.
        batch_size: pictures a batch (and a device).
        num_workers: processes that decode batches ahead.
        image_size: side of what the model sees, or height and width, ``[96,128]``; 0: the pictures' own size where all
            have the same one, up to 256, else 224.
        augment: timm's random crops and flips in training; None: no.
        scale: with augment: least and largest share of a picture's area that a crop has.
        flip: with augment: share of the pictures that are mirrored; 0 where left and right matter, as for digits.
        color_jitter: with augment: strength of random brightness, contrast and saturation.
        policy: with augment: an automatic augmentation of timm, as ``rand-m9-mstd0.5``.
        erase: with augment: share of the pictures of which a random box is erased.
        val_fraction: the part of every class that is held out for validation, where there is no folder val.
        test_fraction: the part of every class that is held out for the test, where there is no folder test.
        on_corrupt: a picture that cannot be decoded ends the run with its name (raise), or is left out (skip).
        check: decode every picture once before training; without it only the heads of the files are looked at.
        seed: of the order and the augmentation; not of the split.

    Raises:
        DataError: at ``prepare_data`` or ``setup``: there are no pictures, fewer than two classes, an empty class, or a
            corrupt picture.
        ValueError: an argument is out of range, or does nothing.
    """

    looks: ClassVar[bool] = True  # whether the head of every file is looked at before training
    given_color: ClassVar[bool | None] = None  # whether pictures are colored; None: as they are found

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 32,
        num_workers: int = 0,
        image_size: int | tuple[int, int] = 0,
        augment: bool | None = None,
        scale: tuple[float, float] = (0.35, 1.0),
        flip: float = 0.5,
        color_jitter: float = 0.0,
        policy: str = "",
        erase: float = 0.0,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        on_corrupt: OnCorrupt = "raise",
        check: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(root, batch_size, num_workers, augment, val_fraction, seed)
        name = type(self).__name__
        check_on_corrupt(name, on_corrupt)
        if not (test_fraction > 0 and val_fraction > 0 and val_fraction + test_fraction < 1):
            raise ValueError(
                f"{name}: val_fraction and test_fraction must be above 0 and leave something to train on; got "
                f"{val_fraction} and {test_fraction}."
            )
        sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
        if len(sides) != 2 or not all(0 <= s <= LARGEST for s in sides) or (image_size != 0 and 0 in sides):
            raise ValueError(f"{name}: image_size is one number or two, from 1 to {LARGEST:,}, or 0; got {image_size}.")
        if not self.augment:
            why = "pictures are not augmented; give --data.augment true"
            self.refuse_idle(why, scale=tuple(scale), flip=flip, color_jitter=color_jitter, policy=policy, erase=erase)
        if not (0 < scale[0] <= scale[1] <= 1 and 0 <= flip <= 1 and color_jitter >= 0 and 0 <= erase <= 1):
            raise ValueError(
                f"{name}: scale must increase within (0, 1], flip and erase lie in [0, 1], color_jitter be at least 0; "
                f"got {scale}, {flip}, {erase} and {color_jitter}."
            )
        self.asked_size = sides if image_size else None
        self.augmentation: dict[str, Any] = {
            "scale": tuple(scale), "flip": flip, "color_jitter": color_jitter, "policy": policy, "erase": erase,
        }  # fmt: skip
        self.test_fraction, self.on_corrupt, self.check = test_fraction, on_corrupt, check

    # ------------------------------------------------------------------------------------------------ what is there
    def fetch(self) -> None:
        self.setup()  # what is wrong with the files is said before a run begins

    def read(self) -> Arrays:
        raise NotImplementedError("Pictures are read batch by batch, see split().")

    def part_folders(self) -> dict[str, Path]:
        """Return the folders of the parts by name; the root alone, as "train", where it holds the classes."""
        found = {
            part: next((self.root / n for n in names if is_folder(self.root / n)), None)
            for part, names in PARTS.items()
        }
        if found["train"] is None:
            return {"train": self.root}
        return {part: folder for part, folder in found.items() if folder is not None}

    def class_names(self, folder: Path) -> list[str]:
        """Return the classes of the training folder: the names of its folders, in order."""
        if not is_folder(folder):
            raise DataError(f"{folder} is no folder. Name the folder of the classes' folders by --data.root DIR.")
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        hint = "Expected a folder for each class, with its pictures: DIR/cat/1.png, DIR/dog/2.png"
        if len(names) < 2:
            what = f"one class alone, {names[0]!r}" if names else "no folders of classes"
            raise DataError(f"{folder} holds {what}. {hint}, or DIR/train/cat/1.png; name DIR by --data.root.")
        return names

    def listed(self, folder: Path, names: list[str]) -> Listed:
        """Return the pictures of a part, each with its class.

        Raises:
            DataError: a class without pictures, or a folder that is no class of the training part.
        """
        for name in (p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
            if name not in names:
                raise DataError(f"{folder / name}: {unknown('class of the training part', name, names)}")
        found: Listed = []
        for label, name in enumerate(names):
            pictures = find_pictures(folder / name)
            if not pictures:
                raise DataError(
                    f"{folder / name} holds no pictures; their names end in {', '.join(ENDINGS)}. Put some there, or "
                    "remove the class."
                )
            found += [(path, label) for path in pictures]
        return found

    def parts(self) -> tuple[dict[str, Listed], list[str]]:
        """Return the pictures of each part, and the names of the classes."""
        folders = self.part_folders()
        names = self.class_names(folders["train"])
        parts = {part: self.listed(folder, names) for part, folder in folders.items()}
        share = self.val_fraction
        if "test" not in folders:
            parts["train"], parts["test"] = self.cut(parts["train"], self.test_fraction)
            share /= 1 - self.test_fraction  # of what is left
        if "val" not in folders:
            parts["train"], parts["val"] = self.cut(parts["train"], share)
        for part, folder in folders.items():
            if part != "train":
                why = f"the pictures of {folder} are taken"
                self.refuse_idle(why, **{f"{part}_fraction": getattr(self, f"{part}_fraction")})
        return parts, names

    @staticmethod
    def cut(pictures: Listed, fraction: float) -> tuple[Listed, Listed]:
        """Cut a fixed share out of every class, one picture at least where a class has two or more."""
        labels = np.array([label for _, label in pictures])
        kept, held = stratified(labels, fraction, seed=0)
        taken = set(held.tolist())
        for label, count in Counter(labels[kept].tolist()).items():
            rows = np.flatnonzero(labels == label)
            if count == len(rows) and count > 1:
                taken.add(int(rows[-1]))
        return (
            [p for i, p in enumerate(pictures) if i not in taken],
            [p for i, p in enumerate(pictures) if i in taken],
        )

    def load(self) -> tuple[dict[str, Pair], str]:
        parts, names = self.parts()
        seen = self.look(parts)
        gray = seen.gray if self.given_color is None else not self.given_color
        if gray and self.augment:
            self.refuse_idle(
                "timm's policies are of colors, and the pictures are gray", policy=self.augmentation["policy"]
            )
        own = next(iter(seen.sizes)) if len(seen.sizes) == 1 else (USUAL_SIZE + OWN_SIZE,) * 2
        self.frame = self.asked_size or (own if max(own) <= OWN_SIZE else (USUAL_SIZE, USUAL_SIZE))
        self.classes, self.num_classes, self.in_chans = tuple(names), len(names), 1 if gray else 3  # type: ignore[misc]
        self.image_size = self.frame[0] if self.frame[0] == self.frame[1] else self.frame  # type: ignore[misc, assignment]
        mode = "L" if gray else "RGB"
        splits: dict[str, Pair] = {
            part: (
                PictureFiles([path for path, _ in listed], mode, self.on_corrupt),
                torch.tensor([label for _, label in listed], dtype=torch.int64),
            )
            for part, listed in parts.items()
        }
        self.mean, self.std = self.moments(splits["train"][0])  # type: ignore[misc]
        paths = (path for part in ("train", "val", "test") for path, _ in parts[part])
        return splits, picture_digest(paths, [*names, str(self.frame), mode])

    def look(self, parts: dict[str, Listed]) -> Look:
        """Look at the pictures of all parts, and take those that cannot be opened out of them."""
        if not self.looks:
            return Look([], set(), gray=False)
        every = [(part, item) for part, listed in parts.items() for item in listed]
        seen = look([path for _, (path, _) in every], self.on_corrupt, whole=self.check)
        if len(seen.good) < len(every):
            warnings.warn(f"{len(every) - len(seen.good)} of {len(every):,} pictures are left out.", stacklevel=2)
            kept = [every[row] for row in seen.good]
            for part in parts:
                parts[part] = [item for name, item in kept if name == part]
            if lost := {label for _, (_, label) in every} - {label for _, label in parts["train"]}:
                raise DataError(
                    f"No training picture of class number {min(lost)}, counted from 0 in the order of the names, can "
                    "be opened. Mend them, or remove the class."
                )
        return seen

    def moments(self, pictures: PictureFiles) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of each channel in [0, 1], of up to 512 pictures, drawn by a fixed seed."""
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(pictures))[:MEASURED]
        plain = Preprocessing(size=self.frame, mean=(0.0,) * self.in_chans, std=(1.0,) * self.in_chans)
        total, squares, count = torch.zeros(self.in_chans), torch.zeros(self.in_chans), 0
        for row in order:
            if (x := pictures.read(int(row))) is not None:
                pixels = plain(x)
                total += pixels.mean((0, 2, 3))
                squares += pixels.square().mean((0, 2, 3))
                count += 1
        mean = total / max(count, 1)
        deviation = (squares / max(count, 1) - mean.square()).clamp(min=0).sqrt()
        tidy = [[round(float(v), 4) for v in values] for values in (mean, deviation)]
        return tuple(tidy[0]), tuple(v or 1.0 for v in tidy[1])

    # ------------------------------------------------------------------------------------------------ what is seen
    def model_arguments(self) -> dict[str, int]:
        self.setup()
        return {"num_classes": self.num_classes, "in_chans": self.in_chans}

    @cached_property
    def preprocessing(self) -> dict[str, Any]:
        """Plain values from which `Preprocessing` turns a picture into what the trained model sees."""
        self.setup()
        return Preprocessing.of(self, self.registered).as_dict()

    registered: ClassVar[str] = "image_folder"
    joint: ClassVar[bool] = True  # what cannot be read takes its label along

    @property
    def transform(self) -> PictureBatch:
        self.setup()
        evaluate = Preprocessing.read(self.preprocessing)
        if not self.augment:
            return PictureBatch(evaluate)
        return PictureBatch(evaluate, Augment(size=self.frame, mean=self.mean, std=self.std, **self.augmentation))


class ImageNet(ImageFolder):
    """ILSVRC 2012 in its usual layout: 1,281,167 photographs of 1,000 classes to train, 50,000 to test.

    The root, or ``imagenet/`` or ``ILSVRC2012/`` in it, holds ``train`` and ``val`` with a folder for each class, as
    torchvision and timm expect them. The published validation part is the test here; a fixed share of the training
    part validates. Files are not looked at one by one before training, as that takes minutes.

    Args:
        image_size: side of what the model sees; 0: 224.
        augment: timm's random crops and flips in training; None: yes.

    Reference: Russakovsky et al., "ImageNet large scale visual recognition challenge", 2015, arXiv:1409.0575.
    """

    looks = False
    given_color = True
    augmented = True
    registered = "imagenet"

    def part_folders(self) -> dict[str, Path]:
        for base in (self.root, self.root / "imagenet", self.root / "ILSVRC2012"):
            if is_folder(base / "train") and is_folder(base / "val"):
                return {"train": base / "train", "test": base / "val"}
        raise DataError(
            f"ImageNet: neither {self.root} nor imagenet/ or ILSVRC2012/ in it holds the folders train and val with a "
            "folder for each class. It is not downloaded: see https://image-net.org; name its folder by --data.root."
        )
