"""The private touches of other packages still find what they touch; a failure says what an upgrade broke."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable
from pkgutil import iter_modules
from typing import Any, Literal

import jsonargparse
import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import MeanMetric

from zoo import _compat


def test_every_package_has_a_file_that_says_what_it_was_tried_on():
    versions = dict(re.findall(r"(\w+) (\d[\d.]*\d)", (_compat.__doc__ or "").partition("Tried on:")[2]))
    files = {
        module.name: importlib.import_module(f"zoo._compat.{module.name}") for module in iter_modules(_compat.__path__)
    }
    assert set(versions) == set(files)
    for name, module in files.items():
        assert f"{name}, tried on {versions[name]}".lower() in (module.__doc__ or "").lower()
        assert set(_compat.__all__) >= {
            n for n, f in vars(module).items() if inspect.isroutine(f) and f.__module__ == module.__name__
        }


def test_lightning_counts_epochs_and_batches_where_resuming_reads_them(tmp_path):
    import lightning as L
    import torch

    from zoo.data import DATA

    class Fit(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(2, 1), []

        def training_step(self, batch, index):
            self.seen.append(_compat.fit_position(self.trainer))
            return self.layer(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model, data = Fit(), DATA["two_moons"](count=512)
    trainer = L.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data.train_dataloader())
    upgrade = (
        "Lightning moved its progress counters: mend fit_position in zoo/_compat/lightning.py, which resuming relies on"
    )
    assert model.seen == [(0, 1), (0, 2), (1, 1), (1, 2)], upgrade
    assert _compat.fit_position(trainer) is None, upgrade
    assert _compat.sampler_ranks(trainer) == (0, 1), "mend sampler_ranks in zoo/_compat/lightning.py"


def test_torchdiffeq_lists_its_methods_where_they_are_read():
    odeint = pytest.importorskip("torchdiffeq._impl.odeint", reason="torchdiffeq is optional")
    found = _compat.torchdiffeq_methods()
    assert found == list(odeint.SOLVERS), "torchdiffeq's table of solvers has moved: mend torchdiffeq_methods"
    assert _compat.torchdiffeq_callbacks("dopri5") >= {"callback_step", "callback_accept_step"}
    assert "callback_accept_step" not in _compat.torchdiffeq_callbacks("rk4")


def test_torchdiffeq_says_why_it_failed_where_that_is_read():
    import torch

    torchdiffeq = pytest.importorskip("torchdiffeq")
    cases = {
        "max_steps": (lambda t, y: y, {"max_num_steps": 1}),
        "stalled": (lambda t, y: torch.where(t > 0.5, torch.inf, y), {}),
    }
    for failure, (f, options) in cases.items():
        with pytest.raises(AssertionError) as raised:
            torchdiffeq.odeint(f, torch.ones(1), torch.tensor([0.0, 5.0]), rtol=1e-8, options=options)
        assert _compat.torchdiffeq_failure(raised.value) == failure, "torchdiffeq words its failures anew"
    assert _compat.torchdiffeq_failure(AssertionError("non-finite values in state `y`: 1")) == "nonfinite"


def test_torch_func_says_that_it_refuses_saved_tensor_hooks():
    import torch

    with pytest.raises(RuntimeError) as raised, torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        torch.func.grad(lambda x: x.square())(torch.ones(()))
    assert _compat.refuses_saved_tensor_hooks(raised.value), "torch words this refusal anew"


# ------------------------------------------------------------------------------------------------------- jsonargparse


def test_jsonargparse_keeps_its_import_settings_where_they_are_put_back():
    from jsonargparse._common import parsing_settings

    was = dict(parsing_settings)
    with _compat.allowed_imports(["collections.OrderedDict"]):
        assert parsing_settings["import_path_verdicts"]["*"] is False, (
            "jsonargparse names its import lists otherwise now"
        )
        assert parsing_settings["instantiate_subclass_spec_in_any"] is False
    assert dict(parsing_settings) == was


def test_jsonargparse_refuses_what_is_not_on_the_list_and_builds_nothing_for_any(tmp_path):
    def run(x: Any = None, call: Callable[[], Any] | None = None) -> None: ...

    marker = tmp_path / "marker"
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(run, "run")
    popen = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(marker)]}}
    with _compat.allowed_imports(["collections.OrderedDict"]):
        space = parser.parse_object({"run": {"x": popen}})
        parser.instantiate(space)
        assert not marker.exists()
        with pytest.raises(ArgumentError) as error:
            parser.parse_object({"run": {"call": "os.abort"}})
    found = _compat.parser_error(str(error.value))
    assert found.denied == "os.abort" and found.key == "run.call", "jsonargparse words its refusal otherwise now"


def test_jsonargparse_lists_its_options_and_words_its_errors_as_before():
    def run(count: int = 1, kind: Literal["a", "b"] = "a", more: float | None = None) -> None:
        """Run.

        Args:
            count: of things.
        """

    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(run, "run")
    options = dict(_compat.parser_options(parser))
    assert {"run.count", "run.kind", "run.more"} <= set(options) and "of things" in options["run.count"]
    said = {}
    for key, value in (("count", "x"), ("kind", "c"), ("more", "y")):
        with pytest.raises(ArgumentError) as error:
            parser.parse_object({"run": {key: value}})
        said[key] = str(_compat.parser_error(str(error.value)))
    assert said == {
        "count": "--run.count: expected int; got 'x'",
        "kind": "--run.kind: expected one of 'a', 'b'; got 'c'",
        "more": "--run.more: expected float or null; got 'y'",
    }, "jsonargparse words its errors otherwise now: adapt parser_error"


# ---------------------------------------------------------------------------------------- Lightning: tasks and resuming


class Counts(LightningModule):
    """Logs a mean over the epoch, a largest value, and a metric."""

    def __init__(self):
        super().__init__()
        self.layer, self.mean = nn.Linear(1, 1), MeanMetric()

    def training_step(self, batch, batch_idx):
        value = batch[0].mean()
        self.mean.update(value.detach())
        self.log("sum", value.detach(), on_step=True, on_epoch=True, batch_size=len(batch[0]))
        self.log("largest", value.detach(), on_step=False, on_epoch=True, reduce_fx="max", batch_size=1)
        self.log("metric", self.mean, on_step=False, on_epoch=True)
        return self.layer(batch[0]).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


class Between(Callback):
    """Takes the means of the epoch before its last batch, or puts them in place of those of the batches before it."""

    def __init__(self, given=None):
        self.given, self.taken = given, None

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 3:
            self.taken = _compat.epoch_means(trainer)
        if batch_idx == 0 and self.given is not None:
            _compat.restore_epoch_means(trainer, pl_module, self.given)


def means_of(data, callback):
    trainer = Trainer(max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, callbacks=[callback])  # fmt: skip
    trainer.fit(Counts(), data)
    return {k: float(v) for k, v in trainer.callback_metrics.items()}


def test_lightnings_means_of_an_epoch_can_be_taken_and_put_back():
    x = torch.arange(16.0)[:, None]
    whole = Between()
    wanted = means_of(DataLoader(TensorDataset(x), batch_size=4), whole)
    assert wanted["sum_epoch"] == 7.5 and wanted["largest"] == 13.5
    found = means_of(DataLoader(TensorDataset(x[12:]), batch_size=4), Between(whole.taken))
    assert found["sum_epoch"] == 7.5 and found["largest"] == 13.5, "Lightning keeps an epoch's means otherwise now"


def test_a_twin_shares_one_part_and_copies_the_others():
    module = Counts()
    twin = _compat.twin(module, keep=module.layer)
    assert twin.layer is module.layer and twin.mean is not module.mean
    twin.mean.update(3.0)
    assert float(module.mean.weight) == 0 and module._modules["mean"] is module.mean


def test_the_data_module_of_a_module_without_a_trainer_is_none():
    module = Counts()
    assert _compat.data_module(module) is None
    module.trainer = Trainer(logger=False, accelerator="cpu", devices=1)
    assert _compat.data_module(module) is None


def test_lightning_can_be_told_to_validate_again():
    trainer = Trainer(logger=False, accelerator="cpu", devices=1)
    _compat.validate_again(trainer)
    assert trainer.fit_loop.epoch_loop.val_loop.restarted_mid_evaluation, "Lightning marks a restart otherwise now"


# -------------------------------------------------------------------------------------------------------------- torch


def test_a_compiled_call_can_be_replaced():
    module = nn.Linear(2, 2)
    module.compile(backend="eager")
    eager, compiled, x = _compat.eager_call(module), _compat.compiled_call(module), torch.ones(1, 2)
    assert torch.equal(eager(x), compiled(x))
    _compat.set_compiled_call(module, lambda x: x + 1)
    assert torch.equal(module(x), x + 1), "nn.Module calls its compiled form otherwise now"
    assert torch.equal(copy.deepcopy(module)(x), eager(x))  # a copy is one that was not compiled


def test_compiled_code_may_have_more_variants():
    import torch._dynamo.config
    import torch._functorch.config

    before = torch._dynamo.config.recompile_limit, torch._functorch.config.donated_buffer
    try:
        _compat.allow_variants(before[0] + 1)
        assert torch._dynamo.config.recompile_limit == before[0] + 1
        assert torch._functorch.config.donated_buffer is False
    finally:
        torch._dynamo.config.recompile_limit, torch._functorch.config.donated_buffer = before


def test_torch_tells_which_nodes_a_backward_pass_reaches():
    import torch

    seen = []

    class Ask(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, node):
            ctx.node = node
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(_compat.will_execute(ctx.node))
            return grad, None

    a, b = torch.ones(1, requires_grad=True), torch.ones(1, requires_grad=True)
    node = torch.autograd.graph.get_gradient_edge(b).node
    Ask.apply(a * b, node).backward(retain_graph=True)
    torch.autograd.grad(Ask.apply(a * b, node), a)
    assert seen == [True, False], (
        "mend will_execute in zoo/_compat/torch.py: the implicit adjoint checks its answer by it"
    )
    assert not _compat.will_execute(node)


def test_torch_tells_of_transforms_and_profilers():
    import torch

    inside = []
    torch.func.vmap(lambda x: inside.append(_compat.inside_transform()) or x)(torch.ones(2))
    assert inside == [True] and not _compat.inside_transform(), "mend inside_transform in zoo/_compat/torch.py"
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert _compat.profiler_is_on(), "mend profiler_is_on in zoo/_compat/torch.py"
    assert not _compat.profiler_is_on()


def test_torch_leaves_an_opaque_function_uncompiled():
    import torch

    traced = []

    @_compat.opaque
    def inside(x):
        traced.append(torch.compiler.is_compiling())
        return x + 1

    out = torch.compile(lambda x: inside(x * 2) * 3, backend="eager")(torch.ones(1))
    assert out.item() == 9 and traced == [False], (
        "mend opaque in zoo/_compat/torch.py: compiled models crash in their solves"
    )


def test_torch_lets_modules_be_looked_into():
    import pickle

    import torch
    from torch import nn
    from torch.func import vmap
    from torch.nn.utils import parametrizations, spectral_norm

    upgrade = "torch changed what {} of zoo/_compat/torch.py reads: mend it there"
    norms = [nn.BatchNorm1d(2), nn.InstanceNorm2d(2), nn.SyncBatchNorm(2)]
    assert all(map(_compat.has_running_statistics, norms)), upgrade.format("has_running_statistics")
    assert not _compat.has_running_statistics(nn.LayerNorm(2))
    new = parametrizations.spectral_norm(nn.Linear(2, 2))
    moving = [spectral_norm(nn.Linear(2, 2)), new.parametrizations.weight[0]]
    assert all(map(_compat.has_power_iteration, moving)), upgrade.format("has_power_iteration")
    assert not _compat.has_power_iteration(nn.Linear(2, 2))
    seen = []
    for function in (lambda x: x[0].item(), lambda x: torch.nonzero(x)):
        try:
            vmap(function)(torch.ones(2, 3))
        except RuntimeError as error:
            seen.append(_compat.refused_by_vmap(error))
    assert seen == [True, True], upgrade.format("refused_by_vmap")
    assert not _compat.refused_by_vmap(RuntimeError("The size of tensor a must match"))
    inside = []
    vmap(lambda x: (inside.append(_compat.under_transform(x)), x)[1])(torch.ones(2))
    assert inside == [True] and not _compat.under_transform(torch.ones(2)), upgrade.format("under_transform")
    tree = {"a": [1, (2,)], "b": 3}
    trees = _compat.pytree()
    leaves, shape = trees.tree_flatten(tree)
    assert trees.tree_map(lambda n: -n, tree) == {"a": [-1, (-2,)], "b": -3}, upgrade.format("pytree")
    assert leaves == [1, 2, 3] and trees.tree_unflatten(leaves, shape) == tree, upgrade.format("pytree")

    from zoo.layers.norm import weight_norm

    layer = weight_norm(nn.Linear(2, 2))
    assert "parametrizations" not in _compat.state_without_parametrizations(layer)["_modules"]
    again = pickle.loads(pickle.dumps(layer))
    assert torch.equal(again.weight, layer.weight), upgrade.format("set_reduction and state_without_parametrizations")
