"""Bring the released checkpoints of DEQ and MDEQ into this package: ``python -m zoo.convert FILE --to DIR``.

The file is read by torch's restricted unpickler only, so that nothing in it can run. The folder that is made holds the
weights as safetensors and a configuration; ``zoo.load(DIR)`` reads it. `zoo.deq.convert` says what becomes what.
"""

from __future__ import annotations

import argparse
import inspect
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import hub
from zoo.folder import CONFIG, Config, WeightsError, write

PROG = "zoo.convert"
SMALL = {"dropout", "attention_dropout", "memory_length", "eval_memory_length", "global_pool"}  # they change no tensor
IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
PREPROCESSING = {  # of the released evaluations
    "imagenet": {"size": 224, **IMAGENET},
    "cifar10": {"size": 32, "mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]},
}


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
        **options: what the file does not tell, see `zoo.deq.convert.convert`.

    Raises:
        WeightsError: the file cannot be read without running code, is of another architecture, or is not whole;
            nothing is written.
    """
    import torch

    from zoo.checkpoint import read_pickle
    from zoo.deq.convert import NotReleased
    from zoo.deq.convert import convert as rename
    from zoo.folder import check

    content = read_pickle(file)
    try:
        found = rename(content, **options)
        card, published = _card(found.path, found.arguments)
        with torch.device("meta"):
            model = card.load()(**found.arguments)
    except NotReleased as error:
        raise WeightsError(f"{file}: {error}") from error
    except ValueError as error:
        raise WeightsError(f"{file}: its sizes do not make a model: {error}") from error
    check(model.state_dict(), found.state, str(file))
    tag = next(iter(card.published), "") if published else ""
    config = Config(
        name=f"{card.name}.{tag}" if tag else card.name,
        model=found.arguments,
        weights={},
        solver=dict(card.solver),
        adjoint=dict(card.adjoint),
        preprocessing=PREPROCESSING.get(tag, {}),
        training={"converted from": Path(file).name, "assumed": found.assumed},
        licence=card.licence,
        paper=dict(card.paper),
    )
    parameters = sum(p.numel() for p in model.parameters())
    config = write(Path(to), config, found.state, _readme(config, card, parameters))
    return Made(Path(to), config, parameters, published, found.assumed)


def _card(path: str, arguments: dict[str, Any]) -> tuple[hub.ModelCard, bool]:
    """The card of exactly these sizes, and True; else the first of the class, whose solver is taken, and False."""
    cards = [c for c in hub.cards().values() if c.path == path and not c.name.startswith("test_")]
    usual = {k: p.default for k, p in inspect.signature(cards[0].load()).parameters.items()}

    def sizes(given: Any) -> dict[str, Any]:
        whole = {**usual, **given}
        whole["head_width"] = whole.get("head_width") or whole.get("width", 0) // whole.get("heads", 1)
        whole["embed_width"] = whole.get("embed_width") or whole.get("width")
        return {k: list(v) if isinstance(v, tuple | list) else v for k, v in whole.items() if k not in SMALL}

    exact = next((c for c in cards if sizes(c.model) == sizes(arguments)), None)
    return exact or cards[0], exact is not None


def _readme(config: Config, card: hub.ModelCard, parameters: int) -> str:
    paper = card.paper
    return "\n".join(
        [
            f"# {config.name}",
            "",
            f"{card.summary[:1].upper()}{card.summary[1:]}; {parameters:,} parameters, converted from the checkpoint",
            f"`{config.training['converted from']}` that the authors of the paper released (MIT licence).",
            "",
            f'Reference: {paper.get("authors", "")}, "{paper.get("title", "")}", {paper.get("year", "")}, '
            f"{paper.get('url', '')}",
            "",
            "The weights are safetensors; no file of this folder can run code. `config.json` holds their sha256.",
            "",
        ]
    )


def parser() -> argparse.ArgumentParser:
    """The options; torch is not imported for them."""
    out = argparse.ArgumentParser(
        prog=f"python -m {PROG}",
        description="Make a model folder from a released checkpoint of MDEQ or of the DEQ transformer.",
        epilog="Sizes are read off the tensors. The other options are for what no tensor tells.",
        allow_abbrev=False,
    )
    out.add_argument("file", metavar="FILE", help="the checkpoint (.pkl, .pth, .pth.tar)")
    out.add_argument("--to", required=True, metavar="DIR", help="the folder to make")
    out.add_argument("--downsample", type=int, metavar="N", help="MDEQ: how often the stem halves the image")
    out.add_argument("--groups", type=int, metavar="N", help="MDEQ: groups of group normalisation (default 8)")
    out.add_argument("--norm-first", action="store_true", help="DEQ transformer: it is the pre-norm one")
    out.add_argument("--memory", type=int, metavar="N", help="DEQ transformer: places to remember (default 300)")
    return out


def main(argv: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 1 failed, 2 not understood)."""
    given = parser().parse_args(None if argv is None else list(argv))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; see zoo.fit
    try:
        made = convert(
            given.file,
            given.to,
            downsample=given.downsample,
            groups=given.groups,
            norm_first=given.norm_first,
            memory_length=given.memory,
        )
    except WeightsError as error:
        print(f"{PROG}: error: {error}", file=sys.stderr)
        return 1
    like = "of exactly the published sizes" if made.published else "of sizes that no card has"
    print(f"{made.config.name}: {made.parameters:,} parameters, {like}")
    for name, why in made.assumed.items():
        print(f"  {name} is not in the file: {why}")
    print(f'{made.place / CONFIG} written; load it by zoo.load("{made.place}")')
    return 0


if __name__ == "__main__":
    sys.exit(main())
