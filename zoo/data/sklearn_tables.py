"""Two small tables that are part of scikit-learn: no download."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch

from zoo.data.own.splits import cut_rows
from zoo.data.tensors import Split, TensorData


class SmallTable(TensorData):
    """A table of scikit-learn's, standardized by its training part; a fifth of it tests, a tenth validates.

    Args:
        root: none is taken, as nothing is read.
        batch_size: rows a batch.
        seed: of the order; not of the parts.
    """

    reads_files = False
    number: ClassVar[bool]  # whether a number is predicted, not a class

    def __init__(self, root: str | None = None, batch_size: int = 32, seed: int = 0) -> None:
        super().__init__(root, batch_size, seed)

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the columns (n, D) and what is predicted (n,)."""
        raise NotImplementedError

    def read(self) -> dict[str, Split]:
        x, y = self.table()
        rows = cut_rows(len(x), 0.1, 0.2, None if self.number else y)
        seen = rows["train"]
        x = (x - x[seen].mean(0)) / x[seen].std(0)
        target = ((y - y[seen].mean()) / y[seen].std())[:, None].astype(np.float32) if self.number else y
        values, targets = torch.from_numpy(x.astype(np.float32)), torch.from_numpy(target)
        return {part: (values[torch.from_numpy(i)], targets[torch.from_numpy(i)]) for part, i in rows.items()}


class BreastCancer(SmallTable):
    """569 tumors by 30 numbers of their cells' nuclei: malignant or benign.

    Reference: Street, Wolberg and Mangasarian, "Nuclear feature extraction for breast tumor diagnosis", 1993.
    """

    number = False
    features = 30
    num_classes = 2
    classes = ("malignant", "benign")

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_breast_cancer

        bunch = load_breast_cancer()
        return bunch.data, bunch.target.astype(np.int64)


class Diabetes(SmallTable):
    """442 patients by 10 numbers: how far the disease went in a year.

    Reference: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004.
    """

    number = True
    features = 10
    targets = 1

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        from sklearn.datasets import load_diabetes

        return load_diabetes(return_X_y=True)
