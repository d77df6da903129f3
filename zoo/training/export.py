"""Make a publishable folder from a training run: `export`, `push`."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from zoo.hub import cards
from zoo.hub.pretrained import load, run_of
from zoo.hub.readme import readme
from zoo.hub.trained import trained_config
from zoo.registry import sentence
from zoo.storage.files import write_json
from zoo.storage.model_folder import CONFIG, MACHINE, README, WEIGHTS, Config, WeightsError, read, write
from zoo.tasks.metrics import metric_info
from zoo.training.evaluate import TOLERANCE, measure
from zoo.training.options import Options
from zoo.training.request import DERIVED, resolve

HERE = ("enable_progress_bar", "accelerator", "devices")  # options of the Trainer that are of the machine, too
KEPT = ("seed", "epochs", "steps", "seconds", "commit", "data_sha256", "hardware", "time")  # of results.json


@dataclass(frozen=True)
class Exported:
    """A folder that was made.

    Attributes:
        place: the folder.
        config: its configuration, with the measured numbers.
        results: the run's ``results.json`` with its curve, as `write_results` writes it.
    """

    place: Path
    config: Config
    results: dict[str, Any]

    @property
    def entry(self) -> str:
        """The lines of a card file that name these weights and their number."""
        variant, _, data = self.config.name.partition(".")
        metrics, training = self.config.metrics, self.config.training
        metric = metrics["metric"]
        measured = {
            metric: round(metrics[metric], 5),
            "tolerance": metrics["tolerance"],
            "samples": metrics["samples"],
            "seed": training.get("seed"),
            "seconds": training.get("seconds") and round(training["seconds"]),
            "results": f"{variant}_{data}.json",
        }
        weights = {"file": f"{self.config.name}/{WEIGHTS}", "sha256": self.config.weights["sha256"]}
        parts = {"measured": measured, "weights": weights}
        return "\n".join(f"{key}:\n  {variant}:\n    {data}: {_flow(value)}" for key, value in parts.items())


def export(
    run: str | Path, to: str | Path | None = None, *, half: bool = False, root: str | Path | None = None
) -> Exported:
    """Make a model folder from a training run.

    Args:
        run: the run folder, whose best weights are taken, or a ``.ckpt`` in its ``checkpoints``.
        to: the folder to make; None: ``exports/<variant>.<data>``.
        half: store float16, half the bytes, where the measured number holds.
        root: folder of the data sets.

    Raises:
        WeightsError: the run cannot be read, or its number does not hold; nothing is written.
    """
    if not Path(run).exists():
        raise WeightsError(f"{run} does not exist; give a run folder, or a .ckpt file of one.")
    model = load(run)
    saved = trained_config(model)
    if saved is None or saved.weights.get("sha256"):
        raise WeightsError(f"{run} is a model folder already; give a training run, or copy the folder.")
    folder = Path(run) if Path(run).is_dir() else run_of(Path(run))
    if not (folder / "config.yaml").is_file():
        raise WeightsError(
            f"{run} lies outside of its run: {folder / 'config.yaml'} is missing, which says how it was made."
        )
    results = _results(folder)
    variant, _, data = saved.name.partition(".")
    card = cards.card(variant)
    plain = model.state_dict()
    if half:
        model.load_state_dict({k: v.half() if v.is_floating_point() else v for k, v in plain.items()})
    settings = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    described = {k: v for k, v in settings.get("data", {}).items() if k not in MACHINE}
    if root is None:  # where the run read its data
        root = settings.get("data", {}).get("root")
    test, _, samples, metric = measure(model, card, data, root=root, settings=described)
    tolerance = _tolerance(metric, test[metric], samples)
    before = results.get("test", {}).get(metric)
    if before is not None and abs(test[metric] - before) > tolerance:
        how = "stored as float16" if half else "measured again"
        raise WeightsError(
            f"The {metric} of {run} is {test[metric]:.4f} {how}; its results.json says {before:.4f}, and "
            f"{tolerance} of difference is allowed. "
            + ("Export without --half." if half else "Is it the same data and the same code?")
        )
    recipe = {k: dict(settings.get(k) or {}) for k in ("data", "optim", "task", "trainer")}
    for key in MACHINE:
        recipe["data"].pop(key, None)
    config = replace(
        saved,
        metrics={"metric": metric, **test, "samples": samples, "tolerance": tolerance, "split": "test"},
        training={**{k: results[k] for k in KEPT if k in results}, "best": results.get("best", {}), "recipe": recipe},
        versions=results.get("versions", {}),
        licence=card.licence,
        paper=dict(card.paper),
    )
    place = Path(to) if to is not None else Path("exports") / saved.name.replace(":", "_")
    text = _card_text(model, config, source_of(place, config))
    config = write(place, config, plain, text, half=half)
    curve = _curve(folder / "metrics.csv")
    return Exported(place, config, {**results, "weights": dict(config.weights), "measured": test, "curve": curve})


def source_of(place: Path, config: Config) -> str:
    """What `zoo.load` takes for a folder, wherever it is called: its whole path; the name of weights that ship."""
    place = place.resolve()
    return config.name if place == (cards.HERE / "weights" / config.name).resolve() else str(place)


def _card_text(model: nn.Module, config: Config, source: str) -> str:
    parameters = sum(p.numel() for p in model.parameters())
    return readme(config, cards.card(config.name), parameters, command(config), source)


def command(config: Config) -> str:
    """The command line that trains a model again as it was trained: flags say what its recipe of today does not."""
    variant, _, data = config.name.partition(".")
    training = config.training
    words = ["--model", variant, "--data", data, "--seed", str(training.get("seed", 0))]
    recipe = training.get("recipe", {})
    model = {k: v for k, v in config.model.items() if k not in DERIVED}
    then = _leaves({**recipe, "model": model, "solver": config.solver, "adjoint": config.adjoint})
    for key in ("solver.name", "adjoint.name", "adjoint.solver.name"):  # first: their options depend on them
        options = Options(resolve(words))
        named = {**options.names, "adjoint.solver": options.inner}.get(key.removesuffix(".name"))
        if then.pop(key, named) != named:
            words += [f"--{key.removesuffix('.name')}", str(_get(config, key))]
    options = Options(resolve(words))
    now = _leaves(options.values)
    known = set(options.option_keys())
    known -= {f"trainer.{k}" for k in HERE}
    words += [f"--{k}={_word(v)}" for k, v in then.items() if k in known and now.get(k) != v]
    return shlex.join(["python", "-m", "zoo.fit", *words])


def _get(config: Config, key: str) -> Any:
    first, *rest = key.split(".")
    value: Any = getattr(config, first)
    for part in rest:
        value = value[part]
    return value


def _leaves(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Every value of nested mappings, by its dotted name."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{above}{key}"
        out |= _leaves(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return out


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def write_results(exported: Exported, folder: str | Path) -> Path:
    """``<variant>_<data>.json`` in a folder: what the run measured, with its curve, for the card and the figures."""
    file = Path(folder) / f"{exported.config.name.replace('.', '_')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, exported.results)
    return file


def push(place: str | Path, repository: str, *, private: bool = False) -> str:
    """Hand a model folder to the Hugging Face Hub; the model card there names the repository. Returns its address.

    Raises:
        WeightsError: the folder is damaged, or the hub refuses.
    """
    import huggingface_hub

    place, address = Path(place), f"hf-hub:{repository}"
    saved = read(place)
    text = _card_text(load(place), saved, address)
    contents: dict[str, Path | bytes] = {WEIGHTS: place / WEIGHTS, CONFIG: place / CONFIG, README: text.encode()}
    api = huggingface_hub.HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(
            repo_id=repository,
            operations=[huggingface_hub.CommitOperationAdd(name, content) for name, content in contents.items()],
            commit_message=f"Add {saved.name}",
        )
    except Exception as error:  # the hub's own classes differ by version
        raise WeightsError(
            f"{place} was not pushed to {repository}: {sentence(error).rstrip('.')}. Is there a network, and did you "
            "log in with `hf auth login`?"
        ) from error
    return address


def _tolerance(metric: str, value: float, samples: int) -> float:
    """What other hardware may change: one sample, or 0.2 % of them, of a share; 1 % of any other number."""
    if metric_info(metric).scale == 100:
        return max(TOLERANCE, round(1.01 / max(samples, 1), 4))
    return round(0.01 * abs(value), 6)


def _results(folder: Path) -> dict[str, Any]:
    """The run's own numbers; empty where it was interrupted before it wrote any."""
    file = folder / "results.json"
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise WeightsError(f"{file} is not valid JSON ({error}).") from error


def _curve(file: Path) -> dict[str, list[float]]:
    """Validation by epoch: the columns of ``metrics.csv`` that start with ``val/``, with their steps."""
    if not file.is_file():
        return {}
    with file.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if any(v for k, v in row.items() if k.startswith("val/"))]
    keys = [
        "step",
        *(k for k in (rows[0] if rows else {}) if k in ("train/loss_epoch", "train/accuracy") or "val/" in k),
    ]
    return {k: [round(float(row[k]), 6) if row.get(k) else None for row in rows] for k in keys}  # type: ignore[misc]


def _flow(value: Mapping[str, Any]) -> str:
    """A mapping on one line of YAML."""
    kept = {k: v for k, v in value.items() if v is not None}
    return yaml.safe_dump(kept, default_flow_style=True, sort_keys=False, width=1000).strip()
