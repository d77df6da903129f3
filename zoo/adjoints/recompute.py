"""Recomputation in place of memory: the saved tensors of one step, dropped and brought back."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from zoo._compat import refuses_saved_tensor_hooks
from zoo.adjoints.rng import RNGState
from zoo.solvers.autograd import leaves, refuse_second_order

T = TypeVar("T")
Seen = tuple[torch.Size, torch.dtype, int, int]  # of a saved tensor: shape, dtype, where it lies, writes to it


def kept_tensors() -> AbstractContextManager[None]:
    """A scope whose saved tensors are kept, within a step whose others are dropped.

    Not ``x`` itself is kept but its data: a hook that returns an output of the node that saves it (as tanh does) closes
    a circle through the node, which nothing frees. Autograd gives the data its place in the graph again.
    """
    return torch.autograd.graph.saved_tensors_hooks(lambda x: x.data, lambda x: x)


class Recomputation:
    """What the steps of one solve share.

    Args:
        name: of the adjoint, for messages.
        device: where the steps compute.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self._latest: weakref.ref[RecomputedStep] | None = None  # weak: a step holds this, and no circle may form
        self._watched: list[tuple[Tensor, int]] | None = None

    def make_room(self, step: RecomputedStep) -> None:
        """Let go of the tensors of the step that was computed again last."""
        last = None if self._latest is None else self._latest()
        if last is not None:
            last.saved.clear()
        self._latest = weakref.ref(step)

    def watch(self, out: Tensor, inputs: Iterable[Tensor], before: Iterable[Tensor]) -> None:
        """Remember how often the inputs and the weights of the first step have been written to.

        Args:
            out: what the step made; its weights are the leaves of its graph.
            inputs: what it was given and reads again.
            before: tensors of the step whose graphs are older than it.
        """
        if self._watched is None:
            found = leaves(out, {x.grad_fn for x in before if x.grad_fn is not None})
            self._watched = [(x, x._version) for x in (*found, *inputs) if not x.is_inference()]

    def refuse_changes(self) -> None:
        """Raise where a weight or an input was written to since: the step would be another one."""
        if any(x._version != version for x, version in self._watched or ()):
            raise self.changed()

    def changed(self) -> RuntimeError:
        """The error for a tensor that is no longer what the forward pass saw."""
        return RuntimeError(
            f"A tensor that the solve depends on (a weight, or an input) was modified in place before its backward "
            f"pass, in which the adjoint {self.name} computes each step again: the gradient would be that of another "
            "solve. Call backward() before optimizer.step(), or use the adjoint unroll."
        )


class RecomputedStep:
    """What one step saved for its backward pass: numbered, dropped, and brought back by computing the step again.

    The step is run by `record`. Its graph stays, so that gradients reach whatever it captured; only the tensors are let
    go. What it draws at random it draws again. A step may differentiate within (``torch.autograd.grad``, also with
    ``create_graph=True``): until it ends, its tensors are here.

    Args:
        replay: computes the same step again.
        solve: what the steps of one solve share.
    """

    def __init__(self, replay: Callable[[], None], solve: Recomputation) -> None:
        self.replay, self.solve = replay, solve
        self.draws = RNGState(solve.device)
        self.met: list[Seen] = []  # what was saved, in order
        self.saved: dict[int, Tensor] = {}
        self.recording = False

    def record(self, step: Callable[[], T]) -> T:
        """Run the step, without its saved tensors."""
        self.recording = True
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack), self._said_of_transforms():
                out = step()
        finally:
            self.recording = False
            self.saved.clear()
        self.draws.close()
        return out

    @contextmanager
    def _said_of_transforms(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if not refuses_saved_tensor_hooks(error):
                raise
            raise RuntimeError(
                f"f uses a transform of torch.func (grad, vjp, jacrev, ...), which torch does not allow where saved "
                f"tensors are dropped, as the adjoint {self.solve.name} does. Use torch.autograd.grad(..., "
                "create_graph=True) within f, or the adjoint unroll."
            ) from error

    def _pack(self, x: Tensor) -> int:
        self.met.append(_seen(x))
        self.saved[len(self.met)] = x.data
        return len(self.met)

    def _unpack(self, number: int) -> Tensor:
        if self.recording:
            return self.saved[number]
        refuse_second_order(f"The adjoint {self.solve.name}")
        if number not in self.saved:
            self.solve.make_room(self)
            self._recompute()
        return self.saved.pop(number)

    def _recompute(self) -> None:
        self.solve.refuse_changes()
        self.saved.clear()
        again: list[Seen] = []

        def keep(x: Tensor) -> Tensor:
            again.append(_seen(x))
            self.saved[len(again)] = kept = x.data
            return kept

        with torch.enable_grad(), self.draws.again(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            self.replay()
        if [x[:2] for x in again] != [x[:2] for x in self.met]:
            self.saved.clear()
            same = len(again) == len(self.met)
            raise RuntimeError(
                f"The adjoint {self.solve.name} computed a step again and it saved "
                f"{'other tensors' if same else f'{len(again)} tensors instead of {len(self.met)}'}: f does not answer "
                "the same twice. Make it a pure function of its arguments, or use the adjoint unroll."
            )
        # Tensors of the step lie elsewhere now; what lies where it did is older than the step, as weights are.
        if any(now[2] == then[2] and now[3] != then[3] for now, then in zip(again, self.met, strict=True)):
            self.saved.clear()
            raise self.solve.changed()


def _seen(x: Tensor) -> Seen:
    """A sparse tensor, or a subclass that wraps others, has no one place: it is told by shape and dtype."""
    plain = type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided and not x.is_inference()
    return (x.shape, x.dtype, x.data_ptr(), x._version) if plain else (x.shape, x.dtype, -1, -1)
