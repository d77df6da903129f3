"""Private touches of other packages, all of them, each with the versions it was tried on.

Nothing else in zoo reads a name that another package keeps for itself (a leading underscore, or an attribute that its
documentation does not promise). When an upgrade breaks one of these, ``tests/test_compat.py`` says which, and what to
do. Imports nothing that its caller has not imported already, so that each room keeps its place in the one-way order.

Tried on: torch 2.14.1, lightning 2.6.6, jsonargparse 4.53, torchdiffeq 0.2.5, timm 1.0.31.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])

# --------------------------------------------------------------------------------------- jsonargparse, tried on 4.53


@contextlib.contextmanager
def allowed_imports(paths: Sequence[str]) -> Iterator[None]:
    """Within the block a parser imports only these paths, and what is below them, and instantiates no ``Any``.

    jsonargparse's settings are those of the process: they are put back, so that a program's own parsers stay as they
    were. Tried on jsonargparse 4.53, whose `set_parsing_settings` can only add to its lists.
    """
    import jsonargparse
    from jsonargparse import _common

    was = dict(_common.parsing_settings)
    try:
        jsonargparse.set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=list(paths),
            validate_subclass_spec_in_any=False,
            instantiate_subclass_spec_in_any=False,
        )
        yield
    finally:
        _common.parsing_settings.clear()
        _common.parsing_settings.update(was)


@contextlib.contextmanager
def unserializable_allowed() -> Iterator[None]:
    """Within the block a dump of options that are objects does not warn of each; its text for them is not used."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="[\\s\\S]*Unable to serialize instance")
        yield


def parser_options(parser: Any) -> list[tuple[str, str]]:
    """The options of a jsonargparse parser and the help of each, without the actions that it adds by itself."""
    own = ("_ActionConfigLoad", "_ActionHelpClassPath")
    return [(a.dest, a.help or "") for a in parser._actions if type(a).__name__ not in own]


@dataclass(frozen=True)
class ParserError:
    """A message of jsonargparse, taken apart; as text it is one sentence.

    Attributes:
        key: the option, as ``section.option``; empty where none is named.
        wanted: the types that it takes; empty where the message does not say.
        got: the value.
        denied: the import path that was refused; empty where none was.
        rest: the last part of a message of another form.
    """

    key: str
    wanted: str
    got: str
    denied: str
    rest: str

    def __str__(self) -> str:
        flag = f"--{self.key}: " if self.key else ""
        if flag and self.wanted and self.got:
            got = self.got if len(self.got) <= 80 else f"{self.got[:77]}..."
            return f"{flag}expected {self.wanted}; got {got!r}"
        return f"{flag}{self.rest}"


def parser_error(message: str) -> ParserError:
    """Take jsonargparse's message of several lines apart: it has no other form for what was expected."""
    key = re.search(r'Parser key "([^"]+)"', message)
    got = re.search(r"(?:Got value|Given value): (.*)", message)
    subtypes = re.search(r"Subtypes: \[(.*)\]", message)
    single = re.search(r"Expected a (.+?)\. Got value", message)
    denied = re.search(r"Importing '([^']+)' is not allowed", message)
    wanted = subtypes[1] if subtypes else single[1] if single else ""
    wanted = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", wanted.replace("NoneType", "null"))
    wanted = re.sub(r"(typing|collections\.abc|lightning(\.\w+)*)\.", "", wanted)
    choices = re.findall(r"Literal\[([^\]]*)\]", wanted)
    wanted = f"one of {', '.join(choices)}" if choices else " or ".join(wanted.split(", "))
    parts = [part.strip(" -") for part in message.splitlines() if part.strip()]
    rest = parts[-1] if key and len(parts) > 1 else " ".join(parts)
    return ParserError(key[1] if key else "", wanted, got[1] if got else "", denied[1] if denied else "", rest)


# ----------------------------------------------------------------------------------------- Lightning, tried on 2.6.6
# The trainer comes as an argument, so that nothing is imported here.


def fit_position(trainer: Any) -> tuple[int, int] | None:
    """Return the epoch and the batches done in it, as the Trainer counts them; None while it does not fit.

    Its counters are saved with every checkpoint, so that a resumed run knows them before its first batch. With
    ``overfit_batches`` the epoch stays 0, as the batches stay the same.

    Tried on lightning 2.6.6.
    """
    if not trainer.training:
        return None
    loop = trainer.fit_loop
    epoch = 0 if trainer.overfit_batches else loop.epoch_progress.current.processed
    return epoch, loop.epoch_loop.batch_progress.current.ready


def sampler_ranks(trainer: Any) -> tuple[int, int]:
    """Return the rank and the number of processes that share a batch: (0, 1) for a strategy that distributes none.

    Tried on lightning 2.6.6.
    """
    options = trainer.distributed_sampler_kwargs
    return (options["rank"], options["num_replicas"]) if options else (0, 1)


def epoch_means(trainer: Any) -> dict[str, dict[str, Any]]:
    """What has been logged for the epoch of training so far: by key its sum, its count, and how it is logged.

    Tried on Lightning 2.6.6, which keeps these in the loop's `_results` and does not save them.
    """
    out: dict[str, dict[str, Any]] = {}
    for key, result in trainer.fit_loop.epoch_loop._results.items():
        meta = result.meta
        if result.has_reset:
            continue
        out[key] = {
            "fx": meta.fx,
            "name": meta.name,
            "prog_bar": meta.prog_bar,
            "logger": meta.logger,
            "on_step": meta.on_step,
            "on_epoch": meta.on_epoch,
            "reduce_fx": meta.reduce_fx.__name__,
            "sync_dist": meta.sync.should,
            "metric_attribute": meta.metric_attribute,
        }
        if result.is_tensor:
            out[key]["value"] = result.value.detach().clone()
            if meta.on_step:
                out[key]["newest"] = result._forward_cache.detach().clone()
            if meta.is_mean_reduction:
                out[key]["count"] = result.value.new_tensor(int(result.cumulated_batch_size)).long()
    return out


def restore_epoch_means(trainer: Any, module: Any, means: dict[str, dict[str, Any]]) -> None:
    """Put what `epoch_means` returned back, before anything else is logged in the epoch that is resumed."""
    results = trainer.fit_loop.epoch_loop._results
    device = trainer.strategy.root_device
    metrics = dict(module.named_modules())
    for key, entry in means.items():
        saved = dict(entry)
        value, count, newest = (saved.pop(k, None) for k in ("value", "count", "newest"))
        attribute = saved["metric_attribute"]
        first = metrics.get(attribute) if value is None else value.to(device)
        if first is None or key in results:
            continue
        results.log(
            saved.pop("fx"), saved.pop("name"), first, sync_dist_fn=trainer.strategy.reduce, batch_size=1, **saved
        )
        if value is not None:
            results[key].value = value.to(device)
            if count is not None:
                results[key].cumulated_batch_size = count.to(device)
            if newest is not None:
                results[key]._forward_cache = newest.to(device)
    if trainer._logger_connector._first_loop_iter:  # the first batch's `log` would set the sums back to zero
        trainer._logger_connector._first_loop_iter = False


def twin(module: Any, keep: Any) -> Any:
    """A shallow copy of a LightningModule that shares one of its modules and has copies of the others.

    Tried on torch 2.14.1 and Lightning 2.6.6: an `nn.Module` keeps its parts in `_modules`, and what the copy logs goes
    to the same Trainer.
    """
    made = copy.copy(module)
    parts = {name: part if part is keep else copy.deepcopy(part) for name, part in module._modules.items()}
    made.__dict__["_modules"] = parts
    return made


def data_module(module: Any) -> Any:
    """The data module that a LightningModule runs with; None where it has no Trainer, or plain loaders.

    Tried on Lightning 2.6.6, whose `trainer` property raises where there is none.
    """
    trainer = module._trainer
    return getattr(trainer, "datamodule", None)


def validate_again(trainer: Any) -> None:
    """Have a run that is resumed before a validation run it; Lightning would take it for done.

    Tried on Lightning 2.6.6, where only the loop's `_restart_stage` says so.
    """
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop._restart_stage = sys.modules[type(loop).__module__].RestartStage.RESTARTED_MID_EVALUATION


# --------------------------------------------------------------------------------------------- torch, tried on 2.14.1


def has_running_statistics(module: Any) -> bool:
    """Whether a module is a batch or instance normalization. Tried on torch 2.14.1 (their base, `_NormBase`)."""
    from torch.nn.modules.batchnorm import _NormBase

    return isinstance(module, _NormBase)


def has_power_iteration(module: Any) -> bool:
    """Whether a module updates the vectors of a spectral norm at each call, in either form. Tried on torch 2.14.1."""
    from torch.nn.utils.parametrizations import _SpectralNorm
    from torch.nn.utils.spectral_norm import SpectralNorm

    hooks = module._forward_pre_hooks.values()
    return isinstance(module, _SpectralNorm) or any(isinstance(hook, SpectralNorm) for hook in hooks)


def refused_by_vmap(error: RuntimeError) -> bool:
    """Whether `torch.func.vmap` has no rule for an operation, which the text alone says. Tried on torch 2.14.1."""
    return any(sign in str(error).lower() for sign in ("vmap", "batching rule", "batchedtensor"))


def under_transform(tensor: Any) -> bool:
    """Whether a tensor is one of `torch.func`'s, without values of its own. Tried on torch 2.14.1."""
    import torch

    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def pytree() -> Any:
    """Return torch's functions on nested lists, tuples and dictionaries. Tried on torch 2.14.1 (`_pytree`)."""
    from torch.utils import _pytree

    return _pytree


def set_reduction(module: Any, reduce: Any) -> None:
    """Have a parametrized module, whose class refuses it, pickled by ``reduce(module)``. Tried on torch 2.14.1."""

    def reduced(self: Any, protocol: Any) -> Any:
        return reduce(self)

    kind: Any = type(module)
    kind.__reduce_ex__ = reduced


def state_without_parametrizations(module: Any) -> dict[str, Any]:
    """Return a module's attributes, less its parametrizations and the hook that they hung on it. Tried on torch 2.14.1.

    The hook, which reads older state dicts of weight norm, is a local function: parametrizing again registers it.
    """
    hooks = module._load_state_dict_pre_hooks
    kept = type(hooks)((k, h) for k, h in hooks.items() if "<locals>" not in str(h.hook))
    modules = {k: m for k, m in module._modules.items() if k != "parametrizations"}
    return {**module.__dict__, "_modules": modules, "_load_state_dict_pre_hooks": kept}


def eager_call(module: Any) -> Any:
    """How a module is called where it was not compiled: with its hooks. Tried on torch 2.14.1 (`nn.Module`)."""
    return module._call_impl


def compiled_call(module: Any) -> Any:
    """How a module is called after `nn.Module.compile`. Tried on torch 2.14.1."""
    return module._compiled_call_impl


def set_compiled_call(module: Any, call: Any) -> None:
    """Have a module that was compiled be called by another function. Tried on torch 2.14.1.

    `nn.Module.__call__` looks for this attribute, and a copy or a saved module leaves it out.
    """
    module._compiled_call_impl = call


def allow_variants(count: int) -> None:
    """Let compiled code have so many variants of one function, and recorded evaluations be used more than once.

    The spectral radius takes many products with one recorded evaluation, whose tensors no product may overwrite. Tried
    on torch 2.14.1 (`torch._dynamo.config`, `torch._functorch.config`).
    """
    import torch._dynamo.config
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False
    torch._dynamo.config.recompile_limit = max(count, torch._dynamo.config.recompile_limit)


def refuses_saved_tensor_hooks(error: RuntimeError) -> bool:
    """Return whether torch.func says that it cannot run within saved-tensor hooks, which its text only tells.

    Tried on torch 2.14.1.
    """
    return "saved tensor hooks" in str(error)


# --------------------------------------------------------------------------------------- torchdiffeq, tried on 0.2.5
# Optional: imported by the functions that need it, where it is installed.


def torchdiffeq_methods() -> list[str]:
    """Return the methods of the installed torchdiffeq, off its table of solvers, without importing it (or torch).

    Tried on torchdiffeq 0.2.5.
    """
    spec = find_spec("torchdiffeq")
    source = Path(next(iter(spec.submodule_search_locations or [""])), "_impl", "odeint.py") if spec else None
    if source is None or not source.is_file():
        return []
    tables = [
        node.value
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)
        if any(isinstance(t, ast.Name) and t.id == "SOLVERS" for t in node.targets)
    ]
    return [k.value for table in tables for k in table.keys if isinstance(k, ast.Constant) and isinstance(k.value, str)]


def torchdiffeq_callbacks(method: str) -> set[str]:
    """Return the names under which a method of torchdiffeq calls back at its steps; adaptive ones tell acceptance.

    Tried on torchdiffeq 0.2.5.
    """
    from torchdiffeq._impl.odeint import SOLVERS

    return set(SOLVERS[method].valid_callbacks())


def torchdiffeq_failure(error: AssertionError) -> Literal["max_steps", "stalled", "nonfinite"]:
    """Return what a failed solve of torchdiffeq died of, which its assertions say in their text only.

    Tried on torchdiffeq 0.2.5.
    """
    text = str(error)
    if text.startswith("max_num_steps"):
        return "max_steps"
    return "stalled" if text.startswith("underflow") else "nonfinite"


def will_execute(node: Any) -> bool:
    """Whether the backward pass that runs now will reach a node of the graph. Tried on torch 2.10 to 2.14.1.

    torch's own ``register_multi_grad_hook`` asks the same. False outside of a backward pass.
    """
    import torch

    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        return False


def inside_transform() -> bool:
    """Whether a transform of torch.func (grad, vjp, vmap, ...) is at work. Tried on torch 2.14.1."""
    import torch

    return torch._C._functorch.peek_interpreter_stack() is not None


def profiler_is_on() -> bool:
    """Whether a profiler of torch records; torch promises no name for it. Tried on torch 2.14.1."""
    import torch

    return bool(torch.autograd._profiler_enabled())


def opaque(f: F) -> F:
    """A function that `torch.compile` leaves as it is: what is compiled around it breaks off there, and goes on after.

    The public ``torch.compiler.disable`` imports Dynamo at once, which takes a second; this one waits until the first
    call, as torch's own checkpointing has it. Tried on torch 2.14.1.
    """
    import torch

    return cast(F, torch._disable_dynamo(f))
