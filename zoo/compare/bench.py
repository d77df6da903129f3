"""A trained model on the bench: size, memory, FLOPs, seconds, each a method of `Bench`."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from zoo.implicit import implicit_modules
from zoo.reporting.counters import Flops, evaluations, held_bytes
from zoo.tasks.base import Task

SECONDS = 1.5  # spent on each timing, at least `LEAST` repetitions


LEAST = 5


class Bench:
    """One trained task on a device, and the batches to measure it with.

    Args:
        task: the task with its trained model.
        data: the data module it was trained on.
    """

    def __init__(self, task: Task, data: Any) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.task = task.to(self.device)
        self.model: Any = task.model
        self.modules: list[Any] = [m for _, m in implicit_modules(self.model)]
        data.prepare_data()
        data.setup()
        self.train = [self._move(b) for b in _first(data.train_dataloader(), 4)]
        self.test = [self._move(b) for b in _first(data.test_dataloader(), 8)]
        self.size = task.rows(self.train[0])
        self._buffers = {k: v.clone() for k, v in self.model.named_buffers()}

    def restore(self) -> None:
        """Undo what training steps did to running statistics: measuring must not change what is measured."""
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(self._buffers[name])

    def _move(self, batch: Any) -> Any:
        return tree_map(lambda t: t.to(self.device) if isinstance(t, Tensor) else t, batch)

    def solved(self) -> list[Any]:
        """The stats of each module's last solve."""
        return [m.last.stats for m in self.modules if m.last is not None]

    def loss(self, i: int = 0) -> Tensor:
        """Of a training batch, without the Jacobian penalty."""
        return self.task.score(self.train[i % len(self.train)], "train").loss

    def parameters(self) -> dict[str, float]:
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def checkpoint(self) -> dict[str, float]:
        """Bytes of the weights as a file."""
        stream = io.BytesIO()
        torch.save(self.model.state_dict(), stream)
        return {"checkpoint_bytes": stream.tell()}

    def forward_flops(self) -> dict[str, float]:
        """Per sample: of one evaluation of the map (an explicit model: of the model), and of the whole forward pass."""
        self.model.eval()
        batch = self.test[0]
        with torch.no_grad(), Flops() as counter, evaluations(counter) as seen:
            self.task.answer(batch)
        whole = counter.total / self.task.rows(batch)
        return {"flops_forward": whole, "flops_evaluation": seen.flops / seen.samples if seen.samples else whole}

    def step_flops(self) -> dict[str, float]:
        """Per sample, of a training step: forward and backward."""
        self.model.train()
        with Flops() as counter:
            self.loss().backward()
        self.model.zero_grad()
        return {"flops_step": counter.total / self.size}

    def forward_solves(self) -> dict[str, Any]:
        """Over batches of the test split: evaluations, converged share and residual."""
        self.model.eval()
        nfe, converged, residual = [], [], []
        with torch.no_grad():
            for batch in self.test:
                self.task.answer(batch)
                nfe.append(float(sum(s.nfe for s in self.solved())))
                converged += [s.converged.double().mean().item() for s in self.solved()]
                residual += [s.residual.double().mean().item() for s in self.solved() if s.accepted is None]
        out: dict[str, Any] = {"nfe_forward": statistics.mean(nfe), "nfe_forward_p95": quantile(nfe, 0.95)}
        out["converged"] = statistics.mean(converged)
        out["residual"] = statistics.mean(residual) if residual else "an integration in time has no residual"
        return out

    def backward_solves(self) -> dict[str, Any]:
        """Over training batches: evaluations of the backward solves."""
        self.model.train()
        nfe = []
        for i in range(len(self.train)):
            self.loss(i).backward()
            self.model.zero_grad()
            backward = [s.backward[-1].nfe for s in self.solved() if s.backward]
            if backward:
                nfe.append(float(sum(backward)))
        if not nfe:
            why = f"the adjoint {type(self.modules[0].adjoint).__name__.lower()} makes no solve of its own backward"
            return {"nfe_backward": why, "nfe_backward_p95": why}
        return {"nfe_backward": statistics.mean(nfe), "nfe_backward_p95": quantile(nfe, 0.95)}

    def step_time(self) -> dict[str, float]:
        """Milliseconds of a training step: forward, backward, and letting go of the gradients."""
        self.model.train()

        def step(i: int) -> None:
            self.loss(i).backward()
            self.model.zero_grad()

        taken = self._times(step)
        return {"step_ms": quantile(taken, 0.5), "step_ms_p95": quantile(taken, 0.95)}

    def latency(self) -> dict[str, float]:
        """Milliseconds for one sample, and samples a second in batches of the training's size, in evaluation."""
        self.model.eval()
        with torch.no_grad():
            singles = [self.task.cut(batch, 1) for batch in self.test]
            full = self.task.cut(self.test[0], self.size)
            one = self._times(lambda i: self.task.answer(singles[i % len(singles)]))
            many = self._times(lambda i: self.task.answer(full))
        rate = self.task.rows(full) / (quantile(many, 0.5) / 1e3)
        return {"latency_ms": quantile(one, 0.5), "latency_ms_p95": quantile(one, 0.95), "throughput": rate}

    def memory(self) -> dict[str, Any]:
        """Bytes per sample between forward and backward; on a GPU also the peak of a training step."""
        self.model.train()
        out: dict[str, Any] = {"held_bytes": held_bytes(self.loss) / self.size}
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.loss().backward()
            self.model.zero_grad()
            out["peak_bytes"] = torch.cuda.max_memory_allocated()
        else:
            out["peak_bytes"] = "measured on a GPU only"
        return out

    def _times(self, call: Callable[[int], Any]) -> list[float]:
        """Milliseconds of repeated calls, after two that are not counted."""
        taken: list[float] = []
        begun = time.perf_counter()
        while len(taken) < LEAST + 2 or time.perf_counter() - begun < SECONDS:
            start = time.perf_counter()
            call(len(taken))
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            taken.append(1e3 * (time.perf_counter() - start))
        return taken[2:]


def quantile(values: list[float], q: float) -> float:
    return float(torch.quantile(torch.tensor(values, dtype=torch.float64), q))


def _first(loader: Any, count: int) -> list[Any]:
    out = []
    for batch in loader:
        out.append(batch)
        if len(out) == count:
            break
    return out
