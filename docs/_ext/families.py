"""A page for each family, from its card and from the kept results; written before each build."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from files import write

import zoo
from zoo.hub.cards import TESTS, ModelCard, all_cards, recipe
from zoo.registry import UnknownName
from zoo.tasks.metrics import metric_info, primary_metric

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "experiments" / "results"
UP = "../../../"  # from a page to the root of the repository
KINDS = {  # the room of a family's class -> the heading that it stands under
    "deq": "Equilibrium models",
    "node": "Neural ODEs",
    "hypernet": "Hypernetworks and meta-learning",
    "baselines": "Explicit twins",
}
FIGURES = {  # of experiments that are no comparison: family -> file, what it shows
    "cnf": ("figures/flows.png", "Samples and densities: maximum likelihood and flow matching"),
    "hamiltonian": ("figures/hamiltonian.png", "Energy along 500 units of time"),
    "odenet": ("annuli.png", "Nested annuli: a plain field cannot part them, an augmented one can"),
    "latent_ode": ("spirals.png", "Spirals, extrapolated"),
    "ode_rnn": ("spirals.png", "Spirals, extrapolated"),
    "neural_cde": ("spirals.png", "Spirals, extrapolated"),
}


def families() -> dict[str, list[ModelCard]]:
    """The cards that ship with the package, by family, without the tests' own."""
    out: dict[str, list[ModelCard]] = {}
    for card in all_cards().values():
        if not card.name.startswith(TESTS) and Path(card.source).parent == Path(zoo.__file__).parent / "cards":
            out.setdefault(card.family, []).append(card)
    for cards in out.values():  # in the card's own order
        written = list(yaml.safe_load(Path(cards[0].source).read_text(encoding="utf-8"))["variants"])
        cards.sort(key=lambda card: written.index(card.name))
    return out


def parameters(card: ModelCard) -> str:
    """How many parameters a variant has for its default data; empty where the name leaves a choice open."""
    if card.takes:
        return ""
    arguments = recipe(card.name, card.data[0]).get("model", {})
    try:
        with torch.device("meta"):
            model = zoo.create_model(card.name, **arguments)
    except (NotImplementedError, RuntimeError):  # it computes with values when it is made
        model = zoo.create_model(card.name, **arguments)
    return f"{sum(p.numel() for p in model.parameters()):,}"


def spec(given: Any) -> str:
    """A solver or an adjoint with its options, as a table shows it."""
    if not given:
        return ""
    options = ", ".join(f"{k} {v['name'] if isinstance(v, dict) else v}" for k, v in given.items() if k != "name")
    return f"`{given['name']}`" + (f" ({options})" if options else "")


def rows(head: list[str], body: list[list[str]]) -> list[str]:
    """A Markdown table, without the columns in which nothing stands."""
    keep = [j for j in range(len(head)) if any(row[j] for row in body)]
    lines = [[head[j] for j in keep], ["---"] * len(keep), *([row[j] for j in keep] for row in body)]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def measured(cards: list[ModelCard]) -> Iterator[list[str]]:
    """What was measured here: the card's number with its tolerance, or where it has none that of a kept run."""
    seen = set()
    for card in cards:
        for data, entry in card.measured.items():
            key = next(k for k in entry if k not in ("tolerance", "samples", "seed", "seconds", "results"))
            info = metric_info(key)
            record = entry.get("results", "")
            seen.add(record)
            link = f"[json]({UP}experiments/results/{record})" if (RESULTS / record).is_file() else ""
            yield [
                f"`{card.name}`",
                data,
                f"{info.short} {info.write(entry[key])}",
                f"{info.write(entry['tolerance'])}" if "tolerance" in entry else "",
                f"{entry['samples']:,}" if "samples" in entry else "",
                f"{entry['seconds'] / 60:.1f} min" if "seconds" in entry else "",
                link,
            ]
    names = {c.name for c in cards}
    for file in sorted(RESULTS.glob("*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        if file.name in seen or "test" not in record or record.get("model") not in names:
            continue
        info = primary_metric(record)
        took = f"{record['seconds'] / 60:.1f} min"
        value = f"{info.short} {info.write(record['test'][info.key])}"
        link = f"[json]({UP}experiments/results/{file.name})"
        yield [f"`{record['model']}`", record["data"], value, "", "", took, link]


def published(cards: list[ModelCard]) -> Iterator[list[str]]:
    """What the paper, or its code, reports."""
    for card in cards:
        for data, entry in card.published.items():
            if isinstance(entry, dict):
                yield [f"`{card.name}`", str(data), ", ".join(f"{k} {v}" for k, v in entry.items())]
            else:
                yield [f"`{card.name}`", "", f"{data} {entry}"]


def figures(cards: list[ModelCard]) -> Iterator[tuple[str, str]]:
    """The figures of a family: that of its experiment, and the training curves of a comparison that it took part in."""
    if cards[0].family in FIGURES:
        yield FIGURES[cards[0].family]
    names = {c.name for c in cards}
    for file in sorted(RESULTS.glob("compare_*.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        drawn = RESULTS / "figures" / f"{file.stem}_training.png"
        if drawn.is_file() and any(r["model"] in names for r in record["rows"]):
            yield f"figures/{drawn.name}", f"Training beside other models on {record['data']}"
            return


def page(cards: list[ModelCard]) -> str:
    """The page of a family."""
    first = cards[0]
    module, _, name = first.path.partition(":")
    paper = first.paper
    family = yaml.safe_load(Path(first.source).read_text(encoding="utf-8"))
    lines = [f"# {first.family}", "", f"{family['summary']}.", ""]
    if paper:
        lines += [f"{paper['authors']}, [{paper['title']}]({paper['url']}), {paper['year']}.", ""]
    lines += ["## The equation", "", "```{eval-rst}", f".. automodule:: {module}", "   :no-index:", "   :no-members:"]
    lines += ["```", "", f"The class: {{py:class}}`{module}.{name}`.", "", "## Variants", ""]
    body = [
        [
            f"`{c.name}`" + "".join(f", `{a}`" for a in c.aliases),
            c.summary,
            parameters(c),
            ", ".join(c.data),
            spec(c.solver),
            spec(c.adjoint),
        ]
        for c in cards
    ]
    lines += rows(["name", "what", "parameters", "data", "solver", "adjoint"], body)
    if found := list(measured(cards)):
        lines += ["## Measured here", ""]
        lines += rows(["model", "data", "test", "tolerance", "samples", "training", "record"], found)
    if found := list(published(cards)):
        lines += ["## Published", "", "By the paper or its released code; not measured here.", ""]
        lines += rows(["model", "data", "reported"], found)
    for file, what in figures(cards):
        lines += [f"![{what}]({UP}experiments/results/{file})", "", f"*{what}.*", ""]
    weights = [(c, data) for c in cards for data in c.weights]
    if weights:
        lines += ["## Weights", "", "They ship with the package, as safetensors.", "", "```python", "import zoo", ""]
        lines += [f'model = zoo.load("{c.name}.{data}")' for c, data in weights] + ["```", ""]
        names = f"{weights[0][0].name}.{weights[0][1]}"
        lines += ["```sh", f"python -m zoo.evaluate --model {names}", "```", ""]
    shown = f"{first.name}:{ {'timm': 'resnet18'}.get(first.name, 'NAME') }" if first.takes else first.name
    lines += ["## Command", "", "```sh", f"python -m zoo.fit --model {shown} --data {first.data[0]}"]
    lines += [f"python -m zoo.fit --model {shown} --help", "```", ""]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Every page by its file name, and the index."""
    found = families()
    out = {name: page(cards) for name, cards in found.items()}
    index = ["# Families", "", "One page a card: equation, variants, measured and published numbers, command.", ""]
    for room, title in KINDS.items():
        names = [n for n, cards in found.items() if cards[0].path.split(".")[1] == room]
        index += [f"## {title}", "", "```{toctree}", ":maxdepth: 1", "", *names, "```", ""]
    if left := set(found) - {n for n, cards in found.items() if cards[0].path.split(".")[1] in KINDS}:
        raise ValueError(f"docs/_ext/families.py: KINDS has no heading for {', '.join(sorted(left))}.")
    return {**out, "index": "\n".join(index)}


def _write(app: Sphinx) -> None:
    try:
        write(Path(app.srcdir) / "generated" / "families", pages())
    except UnknownName as error:
        raise ValueError(f"docs/_ext/families.py: {error}") from error


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
