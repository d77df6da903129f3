"""Ask a trained model: about pictures, pixels, prompts, series or points. `predict`, and `answers`, which streams."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.data import DATA
from zoo.hub import cards
from zoo.hub.answers import Answer as Answer
from zoo.hub.answers import Continuation as Continuation
from zoo.hub.answers import Forecast as Forecast
from zoo.hub.answers import LogDensity as LogDensity
from zoo.hub.answers import Prediction as Prediction
from zoo.hub.answers import Segmented as Segmented
from zoo.hub.answers import Solved
from zoo.hub.failures import ON_FAILURE, FailedSolve, OnFailure, ask
from zoo.hub.inputs import Group, Inputs, groups
from zoo.hub.numbers import Points, SeriesInputs
from zoo.hub.pictures import Pictures, Scenes
from zoo.hub.pretrained import load, preprocessing_of
from zoo.hub.prompts import Prompts
from zoo.hub.reason import Puzzles
from zoo.hub.reason import Reasoned as Reasoned
from zoo.hub.trained import trained_config
from zoo.registry import unknown
from zoo.storage.model_folder import Config
from zoo.storage.preprocessing import Preprocessing

LENGTH = 40  # symbols that a language model writes, unless told otherwise


def predict(
    model: nn.Module | str | Path,
    inputs: Any,
    *,
    top: int = 3,
    batch_size: int = 64,
    on_error: Literal["raise", "keep"] = "raise",
    on_failure: OnFailure = "warn",
    length: int = LENGTH,
) -> Any:
    """Ask a trained model about a sample, or about several.

        >>> import torch
        >>> predict("mdeq_tiny.digits", torch.zeros(8, 8)).converged
        True
        >>> predict("lstm_small.tiny_shakespeare", "ROMEO", length=1).text
        ':'

    | model | inputs | answers |
    |---|---|---|
    | of pictures | a path, a PIL image, an array, several (B, C, H, W), a list, a folder, an ``.npy`` | `Prediction` |
    | of pixels | the same; each keeps its size | `Segmented` |
    | of language | a prompt, a list, a file with one a line, a folder of such ``.txt`` files | `Continuation` |
    | of density | points (N, D), or an ``.npy`` or ``.csv`` of them | `LogDensity` |
    | of puzzles | a Sudoku, ``"53..7....6.."``, a maze, a grid (H, W), several, a file with one a line | `Reasoned` |
    | of series | a mapping of ``times, values, mask, query``, an ``.npz`` or long ``.csv`` | `Forecast`, `Prediction` |

    Args:
        model: a model from `load` or ``create_model(..., pretrained=True)``, or what `load` takes.
        inputs: see the table.
        top: how many classes or symbols to name.
        batch_size: samples that the model is asked about at once; an answer does not depend on it.
        on_error: a sample of several that cannot be read is an error that names it, or with "keep" an answer that
            says so among the others.
        on_failure: about samples on which a solve does not reach its tolerance: "warn"; "fallback" gives them more
            steps, then other solvers, and warns of those that are left; "raise".
        length: symbols that a language model writes after a prompt.

    Returns:
        one answer, or a list where several samples, a file of them or a folder were given.

    Raises:
        ValueError: the model is none that can be asked, does not know its preprocessing, or a sample is none.
        OSError: a file cannot be read.
        FailedSolve: with ``on_failure="raise"``; its ``answers`` are those before.

    Warns:
        where the solver did not converge on a sample; each answer says of its own.
    """
    asked, stream = answers(
        model, inputs, top=top, batch_size=batch_size, on_error=on_error, on_failure=on_failure, length=length
    )
    found: list[Answer] = []
    try:
        found.extend(stream)
    except FailedSolve as error:
        error.answers = found
        raise
    left = [i for i, a in enumerate(found) if not a.converged and not a.error]
    if left:
        warnings.warn(f"{_failed(asked, found, left)}{ADVICE}", stacklevel=2)
    return found if asked.several else found[0]


ADVICE = (
    "; give it more steps, zoo.load(..., solver={'name': ..., 'max_steps': ...}), compare with another solver, or "
    "let predict do so by on_failure='fallback'."
)


def answers(
    model: nn.Module | str | Path,
    inputs: Any,
    *,
    top: int = 3,
    batch_size: int = 64,
    on_error: Literal["raise", "keep"] = "raise",
    on_failure: OnFailure = "warn",
    length: int = LENGTH,
) -> tuple[Inputs, Iterator[Answer]]:
    """Return what `predict` asks about, and an iterator over the answers, which come batch by batch.

    The arguments are those of `predict`; nothing is warned of.
    """
    if on_error not in ("raise", "keep"):
        raise ValueError(f"on_error is 'raise' or 'keep'; got {on_error!r}.")
    if on_failure not in ON_FAILURE:
        raise ValueError(unknown("on_failure", on_failure, ON_FAILURE))
    if batch_size < 1 or top < 1:
        raise ValueError(f"batch_size and top must be at least 1; got {batch_size} and {top}.")
    if not isinstance(model, nn.Module):
        model = load(model)
    asked = inputs_of(model, inputs, top=top, length=length)
    return asked, _stream(asked, batch_size, on_error, on_failure)


def _stream(asked: Inputs, size: int, on_error: str, on_failure: OnFailure) -> Iterator[Answer]:
    model, done = asked.model, 0  # done: how many answers there are
    for group in groups(asked, size, on_error):
        was = model.training
        model.eval()
        try:
            found = _of_group(asked, group, on_failure)
        finally:
            model.train(was)
        left = [i for i, a in enumerate(found) if not a.converged and not a.error]
        if on_failure == "raise" and left:
            yield from found[: left[0]]
            raise FailedSolve(f"{_failed(asked, found, left, done)}{ADVICE}")
        done += len(found)
        yield from found


def _of_group(asked: Inputs, group: Group, on_failure: OnFailure) -> list[Answer]:
    rows: Iterator[tuple[tuple[Tensor, ...], Solved]] = iter(())
    if group.parts:
        batch = tuple(torch.cat(parts) for parts in zip(*group.parts, strict=True))
        out, solved = ask(asked.model, asked.ask, batch, on_failure)
        host = [x.cpu() for x in out]
        rows = iter([(tuple(x[i] for x in host), s) for i, s in enumerate(solved)])
    found: list[Answer] = []
    for i in group.places:
        if i in group.errors:
            found.append(asked.unread(i, group.errors[i]))
            continue
        out, told = next(rows)
        found.append(asked.answer(out, i, told))
    return found


def _failed(asked: Inputs, found: Sequence[Answer], left: Sequence[int], before: int = 0) -> str:
    """Say on which samples no solve has converged."""
    which = ", ".join(found[i].source or str(before + i) for i in left[:3]) + (", ..." if len(left) > 3 else "")
    plural = asked.noun if asked.noun.endswith("s") else f"{asked.noun}s"
    worst = max((found[i].residual for i in left if math.isfinite(found[i].residual)), default=math.nan)
    told = f", residual up to {worst:.2g}" if math.isfinite(worst) else ""
    return f"The solver did not converge on {len(left)} of {len(found)} {plural} ({which}){told}"


# -------------------------------------------------------------------------------------------- kinds of models
def inputs_of(model: nn.Module, given: Any, *, top: int = 3, length: int = LENGTH) -> Inputs:
    """Return what a model is asked about, as its task takes it.

    Raises:
        ValueError: it was not loaded with weights, does not know its preprocessing, or its task answers nothing here.
    """
    saved = trained_config(model)
    if saved is None:
        raise ValueError(
            f"{type(model).__name__} does not know how its pictures were prepared: it was not loaded with weights. Use "
            "zoo.load(...) or zoo.create_model(..., pretrained=True)."
        )
    kind = _task_of(saved)
    if kind == "language" or saved.preprocessing.get("kind") == "text":
        return Prompts(model, given, top, length)
    if kind == "density":
        return Points(model, given, top)
    if kind == "reasoning":
        return Puzzles(model, given, top)
    if kind == "series":
        return SeriesInputs(model, given, top)
    if kind in ("classification", "segmentation"):
        prepare = _preprocessing(saved)
        if kind == "segmentation":
            return Scenes(model, given, top, prepare)
        if prepare.size is None:
            raise ValueError(f"{saved.name} classifies pictures of one size, and its preprocessing says none.")
        return Pictures(model, given, top, prepare)
    raise ValueError(
        f"{saved.name} is a model for {kind.replace('_', ' ')}, not one that is asked about single samples. Call the "
        f"model on tensors as {type(model).__name__} takes them."
    )


def _preprocessing(saved: Config) -> Preprocessing:
    """How the model's pictures were prepared."""
    data = saved.name.partition(".")[2]
    known = saved.preprocessing or (preprocessing_of(data) if data in DATA else {})
    if not known:
        raise ValueError(
            f"{saved.name} does not know how its pictures were prepared: its data set says none. Call the model on "
            "tensors as it was trained on."
        )
    return Preprocessing.read(known)


def kind_of(model: nn.Module) -> str:
    """The kind of task that a loaded model answers: "classification", "segmentation", "language", ...

    Raises:
        ValueError: it was not loaded with weights.
    """
    saved = trained_config(model)
    if saved is None:
        raise ValueError(f"{type(model).__name__} was not loaded with weights: use zoo.load(...).")
    return _task_of(saved)


def _task_of(saved: Config) -> str:
    """The kind of task that a model was trained for, as its card's task is called."""
    return cards.card(saved.name).task.partition(":")[0].rpartition(".")[2]
