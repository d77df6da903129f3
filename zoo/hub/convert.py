"""Make a model folder from a checkpoint that the authors of (M)DEQ released: `convert`."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo.deq.released import NotReleased
from zoo.deq.released import convert as rename
from zoo.hub import cards
from zoo.storage.checkpoint import read_pickle
from zoo.storage.model_folder import Config, WeightsError, check, write

SMALL = {"dropout", "attention_dropout", "memory_length", "eval_memory_length", "global_pool"}  # they change no tensor


IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


PREPROCESSING = {  # of the released evaluations
    "imagenet": {"size": 224, **IMAGENET},
    "cifar10": {"size": 32, "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
    "cityscapes": {"size": [1024, 2048], **IMAGENET},
}


LICENCE = "MIT"  # of the released weights; the card's is that of our code


@dataclass(frozen=True)
class Made:
    """A folder that was made from a released checkpoint.

    Attributes:
        place: the folder.
        config: its configuration.
        parameters: of the model.
        published: whether a card has exactly these sizes.
        assumed: argument -> why it has its value, for those that the file does not tell.
    """

    place: Path
    config: Config
    parameters: int
    published: bool
    assumed: dict[str, str]


def convert(file: str | Path, to: str | Path, **options: Any) -> Made:
    """Make a model folder from a released checkpoint.

    Args:
        file: the checkpoint, a state dict or a mapping with one, as ``torch.save`` wrote it.
        to: the folder to make.
        **options: what the file does not tell, see `zoo.deq.released.convert`.

    Raises:
        WeightsError: the file cannot be read without running code, is of another architecture, or is not whole;
            nothing is written.
    """
    if not Path(file).is_file():
        raise WeightsError(f"{file} does not exist; give the released checkpoint, a .pkl or .pth file.")
    content = read_pickle(file)
    try:
        found = rename(content, **options)
        exact = _exact(found.path, found.arguments)
        with torch.device("meta"):
            model = _cards(found.path)[0].load()(**found.arguments)
        parameters, published = _count(model), exact is not None
        card = exact or _nearest(found.path, found.arguments, parameters)
    except NotReleased as error:
        raise WeightsError(f"{file}: {error}") from error
    except ValueError as error:
        raise WeightsError(f"{file}: its sizes do not make a model: {error}") from error
    check(model.state_dict(), found.state, str(file))
    tag = next(iter(card.published), "") if published else ""
    name = card.name if published else card.family
    assumed = dict(found.assumed)
    if not published:
        assumed["solver"] = f"{card.solver['name']} and its budget, as {card.name}, the nearest card, has them"
    config = Config(
        name=f"{name}.{tag}" if tag else name,
        model=found.arguments,
        weights={},
        solver=dict(card.solver),
        adjoint=dict(card.adjoint),
        preprocessing=PREPROCESSING.get(tag, {}),
        training={"converted from": Path(file).name, "assumed": assumed},
        licence=LICENCE,
        paper=dict(card.paper),
    )
    what = card.summary if published else f"{card.family} of sizes that no card has"
    config = write(Path(to), config, found.state, _readme(config, what, parameters))
    return Made(Path(to), config, parameters, published, assumed)


def _cards(path: str) -> list[cards.ModelCard]:
    """The cards of a class, but for the tests' own."""
    return [c for c in cards.all_cards().values() if c.path == path and not c.name.startswith("test_")]


def _usual(card: cards.ModelCard) -> dict[str, Any]:
    """What the arguments of a card's class are unless they are given."""
    return {k: p.default for k, p in inspect.signature(card.load()).parameters.items()}


def _count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def _exact(path: str, arguments: dict[str, Any]) -> cards.ModelCard | None:
    """The card of exactly these sizes, if there is one."""
    candidates = _cards(path)
    usual = _usual(candidates[0])

    def sizes(given: Any) -> dict[str, Any]:
        whole = {**usual, **given}
        whole["head_width"] = whole.get("head_width") or whole.get("width", 0) // whole.get("heads", 1)
        whole["embed_width"] = whole.get("embed_width") or whole.get("width")
        return {k: list(v) if isinstance(v, tuple | list) else v for k, v in whole.items() if k not in SMALL}

    return next((c for c in candidates if sizes(c.model) == sizes(arguments)), None)


def _nearest(path: str, arguments: dict[str, Any], parameters: int) -> cards.ModelCard:
    """The card whose solver suits: of as many classes, else of as many resolutions, and of the nearest size."""

    def distance(card: cards.ModelCard) -> tuple[Any, ...]:
        ours, theirs = ({**_usual(card), **given} for given in (arguments, card.model))
        classes, halvings, order = (ours.get(k) != theirs.get(k) for k in ("num_classes", "downsample", "norm_first"))
        resolutions = len(ours.get("channels", ())) != len(theirs.get("channels", ()))
        with torch.device("meta"):
            size = _count(card.load()(**card.model))
        return classes, resolutions, abs(math.log(parameters / size)), halvings, order

    return min(_cards(path), key=distance)


def _readme(config: Config, what: str, parameters: int) -> str:
    paper = config.paper
    return "\n".join(
        [
            f"# {config.name}",
            "",
            f"{what[:1].upper()}{what[1:]}; {parameters:,} parameters, converted from the checkpoint",
            f"`{config.training['converted from']}` that the authors of the paper released ({config.licence} licence).",
            "",
            f'Reference: {paper.get("authors", "")}, "{paper.get("title", "")}", {paper.get("year", "")}, '
            f"{paper.get('url', '')}",
            "",
            "The weights are safetensors; no file of this folder can run code. `config.json` holds their sha256.",
            "",
        ]
    )
