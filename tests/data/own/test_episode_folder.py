"""Few-shot episodes out of folders of the user's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data.files import DataError
from zoo.data.own.episode_folder import EpisodeFolder
from zoo.training.train import train

FEW = {"ways": 2, "shots": 1, "queries": 2, "train_episodes": 8, "val_episodes": 2, "test_episodes": 2}


def make(root, classes=10, each=4, first=0):
    for k in range(first, first + classes):
        (root / f"c{k:02}").mkdir(parents=True)
        for i in range(each):
            value = np.full((12, 12), 20 * k + i, np.uint8)
            Image.fromarray(value).save(root / f"c{k:02}" / f"{i}.png")
    return root


def test_classes_are_parted(tmp_path):
    data = EpisodeFolder(str(make(tmp_path)), image_size=6, **FEW)
    counts = {part: len(data.split(part)[1].unique()) for part in ("train", "val", "test")}
    assert counts == {"train": 6, "val": 2, "test": 2}
    sx, sy, qx, qy = next(iter(data.test_dataloader()))
    assert sx.shape == (2, 2, 1, 6, 6) and qx.shape == (2, 4, 1, 6, 6) and sy.tolist()[0] == [0, 1]
    assert torch.equal(sx[0, 0].round(decimals=1), qx[0, 0].round(decimals=1)) or qy.shape == (2, 4)
    seen = [set(data.split(p)[0][:, 0, 0, 0].tolist()) for p in counts]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])


def test_folders_of_parts(tmp_path):
    for part, first in (("train", 0), ("val", 4), ("test", 7)):
        make(tmp_path / part, 3, first=first)
    data = EpisodeFolder(str(tmp_path), **FEW)
    assert [len(data.split(p)[0]) for p in ("train", "val", "test")] == [12, 12, 12]


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(DataError, match="two each are needed at least"):
        EpisodeFolder(str(make(tmp_path, 3)), **FEW).setup()
    make(tmp_path, 7, first=3)
    (tmp_path / "c04" / "1.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"c04/1.png is no picture.*--data.on_corrupt skip"):
        EpisodeFolder(str(tmp_path), **FEW).setup()
    with pytest.warns(UserWarning, match=r"c04/1.png is left out"):
        data = EpisodeFolder(str(tmp_path), on_corrupt="skip", **FEW)
        assert sum(len(data.split(p)[0]) for p in ("train", "val", "test")) == 39
    (tmp_path / "c04" / "1.png").unlink()
    with pytest.raises(ValueError, match="an episode needs 1 \\+ 9 images"):
        next(iter(EpisodeFolder(str(tmp_path), **{**FEW, "queries": 9}).test_dataloader()))


def test_a_few_shot_model_trains(tmp_path):
    data = {"name": "episode_folder", "root": make(tmp_path / "data"), "image_size": 8, "batch_size": 2, **FEW}
    quick = {"max_epochs": 1, "limit_train_batches": 2, "accelerator": "cpu", "enable_progress_bar": False}
    run = train("test_hyper_fewshot", data, out=tmp_path / "run", trainer=quick)
    assert run["status"] == "finished"
