"""A training run of a few seconds, and the model folder made of it, shared by the tests of trained models."""

from __future__ import annotations

from pathlib import Path

from zoo.training.train import train

ARGUMENTS = {
    "task": {"warmup_steps": 2},
    "trainer": {"max_epochs": 1, "limit_train_batches": 6, "limit_val_batches": 2, "enable_progress_bar": False},
}


def run(folder: Path, model: str = "test_mdeq") -> Path:
    """Train a tiny model on digits for six steps; returns the run folder."""
    train(model, "digits", out=folder, **ARGUMENTS)
    return folder
