"""Training with the parameters split over processes: ``--trainer.strategy fsdp2``.

FSDP2 with one unit, the root. A unit within an implicit layer would gather its parameters at every evaluation of the
map, and ranks whose solves end after different numbers of evaluations would wait for each other for ever; the backward
solve, which calls the map past FSDP's hooks, would leave its parameters without gradients, silently. As one unit, all
parameters are gathered once for the forward pass and once for the backward pass, and each rank solves as long as its
samples need: exact, and memory falls by what the optimizer keeps (two numbers a parameter with Adam) and the gradients.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from zoo.implicit import implicit_modules

NAME = "fsdp2"


class Sharded(ModelParallelStrategy):
    """All processes are data parallel, the parameters are split over them, and a checkpoint is one file."""

    def __init__(self) -> None:
        super().__init__(save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.world_size, 1
        super().setup_environment()


def shard(module: nn.Module, mesh: Any, methods: tuple[str, ...]) -> None:
    """Make a module one unit of FSDP2 over a mesh of processes; its parameters are whole within ``methods``.

    Raises:
        ValueError: a part of an implicit layer was sharded by itself.
    """
    if isinstance(module, FSDPModule):
        return
    for name, layer in implicit_modules(module):
        if any(isinstance(part, FSDPModule) for part in layer.modules()):  # type: ignore[attr-defined]
            raise ValueError(
                f"A part of the implicit layer {name or 'model'!r} is sharded by itself. Ranks evaluate it different "
                "numbers of times, so that gathering it would hang or lose its gradients: shard the root only, as "
                f"--trainer.strategy {NAME} does."
            )
    fully_shard(module, mesh=mesh)
    for method in methods:
        register_fsdp_forward_method(module, method)


def whole(value: Tensor) -> Tensor:
    """A tensor that may be split over processes, as a plain one."""
    return value.full_tensor() if isinstance(value, DTensor) else value


if NAME not in StrategyRegistry:
    StrategyRegistry.register(NAME, Sharded, description="FSDP2 with the root as its one unit; one file a checkpoint")
