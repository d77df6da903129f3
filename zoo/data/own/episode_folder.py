"""Few-shot episodes out of folders of the user's own, one folder a class."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from zoo.data.episodes import Episodes
from zoo.data.files import DataError
from zoo.data.images import Arrays
from zoo.data.own.image_folder import PARTS
from zoo.data.own.pictures import ENDINGS, OnCorrupt, PictureFiles, check_on_corrupt, find_pictures, look
from zoo.data.own.splits import check_fractions
from zoo.storage.guards import Refused, affordable, is_folder
from zoo.storage.preprocessing import LARGEST


class EpisodeFolder(Episodes):
    """Few-shot episodes of pictures in folders, one folder a class, resized and kept in memory.

    The root holds ``train``, ``val`` and ``test`` with folders of classes that no other part has, or the classes'
    folders themselves, which are then parted by a fixed seed. Gray where all pictures are, else colored.

    Args:
        root: the folder; None: the environment's ZOO_DATA, else ./data.
        batch_size: episodes a step.
        ways: N, classes of an episode.
        shots: K, labeled images of each.
        queries: Q, images of each to be tested on.
        train_ways: classes of a training episode; None: ways.
        train_episodes: episodes of an epoch.
        val_episodes: fixed episodes of the validation.
        test_episodes: fixed episodes of the test.
        rotations: whether turned classes count as classes of their own; None: no.
        num_workers: processes that make batches ahead.
        seed: of the training episodes.
        image_size: side that pictures are resized to.
        val_fraction: the share of the classes for validation, where there is no folder val.
        test_fraction: the share of the classes for the test, where there is no folder test.
        on_corrupt: a picture that cannot be decoded ends the run with its name (raise), or is left out (skip).

    Raises:
        DataError: at ``setup``: there are no pictures, too few classes, or a corrupt picture.
        ValueError: an argument is out of range, or a part has fewer classes, or images of one, than an episode needs.
    """

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 8,
        ways: int = 5,
        shots: int = 1,
        queries: int = 10,
        train_ways: int | None = None,
        train_episodes: int = 1000,
        val_episodes: int = 200,
        test_episodes: int = 1000,
        rotations: bool | None = None,
        num_workers: int = 0,
        seed: int = 0,
        image_size: int = 28,
        val_fraction: float = 0.2,
        test_fraction: float = 0.2,
        on_corrupt: OnCorrupt = "raise",
    ) -> None:
        super().__init__(
            root, batch_size, ways, shots, queries, train_ways, train_episodes, val_episodes, test_episodes, rotations,
            num_workers, seed,
        )  # fmt: skip
        check_fractions("EpisodeFolder", val_fraction, test_fraction)
        check_on_corrupt("EpisodeFolder", on_corrupt)
        if not 1 <= image_size <= LARGEST:
            raise ValueError(f"EpisodeFolder: image_size must be 1 to {LARGEST:,}; got {image_size}.")
        self.image_size = image_size  # type: ignore[misc]
        self.val_fraction, self.test_fraction, self.on_corrupt = val_fraction, test_fraction, on_corrupt

    def fetch(self) -> None:
        self.setup()

    def model_arguments(self) -> dict[str, int]:
        self.setup()
        return {"in_chans": self.in_chans}

    def read(self) -> Arrays:
        if not is_folder(self.root):
            raise DataError(f"{self.root} is no folder. Name the folder of the classes' folders by --data.root DIR.")
        folders = {part: next((self.root / n for n in names if is_folder(self.root / n)), None)
                   for part, names in PARTS.items()}  # fmt: skip
        named = {part: sorted(p for p in f.iterdir() if p.is_dir() and not p.name.startswith("."))
                 for part, f in folders.items() if f is not None and folders["train"] is not None}  # fmt: skip
        if not named:
            named = {"train": sorted(p for p in self.root.iterdir() if p.is_dir() and not p.name.startswith("."))}
        order = np.random.Generator(np.random.PCG64(0)).permutation(len(named["train"]))
        pool = [named["train"][i] for i in order]
        for part, share in (("test", self.test_fraction), ("val", self.val_fraction)):
            if part in named:
                self.refuse_idle(f"the classes of {folders[part]} are taken", **{f"{part}_fraction": share})
            else:
                count = round(share * len(order))
                named[part], pool = pool[:count], pool[count:]
        classes = [*pool, *named["val"], *named["test"]]
        self._ends = len(pool), len(pool) + len(named["val"])
        if min(len(pool), len(named["val"]), len(named["test"])) < 2:
            raise DataError(
                f"{self.root} has {len(pool)}, {len(named['val'])} and {len(named['test'])} classes to train, validate "
                "and test; two each are needed at least: a folder for each class, DIR/a/1.png, DIR/b/2.png."
            )
        pixels, labels = self._pixels([find_pictures(c) for c in classes], [str(c) for c in classes])
        self.classes = tuple(c.name for c in classes)  # type: ignore[misc]
        test = labels >= self._ends[1]
        return Arrays(pixels[~test], labels[~test], pixels[test], labels[test])

    def _pixels(self, listed: list[list], names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return all pictures, resized, with their classes; and find out their channels, mean and deviation."""
        for name, paths in zip(names, listed, strict=True):
            if not paths:
                raise DataError(f"{name} holds no pictures; their names end in {', '.join(ENDINGS)}.")
        paths = [p for part in listed for p in part]
        labels = np.repeat(np.arange(len(listed), dtype=np.int64), [len(part) for part in listed])
        seen = look(paths, self.on_corrupt)
        self.in_chans = 1 if seen.gray else 3  # type: ignore[misc]
        side = self.image_size
        try:
            affordable(self.root, 2 * len(paths) * self.in_chans * side**2, "its pictures")
        except Refused as error:
            raise DataError(f"{error} Take a smaller --data.image_size.") from error
        files = PictureFiles(paths, "L" if seen.gray else "RGB", self.on_corrupt)
        out, kept = [], []
        for row in seen.good:
            if (x := files.read(row)) is not None:
                small = F.interpolate(x[None].float(), (side, side), mode="bilinear", antialias=True)
                out.append(small.round().clamp(0, 255).byte()[0].numpy())
                kept.append(row)
        pixels, labels = np.stack(out), labels[kept]
        train = pixels[labels < self._ends[0]] / 255.0
        self.mean = tuple(float(v) for v in train.mean((0, 2, 3)))  # type: ignore[misc]
        self.std = tuple(float(v) or 1.0 for v in train.std((0, 2, 3)))  # type: ignore[misc]
        return pixels, labels

    def held_out(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hold out whole classes: those of validation are not trained on."""
        return np.flatnonzero(labels < self._ends[0]), np.flatnonzero(labels >= self._ends[0])
