"""Networks that write the weights of other networks. Contents page; imports no torch.

    target = HyperTarget(module, select="*")            any module; its parameters become slots
    generator = Generator(target, code_size, "chunked") code (..., C) -> a tensor (..., *shape) for every slot
    HyperNetwork(target, generator)                     the two together, with the memory of one of them

``GENERATORS`` lists the ways from a code to weights.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.registry import Entry, Registry

if TYPE_CHECKING:
    from zoo.hypernet.generators.base import Generator as Generator
    from zoo.hypernet.hypernetwork import HyperNetwork as HyperNetwork
    from zoo.hypernet.target import HyperTarget as HyperTarget
    from zoo.hypernet.target import Slot as Slot

GENERATORS: Registry = Registry(
    "generator",
    Entry("full", "zoo.hypernet.generators.full:Full", "every weight has its own row of a linear head"),
    Entry("chunked", "zoo.hypernet.generators.chunked:Chunked", "one small network writes the weights chunk by chunk"),
    Entry("tiles", "zoo.hypernet.generators.tiles:Tiles", "Ha's two linear layers write kernels tile by tile"),
    Entry(
        "layers", "zoo.hypernet.generators.layers:Layers", "an embedding of each layer, a trunk that all layers share"
    ),
    Entry("low_rank", "zoo.hypernet.generators.low_rank:LowRank", "the base plus a product of two thin matrices"),
    Entry("film", "zoo.hypernet.generators.film:FiLM", "the base's outputs scaled, its biases shifted"),
)

_HOME = {
    "HyperTarget": "zoo.hypernet.target",
    "Slot": "zoo.hypernet.target",
    "Generator": "zoo.hypernet.generators.base",
    "HyperNetwork": "zoo.hypernet.hypernetwork",
}

__all__ = ["GENERATORS", *_HOME]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'zoo.hypernet' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(_HOME[name]), name)
