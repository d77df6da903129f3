"""Noise in maps and starts, and the last update: drawn once a solve, known to every adjoint, of any state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.implicit import ImplicitMixin, solver_budget, untracked
from zoo.tasks.classification import Classification
from zoo.tasks.maps import last_updates, map_noise, start_noise, update_size
from zoo.tasks.regularization import StabilityConfig

TIGHT = {"name": "picard", "rtol": 1e-12, "atol": 1e-13, "max_steps": 200}
ADJOINTS = ["unroll", "phantom", "jfb", {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-12}}]


class Model(ImplicitMixin, nn.Module):
    """``z = A z + x`` with |A| = 1/2, and a state of two parts if asked."""

    def __init__(self, parts: int = 1):
        super().__init__()
        self.num_classes, self.parts = 3, parts
        self.weight = nn.Parameter(torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.0, 0.5], [0.5, 0.0, 0.0]]).double())
        self.configure_implicit(TIGHT, "implicit")

    def forward(self, x):
        if self.parts == 1:
            return self.solve(lambda z, x: z @ self.weight + x, torch.zeros_like(x), args=(x,))
        z = self.solve(lambda z, x: (z[1] @ self.weight + x, 0.5 * z[0]), (0 * x, 0 * x), args=(x,))
        return z[0] + z[1]


def inputs(batch: int = 5):
    return torch.randn(batch, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_noise_is_a_part_of_the_map_that_is_drawn_once_a_solve(adjoint):
    model, x = Model(), inputs()
    model.configure_implicit(adjoint=adjoint)
    torch.manual_seed(3)
    with map_noise(0.1):
        found = model(x)
        other = model(x)
    assert model.last.stats.converged.all()
    torch.manual_seed(3)
    exact = (x + 0.1 * torch.randn_like(x)) @ torch.linalg.inv(torch.eye(3).double() - model.weight)
    torch.testing.assert_close(found, exact)
    assert not torch.allclose(found, other)
    torch.testing.assert_close(model(x), x @ torch.linalg.inv(torch.eye(3).double() - model.weight))  # the scope ended


def test_noise_stays_with_its_samples_where_others_leave_the_batch():
    model, x = Model(), inputs(40)
    x[:30] = 0  # which have converged at once, and would leave; the noise is of the whole batch
    with torch.no_grad(), map_noise(0.1):
        torch.manual_seed(3)
        found = model(x)
    torch.manual_seed(3)
    exact = (x + 0.1 * torch.randn_like(x)) @ torch.linalg.inv(torch.eye(3).double() - model.weight)
    torch.testing.assert_close(found, exact.detach())


def test_noise_on_the_start_does_not_move_the_fixed_point():
    model, x = Model(), inputs()
    with torch.no_grad():
        plain = model(x)
        with start_noise(1.0):
            torch.testing.assert_close(model(x), plain)
            with solver_budget(most=1):
                first, second = model(x), model(x)
    assert not torch.allclose(first, second)


def test_a_state_of_several_parts_has_noise_in_each():
    model, x = Model(parts=2), inputs()
    with torch.no_grad():
        plain = model(x)
        with map_noise(0.1), start_noise(0.5):
            assert not torch.allclose(model(x), plain)
    with last_updates() as updates, solver_budget(most=2, adjoint="unroll"):
        model(x)
    ((before, after),) = updates
    first = (x, 0 * x)
    second = (first[1] @ model.weight + x, 0.5 * first[0])
    torch.testing.assert_close((before, after), (first, second))
    expected = sum((b - a).square().sum() for a, b in zip(first, second, strict=True)) / (2 * x.numel())
    torch.testing.assert_close(update_size(updates), expected)


def test_the_last_update_of_unrolled_steps_is_their_last_step_and_has_its_gradient():
    model, x = Model(), inputs()
    with last_updates() as updates, solver_budget(most=3, adjoint="unroll"):
        model(x)
        with untracked(), torch.no_grad():
            model(2 * x)  # no gradient crosses it
        model(-x)
    assert len(updates) == 2
    a = model.weight
    expected = (x @ a @ a).square().mean()  # z_3 - z_2 of z_k = x (1 + A + .. + A^(k-1))
    torch.testing.assert_close(update_size(updates), expected)
    torch.testing.assert_close(torch.autograd.grad(update_size(updates), a)[0], torch.autograd.grad(expected, a)[0])


@pytest.mark.parametrize("adjoint", ADJOINTS)
def test_the_last_update_at_a_fixed_point_is_nothing(adjoint):
    model, x = Model(), inputs()
    model.configure_implicit(adjoint=adjoint)
    with last_updates() as updates:
        model(x)
    assert len(updates) == 1 and update_size(updates) < 1e-18


def test_the_penalty_is_added_and_logged():
    x, y = inputs(6), torch.arange(6) % 3
    logged, losses = {}, []
    for weight in (0.0, 2.0):
        model = Model()
        model.configure_implicit({"name": "picard", "max_steps": 3}, "unroll")
        task = Classification(model, stability=StabilityConfig(update_penalty=weight))
        task.log = lambda name, value, **_: logged.__setitem__(name, value)
        losses.append(task.training_step((x, y), 0))
    torch.testing.assert_close(losses[1] - losses[0], 2 * (x @ model.weight @ model.weight).square().mean())
    torch.testing.assert_close(logged["train/last_update"] * 2, (losses[1] - losses[0]).detach())


def test_the_last_update_of_reversible_steps_has_their_gradient():
    model, x = Model(), inputs()
    with last_updates() as updates:
        model.configure_implicit({"name": "reversible", "max_steps": 4}, "reversible")
        model(x)
    z = y = torch.zeros_like(x)
    for _ in range(4):
        y = 0.5 * y + 0.5 * (z @ model.weight + x)
        z = 0.5 * z + 0.5 * (y @ model.weight + x)
    expected = (z @ model.weight + x - z).square().mean()
    torch.testing.assert_close(update_size(updates), expected)
    found, exact = (torch.autograd.grad(v, model.weight)[0] for v in (update_size(updates), expected))
    torch.testing.assert_close(found, exact)


def test_a_penalty_that_no_gradient_reaches_is_refused():
    model = Model().requires_grad_(False)
    model.configure_implicit(adjoint="unroll")
    task = Classification(model, stability=StabilityConfig(update_penalty=1.0))
    with pytest.raises(ValueError, match="no gradient crosses any solve"):
        task.training_step((inputs(6), torch.arange(6) % 3), 0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"map_noise": -0.1}, "map_noise must not be negative"),
        ({"start_noise": -0.1}, "start_noise must not be negative"),
        ({"update_penalty": -1.0}, "update_penalty must not be negative"),
        ({"depth_curriculum": (3, 0)}, r"depth_curriculum must be of steps, at least 1; got \[3, 0\]"),
    ],
)
def test_what_is_out_of_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        StabilityConfig(**options)
