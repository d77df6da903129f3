"""What a request may ask: numbers, a text or a picture as bytes, never a path; and how an answer is written."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from zoo.hub.answers import Answer
from zoo.hub.inputs import Inputs
from zoo.hub.predict import inputs_of, kind_of
from zoo.registry import unknown
from zoo.serve.batcher import Job
from zoo.storage.guards import open_picture

PIXELS = (4096, 4096)  # height and width of a picture, at most
SAMPLES = 64  # of one request, at most
LONGEST = 20_000  # characters of a text, at most
WRITES = 500  # symbols that a language model is asked to write, at most
OPTIONS = ("input", "top", "max_steps", "on_failure", "length")
UPLOAD = Path("upload")  # what a picture is called in messages


def job_of(model: nn.Module, asked: Mapping[str, Any], most: int | None) -> tuple[Job, bool]:
    """Return the samples that a request asks about, read, and whether it asks about several.

    Args:
        model: that is asked.
        asked: ``input``, and if wanted ``top``, ``max_steps``, ``on_failure``, ``length``.
        most: steps that a request may ask for; None: the model has no solver.

    Raises:
        ValueError: an option that is none or out of its range, or an input that the model cannot take.
    """
    for key in asked:
        if key not in OPTIONS:
            raise ValueError(unknown("field", key, OPTIONS))
    if "input" not in asked:
        raise ValueError("A request has the field input.")
    top = _whole(asked, "top", 3, 1, 1000)
    length = _whole(asked, "length", 40, 0, WRITES)
    steps = _whole(asked, "max_steps", None, 1, most) if most is not None else None
    how = asked.get("on_failure", "warn")
    if how not in ("warn", "fallback"):
        raise ValueError(f"on_failure is 'warn' or 'fallback'; got {str(how)[:40]!r}.")
    inputs, several = _inputs(model, asked["input"], top, length)
    if len(inputs.items) > SAMPLES:
        raise ValueError(f"A request asks about at most {SAMPLES} samples; got {len(inputs.items)}.")
    parts = [inputs.prepare(i) for i in range(len(inputs.items))]
    if len({tuple(x.shape for x in part) for part in parts}) != 1:
        raise ValueError("The samples of one request must have one shape; send one request for each.")
    return Job(inputs, parts, how, steps), several


def _whole(asked: Mapping[str, Any], key: str, usual: int | None, least: int, most: int | None) -> Any:
    value = asked.get(key, usual)
    if value is None:
        return None
    if type(value) is not int or not least <= value <= (most or value):
        bound = f"from {least} to {most}" if most else f"of at least {least}"
        raise ValueError(f"{key} must be a whole number {bound}; got {str(value)[:40]!r}.")
    return value


def _inputs(model: nn.Module, given: Any, top: int, length: int) -> tuple[Inputs, bool]:
    if isinstance(given, bytes):
        given = open_picture(given, UPLOAD, PIXELS)
    texts = given if isinstance(given, list) else [given]
    if any(isinstance(t, str) for t in texts):
        if not all(isinstance(t, str) and len(t) <= LONGEST for t in texts):
            raise ValueError(f"Texts are strings of at most {LONGEST:,} characters.")
        if not _reads_text(model):
            raise ValueError("input must be numbers or a picture; got a text, and no path is ever opened.")
        return inputs_of(model, texts, top=top, length=length), isinstance(given, list)  # a list is never a path
    if isinstance(given, list):
        given = _numbers(given)
    elif not (isinstance(given, Mapping) or hasattr(given, "getbands")):
        raise ValueError(f"input must be numbers, a text or a picture; got {type(given).__name__}.")
    if isinstance(given, Mapping):
        given = {str(k): _numbers(v) for k, v in given.items()}
    inputs = inputs_of(model, given, top=top, length=length)
    return inputs, inputs.several


def _reads_text(model: nn.Module) -> bool:
    return kind_of(model) in ("language", "reasoning")


def _numbers(given: Any) -> Any:
    """Nested lists as an array of numbers."""
    try:
        array = np.array([[math.nan if v is None else v for v in given]] if _flat(given) else given)
        array = array[0] if _flat(given) else array
    except (ValueError, TypeError, OverflowError) as error:
        raise ValueError("input must be nested lists of numbers, each level of one length.") from error
    if array.dtype.kind not in "bif":
        raise ValueError("input must be nested lists of numbers, each level of one length.")
    return array


def _flat(given: Any) -> bool:
    return isinstance(given, list) and not any(isinstance(v, list) for v in given)


def written(answer: Answer) -> dict[str, Any]:
    """An answer as plain values for JSON; a number that is not finite is null."""
    return {f.name: _plain(getattr(answer, f.name)) for f in dataclasses.fields(answer) if f.name != "source"}


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_json(body: bytes) -> dict[str, Any]:
    """The mapping of a JSON body.

    Raises:
        ValueError: it is none.
    """
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("The body is not valid JSON.") from error
    if not isinstance(found, dict):
        raise ValueError('The body must be a JSON object, such as {"input": [[0, 0.5], [1, 0]]}.')
    return found
