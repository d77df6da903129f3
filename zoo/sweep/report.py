"""What the trials of a sweep say: a table, the best with its command line, importances and figures."""

from __future__ import annotations

import csv
import shlex
import warnings
from typing import TYPE_CHECKING, Any

from zoo.registry import sentence
from zoo.storage.files import write_json
from zoo.sweep.study import Sweep

if TYPE_CHECKING:
    import optuna


def write_report(study: optuna.study.Study, sweep: Sweep) -> list[str]:
    """Write ``trials.csv``, ``best.json``, ``importance.png`` and ``parallel.png``; return lines for the terminal."""
    folder = sweep.folder
    trials = study.get_trials(deepcopy=False)
    keys = [d.key for d in sweep.space]
    with (folder / "trials.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["number", "state", "value", *keys, "seconds", "folder", "error"])
        for t in trials:
            where = [t.user_attrs.get(k, "") for k in ("folder", "error")]
            seconds = f"{t.duration.total_seconds():.1f}" if t.duration else ""
            value = "" if t.value is None else f"{t.value:.6g}"
            table.writerow(
                [t.number, t.state.name.lower(), value, *(t.params.get(k, "") for k in keys), seconds, *where]
            )
    finished = [t for t in trials if t.value is not None and t.state.name == "COMPLETE"]
    lines = [f"{len(finished)} of {len(trials)} trials finished: {folder / 'trials.csv'}"]
    if not finished:
        return [*lines, "no trial has finished: there is no best one"]
    best = study.best_trial
    words = ["python", "-m", "zoo.fit", "--model", sweep.model, "--data", sweep.data, "--seed", str(sweep.seed)]
    for key, value in {**sweep.fixed, **best.params}.items():
        words += [f"--{key.removesuffix('.name')}", str(value)]
    told: dict[str, Any] = {
        "number": best.number,
        "value": best.value,
        "params": best.params,
        "command": shlex.join(words),
    }
    shares = importances(study)
    write_json(folder / "best.json", {**told, "importance": shares, "direction": study.direction.name.lower()})
    lines += [f"best            {best.value:.5g}, trial {best.number}", f"train it again  {told['command']}"]
    lines += [f"importance      {', '.join(f'{k} {v:.0%}' for k, v in shares.items())}"] if shares else []
    lines += [f"figure          {folder / name}" for name in figures(study, sweep, shares)]
    return lines


def importances(study: optuna.study.Study) -> dict[str, float]:
    """The share of each option in how the values of the trials differ; empty where too few tell."""
    import optuna

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return dict(optuna.importance.get_param_importances(study))
    except (ValueError, RuntimeError):
        return {}


def figures(study: optuna.study.Study, sweep: Sweep, shares: dict[str, float]) -> list[str]:
    """Draw the importances and the parallel coordinates of the finished trials; return the files' names."""
    import matplotlib.pyplot as plt
    from optuna.visualization import matplotlib as drawn

    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna's figures are marked as experimental
        if shares:
            figure, axes = plt.subplots(figsize=(6, 0.6 + 0.4 * len(shares)), layout="constrained")
            axes.barh(list(shares)[::-1], list(shares.values())[::-1])
            axes.set_xlabel("importance")
            figure.savefig(sweep.folder / "importance.png", dpi=120)
            plt.close(figure)
            made.append("importance.png")
        try:
            axes = drawn.plot_parallel_coordinate(study)
            figure = axes.figure
            figure.set_size_inches(2.5 + 2 * len(sweep.space), 4.5)
            figure.savefig(sweep.folder / "parallel.png", dpi=120, bbox_inches="tight")
            plt.close(figure)
            made.append("parallel.png")
        except (ValueError, RuntimeError) as error:  # trials that cannot be drawn together
            warnings.warn(f"the parallel coordinates were not drawn: {sentence(error)}", stacklevel=2)
    return made
