"""The maps that a model computes on its way, caught where named modules give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn


class _Enough(Exception):
    """Ends a forward pass whose last wanted map is there."""


def captured(
    model: nn.Module, names: Sequence[str], run: Callable[[], Tensor], stop: bool
) -> tuple[Tensor | None, list[Tensor]]:
    """Return what ``run()`` gives, and the outputs of the named modules of the model while it runs.

    Args:
        model: whose modules are meant.
        names: of modules, each of which runs once.
        run: a forward pass of the model.
        stop: end the pass once all outputs are there; it gives None then.
    """
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(module: nn.Module, given: object, out: Tensor) -> None:
            found[name] = out
            if stop and all(n in found for n in names):
                raise _Enough

        return keep

    hooks = [model.get_submodule(n).register_forward_hook(keeper(n)) for n in dict.fromkeys(names)]
    try:
        result: Tensor | None = run()
    except _Enough:
        result = None
    finally:
        for hook in hooks:
            hook.remove()
    return result, [found[n] for n in names]


def take(count: int, indices: int | Sequence[int] | None, name: str) -> list[int]:
    """Return which of ``count`` levels are meant, counted from 0: all for None, the last ``indices`` for a number.

    Raises:
        ValueError: a level that the model has not, or a model without any.
    """
    if not count:
        raise ValueError(f"{name} has no feature maps to choose from: leave features_only out.")
    if indices is None:
        return list(range(count))
    if isinstance(indices, int):
        if not 0 < indices <= count:
            raise ValueError(f"The last {indices} feature maps were asked for; {name} has {count}.")
        return list(range(count - indices, count))
    if any(not -count <= i < count for i in indices):
        raise ValueError(
            f"The feature maps {tuple(indices)} were asked for; {name} has {count}, counted from 0 to {count - 1}."
        )
    return [i % count for i in indices]
