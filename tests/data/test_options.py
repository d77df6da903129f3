"""An option of a data set does something, or is refused in words: over every set that needs no file."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch

from zoo.data import DATA
from zoo.data.base import InMemoryDataModule
from zoo.registry import option_names

DRAWN = [name for name in DATA.names() if not DATA[name].reads_files]
FILES = [name for name in DATA.names() if DATA[name].reads_files]
SMALL = {  # that the passes below are short
    "two_body": {"count": 2},
    "ideal_pendulum": {"count": 2},
    "digit_episodes": {"train_episodes": 20, "val_episodes": 2, "test_episodes": 2},
    "photograph": {"side": 16},
    "prefix_sums": {"train_size": 40, "val_size": 10, "test_size": 10},
    "mazes": {"train_size": 40, "val_size": 10, "test_size": 10},
    "sudoku4": {"train_size": 40, "val_size": 10, "test_size": 10},
    "sudoku6": {"train_size": 40, "val_size": 10, "test_size": 10},
    "sudoku9": {"train_size": 40, "val_size": 10, "test_size": 10},
    "qp_family": {"variables": 8, "equalities": 3, "inequalities": 3, "count": 240},
    "qp_family_nonconvex": {"variables": 8, "equalities": 3, "inequalities": 3, "count": 240},
}
OTHER = {  # another value than the default, where twice the number and one is none
    "batch_size": 7,
    "convex": False,
    "queries": 12,
    "aim": "direction",
    "level": "words",
    "order": "random",
    "rotations": True,
    "val_fraction": 0.25,
    "test_fraction": 0.25,
    "spread": 0.5,
    "crop": 16,
    "min_count": 3,
    "bpe_size": 300,
    "vocabulary": "somewhere",
    "shots": 2,
    "ways": 3,
    "train_ways": 5,
    "epochs_per_task": 2,
    "noise": 0.5,
    "loops": 0.5,
    "test_puzzles": "ambiguous",
    "test_loops": 0.5,
    "eval_batch_size": 3,
    "num_workers": 1,
}
IDLE = {  # refused with the other options as they are by default
    **{(name, "root"): "nothing is read from a folder" for name in DRAWN},
    ("shapes", "download"): "nothing is downloaded",
    ("python_docs", "min_count"): "a token is one of characters",
    ("python_docs", "bpe_size"): "a token is one of characters",
}
# nothing can be missing, so that neither value asks for anything
KEPT_FOR_ALL = {(name, "download") for name in DRAWN if name != "shapes"}
LATER = {("python_docs", "vocabulary"), ("python_docs", "eval_batch_size")}  # see test_text and below


def pairs() -> list[tuple[str, str]]:
    """Every option of every set that needs no file."""
    return [(name, option) for name in DRAWN for option in option_names(DATA[name])]


def behavior(data: InMemoryDataModule) -> Any:
    """What a training sees: sizes, and the first batches of its second epoch and of the evaluations."""
    found: list[Any] = [data.sizes, data.model_arguments()]
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        epochs = getattr(loader, "set_epoch", lambda epoch: None)
        epochs(1)
        found += [len(loader), getattr(loader, "workers", None)]
        for inner in getattr(loader, "loaders", [loader])[:1]:
            found.append(inner.workers if hasattr(inner, "workers") else None)
            inner.workers = 0
        if not isinstance(loader, list):
            batch = next(iter(loader))
            found.append([x.clone() if isinstance(x, torch.Tensor) else x for x in batch])
    return found


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@pytest.mark.parametrize(("name", "option"), [p for p in pairs() if p not in KEPT_FOR_ALL | LATER])
def test_an_option_does_something_or_is_refused(name, option):
    kind, small = DATA[name], SMALL.get(name, {})
    default = small.get(option, inspect.signature(kind).parameters[option].default)
    if option == "root":
        other: Any = "somewhere"
    elif option == "augment":
        other = not (kind.augmented if default is None else default)
    elif (name, option) == ("shapes", "download"):
        other = True
    elif option in ("min_holes", "max_holes"):
        other = default - 1
    elif option == "test_nodes":
        other = inspect.signature(kind).parameters["max_holes"].default - 2
    elif option == "count" or option not in OTHER:
        other = 2 * default + 1
    else:
        other = OTHER[option]
    assert other != default
    if (name, option) in IDLE:
        with pytest.raises(
            ValueError, match=f"{option}=.* does nothing here: .*{IDLE[name, option]}.*Leave --data.{option}"
        ):
            kind(**{**small, option: other})
        assert kind(**small, **{option: default} if option not in small else {}) is not None
        return
    before, after = behavior(kind(**small)), behavior(kind(**{**small, option: other}))
    assert not same(before, after), f"{name}: {option}={other!r} changes nothing that a training sees"


@pytest.mark.parametrize("name", FILES)
def test_sets_of_files_look_below_their_root(name, tmp_path, monkeypatch):
    """Those that cannot be found there say so and name the folder."""
    monkeypatch.delenv("ZOO_DATA", raising=False)
    files = {"text": "a.txt", "arrays": "a.npz", "table": "a.csv", "series_table": "a.csv"}
    options = {"path": files[name]} if name in files else {}
    if name == "table":
        options["target"] = "y"
    if "download" in option_names(DATA[name]):
        options["download"] = False
    data = DATA[name](root=str(tmp_path), **options)
    with pytest.raises(RuntimeError, match=str(tmp_path)):
        data.prepare_data()
        data.setup()


@pytest.mark.parametrize(("name", "why"), [("cityscapes", "nothing is downloaded")])
def test_what_is_not_downloaded_says_so(name, why):
    with pytest.raises(ValueError, match=why):
        DATA[name](download=True)


@pytest.mark.parametrize(
    ("name", "options", "idle"),
    [
        ("ptb", {"val_fraction": 0.2}, "val_fraction"),
        ("wikitext2", {"test_fraction": 0.2}, "test_fraction"),
        ("ptb", {"bpe_size": 300}, "bpe_size"),
        ("ptb", {"level": "characters", "min_count": 2}, "min_count"),
        ("python_docs", {"level": "bpe", "min_count": 2}, "min_count"),
        ("python_docs", {"vocabulary": "run", "level": "words"}, "level"),
        ("python_docs", {"vocabulary": "run", "min_count": 4}, "min_count"),
        ("python_docs", {"vocabulary": "run", "bpe_size": 400}, "bpe_size"),
    ],
)
def test_options_that_others_make_idle(name, options, idle):
    with pytest.raises(ValueError, match=f"{idle}=.* does nothing here"):
        DATA[name](**options)


def test_options_that_a_text_uses():
    assert DATA["ptb"](min_count=2).min_count == 2
    assert DATA["python_docs"](level="bpe", bpe_size=300).bpe_size == 300
    assert DATA["python_docs"](eval_batch_size=3).test_dataloader().batch_size == 3
