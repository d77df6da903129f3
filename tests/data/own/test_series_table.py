"""Series of the user's own: rows in any order, aims, dates, empty cells, and rows that are wrong."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.files import DataError
from zoo.data.own.series_table import SeriesTable
from zoo.training.train import train

QUICK = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1,
         "accelerator": "cpu", "enable_progress_bar": False}  # fmt: skip
HEAD = "id,time,a,b,label\n"


def rows(series=20, long=10):
    random = np.random.default_rng(0)
    out = []
    for i in range(series):
        for k in range(long - i % 3):
            b = "" if random.random() < 0.4 and k else f"{random.normal():.3f}"
            out.append(f"s{i},{k + 0.1 * i:.2f},{np.sin(k + i):.4f},{b},{'up' if i % 2 else 'down'}")
    return out


def write(path, lines, head=HEAD):
    path.write_text(head + "\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "s.csv", rows())


def make(path, **options):
    return SeriesTable(path, columns=["a", "b"], label="label", **options)


def test_forecasts_ask_for_the_last_rows(file):
    data = make(file)
    assert data.sizes == {"train": 16, "val": 2, "test": 2}
    assert data.model_arguments() == {"features": 2, "num_classes": 0}
    part = data.split("train")
    last_seen = torch.where(part.mask.any(2), part.times, -1.0).amax(1)
    first_asked = torch.where(part.target_mask.any(2), part.query, 9.0).amin(1)
    assert (last_seen < first_asked).all() and part.times.max() <= 1 and part.times.min() == 0
    seen, asked = part.values[part.mask], part.target[part.target_mask]
    assert len(asked) and torch.isfinite(torch.cat([seen, asked])).all()


def test_interpolation_hides_rows_between(file):
    data = make(file, aim="interpolation", share=0.5)
    part = data.split("train")
    assert part.mask[:, 0].any(1).all()  # the first row is always seen
    assert torch.equal(part.query, make(file, aim="interpolation", share=0.5, seed=9).split("train").query)


def test_labels_of_series(file):
    data = make(file, aim="classification")
    assert data.model_arguments() == {"features": 2, "num_classes": 2} and list(data.classes) == ["down", "up"]
    assert torch.bincount(data.split("train").label).tolist() == [8, 8] and data.split("train").query.shape[1] == 0


def test_the_order_of_rows_and_dates_do_not_matter(tmp_path):
    lines = rows()
    a = make(write(tmp_path / "a.csv", lines))
    b = make(write(tmp_path / "b.csv", lines[::-1]))
    assert a.fingerprint() == b.fingerprint()
    day = np.datetime64("2024-05-01T00:00")
    dated = []
    for line in lines:
        name, t, rest = line.split(",", 2)
        dated.append(f"{name},{day + np.timedelta64(round(float(t) * 60_000_000), 'us')},{rest}")
    c = make(write(tmp_path / "c.csv", dated))
    torch.testing.assert_close(a.split("test").times, c.split("test").times)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("s0,0.00,1,2,down", r"series s0 has the time 0 twice, in rows 1 and 182"),
        ("s99,0.5,1,2,down", "series s99 has one row"),
        ("s0,99,1,2,up", "series s0 has the labels down and up"),
        ("s0,,1,2,down", r"row 182: the time is missing"),
        ("s0,99,inf,2,down", r"row 182: a value is infinite"),
        ("s0,99,oops,2,down", "'oops' in column 'a' is no number"),
        ("s99,1,,,up\ns99,2,,,up", "nothing was seen in series s99"),
    ],
)
def test_a_bad_row_is_named(tmp_path, line, said):
    with pytest.raises(DataError, match=said):
        make(write(tmp_path / "s.csv", [*rows(), line]), aim="classification").setup()


def test_options_that_do_not_fit(file, tmp_path):
    with pytest.raises(ValueError, match="needs a file"):
        SeriesTable()
    with pytest.raises(ValueError, match="classification needs to know its column: --data.label"):
        SeriesTable(file, aim="classification")
    with pytest.raises(ValueError, match="share=0.5 does nothing here"):
        make(file, aim="classification", share=0.5)
    with pytest.raises(DataError, match=r"No column named 'when'"):
        make(file, time="when").setup()
    with pytest.raises(DataError, match="column 'label' holds text, 'down' for one; channels are numbers"):
        SeriesTable(file).setup()


@pytest.mark.parametrize("model", ["test_ode_rnn", "test_latent_ode", "test_neural_cde"])
@pytest.mark.parametrize("aim", ["extrapolation", "interpolation", "classification"])
def test_models_of_series_train(file, tmp_path, model, aim):
    if (model, aim) == ("test_neural_cde", "extrapolation"):
        pytest.skip("a neural CDE follows what it sees, so that it has no forecast")
    data = {"name": "series_table", "path": file, "columns": ["a", "b"], "label": "label", "aim": aim}
    run = train(model, data, out=tmp_path / "run", trainer=QUICK)
    assert run["status"] == "finished"
