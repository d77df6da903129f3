"""The tabular sets, on small files in the published layout that the tests make."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data import DATA
from zoo.data.files import DataError

RANDOM = np.random.default_rng(0)


def save(path, array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)


def standard(x: torch.Tensor) -> bool:
    x = x.double()
    return bool((x.mean(0).abs() < 1e-3).all() and ((x.std(0, correction=0) - 1).abs() < 1e-3).all())


def test_power(tmp_path):
    raw = np.arange(8.0) * 100 + RANDOM.standard_normal((1000, 8))
    save(tmp_path / "power/data.npy", raw)
    data = DATA["power"](root=str(tmp_path))
    assert data.sizes == {"train": 810, "val": 90, "test": 100} and data.features == 6 == type(data).published
    assert standard(torch.cat([data.split("train")[0], data.split("val")[0]]))
    # by hand: the published order of the random calls, with the published seed
    random = np.random.RandomState(42)
    want = raw.copy()
    random.shuffle(want)
    voltage, power, meters = 0.01 * random.rand(1000, 1), 0.001 * random.rand(1000, 1), random.rand(1000, 3)
    want = want[:, [0, 2, 4, 5, 6, 7]] + np.hstack([power, voltage, meters, np.zeros((1000, 1))])
    mean, deviation = want[:900].mean(0), want[:900].std(0)
    np.testing.assert_allclose(data.split("test")[0], (want[900:] - mean) / deviation, atol=1e-5)
    assert DATA["power"](root=str(tmp_path), seed=4).fingerprint() == data.fingerprint()


def test_miniboone_in_a_folder_data(tmp_path):
    save(tmp_path / "data/miniboone/data.npy", 3 + 2 * RANDOM.standard_normal((200, 5)))
    data = DATA["miniboone"](root=str(tmp_path))
    assert data.sizes == {"train": 162, "val": 18, "test": 20} and data.features == 5
    assert standard(torch.cat([data.split("train")[0], data.split("val")[0]]))


def test_hepmass(tmp_path):
    (tmp_path / "hepmass").mkdir()
    for name, extra in (("train", 0), ("test", 1)):
        x = RANDOM.standard_normal((300, 5 + extra))
        x[:, 0] = np.arange(300) % 3 == 0  # a third is of class 1
        x[:, 2] = np.round(np.abs(x[:, 2]))  # a column that repeats its smallest value
        np.savetxt(tmp_path / f"hepmass/1000_{name}.csv", x, delimiter=",", header="# label,...")
    data = DATA["hepmass"](root=str(tmp_path))
    assert data.sizes == {"train": 90, "val": 10, "test": 100} and data.features == 3
    assert standard(torch.cat([data.split("train")[0], data.split("val")[0]]))


def test_gas(tmp_path):
    pandas = pytest.importorskip("pandas")
    x = RANDOM.standard_normal((500, 4))
    x[:, 2] = x[:, 0] * 3 + 0.01 * x[:, 2]  # says what the first sensor says
    names = ["Time", "Meth", "Eth", "a", "b", "c", "d"]
    frame = pandas.DataFrame(np.hstack([RANDOM.standard_normal((500, 3)), x]), columns=names)
    (tmp_path / "gas").mkdir()
    frame.to_pickle(tmp_path / "gas/ethylene_CO.pickle")
    data = DATA["gas"](root=str(tmp_path))
    assert data.sizes == {"train": 405, "val": 45, "test": 50} and data.features == 3
    want = (x - x.mean(0)) / x.std(0, ddof=1)
    np.testing.assert_allclose(data.split("test")[0], want[450:][:, [1, 2, 3]], atol=1e-5)


def test_bsds300(tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "BSDS300").mkdir()
    with h5py.File(tmp_path / "BSDS300/BSDS300.hdf5", "w") as file:
        for name, n in (("train", 30), ("validation", 10), ("test", 20)):
            file[name] = RANDOM.standard_normal((n, 63))
    data = DATA["bsds300"](root=str(tmp_path))
    assert data.sizes == {"train": 30, "val": 10, "test": 20} and data.features == 63


@pytest.mark.parametrize("name", ["power", "gas", "hepmass", "miniboone", "bsds300"])
def test_what_is_missing_is_named_with_the_way_out(tmp_path, name):
    assert DATA.entry(name).kind == "density"
    with pytest.raises(DataError, match=r"was not found; looked for .* --data.root .* ZOO_DATA"):
        DATA[name](root=str(tmp_path)).prepare_data()


def test_damaged_files_are_named(tmp_path):
    save(tmp_path / "power/data.npy", RANDOM.standard_normal((50, 7)))
    with pytest.raises(DataError, match="7 columns; 8 were published"):
        DATA["power"](root=str(tmp_path)).setup()
    (tmp_path / "miniboone").mkdir()
    (tmp_path / "miniboone/data.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(DataError, match="no array of numbers"):
        DATA["miniboone"](root=str(tmp_path)).setup()
    bad = RANDOM.standard_normal((50, 3))
    bad[3, 1] = np.nan
    save(tmp_path / "miniboone/data.npy", bad)
    with pytest.raises(DataError, match="not finite"):
        DATA["miniboone"](root=str(tmp_path)).setup()
