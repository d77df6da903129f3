"""Continue a run: whether the checkpoint fits what is asked for, said before anything of the run is replaced."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from zoo.callbacks.weight_ema import CURRENT
from zoo.registry import sentence
from zoo.storage.checkpoint import read_checkpoint
from zoo.tasks.base import Task
from zoo.training.errors import UsageError

FREE = ("root", "num_workers", "download", "batch_size", "augment", "seed")  # options of data that may change
STATE = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer", "square_avg", "grad_avg", "sum", "exp_inf")
# of an optimizer: the tensors that have the shape of their weight


@dataclass(frozen=True)
class Checkpoint:
    """The state that a run goes on from, which fits.

    Attributes:
        file: the checkpoint.
        folder: the run folder that it lies in.
        step: training steps that were done.
        content: what it holds.
    """

    file: Path
    folder: Path
    step: int
    content: Mapping[str, Any]

    def bring_best(self, folder: Path) -> None:
        """Copy the best checkpoint along, where the run goes on in another folder."""
        best = self.folder / "checkpoints" / "best.ckpt"
        if self.folder.resolve() != folder.resolve() and best.is_file():
            shutil.copy2(best, folder / "checkpoints" / "best.ckpt")


def check_resume(file: Path, task: Task, now: Mapping[str, Any]) -> Checkpoint:
    """Read a checkpoint and refuse one that does not fit; nothing is written.

    The options of the optimizer (the learning rate, the weight decay, ...) may change and take effect; so may the
    solver, the adjoint, the task's options and the Trainer's. Model, data set, optimizer and seed may not.

    Args:
        file: the checkpoint.
        task: of the run that is to go on, built as it is asked for.
        now: the configuration that it is asked for with.

    Raises:
        UsageError: one sentence that says what does not fit.
    """
    try:
        content = read_checkpoint(file)
    except ValueError as error:
        raise UsageError(f"cannot resume: {sentence(error)}") from error
    folder = file.absolute().parents[1]
    _check_config(folder, now)
    try:
        _check_form(content)
        _check_average(content, now)
        _check_weights(content["state_dict"], task)
        _check_optimizer(content, task)
    except UsageError as error:
        raise UsageError(f"cannot resume: {file} {error}") from None
    return Checkpoint(file, folder, content["global_step"], content)


def _check_config(folder: Path, now: Mapping[str, Any]) -> None:
    """Refuse another model, data set, optimizer or seed than the run had."""
    try:
        was = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError):
        return  # it was read before, with a sentence for each of these
    changed = [("model.name", "model"), ("data.name", "data set"), ("optim.name", "optimizer"), ("seed", "seed")]
    data = {k for part in (was, now) if isinstance(part.get("data"), dict) for k in part["data"]}
    changed += [(f"data.{k}", f"data.{k}") for k in sorted(data - {"name", *FREE})]
    for key, noun in changed:
        before, after = _get(was, key), _get(now, key)
        if before is not None and after is not None and before != after:
            raise UsageError(
                f"cannot resume with another {noun}: the run in {folder} has {before}, now it is {after}. Start a new "
                f"run, from its weights with --pretrained {folder} if you like"
            )


def _get(config: Mapping[str, Any], key: str) -> Any:
    section, _, option = key.partition(".")
    value = config.get(section)
    return value.get(option) if option and isinstance(value, Mapping) else None if option else value


def _check_form(content: Mapping[str, Any]) -> None:
    """Refuse what is no training state of Lightning."""
    kinds: dict[str, type] = {
        "pytorch-lightning_version": str, "epoch": int, "global_step": int, "state_dict": dict, "loops": dict,
        "callbacks": dict, "optimizer_states": list, "lr_schedulers": list,
    }  # fmt: skip
    for key, kind in kinds.items():
        value = content.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 0):
            got = "is missing" if key not in content else f"is {value!r:.40}"
            raise UsageError(f"is no state of a training: its {key!r} {got}")
    for name, state in content["callbacks"].items():
        if not isinstance(name, str) or not isinstance(state, dict):
            raise UsageError(f"is no state of a training: the state of its callback {name!r:.60} is damaged")


def _check_average(content: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to begin or to leave off an average of the weights within a run: the optimizer's state is not of it."""
    decay = _get(now, "ema.decay") or 0.0
    if (CURRENT in content) != bool(decay):
        has = "has an average" if CURRENT in content else "has no average"
        raise UsageError(f"{has} of the weights, but now ema.decay is {decay}. Give the decay that the run began with")


def _check_weights(state: Mapping[str, Any], task: Task) -> None:
    own = task.state_dict()
    for key, value in own.items():
        if not isinstance(found := state.get(key), Tensor):
            raise UsageError(f"holds no weights for {key}: it is of another model, or damaged")
        if found.shape != value.shape:
            raise UsageError(
                f"is of another model: {key} is {tuple(found.shape)} there and {tuple(value.shape)} in this one"
            )
    if more := [key for key in state if key not in own]:
        raise UsageError(f"is of another model: this one has no {more[0]}")


def _check_optimizer(content: Mapping[str, Any], task: Task) -> None:
    """Refuse the state of another optimizer, or of other weights."""
    fresh = task.optim.build(task.model)
    groups = fresh.state_dict()["param_groups"]
    states = content["optimizer_states"]
    saved = states[0] if len(states) == 1 else None
    if not isinstance(saved, dict) or not isinstance(saved.get("param_groups"), list):
        raise UsageError("holds no state of an optimizer")
    same = len(saved["param_groups"]) == len(groups) and isinstance(saved.get("state"), dict)
    for before, now in zip(saved["param_groups"], groups, strict=False):
        same = same and isinstance(before, dict) and isinstance(before.get("params"), list)
        same = same and set(now) <= {*before, "initial_lr"} and len(before["params"]) == len(now["params"])
    if not same:
        raise UsageError(f"holds the state of another optimizer than {task.optim.name}, or of another model")
    parameters = [p for group in fresh.param_groups for p in group["params"]]
    numbers = [n for group in saved["param_groups"] for n in group["params"]]
    for number, parameter in zip(numbers, parameters, strict=True):
        state = saved["state"].get(number, {})
        if not isinstance(state, dict):
            raise UsageError("holds a damaged state of the optimizer")
        for key in STATE:
            value = state.get(key)
            if value is not None and (not isinstance(value, Tensor) or value.shape != parameter.shape):
                raise UsageError(
                    f"holds a damaged state of the optimizer: {key} is {tuple(getattr(value, 'shape', ()))} for a "
                    f"weight of {tuple(parameter.shape)}"
                )


def check_loops(content: Mapping[str, Any], fresh: Mapping[str, Any], where: str = "loops.fit_loop") -> None:
    """Refuse a checkpoint whose progress is not of the form that this version of Lightning has.

    Args:
        content: the progress that was saved.
        fresh: that of a loop that has not begun, as a pattern.
        where: its name, for the sentence.
    """
    if not isinstance(content, Mapping):
        raise UsageError(f"cannot resume: the checkpoint's {where} is {content!r:.40}; it is damaged")
    for key, value in fresh.items():
        if isinstance(value, Mapping) and key in content:
            check_loops(content[key], value, f"{where}.{key}")
        elif isinstance(value, (bool, int)) and not isinstance(content.get(key), (bool, int)):
            raise UsageError(
                f"cannot resume: the checkpoint's {where}.{key} is {content.get(key)!r:.40}; it is damaged"
            )
