"""Randomness as a function of where the run is, so that a resumed run draws what an uninterrupted one draws."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer

EVALUATION = 2**32 - 1  # in place of a batch's number


class PerStepSeed(Callback):
    """Seed torch, numpy and Python before each training batch from ``(seed, epoch, batch, rank)``.

    Dropout masks and probe vectors then depend on the step alone, not on what was drawn before it: no generator's state
    has to be saved, and a resumed run is exact however it was interrupted. A validation and a test are seeded where
    they begin.

    Args:
        seed: the run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._seed(trainer, batch_idx)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed(trainer, EVALUATION)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seed(trainer, EVALUATION)

    def _seed(self, trainer: Trainer, batch: int) -> None:
        key = (self.seed, trainer.current_epoch, batch, trainer.global_rank)
        words = np.random.SeedSequence([abs(k) for k in key]).generate_state(3, np.uint32)
        torch.manual_seed(int(words[0]) << 32 | int(words[1]))
        np.random.seed(int(words[2]))
        random.seed(int(words[2]))
