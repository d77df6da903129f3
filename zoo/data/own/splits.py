"""Rows of a set of the user's own, cut into training, validation and test: the same for every seed."""

from __future__ import annotations

import numpy as np

from zoo.data.files import DataError
from zoo.data.images import stratified


def check_fractions(name: str, val: float, test: float) -> None:
    """Raise ValueError for shares that leave nothing to train on."""
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(
            f"{name}: val_fraction and test_fraction must be above 0 and leave something to train on; got {val} and "
            f"{test}."
        )


def cut_rows(count: int, val: float, test: float, labels: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return the rows of each part, sorted; of every class its share, where labels are given.

    Raises:
        DataError: fewer than three rows.
    """
    if count < 3:
        raise DataError(f"{count} rows cannot be cut into training, validation and test; give three at least.")
    kinds = np.zeros(count, np.int64) if labels is None else labels
    rest, last = stratified(kinds, test, seed=0)
    if not len(last):
        rest, last = rest[:-1], rest[-1:]
    kept, held = stratified(kinds[rest], val / (1 - test), seed=0)
    if not len(held):
        kept, held = kept[:-1], kept[-1:]
    return {"train": rest[kept], "val": rest[held], "test": last}
