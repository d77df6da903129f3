"""The record that a loaded model carries: which weights it has, and how its samples were prepared.

It is the model's attribute ``pretrained``, so that it goes along with a copy; these two functions are its only readers
and writers.
"""

from __future__ import annotations

from torch import nn

from zoo.storage.model_folder import Config


def trained_config(model: nn.Module) -> Config | None:
    """Return the configuration of the weights that a model was loaded with; None where it was loaded with none."""
    saved = vars(model).get("pretrained")
    return saved if isinstance(saved, Config) else None


def set_trained_config(model: nn.Module, config: Config) -> None:
    """Attach the configuration of the weights that a model was loaded with."""
    vars(model)["pretrained"] = config
