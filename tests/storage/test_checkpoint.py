"""Checkpoints that are damaged or hostile: one sentence each, without the memory that they declare."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import pytest
import torch

from zoo.storage import checkpoint
from zoo.storage.checkpoint import read_checkpoint, read_pickle
from zoo.storage.model_folder import WeightsError
from zoo.storage.text_preprocessing import TextPreprocessing

GOOD = {
    "state_dict": {"model.weight": torch.ones(2)},
    "epoch": 1,
    "callbacks": {"a": {}},
    "optimizer_states": [{}],
}


def refused(path, match, read=read_checkpoint) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        read(path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_comes_back(tmp_path):
    torch.save(GOOD, tmp_path / "a.ckpt")
    saved = read_checkpoint(tmp_path / "a.ckpt")
    assert saved["state_dict"]["model.weight"].tolist() == [1, 1]
    torch.save(GOOD, tmp_path / "b.ckpt", _use_new_zipfile_serialization=False)  # as released checkpoints are written
    assert read_pickle(tmp_path / "b.ckpt")["epoch"] == 1
    view = {"state_dict": {"shared": torch.zeros(1).expand(1000)}}
    torch.save(view, tmp_path / "c.ckpt")
    assert read_checkpoint(tmp_path / "c.ckpt")["state_dict"]["shared"].shape == (1000,)


@pytest.mark.parametrize(
    "data", [b"", b"junk", bytes(range(256)) * 8, pickle.dumps([1, 2])[:-3], b"PK\x03\x04" + b"\0" * 40]
)
def test_what_is_no_checkpoint(tmp_path, data):
    (tmp_path / "a.ckpt").write_bytes(data)
    refused(tmp_path / "a.ckpt", "is no whole checkpoint")


def archive(path, pack=zipfile.ZIP_STORED, **parts) -> None:
    """A checkpoint, with other parts."""
    file = io.BytesIO()
    torch.save(GOOD, file)
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w", pack) as new:
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            new.writestr(info.filename, parts.get(name.replace("/", "_").replace(".", "_"), old.read(info)))


def test_archives_that_lie(tmp_path):
    path = tmp_path / "a.ckpt"
    archive(path)
    assert read_checkpoint(path)["epoch"] == 1
    archive(path, data_pkl=b"")
    refused(path, "its data.pkl is empty")
    archive(path, zipfile.ZIP_DEFLATED, data_0=b"\0" * (8 << 20))
    refused(path, "its parts are packed, which torch.save never does")
    archive(path, data_0=b"")
    refused(path, "is no whole checkpoint")
    with zipfile.ZipFile(path, "w") as empty:
        empty.comment = b"x"
    refused(path, "is no whole checkpoint")


def test_a_sparse_terabyte(tmp_path):
    with (tmp_path / "a.ckpt").open("wb") as file:
        file.truncate(1 << 40)
    refused(tmp_path / "a.ckpt", "1,099,511,627,776 bytes")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "does not exist")
    (tmp_path / "b.ckpt").symlink_to("/dev/zero")
    refused(tmp_path / "b.ckpt", "does not exist")


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 20, 1 << 20), (1 << 36,)])
@pytest.mark.parametrize("where", ["state_dict", "optimizer_states", "callbacks"])
def test_a_tensor_that_declares_terabytes(tmp_path, shape, where):
    tensor = torch.zeros(1).expand(shape)
    content = {
        "state_dict": {"x": tensor},
        "optimizer_states": [{"state": {0: (tensor,)}}],
        "callbacks": {"a": [tensor]},
    }
    torch.save({**GOOD, where: content[where]}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "a tensor in it declares .* bytes, and holds 4")


@pytest.mark.parametrize(
    "state",
    [[], 5, None, "x", {1: torch.ones(1)}, {"a": "text"}, {"a": None}, {"a": 1.0}, {"a": {"b": torch.ones(1)}}],
)
def test_weights_that_are_none(tmp_path, state):
    torch.save({**GOOD, "state_dict": state}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "holds more than names and tensors")


class Touch:
    """A payload: unpickled, it writes a file."""

    def __init__(self, marker) -> None:
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("whole", [True, False])
def test_a_payload_does_not_run(tmp_path, monkeypatch, whole):
    torch.save({**GOOD, "x": Touch(tmp_path / "marker")}, tmp_path / "a.ckpt", _use_new_zipfile_serialization=whole)
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(Touch(tmp_path / "marker")))
    for name in ("a.ckpt", "b.ckpt"):
        refused(tmp_path / name, "open, which may run code")
    monkeypatch.setenv(checkpoint.FORCED, "1")
    refused(tmp_path / "a.ckpt", "unset it")
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("given", [None, [], "x", {}, {"kind": "image"}])
def test_a_checkpoint_without_a_tokenizer(tmp_path, given):
    torch.save({**GOOD, "preprocessing": given}, tmp_path / "a.ckpt")
    refused(tmp_path / "a.ckpt", "has no tokenizer", TextPreprocessing.of)
