"""Plain DataLoaders as a data module: `data_module`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from zoo.training.errors import UsageError

ORDER = ("train", "val", "test")


class Loaders(LightningDataModule):
    """The batches of training, and of validation and test where they are given.

    Args:
        train, val, test: iterables of batches, such as `torch.utils.data.DataLoader`; None: there are none.
    """

    def __init__(self, train: Iterable[Any], val: Iterable[Any] | None = None, test: Iterable[Any] | None = None):
        super().__init__()
        self.loaders = {"train": train, "val": val, "test": test}
        size = getattr(train, "batch_size", None)
        if size is not None:
            self.batch_size = size  # what a step's batch is made up of, see `step_batch`

    def train_dataloader(self) -> Any:
        return self.loaders["train"]

    def val_dataloader(self) -> Any:
        return self.loaders["val"] if self.loaders["val"] is not None else []

    def test_dataloader(self) -> Any:
        return self.loaders["test"] if self.loaders["test"] is not None else []


def data_module(data: Any) -> LightningDataModule:
    """A data module as it is; one or more loaders (train[, val[, test]]) as one.

    Raises:
        UsageError: it is neither.
    """
    if isinstance(data, LightningDataModule):
        return data
    if isinstance(data, Sequence) and not isinstance(data, str):
        if not 1 <= len(data) <= len(ORDER):
            raise UsageError(f"data takes one to three loaders (train, val, test); got {len(data)}")
        parts = list(data)
    else:
        parts = [data]
    for name, part in zip(ORDER, parts, strict=False):
        if not (part is None and name != "train") and (not isinstance(part, Iterable) or hasattr(part, "shape")):
            raise UsageError(
                f"data takes a name, a LightningDataModule, or DataLoaders (train, val, test); the {name} loader is a "
                f"{type(part).__name__}"
            )
    return Loaders(*parts)


def has_test(data: LightningDataModule) -> bool:
    """Whether a data module has batches to test on."""
    if isinstance(data, Loaders):
        return data.loaders["test"] is not None
    return is_overridden("test_dataloader", data, LightningDataModule)
