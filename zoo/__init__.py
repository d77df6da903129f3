"""Implicit models for PyTorch Lightning: a state defined by an equation, a solver that finds it, an adjoint.

This is the contents page. Names are imported when they are first asked for, so that ``import zoo`` is fast and
imports no torch::

    zoo.fixed_point(f, z0, solver="anderson", adjoint="implicit")      the solve itself, differentiable
    zoo.odeint(f, y0, ts, solver="dopri5", adjoint="unroll")           an ODE, likewise
    zoo.create_model("mdeq_tiny", solver="broyden")                    a model by name, a plain nn.Module
    zoo.load("mdeq_tiny.digits")                                       a trained one, by name, folder or hub
    zoo.predict("mdeq_tiny.digits", "two.png").label                   ... and what it says about a picture
    zoo.generate("runs/lstm_small_python_docs/...", "The ")            ... and what a language model writes
    zoo.compare_models(["mdeq_tiny", "timm:resnet18"], "digits")       models side by side, every number measured
    zoo.train("mdeq_tiny", "digits")                                   the training of ``python -m zoo.fit``
    zoo.list_models("mdeq*"), zoo.list_solvers(), zoo.list_adjoints()  what there is
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo import penalties as penalties
    from zoo.compare.comparison import compare_models as compare_models
    from zoo.hub.cards import list_models as list_models
    from zoo.hub.cards import register_card as register_card
    from zoo.hub.factory import create_model as create_model
    from zoo.hub.generate import generate as generate
    from zoo.hub.predict import predict as predict
    from zoo.hub.pretrained import load as load
    from zoo.implicit import ImplicitMixin as ImplicitMixin
    from zoo.solve import fixed_point as fixed_point
    from zoo.solve import odeint as odeint
    from zoo.solvers.base import Result as Result
    from zoo.solvers.base import Solution as Solution
    from zoo.solvers.base import SolveError as SolveError
    from zoo.training.own_code import register_model as register_model
    from zoo.training.train import train as train

__version__ = "0.1.0"

_HOME = {  # public name -> the module it lives in; a module without a name of its own is exported whole
    "fixed_point": "zoo.solve",
    "odeint": "zoo.solve",
    "Solution": "zoo.solvers.base",
    "Result": "zoo.solvers.base",
    "SolveError": "zoo.solvers.base",
    "ImplicitMixin": "zoo.implicit",
    "compare_models": "zoo.compare.comparison",
    "create_model": "zoo.hub.factory",
    "list_models": "zoo.hub.cards",
    "generate": "zoo.hub.generate",
    "load": "zoo.hub.pretrained",
    "predict": "zoo.hub.predict",
    "penalties": "zoo.penalties",
    "register_card": "zoo.hub.cards",
    "register_model": "zoo.training.own_code",
    "train": "zoo.training.train",
}

_COMMANDS = {  # a command that has no function of its name -> what does the same from Python
    "fit": 'zoo.train("mdeq_tiny", "digits")',
    "evaluate": 'from zoo.training.evaluate import evaluate; evaluate("mdeq_tiny.digits")',
    "compare": 'zoo.compare_models(["mdeq_tiny", "odenet"], "digits")',
    "export": 'from zoo.training.export import export; export("runs/NAME")',
    "convert": 'from zoo.hub.convert import convert; convert("released.pkl", "DIR")',
    "sample": 'zoo.generate("runs/NAME", "The ")',
}

__all__ = sorted([*_HOME, "__version__", "list_adjoints", "list_solvers"])


def list_solvers(pattern: str = "*", kind: str | None = None) -> list[str]:
    """The names of the solvers, in order.

    Args:
        pattern: a shell pattern, ``"*"`` for all.
        kind: ``"fixed_point"``, ``"linear"`` or ``"ode"``; None for every kind.
    """
    from zoo.solvers import SOLVERS

    return SOLVERS.names(pattern, kind)


def list_adjoints(pattern: str = "*", kind: str | None = None) -> list[str]:
    """The names of the adjoints, in order.

    Args:
        pattern: a shell pattern, ``"*"`` for all.
        kind: ``"fixed_point"`` or ``"ode"``: what it must serve (an adjoint of kind ``"any"`` serves both); None for
            every kind.
    """
    from zoo.adjoints import ADJOINTS

    return [e.name for e in ADJOINTS.entries(pattern) if kind is None or e.kind in (kind, "any")]


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if name in _COMMANDS:
        raise AttributeError(f"zoo.{name} is a command, python -m zoo.{name}. From Python: {_COMMANDS[name]}")
    if home is None:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}; it has {', '.join(__all__)}.")
    module = import_module(home)
    value = module if home == f"zoo.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
