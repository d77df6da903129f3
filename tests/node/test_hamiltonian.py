"""Hamiltonian networks: the learned energy is kept, gradients cross every adjoint, and the data are what they claim."""

from __future__ import annotations

import pytest
import torch
from problems import left
from torch import Tensor, nn

from zoo.data import DATA
from zoo.hub.factory import create_model
from zoo.node.hamiltonian import Energy, HamiltonianField, MotionNet, Separable
from zoo.solve import odeint
from zoo.tasks.motion import Motion

SYSTEMS = ["ideal_pendulum", "two_body"]


def net(structure: str = "separable", features: int = 2) -> MotionNet:
    torch.manual_seed(0)
    return MotionNet(features, (8,), structure).double()


@pytest.mark.parametrize("structure", ["separable", "general"])
def test_the_learned_energy_is_kept_whatever_the_weights(structure: str) -> None:
    model = net(structure, 4)
    y0 = torch.randn(3, 4, dtype=torch.float64)
    tight = {"name": "dopri8", "rtol": 1e-11, "atol": 1e-12}
    path = odeint(model.field, y0, [0.0, 5.0], tight).value[-1].detach()
    assert (path - y0).abs().max() > 0.1
    torch.testing.assert_close(model.energy(path), model.energy(y0), rtol=0, atol=1e-9)


def test_the_field_is_the_turned_gradient() -> None:
    class Known(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            q, p = y.chunk(2, 1)
            return (q**2 * p).sum(1)

    y = torch.randn(5, 4, dtype=torch.float64)
    q, p = y.chunk(2, 1)
    want = torch.cat([q**2, -2 * q * p], 1)
    torch.testing.assert_close(HamiltonianField(Known())(torch.tensor(0.0), y), want)
    with torch.inference_mode():  # as Lightning evaluates
        torch.testing.assert_close(HamiltonianField(Known())(torch.tensor(0.0), y.clone()), want)


def test_a_separable_energy_is_separable_and_a_general_one_is_refused_by_leapfrog() -> None:
    y0 = torch.randn(3, 2, dtype=torch.float64)
    model = net()
    assert model(y0, [0.0, 0.5]).shape == (3, 2, 2)
    general = net("general")
    general.configure_implicit({"name": "leapfrog", "step_size": 0.1})
    with pytest.raises(ValueError, match="separable field"):
        general(y0, [0.0, 0.5])


@pytest.mark.parametrize("structure", ["separable", "general", "plain"])
@pytest.mark.parametrize("adjoint", ["checkpoint", "backsolve"])
def test_gradients_by_every_adjoint(structure: str, adjoint: str) -> None:
    model = net(structure)
    y0 = torch.randn(3, 2, dtype=torch.float64)
    solver = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-10}

    def gradients(adjoint: str) -> list[Tensor]:
        model.zero_grad()
        model.configure_implicit(solver, adjoint)
        model(y0, [0.0, 0.4, 1.0]).square().sum().backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]

    for g, h in zip(gradients(adjoint), gradients("unroll"), strict=True):
        torch.testing.assert_close(g, h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_paths_of_the_data_keep_their_energy(name: str) -> None:
    data = DATA[name](count=20)
    x, times = data.split("test")
    assert x.shape == (64, data.test_rows, data.features) and times.shape == x.shape[:2]
    h = data.energy(x.double())
    assert ((h - h[:, :1]).abs() < 1e-5).all() and torch.isfinite(x).all()
    y = data.split("train")[0][:5, 0].double().requires_grad_()
    dq, dp = torch.autograd.grad(data.energy(y).sum(), y)[0].chunk(2, 1)
    torch.testing.assert_close(data.field(torch.tensor(0.0), y), torch.cat([dp, -dq], 1))
    assert data.fingerprint() == DATA[name](count=20, seed=5).fingerprint()
    assert DATA.entry(name).kind == "motion"


def test_a_motion_is_learned_and_its_energy_kept() -> None:
    torch.manual_seed(0)
    data = DATA["ideal_pendulum"](count=64, batch_size=64)
    model = create_model("test_hamiltonian", hidden=(16,), features=data.features)
    task = Motion(model)
    batch = next(iter(data.train_dataloader()))
    assert left(lambda: task.score(batch, "train").loss, model, 0.1, lr=3e-2) < 0.1
    scored = task.score(task.cut(batch, 4), "val")
    assert scored.size == 4 and float(scored.metrics["mse"].compute()) == pytest.approx(
        float(scored.loss.detach()), rel=1e-5
    )


def test_equal_size_of_the_compared() -> None:
    sizes = [
        sum(p.numel() for p in create_model(f"hamiltonian_{s}").parameters()) for s in ("separable", "general", "plain")
    ]
    assert max(sizes) < 1.05 * min(sizes)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: MotionNet(3), "come in pairs"),
        (lambda: MotionNet(structure="seperable"), "'separable', 'general' or 'plain'"),
        (lambda: Energy(2, act="relu"), "must be smooth"),
        (lambda: MotionNet()(torch.zeros(3, 4), [0.0, 1.0]), r"Expected states of shape \(B, 2\)"),
        (lambda: MotionNet()(torch.zeros(3, 2), [1.0, 1.0]), "strictly increasing"),
        (lambda: MotionNet()(torch.tensor([[0.0, torch.nan]]), [0.0, 1.0]), "not finite in samples"),
        (lambda: Motion(MotionNet()).score((torch.zeros(3, 2), torch.zeros(3, 2)), "val"), "at least two times"),
        (lambda: DATA["two_body"](count=0), "count must be at least 1"),
    ],
)
def test_what_cannot_be(build, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        build()


def test_a_plain_field_has_no_energy() -> None:
    with pytest.raises(RuntimeError, match="has no energy"):
        net("plain").energy(torch.zeros(1, 2, dtype=torch.float64))
    assert Separable(4)(torch.zeros(2, 4)).shape == (2,)
