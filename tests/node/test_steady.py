from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import left
from torch import Tensor

from zoo.hub.factory import create_model
from zoo.implicit import record_solves
from zoo.node.steady import Contraction, SteadyNet
from zoo.solvers.base import Result, SolveError

TIGHT = {"rtol": 1e-8, "atol": 1e-9}
FIXED_POINT = {"name": "anderson", "max_steps": 100, **TIGHT}
ODE = {"name": "dopri5", "max_steps": 1000, **TIGHT}
ADJOINT = {"name": "implicit", "solver": {"name": "gmres", "max_steps": 60, "rtol": 1e-11, "atol": 0.0}}


def small(solver: Any = None, adjoint: Any = None, **options: Any) -> SteadyNet:
    torch.manual_seed(0)
    return create_model("test_steady", solver=solver, adjoint=adjoint, **options)


def images(batch: int = 3) -> Tensor:
    return torch.randn(batch, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("solver", "adjoint"),
    [(ODE, ADJOINT), (ODE, "unroll"), (ODE, "checkpoint"), ({"name": "picard", **TIGHT, "max_steps": 300}, "unroll")],
)
def test_both_give_the_same_state_and_the_same_gradient(solver: Any, adjoint: Any) -> None:
    found = []
    for how in ((FIXED_POINT, ADJOINT), (solver, adjoint)):
        model = small(*how, contraction=0.5).double()
        x = images().requires_grad_()
        z = model.forward_features(x)
        assert model.equilibrium.last.stats.converged.all()
        (z * torch.linspace(-1, 1, z.numel(), dtype=z.dtype).view_as(z)).sum().backward()
        found.append((z, x.grad, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (z, gx, grads), (z2, gx2, grads2) = found
    torch.testing.assert_close(z2, z, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gx2, gx, rtol=1e-5, atol=1e-6)
    assert grads.keys() == grads2.keys() and "equilibrium.flow.cell.weight" in grads
    for name, want in grads.items():
        torch.testing.assert_close(grads2[name], want, rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("adjoint", ["unroll", "implicit"])
def test_a_flow_that_does_not_rest_raises_where_that_was_chosen(adjoint: str) -> None:
    model = small({**ODE, "rtol": 1e-12, "atol": 1e-13}, adjoint, horizon=1.0).double()
    model(images())
    assert model.equilibrium.last.result is Result.max_steps
    model.configure_implicit(throw=True)
    with pytest.raises(SolveError, match="0 of 3 samples"):
        model(images())
    assert small(ODE, adjoint).double()(images()).isfinite().all()


@pytest.mark.parametrize("adjoint", ["unroll", "implicit"])
def test_a_flow_is_one_solve_to_those_who_record(adjoint: str) -> None:
    model = small(ODE, adjoint).double()
    with record_solves() as solves:
        model(images())
    assert [(m, r) for m, r in solves] == [(model.equilibrium, model.equilibrium.last)]


def test_the_map_is_a_contraction() -> None:
    cell = Contraction(4, 0.8, "relu").double()
    with torch.no_grad():
        cell.weight.mul_(5)
    a, b, x = (torch.randn(6, 4, 5, 5, dtype=torch.float64) for _ in range(3))
    ratio = (cell(a, x) - cell(b, x)).abs().amax((1, 2, 3)) / (a - b).abs().amax((1, 2, 3))
    assert (ratio <= 0.8).all()
    assert cell.bounded().abs().sum((1, 2, 3)).max() <= 0.8 + 1e-12


def test_a_small_weight_is_left_as_it_is() -> None:
    cell = Contraction(4, 0.8)
    with torch.no_grad():
        cell.weight.mul_(0.01)
    assert torch.equal(cell.bounded(), cell.weight)


def test_what_the_flow_took_is_recorded() -> None:
    model = small({"name": "dopri5", "rtol": 1e-4, "atol": 1e-6})
    calls = []
    model.equilibrium.flow.cell.register_forward_hook(lambda *_: calls.append(1))
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    stats = model.equilibrium.last.stats
    assert stats.converged.all() and (stats.residual < 2e-4).all() and (stats.accepted > 0).all()
    assert stats.backward[-1].nfe > 0
    model.eval()
    calls.clear()
    with torch.no_grad():
        model(torch.randn(2, 1, 8, 8))
    assert model.equilibrium.last.stats.nfe == len(calls)


def test_a_flow_that_does_not_rest_says_so() -> None:
    model = small({"name": "dopri5", "rtol": 1e-8, "atol": 1e-9}, horizon=2.0, contraction=0.99)
    model(torch.randn(2, 1, 8, 8))
    last = model.equilibrium.last
    assert not last.stats.converged.all() and last.result.name == "max_steps"


def test_swapping_carries_no_budget_from_one_kind_to_the_other() -> None:
    model = small()
    assert model.equilibrium.solver.max_steps == 30
    model.configure_implicit("dopri5")
    assert model.equilibrium.solver.max_steps == 10_000
    model.configure_implicit({"name": "tsit5", "rtol": 1e-4})
    assert model.equilibrium.solver.max_steps == 10_000


def test_every_parameter_gets_a_gradient_and_one_batch_is_learned() -> None:
    model = small()
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    assert left(lambda: torch.nn.functional.cross_entropy(model(x), y), model, 0.5, lr=2e-2) < 0.5
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"adjoint": "backsolve"}, "cannot follow a flow back"),
        ({"solver": "dopri5", "adjoint": "backsolve"}, "cannot follow a flow back"),
        ({"adjoint": "checkpoint"}, "Anderson follows none"),
        ({"contraction": 1.0}, "must lie in"),
        ({"act": "silu"}, "slopes are at most 1"),
        ({"horizon": 0.0}, "horizon must be above 0"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**options)
