"""Model folders that are damaged or hostile: one sentence each."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save

from zoo.storage.model_folder import Config, WeightsError, read, read_weights

WEIGHTS = save({"a": torch.ones(2)})


def config(data: bytes = WEIGHTS) -> Config:
    return Config(name="x.y", model={}, weights={"sha256": hashlib.sha256(data).hexdigest()})


@pytest.fixture
def folder(tmp_path):
    text = json.dumps({"format": 1, "name": "x.y", "model": {}, "weights": {"sha256": "0"}})
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "model.safetensors").write_bytes(WEIGHTS)
    return tmp_path


def test_a_folder_is_read(folder):
    assert read(folder).name == "x.y"
    assert read_weights(folder, config())["a"].tolist() == [1, 1]


def many(count: int) -> bytes:
    head = "{" + ",".join(f'"k{i}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}' for i in range(count)) + "}"
    return len(head).to_bytes(8, "little") + head.encode()


@pytest.mark.parametrize("data", [b"", b"x", b"\xff" * 8, (1 << 40).to_bytes(8, "little") + b"{}", many(300_000)])
def test_weights_that_are_none(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match="no whole safetensors file"):
        read_weights(folder, config(data))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_what_is_no_regular_file(folder, name):
    path = folder / name
    for put, what in (
        (lambda: os.mkfifo(path), "a pipe"),
        (lambda: path.symlink_to("/dev/zero"), "a device"),
        (path.mkdir, "a folder"),
        (lambda: path.symlink_to("/proc/self/mem"), "cannot be read"),
        (lambda: path.symlink_to(folder / "nowhere"), "No such file"),
        (lambda: path.open("wb").truncate(1 << 40), "1,099,511,627,776 bytes"),
    ):
        path.rmdir() if path.is_dir() else path.unlink()
        put()
        expected = f"{what}|is no model folder" if name == "config.json" else what
        with pytest.raises(WeightsError, match=expected) as caught:
            read(folder) if name == "config.json" else read_weights(folder, config())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{", "nan", "[]", '{"format": 1e999}', "\ud800", '"' + "x" * 5_000_000]
)
def test_configurations_that_are_none(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(WeightsError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
