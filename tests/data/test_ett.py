"""ETT's windows, from a small file made here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.ett import COLUMNS, ETT
from zoo.data.files import DataError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(ETT, "parts", {"train": 40, "val": 12, "test": 12})
    (tmp_path / "ETT").mkdir()
    hours = [f"h{k},{','.join(str(k + c) for c in range(7))}" for k in range(70)]
    (tmp_path / "ETT" / "ETTh1.csv").write_text("\n".join(["date," + ",".join(COLUMNS), *hours]) + "\n")
    return tmp_path


def test_windows_lie_in_their_split_and_are_what_the_file_says(root):
    data = ETT(root=str(root), lookback=6, horizon=3, stride=2)
    assert data.sizes == {"train": 16, "val": 10, "test": 10}
    mean, spread = np.arange(40).mean(), np.arange(40).std()
    test = data.split("test")
    hours = test.target * spread + mean  # the same for every channel, as they differ by a constant
    torch.testing.assert_close(hours[0, :, 0], torch.tensor([52.0, 53.0, 54.0]))
    torch.testing.assert_close(hours[-1, :, 6], torch.tensor([61.0, 62.0, 63.0]))
    seen = test.values[0, :, 3] * spread + mean
    torch.testing.assert_close(seen, torch.arange(46.0, 52.0))
    torch.testing.assert_close(test.times[0], torch.arange(6) / 6)
    torch.testing.assert_close(test.query[0], 1 + torch.arange(3) / 6)


def test_values_are_hidden_alike_in_all_runs(root):
    a, b = (ETT(root=str(root), lookback=20, horizon=3, drop=0.5, seed=s).split("train") for s in (0, 1))
    assert torch.equal(a.mask, b.mask) and 0.4 < float(a.mask.float().mean()) < 0.6
    assert bool(a.mask[:, -1].all()) and not a.values[~a.mask].any()


def test_what_is_wrong_is_named(root):
    with pytest.raises(DataError, match="ETTh2"):
        ETT(root=str(root), which="h2", lookback=6, horizon=3).setup()
    file = root / "ETT" / "ETTh1.csv"
    lines = file.read_text().splitlines()
    for text, sentence in (
        ("\n".join(lines[1:]), "first line does not name"),
        ("\n".join(lines[:50]), "49 complete hours; 64 are needed"),
        ("\n".join([*lines[:5], "h,1,2,x,4,5,6,7", *lines[6:]]), "does not hold 7 numbers"),
    ):
        file.write_text(text)
        with pytest.raises(DataError, match=sentence):
            ETT(root=str(root), lookback=6, horizon=3).setup()
    for wrong in ({"lookback": 0}, {"horizon": 13}, {"drop": 1.0}, {"which": "m1"}):
        with pytest.raises(ValueError, match="ETT: "):
            ETT(root=str(root), **{"lookback": 6, "horizon": 3} | wrong)
