"""``--compile``: the cell alone, in place, with the gradients of the eager model."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import zoo
from zoo import fit, penalties
from zoo.training import run
from zoo.training.build import load_run
from zoo.training.compile import compile_maps
from zoo.training.request import resolve
from zoo.training.train import train

BACKEND = "aot_eager"  # traces, differentiates and guards as the default backend does, without its minutes


def gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    with penalties.collect(jacobian=True) as terms:
        torch.manual_seed(1)  # of dropout
        loss = nn.functional.cross_entropy(model(x), y)
        torch.manual_seed(2)  # of the penalty
    (loss + 0.1 * terms["jacobian"]).backward()
    return {k: p.grad.clone() for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize("adjoint", ["implicit", "phantom", "unroll"])
def test_gradients_are_those_of_the_eager_model(adjoint):
    torch.manual_seed(0)
    eager = zoo.create_model("test_mdeq", num_classes=4, in_chans=1, solver="anderson", adjoint=adjoint).double()
    x, y = torch.randn(6, 1, 8, 8, dtype=torch.float64), torch.arange(6) % 4
    compiled = copy.deepcopy(eager)
    assert compile_maps(compiled, BACKEND) == ["cell"]
    exact, found = gradients(eager, x, y), gradients(compiled, x, y)
    assert eager.last.stats.nfe == compiled.last.stats.nfe
    assert exact.keys() == found.keys()
    for key, value in exact.items():
        assert (found[key] - value).norm() <= 1e-9 * (1 + value.norm()), key


def test_keys_stay_and_a_copy_is_not_compiled():
    model = zoo.create_model("test_mdeq")
    keys = list(model.state_dict())
    compile_maps(model, BACKEND)
    assert list(model.state_dict()) == keys
    assert model.cell._compiled_call_impl is not None
    assert copy.deepcopy(model).cell._compiled_call_impl is None


def test_an_ode_takes_the_compiled_step():
    model = zoo.create_model("test_odenet", solver="tsit5")
    found = compile_maps(model)
    assert found == [f"blocks.{i}.field" for i in range(len(model.blocks))]
    assert all(block.solver.compile for block in model.blocks)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet_tiny", {}),
        ("test_hyper_deq", {}),
        ("test_monotone", {}),
        ("test_mdeq", {"solver": "newton"}),
        ("test_odenet", {"solver": "implicit_euler"}),
    ],
)
def test_what_cannot_be_compiled_is_refused_in_words(name, options):
    with pytest.raises(ValueError, match=r"--compile: \w+ has no cell or field that can be compiled"):
        compile_maps(zoo.create_model(name, **options))


def test_a_layer_that_is_left_is_named():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = zoo.create_model("test_mdeq"), zoo.create_model("test_mdeq", solver="newton")

    with pytest.warns(UserWarning, match="--compile left second as it is"):
        assert compile_maps(Two(), BACKEND) == ["first.cell"]


@pytest.mark.slow
def test_the_command_compiles_and_its_configuration_says_so(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(run, "compile_maps", lambda model: made.append(compile_maps(model, BACKEND)))
    trainer = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = train("test_mdeq", "digits", out=tmp_path / "run", compile=True, trainer=trainer)
    assert results["status"] == "finished" and made == [["cell"]]
    request = resolve(["-c", str(tmp_path / "run" / "config.yaml")])  # so that a resumed run computes the same
    assert "compile" in request.switches
    assert load_run(tmp_path / "run").model.cell._compiled_call_impl is None


def test_a_switch_takes_no_value():
    with pytest.raises(fit.UsageError, match="--compile takes no value; got 'false'"):
        resolve(["--model", "mdeq", "--compile=false"])
