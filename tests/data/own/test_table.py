"""A table of the user's own: columns, parts, categories, empty cells, and what a trained model keeps of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.data.files import DataError
from zoo.data.own.columns import column, read_columns
from zoo.data.own.table import Table
from zoo.storage.table_preprocessing import TablePreprocessing
from zoo.training.errors import UsageError
from zoo.training.request import resolve
from zoo.training.train import train

QUICK = {"max_epochs": 2, "limit_val_batches": 1, "accelerator": "cpu", "enable_progress_bar": False}


def write(path, rows=60, text="a,b,color,kind,price\n"):
    random = np.random.default_rng(0)
    lines = [
        f"{random.normal():.4f},{10 + 3 * random.normal():.4f},{'red' if i % 3 else 'blue'},{'xyz'[i % 3]},{i / 7:.3f}"
        for i in range(rows)
    ]
    path.write_text(text + "\n".join(lines) + "\n")
    return str(path)


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "t.csv")


def test_classes_and_categories(file):
    data = Table(file, target="kind", columns=["a", "b", "color"])
    assert data.sizes == {"train": 48, "val": 6, "test": 6} and data.classes == ("x", "y", "z")
    assert data.model_arguments() == {"features": 4, "num_classes": 3}
    x, y = data.split("train")
    assert x.dtype == torch.float32 and y.dtype == torch.int64 and torch.bincount(y).tolist() == [16, 16, 16]
    assert x[:, :2].mean(0).abs().max() < 1e-5 and (x[:, :2].std(0, correction=0) - 1).abs().max() < 1e-5
    assert set(x[:, 2:].flatten().tolist()) == {0.0, 1.0} and (x[:, 2:].sum(1) == 1).all()
    for part in ("train", "val", "test"):
        assert torch.equal(
            data.split(part)[0], Table(file, target="kind", columns=["a", "b", "color"], seed=5).split(part)[0]
        )


def test_numbers_are_predicted_in_their_own_units(file):
    data = Table(file, target="price", columns=["a", "b"], aim="regression")
    assert data.model_arguments() == {"features": 2, "targets": 1}
    prepare = TablePreprocessing.read(data.preprocessing)
    prices = torch.cat([prepare.answers(data.split(p)[1]) for p in data.sizes])
    assert np.allclose(np.sort(prices[:, 0].numpy()), np.sort(read_columns(data.root / file)["price"]), atol=1e-4)


def test_a_density_is_one_of_numbers(file):
    data = Table(file, columns=["a", "b"], aim="density")
    assert data.model_arguments() == {"features": 2} and next(iter(data.train_dataloader()))[0].shape == (48, 2)
    with pytest.raises(DataError, match="'color' holds text, 'blue' for one, and a density is one of numbers"):
        Table(file, aim="density").setup()
    with pytest.raises(ValueError, match="target='price' does nothing here"):
        Table(file, aim="density", target="price")


def test_the_preprocessing_makes_the_same_of_raw_rows(file):
    data = Table(file, target="kind", columns=["a", "b", "color"])
    prepare = TablePreprocessing.read(data.preprocessing)
    assert TablePreprocessing.read(prepare.as_dict()) == prepare
    raw = prepare(read_columns(data.root / file))
    every = torch.cat([data.split(p)[0] for p in data.sizes])
    assert {tuple(r) for r in raw.tolist()} == {tuple(r) for r in every.tolist()}
    with pytest.raises(ValueError, match=r"'color': No value named 'rde'. Did you mean 'red'"):
        prepare({"a": [0], "b": [0], "color": ["rde"]})
    with pytest.raises(ValueError, match="lacks the column 'color'"):
        prepare({"a": [0], "b": [0]})


def test_parquet_holds_the_same_as_csv(file, tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow
    from pyarrow import parquet

    table = read_columns(tmp_path / "t.csv")
    parquet.write_table(pyarrow.table({k: v.tolist() for k, v in table.items()}), tmp_path / "t.parquet")
    a, b = (Table(str(tmp_path / f"t.{end}"), target="kind") for end in ("csv", "parquet"))
    assert a.fingerprint() == b.fingerprint()


# ------------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,2,red,x", r"line 62: 4 cells, and 5 columns are named"),
        ("oops,2,red,x,1", r"row 61: 'oops' in column 'a' is no number, and 60 of 61 of its cells are"),
        (",2,red,x,1", r"row 61: column 'a' is empty or not finite there \(1 such rows\).*--data.missing drop or mean"),
        ("inf,2,red,x,1", r"row 61: column 'a' is empty or not finite"),
        ('"1,2', r"no table of cells with commas"),
    ],
)
def test_a_bad_row_is_named(file, tmp_path, line, said):
    with (tmp_path / "t.csv").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(DataError, match=said):
        Table(file, target="kind").setup()


def test_empty_cells_are_dropped_or_filled(file, tmp_path):
    with (tmp_path / "t.csv").open("a") as stream:
        stream.write(",2,red,x,1\n")
    assert sum(Table(file, target="kind", missing="drop").sizes.values()) == 60
    filled = Table(file, target="kind", missing="mean")
    assert sum(filled.sizes.values()) == 61
    assert all(torch.isfinite(filled.split(p)[0]).all() for p in filled.sizes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target": "knd"}, r"No column named 'knd'. Did you mean 'kind'"),
        ({"target": "price"}, r"'price' holds 0.143, and a class is a text or a whole number"),
        (
            {"target": "kind", "categorical": "refuse"},
            "'color' holds text, 'blue' for one, and --data.categorical is refuse",
        ),
        ({"target": "kind", "columns": ["kind"]}, "the column 'kind' is the target"),
        ({"target": "kind", "aim": "regression"}, "the target 'kind' holds text; a regression predicts numbers"),
    ],
)
def test_columns_that_do_not_fit(file, options, said):
    with pytest.raises(DataError, match=said):
        Table(file, **options).setup()


def test_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="needs a file: --data.path FILE"):
        Table()
    with pytest.raises(ValueError, match="classification needs to know its column: --data.target"):
        Table("t.csv")
    with pytest.raises(DataError, match="none.csv was not found"):
        Table(str(tmp_path / "none.csv"), target="a").prepare_data()
    for name, content, said in (
        ("a.csv", "a,a\n1,2\n", "must name every column once"),
        ("b.csv", "a,b\n", "holds no rows"),
        ("c.csv", "", "is empty"),
        ("d.txt", "a,b\n1,2\n", "names of tables end in"),
        ("one.csv", "a,b\n" + "1,x\n" * 9, "'b' has 1 classes in 9 rows"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=said):
            Table(str(tmp_path / name), target="b").setup()


def test_a_column_is_numbers_or_text(tmp_path):
    assert column(["1", "", "2.5"], "a", tmp_path).tolist()[::2] == [1.0, 2.5]
    assert column(["x", "", "y"], "a", tmp_path).tolist() == ["x", "", "y"]


# ------------------------------------------------------------------------------------------------------------- the road
def test_the_aim_follows_the_model():
    words = ["--data", "table", "--data.path", "t.csv"]
    aims = {name: resolve(["--model", name, *words]).config["data"]["aim"]
            for name in ("deq_mlp", "mlp_regressor", "cnf_ffjord")}  # fmt: skip
    assert aims == {"deq_mlp": "classification", "mlp_regressor": "regression", "cnf_ffjord": "density"}
    with pytest.raises(UsageError, match="is for classification, regression or density; mdeq_segmentation"):
        resolve(["--model", "mdeq_segmentation", *words])


@pytest.mark.parametrize(("model", "options"), [
    ("test_deq_mlp", {"target": "kind"}),
    ("test_deq_mlp_regressor", {"target": "price"}),
    ("test_cnf", {"columns": ["a", "b"]}),
])  # fmt: skip
def test_every_aim_trains(file, tmp_path, model, options):
    run = train(model, {"name": "table", "path": file, **options}, out=tmp_path / "run", trainer=QUICK)
    assert run["status"] == "finished" and np.isfinite(list(run["test"].values())).all()
