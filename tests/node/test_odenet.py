from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from problems import left
from torch import nn

from zoo.hub.cards import card, list_models
from zoo.hub.factory import create_model
from zoo.implicit import implicit_modules
from zoo.node.odenet import ODENet


def small(**options: Any) -> ODENet:
    torch.manual_seed(0)
    return create_model("test_odenet", **options)


def test_as_many_parameters_as_published() -> None:
    assert sum(p.numel() for p in create_model("odenet").parameters()) == 208_266
    assert sum(p.numel() for p in ODENet().parameters()) == 208_266


@pytest.mark.parametrize("name", list_models("odenet*"))
def test_every_variant_solves_and_every_parameter_gets_a_gradient(name: str) -> None:
    model = create_model(name, solver={"name": "rk4", "steps": 1})
    model(torch.randn(2, model.in_chans, 14, 14)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"downsample": 0},
        {"augment": 3},
        {"dynamics": "second"},
        {"dynamics": "heavy_ball", "augment": 4},
        {"channels": [4, 8, 16], "downsample": 0, "in_chans": 3, "act": "tanh"},
        {"time": "hyper", "hidden": 0.5},
        {"time": "plain", "act": "tanh", "end": 2.0},
    ],
)
def test_options(options: dict[str, Any]) -> None:
    model = small(**options).eval()
    x = torch.randn(2, model.in_chans, 12, 12)
    assert model(x).shape == (2, 10)
    assert model.forward_features(x).shape[1] == model.num_features
    for _, block in implicit_modules(model):
        assert block.last.stats.converged.all() and block.last.stats.nfe > 0
        assert (block.last.stats.accepted > 0).all()


@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_gradients_by_every_adjoint(adjoint: str) -> None:
    x = torch.randn(3, 1, 10, 10, dtype=torch.float64)
    grads = []
    for how in ("unroll", adjoint):
        model = small(adjoint=how, solver={"name": "dopri5", "rtol": 1e-8, "atol": 1e-8}, act="tanh").double()
        (model(x) * torch.linspace(-1, 1, 10)).sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, want in grads[0].items():
        torch.testing.assert_close(grads[1][name], want, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_a_swapped_solver_keeps_weights_and_answer() -> None:
    model = small(act="tanh").double().eval()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    logits = []
    for spec in ({"name": "dopri5", "rtol": 1e-7, "atol": 1e-7}, "tsit5", {"name": "rk4", "steps": 40}):
        model.configure_implicit(spec)
        logits.append(model(x))
    torch.testing.assert_close(logits[1], logits[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[2], logits[0], rtol=1e-5, atol=1e-5)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_exhausted_budget_is_said() -> None:
    model = small(solver={"name": "dopri5", "rtol": 1e-9, "atol": 1e-9, "max_steps": 1})
    assert model(torch.randn(2, 1, 8, 8)).isfinite().all()
    last = model.blocks[0].last
    assert last.result.name == "max_steps" and not last.stats.converged.any()


def test_an_evaluation_solver() -> None:
    model = small()
    model.configure_implicit(eval_solver={"name": "rk4", "steps": 1})
    x = torch.randn(2, 1, 8, 8)
    model.eval()(x)
    assert model.blocks[0].last.stats.nfe == 4
    model.train()(x)
    assert model.blocks[0].last.stats.nfe > 4


def test_solvers_of_the_other_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="poses ODEs; the solver Anderson is for fixed points. Use one such as dopri5"):
        small(solver="anderson")
    with pytest.raises(ValueError, match="adjoint Implicit cannot differentiate them. Use unroll, checkpoint"):
        small(adjoint="implicit")
    with pytest.raises(ValueError, match="poses fixed points; the solver Dopri5 is for ODEs"):
        create_model("test_mdeq", solver="dopri5")
    with pytest.raises(ValueError, match="poses fixed points; the adjoint Backsolve"):
        create_model("test_mdeq", adjoint="backsolve")


def test_state_dict_and_copies() -> None:
    model, other = small().eval(), ODENet(**card("test_odenet").model).eval()
    x = torch.randn(2, 1, 8, 8)
    other.load_state_dict(model.state_dict())
    other.configure_implicit(model.blocks[0].solver)
    assert torch.equal(model(x), other(x))
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_timm_conventions() -> None:
    model = small().eval()
    x = torch.randn(2, 1, 8, 8)
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True).shape == (2, 8)
    model.reset_classifier(3)
    assert isinstance(model.get_classifier(), nn.Linear) and model(x).shape == (2, 3)
    model.reset_classifier(0, global_pool="")
    assert model(x).shape == features.shape


def test_one_batch_is_learned() -> None:
    model = small(solver={"name": "rk4", "steps": 2})
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    assert left(lambda: nn.functional.cross_entropy(model(x), y), model, 0.3, lr=2e-2) < 0.3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": []}, "at least one stage"),
        ({"dynamics": "heavyball"}, "Did you mean 'heavy_ball'"),
        ({"time": "concatt"}, "Did you mean 'concat'"),
        ({"end": 0.0}, "end above 0"),
        ({"hidden": 0.0}, "hidden must leave each field at least one channel.*0.0 of 8 channels leaves none"),
        ({"hidden": 0.05}, "0.05 of 8 channels leaves none"),
        ({"hidden": -1.0}, "-1.0 of 8 channels leaves none"),
        ({"global_pool": "mean"}, "global_pool must be"),
        ({"global_pool": ""}, "num_classes=0"),
    ],
)
def test_configurations_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**options)


def test_images_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"Expected images of shape \(B, 1, H, W\); got \(2, 3, 8, 8\)"):
        small()(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match="Images of 4x4 leave nothing"):
        small(downsample=2)(torch.zeros(2, 1, 4, 4))
