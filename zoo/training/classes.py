"""The classes that an option of the Trainer may name, each with its plain options: ``--trainer.logger csv``.

A configuration may come from a stranger. So its options name classes of this list alone, whose options are numbers and
text, and which write inside of the run folder; no other import path is followed, and nothing else is instantiated.
``--allow-import PKG`` lets a package's classes be named too, with any options: what the package does is then trusted.
Imports no Lightning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from zoo.registry import unknown
from zoo.training.errors import UsageError

PLACES = ("dirpath", "filename", "save_dir", "name", "version", "sub_dir", "prefix", "checkpoint_name")
OPTIONS = ("callbacks", "logger", "strategy", "profiler", "plugins", "accelerator")  # of the Trainer: objects


@dataclass(frozen=True)
class TrainerClass:
    """A class that an option may name.

    Attributes:
        module: where it is defined, below ``lightning.pytorch``; it is imported from the package above as well.
        name: of the class.
        options: those that are plain values.
        word: a short name for it.
        needs: the package that it needs beside Lightning; any one of several.
        folder: the option that says where it writes; the run folder where it is left out.
        subfolder: where in the run folder it writes, unless it is told.
    """

    module: str
    name: str
    options: tuple[str, ...]
    word: str = ""
    needs: str = ""
    folder: str = ""
    subfolder: str = ""

    @property
    def paths(self) -> tuple[str, str]:
        """Its import paths: the package's, and that of the module that defines it."""
        package = self.module.partition(".")[0]
        return f"lightning.pytorch.{package}.{self.name}", f"lightning.pytorch.{self.module}.{self.name}"


def _of(module: str, name: str, options: str, **more: str) -> TrainerClass:
    return TrainerClass(module, name, tuple(options.split()), **more)


CLASSES = (
    _of(
        "callbacks.early_stopping",
        "EarlyStopping",
        "monitor min_delta patience verbose mode strict check_finite stopping_threshold divergence_threshold "
        "check_on_train_epoch_end log_rank_zero_only",
    ),
    _of(
        "callbacks.model_checkpoint",
        "ModelCheckpoint",
        "dirpath filename monitor verbose save_last save_top_k save_on_exception save_weights_only mode "
        "auto_insert_metric_name every_n_train_steps train_time_interval every_n_epochs save_on_train_epoch_end "
        "enable_version_counter",
        folder="dirpath",
        subfolder="checkpoints/more",
    ),
    _of("callbacks.lr_monitor", "LearningRateMonitor", "logging_interval log_momentum log_weight_decay"),
    _of("callbacks.timer", "Timer", "duration interval verbose"),
    _of("callbacks.gradient_accumulation_scheduler", "GradientAccumulationScheduler", "scheduling"),
    _of(
        "callbacks.stochastic_weight_avg",
        "StochasticWeightAveraging",
        "swa_lrs swa_epoch_start annealing_epochs annealing_strategy device",
    ),
    _of("callbacks.device_stats_monitor", "DeviceStatsMonitor", "cpu_stats"),
    _of("callbacks.model_summary", "ModelSummary", "max_depth"),
    _of(
        "loggers.csv_logs",
        "CSVLogger",
        "save_dir name version prefix flush_logs_every_n_steps",
        word="csv",
        folder="save_dir",
        subfolder="csv",
    ),
    _of(
        "loggers.tensorboard",
        "TensorBoardLogger",
        "save_dir name version log_graph default_hp_metric prefix sub_dir purge_step max_queue flush_secs",
        word="tensorboard",
        needs="tensorboard tensorboardX",
        folder="save_dir",
        subfolder="tensorboard_logs",
    ),
    _of(
        "loggers.wandb",
        "WandbLogger",
        "name save_dir version offline id anonymous project log_model prefix checkpoint_name",
        word="wandb",
        needs="wandb",
        folder="save_dir",
    ),
    _of(
        "loggers.mlflow",
        "MLFlowLogger",
        "experiment_name run_name tags save_dir log_model prefix run_id synchronous",
        word="mlflow",
        needs="mlflow",
        folder="save_dir",
        subfolder="mlruns",
    ),
    _of(
        "strategies.ddp",
        "DDPStrategy",
        "process_group_backend timeout start_method find_unused_parameters gradient_as_bucket_view static_graph "
        "broadcast_buffers bucket_cap_mb",
    ),
    _of("profilers.simple", "SimpleProfiler", "dirpath filename extended", folder="dirpath"),
    _of("profilers.advanced", "AdvancedProfiler", "dirpath filename line_count_restriction", folder="dirpath"),
)
BY_NAME = {c.name: c for c in CLASSES}
BY_NAME |= {path: c for c in CLASSES for path in c.paths}
LOGGERS = {c.word: c for c in CLASSES if c.word}


def import_paths(allowed: Sequence[str]) -> list[str]:
    """What options may import: the classes of the list, and whole packages that the user allowed."""
    return [path for c in CLASSES for path in c.paths] + list(allowed)


def expand(option: str, value: Any) -> Any:
    """An option of the Trainer with its short words and bare class names as mappings of a class and its options.

    Args:
        option: ``logger``, ``callbacks``, ...
        value: as a file, a command line or Python has it; anything that names none of the classes is left as it is.

    Raises:
        UsageError: the class needs a package that is not installed.
    """
    if option not in OPTIONS:
        return value
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            value = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
    if isinstance(value, list):
        return [expand(option, v) for v in value]
    if isinstance(value, str):
        known = (LOGGERS.get(value) if option == "logger" else None) or BY_NAME.get(value)
        if known is None:
            return value
        value = {"class_path": known.paths[0]}
    if isinstance(value, Mapping) and (known := BY_NAME.get(str(value.get("class_path")))) is not None:
        if known.needs and not any(find_spec(package) for package in known.needs.split()):
            raise UsageError(
                f"--trainer.{option} {known.word} needs the package {known.needs.split()[0]}, which is not installed; "
                f"pip install {known.needs.split()[0]}"
            )
        given = value.get("init_args")
        if known.folder == "save_dir" and (given is None or isinstance(given, Mapping)):  # some loggers require one
            named = known.subfolder and "name" in known.options
            usual = {"save_dir": ".", "name": known.subfolder, "version": ""} if named else {}
            value = {**value, "init_args": {"save_dir": known.subfolder or ".", **usual, **(given or {})}}
    return value


def check_classes(trainer: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Refuse a class that is not on the list, or an option of one that is no plain value or a place elsewhere.

    Args:
        trainer: the Trainer's options, parsed.
        allowed: packages that the user allowed.

    Raises:
        UsageError: one sentence with the way out.
    """
    for option, spec in _specs(trainer):
        path, given = str(spec["class_path"]), spec.get("init_args") or {}
        package = path.partition(".")[0]
        if any(path == a or path.startswith(f"{a}.") for a in allowed):
            continue
        known = BY_NAME.get(path)
        if known is None:
            raise UsageError(not_allowed(option, path))
        for key, value in given.items():
            if value is None or value == "":
                continue
            if key not in known.options:
                raise UsageError(
                    f"--trainer.{option}: {unknown(f'plain option of {known.name}', key, known.options)} "
                    f"--allow-import {package} permits all of them."
                )
            if not _plain(value):
                raise UsageError(f"--trainer.{option}: {key} of {known.name} must be numbers and text; got {value!r}")
            if key in PLACES and isinstance(value, str) and _outside(value):
                raise UsageError(
                    f"--trainer.{option}: {known.name} may write inside of the run folder only; {key} is {value!r}. "
                    f"Give a relative path, or --allow-import {package}"
                )


def refuse_classes(section: str, options: Mapping[str, Any]) -> None:
    """Refuse a class that is named in a section other than the Trainer's: nothing else is made by its import path.

    Raises:
        UsageError: the option that names one.
    """
    for option, spec in _specs(options):
        raise UsageError(f"--{section}.{option} takes plain values; it names the class {spec['class_path']!r:.80}")


def not_allowed(option: str, path: str) -> str:
    """The sentence for a class that is not on the list."""
    names = ", ".join(c.name for c in CLASSES if c.module.startswith(option.rstrip("s")))
    usual = f" (those it may name without: {names})" if names else ""
    return f"--trainer.{option}: {path} may be named with --allow-import {path.partition('.')[0]} only{usual}"


def into_folder(value: Any, folder: Path) -> Any:
    """The options with the places of their classes below the run folder."""
    if isinstance(value, list):
        return [into_folder(v, folder) for v in value]
    if not isinstance(value, Mapping) or (known := BY_NAME.get(str(value.get("class_path")))) is None:
        return value
    given = dict(value.get("init_args") or {})
    if known.folder:
        place = given.get(known.folder)
        if place is None and known.folder == "dirpath":
            place = known.subfolder or "."
        given[known.folder] = str(folder / (place or "."))
    return {**value, "init_args": given}


def _specs(trainer: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every class that is named anywhere in the Trainer's options, with the option."""

    def walk(option: str, value: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        if isinstance(value, Mapping):
            if "class_path" in value:
                yield option, value
            for part in value.values():
                yield from walk(option, part)
        elif isinstance(value, list):
            for part in value:
                yield from walk(option, part)

    for option, value in trainer.items():
        yield from walk(option, value)


def _plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return "class_path" not in value and all(_plain(v) for v in value.values())
    if isinstance(value, (list, tuple)):
        return all(_plain(v) for v in value)
    return value is None or isinstance(value, (str, int, float, bool))


def _outside(place: str) -> bool:
    """Whether a path may lead out of the folder that it is taken in, on any system."""
    posix, windows = PurePosixPath(place), PureWindowsPath(place)
    rooted = posix.is_absolute() or bool(windows.drive or windows.root) or place.startswith("~")
    return rooted or ".." in posix.parts or ".." in windows.parts
