"""How pictures are prepared: values that cannot be are refused when they are read, not when a picture comes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zoo.storage.preprocessing import Preprocessing

GOOD = {"size": 8, "mean": [0.5], "std": [0.25], "white": 16, "classes": ["a", "b"], "data": "digits", "kind": "image"}


def test_it_comes_back():
    made = Preprocessing.read(GOOD)
    assert made.as_dict() == GOOD and made.frame == (8, 8) and made.in_chans == 1
    assert Preprocessing.read({**GOOD, "size": [8, 6]}).frame == (8, 6)
    assert Preprocessing.read({"size": 8, "mean": [0], "std": [1]}).white == 255
    x = made(np.full((8, 8), 16, np.uint8))
    torch.testing.assert_close(x, torch.full((1, 1, 8, 8), 2.0))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("size", v) for v in (10**6, 10**300, 0, -1, 0.5, float("nan"), "8", True, [8], [8, 8, 8], [8, 0.5], {})),
        *(("mean", v) for v in (0.5, [], ["a"], [None], [float("nan")], [float("inf")], [0.5, 0.5], [0.5] * 4, {})),
        *(("std", v) for v in ([0], [-1.0], [float("nan")], [True], "1", [[1.0]])),
        *(("white", v) for v in (0, -1, 1.5, None, "255", True, float("inf"), 10**30)),
        *(("classes", v) for v in ({"a": 1}, "ab", [1, 2], None, [["a"]], 5)),
        ("data", 5),
        ("kind", "sound"),
        ("kind", []),
        ("sise", 8),
    ],
)
def test_what_cannot_be_is_refused(key, value):
    with pytest.raises(ValueError, match=r"^preprocessing.*" + key[:3]) as caught:
        Preprocessing.read({**GOOD, key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["size", "mean", "std"])
def test_what_is_missing_is_named(key):
    with pytest.raises(ValueError, match=f"the key '{key}' is missing"):
        Preprocessing.read({k: v for k, v in GOOD.items() if k != key})


def test_names_of_answers_are_as_many_as_answers():
    made = Preprocessing.read(GOOD)
    made.check_classes(2)
    Preprocessing.read({**GOOD, "classes": []}).check_classes(3)
    with pytest.raises(ValueError, match="2 classes are named, and the model answers 3"):
        made.check_classes(3)


@pytest.mark.parametrize("data", [b"", b"no picture"])
def test_a_file_that_holds_no_picture_is_named(tmp_path, data):
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=rf"a\.png is not read: it {'cannot be decoded' if data else 'is empty'}"):
        Preprocessing.read(GOOD)(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"b\.png is not read: it cannot be opened"):
        Preprocessing.read(GOOD)(str(tmp_path / "b.png"))
    with pytest.raises(ValueError, match="is a folder"):
        Preprocessing.read(GOOD)(tmp_path)


def test_without_a_size_each_picture_keeps_its_own():
    read = Preprocessing.read({**GOOD, "size": None})
    assert read.frame is None and read(torch.zeros(5, 7)).shape == (1, 1, 5, 7)
    assert Preprocessing.read(read.as_dict()) == read
