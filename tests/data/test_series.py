"""Irregular series: the made spirals, the records of PhysioNet (from small files made here), and their batches."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
import torch

from zoo.data import DATA
from zoo.data.files import DataError
from zoo.data.physionet import CHANNELS, PhysioNet, compact
from zoo.data.series import Series, Spirals


def test_spirals_are_the_same_for_every_seed_and_noisy_where_they_are_seen():
    a, b = Spirals(seed=0), Spirals(seed=1)
    assert a.fingerprint() == b.fingerprint() != Spirals(noise=0.1).fingerprint()
    assert a.sizes == {"test": 512, "val": 128, "train": 512}
    assert (a.features, a.num_classes) == (2, 0)
    s = a.split("test")
    clean = Spirals(noise=0.0).split("test")
    error = (s.values - clean.values)[s.mask]
    assert abs(float(error.std()) - 0.05) < 0.003
    torch.testing.assert_close(s.target, clean.target)  # the test asks for the truth
    train, true = Spirals().split("train"), Spirals(noise=0.0).split("train")
    assert abs(float((train.target - true.target)[train.target_mask].std()) - 0.05) < 0.003


def test_spirals_are_the_curves_they_say():
    data = Spirals(noise=0.0)
    s = data.split("test")
    for k in (0, 1, 7):
        seen = s.mask[k].all(-1)
        expected = data.truth(512, 0, s.times[k][seen].double().numpy())[k]
        np.testing.assert_allclose(s.values[k][seen].numpy(), expected, atol=2e-6)
    around = data.truth(512, 0, np.linspace(0, 2, 200))
    angle = np.unwrap(np.arctan2(around[..., 1], around[..., 0]), axis=1)
    turned = angle[:, -1] - angle[:, 0]
    assert (turned[::2] > 0).all() and (turned[1::2] < 0).all()
    assert np.array_equal(Spirals(aim="direction").split("test").label.numpy(), np.arange(512) % 2)


@pytest.mark.parametrize(("aim", "low", "high"), [("extrapolation", 1.0, 2.0), ("interpolation", 0.0, 1.0)])
def test_what_is_asked_lies_where_the_aim_says(aim, low, high):
    s = Spirals(aim=aim).split("train")
    assert s.query.min() >= low and s.query.max() <= high and s.times.max() <= 1.0
    lengths = s.mask.all(-1).sum(1)
    assert lengths.min() == 15 and lengths.max() == 30
    gaps = s.times[:, 1:] - s.times[:, :-1]
    assert bool((gaps[s.mask.all(-1)[:, 1:]] > 0).all()) and bool((gaps[~s.mask.all(-1)[:, 1:]] == 0).all())


def test_batches_depend_on_seed_and_epoch_alone_and_are_cut_to_their_longest():
    first, second = Spirals(seed=3).train_dataloader(), Spirals(seed=3).train_dataloader()
    second.set_epoch(1)
    a, b = list(first), list(second)
    again = list(first)  # its epoch 1
    assert all(isinstance(x, Series) for x in a)
    assert all(torch.equal(x, y) for s, t in zip(again, b, strict=True) for x, y in zip(s, t, strict=True))
    assert not torch.equal(a[0].values[:, :15], b[0].values[:, :15])
    for s in a:
        assert bool(s.mask[:, -1].any()) and bool(s.target_mask[:, -1].any())
    assert len(a) == 8 and sum(len(s.times) for s in Spirals().val_dataloader()) == 128


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"aim": "extrapolate"}, "'extrapolation'"),
        ({"noise": -1.0}, "noise must be at least 0"),
        ({"spread": 1.0}, "spread in"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        Spirals(**options)


def test_the_sets_are_named():
    assert {"spirals", "physionet"} <= {e.name for e in DATA.entries(kind="series")}
    assert DATA["spirals"] is Spirals


# PhysioNet: twenty made records a set


@pytest.fixture
def records(tmp_path, monkeypatch):
    monkeypatch.setattr(PhysioNet, "published", 20)
    folder = tmp_path / "PhysioNet2012"
    for which, first in (("a", 100), ("b", 500)):
        (folder / f"set-{which}").mkdir(parents=True)
        ids = range(first, first + 20)
        outcomes = "".join(f"{i},6,1,5,-1,{int(i % 4 == 0)}\n" for i in ids)
        (folder / f"Outcomes-{which}.txt").write_text(
            "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n" + outcomes
        )
        for i in ids:
            lines = [f"00:00,RecordID,{i}", f"00:00,Age,{50 + i % 10}", "00:00,Height,-1", "00:00,Weight,80"]
            lines += [
                f"00:10,HR,{60 + i % 7}",
                "00:50,HR,80",
                "10:30,Temp,36.6",
                "10:30,Temp,0",
                f"{30 + i % 3}:00,pH,7.4",
            ]
            (folder / f"set-{which}" / f"{i}.txt").write_text("Time,Parameter,Value\n" + "\n".join(lines) + "\n")
    return tmp_path


def channel(name: str) -> int:
    return CHANNELS.index(name)


def test_records_become_rows_of_hours(records):
    data = PhysioNet(root=str(records))
    assert data.features == 41 and data.num_classes == 2 and data.sizes == {"train": 16, "val": 4, "test": 20}
    raw = data.raw()
    grid = data.grid(*(raw[f"{k}_b"] for k in ("record", "hour", "channel", "value")), 20)
    times, values, mask = grid
    assert times.shape == (20, 4) and times[0].tolist() == [0.0, 1.0, 11.0, 32.0]  # 500 % 3 == 2
    assert values[0, 1, channel("HR")] == pytest.approx(((60 + 500 % 7) + 80) / 2)  # two in one hour: their mean
    assert not mask[:, :, channel("Height")].any()  # -1: unknown
    assert values[0, 2, channel("Temp")] == pytest.approx(36.6)  # 0 is no temperature
    assert mask.sum() == 20 * 5
    test = data.split("test")
    assert float(test.times[0, 3]) == pytest.approx(32 / 48) and test.label.sum() == 5
    assert test.query.shape == (20, 0)


def test_channels_are_standardised_by_the_training_records(records):
    train = PhysioNet(root=str(records)).split("train")
    hr, seen = train.values[..., channel("HR")], train.mask[..., channel("HR")]
    assert abs(float(hr[seen].mean())) < 1e-5 and abs(float(hr[seen].std(correction=0)) - 1) < 1e-5
    assert float(train.values[~train.mask].abs().sum()) == 0
    ranged = PhysioNet(root=str(records), scale="range").split("train")
    hr = ranged.values[..., channel("HR")][seen]
    assert float(hr.min()) == 0 and float(hr.max()) == 1


def test_the_second_day_is_asked_of_the_first(records):
    s = PhysioNet(root=str(records), aim="extrapolation").split("test")
    assert s.times.max() <= 0.5 < float(s.query[s.target_mask.any(-1)].min())
    assert (s.label == -1).all() and s.target_mask.sum() == 20
    again = PhysioNet(root=str(records), aim="reconstruction").split("test")
    assert torch.equal(again.query, again.times) and torch.equal(again.target, again.values)


def test_hidden_rows_are_asked_of_the_others(records):
    whole = PhysioNet(root=str(records)).split("test")
    s = PhysioNet(root=str(records), aim="interpolation").split("test")
    assert 0 < int(s.target_mask.sum()) < int(whole.mask.sum())
    for k in range(len(s.times)):  # a row is either shown or asked for
        shown, asked = set(s.times[k][s.mask[k].any(-1)].tolist()), set(s.query[k][s.target_mask[k].any(-1)].tolist())
        assert asked and not shown & asked


def test_an_archive_and_the_kept_measurements_give_the_same(records):
    expected = PhysioNet(root=str(records)).fingerprint()
    folder = records / "PhysioNet2012"
    assert (folder / "measurements.npz").is_file()
    assert PhysioNet(root=str(records)).fingerprint() == expected
    other = records / "other" / "PhysioNet2012"
    other.mkdir(parents=True)
    with tarfile.open(other / "PhysioNet2012.tar.gz", "w:gz") as archive:
        for name in ("set-a", "set-b", "Outcomes-a.txt", "Outcomes-b.txt"):
            archive.add(folder / name, f"PhysioNet2012/{name}")
    assert PhysioNet(root=str(records / "other")).fingerprint() == expected


def test_files_that_are_missing_or_broken_are_named(records, tmp_path):
    folder = records / "PhysioNet2012"
    with pytest.raises(DataError, match=r"PhysioNet2012\.tar\.xz"):
        PhysioNet(root=str(tmp_path / "nothing")).setup()
    record = folder / "set-a" / "100.txt"
    text = record.read_text()
    record.write_text(text + "11:00,HR\n")
    with pytest.raises(DataError, match="the line '11:00,HR' is not Time,Parameter,Value"):
        PhysioNet(root=str(records)).setup()
    record.unlink()
    with pytest.raises(DataError, match="set A has 19 records and 20 outcomes; 20 of both"):
        PhysioNet(root=str(records)).setup()


def test_rows_without_measurement_are_left_out():
    times = np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    mask = np.array([[[True], [False], [True]], [[False], [True], [False]]])
    clock, values, kept = compact(times, np.arange(6.0).reshape(2, 3, 1), mask)
    assert clock.tolist() == [[0.0, 2.0], [1.0, 1.0]]
    assert kept[..., 0].tolist() == [[True, True], [True, False]]
    assert values[kept].tolist() == [0.0, 2.0, 4.0]
