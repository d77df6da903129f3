"""The text of a model folder's ``README.md``: what it is, its number, how to use it, and how it was made."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from zoo.hub.cards import ModelCard
from zoo.storage.model_folder import Config


def readme(config: Config, card: ModelCard, parameters: int, command: str, source: str) -> str:
    """Write front matter as model hubs read it, then the card for people.

    Args:
        config: the folder's configuration, with its metrics.
        card: the card of the model.
        parameters: how many it has.
        command: what trains it again.
        source: what `zoo.load` takes for these very weights: the folder, ``hf-hub:org/name``, or a shipped name.
    """
    _, _, data = config.name.partition(".")
    metrics, training = config.metrics, config.training
    metric = metrics.get("metric", "")
    number = metrics.get(metric)
    front: dict[str, Any] = {
        "library_name": "implicit-zoo",
        "license": config.licence.lower(),
        "tags": ["implicit-models", card.family],
        "datasets": [data],
        "metrics": [metric] if metric else [],
    }
    writes = config.preprocessing.get("kind") == "text"
    if config.preprocessing:
        pixels = card.task.endswith(":Segmentation")
        front["pipeline_tag"] = (
            "text-generation" if writes else f"image-{'segmentation' if pixels else 'classification'}"
        )
    if isinstance(number, float):
        result = {
            "task": {"type": front.get("pipeline_tag", "other")},
            "dataset": {"name": data, "type": data, "split": "test"},
            "metrics": [{"type": metric, "value": round(number, 5)}],
        }
        front["model-index"] = [{"name": config.name, "results": [result]}]
    lines = ["---", yaml.safe_dump(front, sort_keys=False).strip(), "---", "", f"# {config.name}", ""]
    lines += [f"{card.summary[:1].upper()}{card.summary[1:]}; {parameters:,} parameters, trained on {data}.", ""]
    rows = [
        (f"test {metric}", f"{number:.4f} on {metrics['samples']:,} samples" if isinstance(number, float) else ""),
        ("evaluations a solve", f"{metrics['nfe_forward']:.1f}" if "nfe_forward" in metrics else ""),
        ("samples converged", f"{metrics['converged']:.1%}" if "converged" in metrics else ""),
        ("solver, adjoint", ", ".join(s["name"] for s in (config.solver, config.adjoint) if s)),
        ("training", f"{training['seconds']:.0f} s, {training['epochs']} epochs" if "seconds" in training else ""),
        ("seed", str(training.get("seed", ""))),
        ("commit", training.get("commit") or ""),
    ]
    lines += ["| | |", "|---|---|", *(f"| {left} | {right} |" for left, right in rows if right), ""]
    note = "  # this folder: after a move, its new place" if "/" in source and ":" not in source else ""
    lines += ["```python", "import zoo", f"model = zoo.load({_quoted(source)}){note}"]
    if config.preprocessing:
        asked = 'generate(model, "The ")' if writes else 'predict(model, "picture.png")'
        lines.append(f"print(zoo.{asked})")
    lines += ["```", "", "Measured again, and trained again, by", "", "```bash"]
    lines += [f"python -m zoo.evaluate --model {shlex.quote(source)}"]
    lines += [command, "```", ""]
    if card.paper:
        p = card.paper
        lines += [
            f'Reference: {p.get("authors", "")}, "{p.get("title", "")}", {p.get("year", "")}, {p.get("url", "")}',
            "",
        ]
    lines += ["The weights are safetensors; no file of this folder can run code. `config.json` holds their sha256.", ""]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """A text as Python writes it, in double quotes where that needs no escapes."""
    return repr(text) if '"' in text or "\\" in text else f'"{text}"'
