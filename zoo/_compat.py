"""Private touches of other packages, all of them, each with the versions it was tried on.

Nothing else in zoo reads a name that another package keeps for itself (a leading underscore, or an attribute that its
documentation does not promise). When an upgrade breaks one of these, ``tests/test_compat.py`` says which, and what to
do. Imports nothing that its caller has not imported already, so that each room keeps its place in the one-way order.

Tried on: torch 2.14.1, lightning 2.6.6, jsonargparse 4.53, torchdiffeq 0.2.5, timm 1.0.31.
"""

from __future__ import annotations

from typing import Any

# ---------------------------------------------------------------------------------------------------------- Lightning
# The trainer comes as an argument, so that nothing is imported here.


def fit_position(trainer: Any) -> tuple[int, int] | None:
    """Return the epoch and the batches done in it, as the Trainer counts them; None while it does not fit.

    Its counters are saved with every checkpoint, so that a resumed run knows them before its first batch. With
    ``overfit_batches`` the epoch stays 0, as the batches stay the same.

    Tried on lightning 2.6.6.
    """
    if not trainer.training:
        return None
    loop = trainer.fit_loop
    epoch = 0 if trainer.overfit_batches else loop.epoch_progress.current.processed
    return epoch, loop.epoch_loop.batch_progress.current.ready


def sampler_ranks(trainer: Any) -> tuple[int, int]:
    """Return the rank and the number of processes that share a batch: (0, 1) for a strategy that distributes none.

    Tried on lightning 2.6.6.
    """
    options = trainer.distributed_sampler_kwargs
    return (options["rank"], options["num_replicas"]) if options else (0, 1)
