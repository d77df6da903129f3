"""Damaged and hostile data files by the doors of the data sets: one sentence each, quickly, and nothing runs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from pickles import Call, array, dumps, frame

from zoo.data import DATA
from zoo.data.ett import COLUMNS
from zoo.data.files import DataError
from zoo.data.physionet import CHANNELS, PhysioNet
from zoo.data.vision import CIFAR10, MNIST


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.delenv("ZOO_DATA", raising=False)


def refused(name: str, root: Path, match: str = "", **options) -> str:
    """The one sentence or two that a data set is refused with."""
    with pytest.raises(DataError, match=match or None) as caught:
        DATA[name](root=str(root), **options).setup()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1500
    return str(caught.value)


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def sparse(path: Path, size: int) -> Path:
    put(path, b"")
    with path.open("wb") as file:
        file.truncate(size)
    return path


FILES = {
    "mnist": "MNIST/raw/train-images-idx3-ubyte.gz",
    "power": "power/data.npy",
    "gas": "gas/ethylene_CO.pickle",
    "miniboone": "miniboone/data.npy",
    "ett": "ETT/ETTh1.csv",
    "physionet": "PhysioNet2012/measurements.npz",
    "omniglot": "Omniglot/compact/images_background.npz",
    "tiny_shakespeare": "tinyshakespeare/input.txt",
    "ptb": "ptb/ptb.train.txt",
    "cifar10": "cifar-10-python.tar.gz",
}


@pytest.mark.parametrize("name", FILES)
def test_a_sparse_terabyte(tmp_path, name):
    sparse(tmp_path / FILES[name], 1 << 40)
    refused(name, tmp_path)


JUNK = {
    "nothing": b"",
    "text": b"junk" * 5,
    "noise": np.random.default_rng(0).bytes(3000),
    "bad text": b"\xff\xfe" * 4000,
    "gzip": gzip.compress(b"\0" * 9),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", JUNK)
def test_junk(tmp_path, name, kind):
    put(tmp_path / FILES[name], JUNK[kind])
    if name == "tiny_shakespeare" and kind == "text":
        return  # a text it is
    refused(name, tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["a pipe", "a device", "a link that leads nowhere"])
def test_what_is_no_regular_file(tmp_path, name, kind):
    path = tmp_path / FILES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "a device" else tmp_path / "nowhere")
    if name != "physionet":  # whose file is one that it made itself: it then looks for the published ones
        refused(name, tmp_path, kind)
    else:
        refused(name, tmp_path)


@pytest.mark.parametrize("root", ["x" * 5000, "y/" * 2500, "z\0"])
@pytest.mark.parametrize("name", FILES)
def test_a_root_that_no_folder_can_have(root, name):
    with pytest.raises(ValueError, match="cannot be a folder of data"):
        DATA[name](root=root)


def idx(shape: tuple[int, ...], data: bytes) -> bytes:
    return bytes((0, 0, 8, len(shape))) + np.array(shape, ">i4").tobytes() + data


def test_mnist_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(MNIST, "published", {"train": 40, "t10k": 20})
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    bomb = packer.compress(idx((40, 28, 28), b""))
    bomb += b"".join(packer.compress(b"\0" * (1 << 20)) for _ in range(60)) + packer.flush()
    path = put(tmp_path / "MNIST/raw/train-images-idx3-ubyte.gz", bomb)
    assert "more than 31,376 bytes are packed" in refused("mnist", tmp_path)
    path.write_bytes(gzip.compress(idx((40, 28, 28), b"\0" * 40 * 28 * 28 + b"\0")))
    refused("mnist", tmp_path, "more than 31,376 bytes")
    path.write_bytes(gzip.compress(idx((1 << 30, 28, 28), b"\0" * 40 * 28 * 28)))
    refused("mnist", tmp_path, "40, 28, 28. were published")


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A tiny CIFAR-10, as a function of one batch's content."""
    monkeypatch.setattr(CIFAR10, "published", dict.fromkeys(CIFAR10.published, 20))
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    good = {"data": np.zeros((20, 3072), np.uint8), "labels": [0] * 20}
    for name in [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]:
        (folder / name).write_bytes(pickle.dumps(good, 2))

    def write(content) -> Path:
        (folder / "data_batch_3").write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 2))
        return tmp_path

    return write


IMAGES = np.zeros((20, 3072), np.uint8)
BOMB: list = [0] * 10
for _ in range(12):  # 10^13 numbers, where it is taken apart
    BOMB = [BOMB] * 10
CRAFTED = Call("numpy dtype", ("O8", 0, 1), (3, "|", None, None, None, -1, -1, 0))


@pytest.mark.parametrize(
    "labels",
    [
        [[0]] * 20,
        [0] * 19 + [[0]],
        [[0] * k for k in range(20)],
        ["0"] * 20,
        [None] * 20,
        [True] * 20,
        [10] * 20,
        [-1] * 20,
        [10**30] * 20,
        [0.0] * 20,
        [BOMB] * 20,
        [0] * 19,
        {},
        "0" * 20,
        np.zeros(20, np.int64),
    ],
)
def test_labels_that_are_none(cifar, labels):
    refused("cifar10", cifar({"data": IMAGES, "labels": labels}), "labels")


@pytest.mark.parametrize(
    "batch",
    [
        [],
        5,
        {},
        {"labels": [0] * 20},
        {"data": [0], "labels": [0] * 20},
        {"data": IMAGES[:, :-1], "labels": [0] * 20},
        {"data": IMAGES.astype(np.int64), "labels": [0] * 20},
        dumps({"data": array(IMAGES), "labels": array(np.arange(20), dtype=CRAFTED)}),  # crashed the interpreter
        dumps({"data": array(np.arange(4), dtype=CRAFTED), "labels": [0] * 20}),
        dumps({"data": Call("numpy _reconstruct", (), (1, (1 << 40, 3072), CRAFTED, False, "")), "labels": [0]}),
        dumps({"data": Call("os system", ("true",)), "labels": [0] * 20}),
    ],
)
def test_batches_that_are_none(cifar, batch):
    refused("cifar10", cifar(batch))


def test_an_archive_of_links_and_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "published", dict.fromkeys(CIFAR10.published, 20))
    path = tmp_path / "cifar-10-python.tar.gz"
    for kind, target in ((tarfile.SYMTYPE, "/etc/passwd"), (tarfile.LNKTYPE, "x//etc/passwd"), (tarfile.FIFOTYPE, "")):
        with tarfile.open(path, "w:gz") as archive:
            for name in ("../data_batch_1", "/etc/data_batch_2", "x/data_batch_3"):
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, target
                archive.addfile(info)
        refused("cifar10", tmp_path, "data_batch_1 is missing")
    info = tarfile.TarInfo("data_batch_1")
    info.size = 100 << 30
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 1024))
    refused("cifar10", tmp_path, "broken or ends early")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[483:495] = b"\x80\0\0\0\0\0\0\x19\0\0\0\0"  # the size that the holes make of it: 100 GB
    head[148:156] = b" " * 8
    head[148:156] = f"{sum(head):06o}\0 ".encode()
    path.write_bytes(gzip.compress(bytes(head) + b"\0" * 2048))
    refused("cifar10", tmp_path)


class Touch:
    """A payload: unpickled, it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_gas_does_not_run_a_payload(tmp_path, protocol):
    marker = tmp_path / "marker"
    for content in (Touch(marker), {"Meth": Touch(marker)}, [Touch(marker)]):
        put(tmp_path / "gas/ethylene_CO.pickle", pickle.dumps(content, protocol))
        refused("gas", tmp_path, "which no data file needs")
    put(tmp_path / "gas/ethylene_CO.pickle", dumps(Call("os system", (f"touch {marker}",))))
    refused("gas", tmp_path, "os.system")
    assert not marker.exists()


def test_gas_needs_its_columns(tmp_path):
    good = {
        name: np.random.default_rng(k).standard_normal(60) for k, name in enumerate(["Time", "Meth", "Eth", "a", "b"])
    }
    path = put(tmp_path / "gas/ethylene_CO.pickle", dumps(frame(good)))
    data = DATA["gas"](root=str(tmp_path))
    assert data.sizes == {"train": 49, "val": 5, "test": 6} and data.features == 2
    path.write_bytes(dumps(frame({k: v for k, v in good.items() if k != "Meth"} | {"c": good["a"]})))
    refused("gas", tmp_path, "no table with the columns Meth, Eth and Time")
    path.write_bytes(dumps(frame(good | {"a": np.full(60, np.nan)})))
    refused("gas", tmp_path)


def npy(shape, kind="<f8", data=b"") -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue() + data


@pytest.mark.parametrize("shape", [(43_000_000_000_000,), (1_290_000_000,), (10**30, 43), (30_000_000, 43)])
def test_a_header_that_declares_terabytes(tmp_path, shape):
    path = put(tmp_path / "miniboone/data.npy", npy(shape))
    refused("miniboone", tmp_path, "bytes of values follow|no array of numbers")
    if shape == (30_000_000, 43):
        with path.open("r+b") as file:  # it is as long as it says, and has no content
            file.truncate(len(npy(shape)) + 30_000_000 * 43 * 8 * 1000)
        refused("miniboone", tmp_path, "bytes")


def test_tables_of_another_kind(tmp_path):
    put(tmp_path / "miniboone/data.npy", npy((3,), "<f8", b"\0" * 24))
    refused("miniboone", tmp_path, "not rows of floating-point numbers")
    put(tmp_path / "miniboone/data.npy", npy((2, 3), "<i8", b"\0" * 48))
    refused("miniboone", tmp_path, "not rows of floating-point numbers")
    put(tmp_path / "miniboone/data.npy", npy((1,), "|O", pickle.dumps([Touch(tmp_path / "marker")])))
    refused("miniboone", tmp_path, "not numbers")
    assert not (tmp_path / "marker").exists()
    for text in (b"", b"a,b\n", b"a\nx,y\n", b"a\n1,2\n3\n", b"a\n\xff,1\n", b"a\n" + b"1" * 200_000 + b"x\n"):
        put(tmp_path / "hepmass/1000_train.csv", text)
        put(tmp_path / "hepmass/1000_test.csv", text)
        refused("hepmass", tmp_path)


def test_hdf5_that_points_elsewhere_or_declares_terabytes(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "BSDS300/BSDS300.hdf5"
    path.parent.mkdir()

    def write(train) -> None:
        with h5py.File(path, "w") as file:
            for name in ("validation", "test"):
                file[name] = np.zeros((3, 63))
            train(file)

    write(lambda file: file.create_dataset("train", (1 << 34, 63), "f8", chunks=(1, 63)))
    refused("bsds300", tmp_path, "more than it stores")
    write(lambda file: file.__setitem__("train", h5py.ExternalLink("/etc/passwd", "/x")))
    refused("bsds300", tmp_path, "is a link")
    write(lambda file: file.create_dataset("train", (2, 63), "f8", external=[("/etc/passwd", 0, 1008)]))
    refused("bsds300", tmp_path, "none of rows")
    write(lambda file: file.create_group("train"))
    refused("bsds300", tmp_path, "none of rows")
    write(lambda file: None)
    refused("bsds300", tmp_path, "lacks the arrays")


@pytest.mark.parametrize(
    "text",
    [
        b"date,wrong\n",
        b"\n",
        ",".join(["date", *COLUMNS]).encode(),
        (",".join(["date", *COLUMNS]) + "\n").encode() + b"x,\xff" * 3,
        (",".join(["date", *COLUMNS]) + "\n").encode() + b"d," + b"9" * 1_000_000 + b"\n",
        (",".join(["date", *COLUMNS]) + "\n").encode() + b'd,"' + b"9\n" * 1_000_000,
        (",".join(["date", *COLUMNS]) + "\n").encode() + b"d,1,2,3,4,5,6,7\nd,1\n",
        (",".join(["date", *COLUMNS]) + "\n").encode() + b"d,1,2,3,4,5,6,x\n",
        (",".join(["date", *COLUMNS]) + "\n").encode() + b"d,1,2,3,4,5,6,7\n" * 14_400 + b"\0\n",
        (",".join(["date", *COLUMNS]) + "\n").encode() + b"d,1,2,3,4,5,6,nan\n" * 14_400,
    ],
)
def test_tables_of_text(tmp_path, text):
    put(tmp_path / "ETT/ETTh1.csv", text)
    refused("ett", tmp_path, "is no complete data file")


def kept(**other) -> dict[str, np.ndarray]:
    """Measurements of two patients, as they are kept."""
    found = {}
    for s in "ab":
        found |= {f"record_{s}": np.array([0, 1]), f"hour_{s}": np.array([1.0, 2.0], np.float32)}
        found |= {f"channel_{s}": np.array([3, 4]), f"value_{s}": np.array([1.0, 2.0]), f"died_{s}": np.array([0, 1])}
    return found | other


@pytest.mark.parametrize(
    "content",
    [
        {"x": np.zeros(3)},
        kept(died_a=np.array([0, 1, 1])),
        kept(died_a=np.array([0, 7])),
        kept(record_a=np.array([0, 2])),
        kept(record_a=np.array([0, -1])),
        kept(record_a=np.array([0, 1, 1])),
        kept(record_a=np.array([0.0, 1.0])),
        kept(record_a=np.array(5)),
        kept(channel_b=np.array([0, len(CHANNELS)])),
        kept(hour_b=np.array([-1.0, 3.0])),
        kept(hour_b=np.array([1e9, 3.0])),
        kept(value_b=np.array([np.nan, 3.0])),
        kept(value_b=np.array([["a", "b"]])),
    ],
)
def test_measurements_that_are_none(tmp_path, monkeypatch, content):
    monkeypatch.setattr(PhysioNet, "published", 2)
    path = tmp_path / "PhysioNet2012/measurements.npz"
    path.parent.mkdir()
    np.savez(path, **content)
    refused("physionet", tmp_path, "no complete data file")
    np.savez(path, **kept())
    assert set(DATA["physionet"](root=str(tmp_path)).raw()) == set(kept())


def test_measurements_of_objects(tmp_path):
    path = tmp_path / "PhysioNet2012/measurements.npz"
    path.parent.mkdir()
    np.savez(path, allow_pickle=True, **kept(record_a=np.array([Touch(tmp_path / "marker")], object)))
    refused("physionet", tmp_path, "not numbers")
    with zipfile.ZipFile(path, "w") as archive:
        for name in kept():
            archive.writestr(f"{name}.npy", npy((2_009_000_000_043,), "<i8"))
    refused("physionet", tmp_path, "bytes of values follow")
    assert not (tmp_path / "marker").exists()


RECORD, OUTCOME = b"Time,Parameter,Value\n00:00,HR,70\n", b"RecordID,In-hospital_death\n"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("set-a/abc.txt", RECORD, "not the number of a record"),
        ("set-a/1.txt", b"\xff\xfe", "no text in UTF-8"),
        ("set-a/1.txt", RECORD + b"x,y,z\n", "is not Time,Parameter,Value"),
        ("set-a/1.txt", RECORD + b"00:00,HR,1e999\n", "is not Time,Parameter,Value"),
        ("set-a/1.txt", RECORD + b"99:00,HR,1\n", "is not Time,Parameter,Value"),
        ("set-a/1.txt", RECORD + b"-9:00,HR,1\n", "is not Time,Parameter,Value"),
        ("set-a/1.txt", b"x" * 2_000_000, "at most"),
        ("Outcomes-a.txt", OUTCOME + b"1,x\n", "does not hold whole numbers"),
        ("Outcomes-a.txt", OUTCOME + b"1,5\n", "not 0 or 1"),
        ("Outcomes-a.txt", OUTCOME + b"1\n", "published"),
        ("Outcomes-a.txt", b"x", "does not name RecordID"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_records_that_are_none(tmp_path, monkeypatch, name, content, why, packed):
    if packed and why == "at most":
        return  # the archive as a whole has a limit
    monkeypatch.setattr(PhysioNet, "published", 1)
    folder = tmp_path / "PhysioNet2012"
    good = {"set-a/1.txt": RECORD, "set-b/2.txt": RECORD, "Outcomes-a.txt": OUTCOME + b"1,0\n"}
    good["Outcomes-b.txt"] = OUTCOME + b"2,1\n"
    parts = {k: v for k, v in good.items() if not (name.startswith("set-a") and k.startswith("set-a"))} | {
        name: content
    }
    for part, data in parts.items():
        put(folder / part, data)
    if packed:
        with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
            for part in parts:
                archive.add(folder / part, part)
        for part in parts:
            (folder / part).unlink()
        (folder / "set-a").rmdir()
        (tmp_path / "all.tar.gz").rename(folder / "PhysioNet2012.tar.gz")
    refused("physionet", tmp_path, why)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 9)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [60_000, 9_000, 106, 104])
def test_omniglot_drawings_of_another_size(tmp_path, side):
    folder = tmp_path / "omniglot-py"
    folder.mkdir()
    with zipfile.ZipFile(folder / "images_background.zip", "w") as archive:
        archive.writestr("images_background/Latin/character01/0001_01.png", png(side, side))
    refused("omniglot", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        {"bits": np.zeros((2, 105, 14)), "label": np.zeros(2, int), "classes": np.array(["a"])},
        {"bits": np.zeros((2, 105, 14), np.uint8), "label": np.zeros(3, int), "classes": np.array(["a"])},
        {"bits": np.zeros((2, 105, 14), np.uint8), "label": np.array([0, 9]), "classes": np.array(["a"])},
        {"bits": np.zeros((2, 105, 14), np.uint8), "label": np.array([0, -1]), "classes": np.array(["a"])},
        {"bits": np.zeros((2, 105, 14), np.uint8), "label": np.zeros(2), "classes": np.array(["a"])},
        {"bits": np.zeros((2, 105, 14), np.uint8), "label": np.zeros(2, int), "classes": np.array(5)},
        {"bits": np.array(3, np.uint8), "label": np.zeros(2, int), "classes": np.array(["a"])},
        {"bits": np.zeros((2, 105, 14), np.uint8), "label": np.zeros(2, int)},
    ],
)
def test_omniglot_arrays_that_are_none(tmp_path, content):
    path = tmp_path / "Omniglot/compact/images_background.npz"
    path.parent.mkdir(parents=True)
    np.savez(path, **content)
    refused("omniglot", tmp_path, "no complete data file")


def test_a_scene_that_declares_gigapixels(tmp_path):
    base = tmp_path / "VOCdevkit/VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (base / folder).mkdir(parents=True)
    for split in ("train", "val"):
        (base / f"ImageSets/Segmentation/{split}.txt").write_text("a\n")
    (base / "JPEGImages/a.jpg").write_bytes(png(60_000, 60_000))
    (base / "SegmentationClass/a.png").write_bytes(png(2, 2))
    refused("voc", tmp_path, "declares far more pixels|at most 512x512")
    names = base / "ImageSets/Segmentation/train.txt"
    names.write_bytes(b"\xff\xfe")
    refused("voc", tmp_path)
    names.write_text("../../../etc/passwd\n")
    refused("voc", tmp_path, "was not found|cannot be decoded")
    sparse(names, 1 << 40)
    refused("voc", tmp_path, "1,099,511,627,776 bytes")
