"""What training returns: `Run`."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from torch import nn

from zoo.hub.pretrained import load
from zoo.registry import sentence
from zoo.storage.checkpoint import read_checkpoint
from zoo.storage.model_folder import WeightsError
from zoo.tasks.base import Task
from zoo.tasks.metrics import primary_metric


@dataclass(frozen=True, repr=False)
class Run(Mapping[str, Any]):
    """A run that has finished; as a mapping it is its results: ``run["best"]``.

    Attributes:
        results: the content of ``results.json``.
        folder: the run folder.
        task: the LightningModule, with the last weights.
        data: the data module.
        named: whether the run can be built again from its folder alone, as no object was given.
    """

    results: dict[str, Any]
    folder: Path
    task: Task = field(compare=False)
    data: LightningDataModule = field(compare=False)
    named: bool = True

    @cached_property
    def model(self) -> nn.Module:
        """The model with the best weights, in evaluation mode; read from the run folder when first asked for.

        Raises:
            WeightsError: the run holds no checkpoint.
        """
        if self.named:
            return load(self.folder)
        file = self.folder / "checkpoints" / "best.ckpt"
        state = read_checkpoint(file)["state_dict"]
        own = {k.removeprefix("model."): v for k, v in state.items() if k.startswith("model.")}
        model = copy.deepcopy(self.task.model)
        try:
            model.load_state_dict(own)
        except RuntimeError as error:
            raise WeightsError(f"{file} does not fit the model ({sentence(error)}).") from error
        return model.eval()

    @property
    def metrics(self) -> dict[str, float]:
        """The numbers of the test; those of the last validation where there was no test."""
        return dict(self.results["test"] or self.results["val"])

    def __getitem__(self, key: str) -> Any:
        return self.results[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __repr__(self) -> str:
        shown = primary_metric(self.results)
        part = "test" if self.results["test"] else "val"
        value = self.results[part].get(shown.key)
        score = f", {part} {shown.key} {shown.write(value)}" if value is not None else ""
        return f"Run({self.results['model']} on {self.results['data']}, {self.results['status']}{score}, {self.folder})"
