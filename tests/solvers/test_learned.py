"""The learned solver: what the network may change (evaluations), and what it may not (answers, gradients)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from problems import matrix, tanh
from torch import nn

import zoo
from zoo.data import DATA
from zoo.solve import make_solver
from zoo.solvers.anderson import Anderson
from zoo.solvers.base import FixedPointSolver
from zoo.solvers.learned import Learned, Proposer, Residual
from zoo.solvers.picard import State
from zoo.solvers.train_learned import Solved, loss, train

TIGHT = {"rtol": 1e-11, "atol": 1e-12, "max_steps": 200}


def solve(problem, solver, **options):
    with torch.no_grad():
        return zoo.fixed_point(problem.f, torch.zeros_like(problem.x), solver, args=(problem.x,), **options)


def wild(shapes=((12,),), seed=0) -> Proposer:
    """A network whose every weight is large and random: the worst adviser."""
    network = Proposer(shapes, residual=seed > 0)
    generator = torch.Generator().manual_seed(seed)
    for p in network.parameters():
        nn.init.normal_(p, std=3.0, generator=generator)
    return network


@pytest.mark.parametrize("network", [None, Proposer(), Proposer([[12]]), Proposer([[3, 2, 2]]),
                                     Proposer([[2, 2, 2], [1, 1, 1], [3]], residual=True)],
                         ids=["none", "weights only", "vectors", "maps", "all"])  # fmt: skip
def test_without_training_it_is_anderson(network):
    problem = tanh(rate=0.95)
    ours, plain = solve(problem, Learned(network=network, **TIGHT)), solve(problem, Anderson(**TIGHT))
    assert ours.stats.nfe == plain.stats.nfe
    torch.testing.assert_close(ours.value, plain.value, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(ours.stats.trace, plain.stats.trace, rtol=1e-4, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("seed", range(3))
def test_bad_advice_costs_evaluations_and_not_the_answer(seed):
    problem = tanh()
    solution = solve(problem, Learned(network=wild(seed=seed), **TIGHT))
    assert solution.result is zoo.Result.converged
    torch.testing.assert_close(solution.value, problem.exact, rtol=1e-9, atol=1e-9)
    trace = solution.stats.trace
    assert (trace[1] > trace[0]).any()  # it was bad advice


def test_an_answer_does_not_depend_on_its_batch_mates():
    problem, solver = tanh(batch=5), Learned(network=wild(), rtol=1e-6)
    together = solve(problem, solver)
    for i in range(5):
        alone = zoo.fixed_point(problem.f, torch.zeros_like(problem.x[i : i + 1]), solver, args=(problem.x[i : i + 1],))
        assert together.stats.steps[i] == alone.stats.steps[0]
        torch.testing.assert_close(together.value[i : i + 1], alone.value, rtol=1e-6, atol=1e-6)


class Layer(zoo.ImplicitMixin, nn.Module):
    """``z = tanh(W z + x)`` with a slow matrix."""

    def __init__(self, n: int, rate: float = 0.95) -> None:
        super().__init__()
        self.linear = nn.Linear(n, n)
        with torch.no_grad():
            self.linear.weight.copy_(matrix(n, rate, torch.float32))
        self.configure_implicit({"name": "anderson", "rtol": 1e-4, "atol": 1e-9, "max_steps": 100}, "implicit")

    def forward(self, x):
        return self.solve(lambda z, x: torch.tanh(self.linear(z) + x), torch.zeros_like(x), args=(x,))


def solved(layer: Layer, x: torch.Tensor) -> Solved:
    layer.configure_implicit({"name": "anderson", "rtol": 1e-6})
    with torch.no_grad():
        exact = layer(x)
    w, b = layer.linear.weight.detach(), layer.linear.bias.detach()
    return Solved(lambda z: torch.tanh(z @ w.T + b + x), exact)


def inputs(seed: int, count: int = 128) -> torch.Tensor:
    """Inputs of a low dimension, as data are."""
    g = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, generator=g) @ torch.randn(2, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained() -> tuple[Layer, Proposer, list[float]]:
    torch.manual_seed(0)
    layer, network, losses = Layer(10), Proposer([[10]], window=3, hidden=32), []
    train(network, [solved(layer, inputs(1)), solved(layer, inputs(2))], updates=60, steps=4, lr=1e-2,
          report=lambda k, value: losses.append(value))  # fmt: skip
    return layer, network, losses


def test_training_saves_evaluations_on_other_inputs(trained):
    layer, network, losses = trained
    assert losses[-1] < losses[0] - 0.5
    x, steps = inputs(3), []
    for solver in (Anderson(window=3, rtol=1e-2), Learned(network=network, rtol=1e-2)):
        layer.configure_implicit(solver)
        layer(x)
        assert layer.last.stats.converged.all()
        steps.append(layer.last.stats.steps.double().mean())
    assert steps[1] < 0.85 * steps[0]
    assert all(not p.requires_grad for p in network.parameters())


def test_gradients_are_those_of_the_fixed_point(trained):
    layer, network, _ = trained
    grads = []
    for solver in (Anderson(rtol=1e-6, max_steps=100), Learned(network=network, rtol=1e-6, max_steps=100)):
        layer.configure_implicit(solver, {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-6}})
        layer.zero_grad()
        layer(inputs(4, 8)).square().sum().backward()
        grads.append(layer.linear.weight.grad.clone())
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_mean_logarithm_of_the_distance():
    """On ``z = z/2 + x`` from zero Picard's iterates are ``z* (1 - 2^-k)``; Anderson is exact from the second on."""
    x = torch.ones(3, 4, dtype=torch.float64)
    batch = Solved(lambda z: z / 2 + x, 2 * x)
    value = loss(Proposer(window=1), batch, steps=3)
    expected = torch.log(torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64)).mean()
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


def test_the_correction_of_the_residual_is_linear_in_it_and_lets_the_parts_meet():
    torch.manual_seed(0)
    layer = Residual([[2, 4, 4], [2, 2, 2], [3]], hidden=4)
    for p in layer.parameters():
        nn.init.normal_(p)
    z, g = torch.randn(2, 43), torch.randn(2, 43)
    torch.testing.assert_close(layer(z, 3 * g), 3 * layer(z, g), rtol=1e-4, atol=1e-3)
    for lo, hi in ((0, 32), (32, 40), (40, 43)):  # every part is heard by every other
        alone = torch.zeros_like(g)
        alone[:, lo:hi] = g[:, lo:hi]
        assert (layer(z, alone).abs() > 0).all()


def test_a_warm_start_is_left_alone():
    problem = tanh()
    network = wild()
    warm = problem.exact + 1e-3
    with torch.no_grad():
        ours = zoo.fixed_point(problem.f, warm, Learned(network=network, **TIGHT), args=(problem.x,))
        plain = zoo.fixed_point(problem.f, warm, Anderson(**TIGHT), args=(problem.x,))
    assert ours.stats.nfe == plain.stats.nfe


def test_weights_are_saved_and_found_again(trained, tmp_path):
    layer, network, _ = trained
    network.save(tmp_path / "solver.safetensors")
    spec = {"name": "learned", "weights": str(tmp_path / "solver.safetensors"), "rtol": 1e-4, "atol": 1e-6}
    assert make_solver(spec) == make_solver(spec)
    x, answers = inputs(5), []
    for solver in (spec, Learned(network=network, rtol=1e-4)):
        layer.configure_implicit(solver)
        answers.append(layer(x))
        assert "network" not in "".join(layer.state_dict())
    torch.testing.assert_close(*answers, rtol=0, atol=0)


def test_bad_input_is_named(tmp_path, trained):
    with pytest.raises(ValueError, match="no weights 'nowhere'.*neither a file nor shipped"):
        Learned(weights="nowhere")
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="holds no network of a learned solver"):
        Learned(weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match=r"for states of 10 numbers.*got 12"):
        solve(tanh(), Learned(network=trained[1]))
    with pytest.raises(ValueError, match="at least 1; got 0"):
        Proposer(window=0)
    with pytest.raises(ValueError, match="needs the shapes"):
        Proposer(residual=True)
    with pytest.raises(ValueError, match="at least one batch"):
        train(Proposer(), [])


def test_the_weights_that_ship_save_evaluations_on_the_test_images():
    name = "mdeq_tiny.digits"
    model, data, steps, answers = zoo.load(name), DATA["digits"](batch_size=128), [], []
    images, _ = next(iter(data.test_dataloader()))
    for solver in ({"name": "anderson"}, {"name": "learned", "weights": name}):
        model.configure_implicit({**solver, "rtol": 1e-3, "atol": 1e-9, "max_steps": 40})
        with torch.no_grad():
            answers.append(model(images).argmax(1))
        assert model.last.stats.converged.all()
        steps.append(model.last.stats.steps.double().mean())
    assert steps[1] < 0.9 * steps[0]
    assert (answers[0] == answers[1]).double().mean() > 0.98


@dataclass(frozen=True, kw_only=True)
class Damped(FixedPointSolver):
    """A solver that holds a module with a parameter of its own."""

    network: nn.Module

    def start(self, z, fz):
        return State(z, torch.linalg.vector_norm(fz - z, dim=1), fz)

    def propose(self, state):
        return torch.lerp(state.z, state.fz, self.network.bias), state

    def absorb(self, state, z, fz):
        return self.start(z, fz)


def damped():
    network = nn.Linear(1, 1)
    nn.init.constant_(network.bias, 0.9)
    return Damped(network=network, rtol=1e-5, max_steps=100)


def test_a_model_can_use_a_solver_that_holds_a_module_and_swap_it():
    layer, x = Layer(4, rate=0.5), torch.randn(3, 4)
    names = set(layer.state_dict())
    layer.configure_implicit(damped(), eval_solver=damped())
    first = layer(x)
    assert layer.last.stats.converged.all()
    assert set(layer.state_dict()) == names and len(list(layer.parameters())) == 2
    first.sum().backward()
    layer.configure_implicit("anderson", eval_solver="broyden")
    torch.testing.assert_close(layer(x), first, rtol=1e-3, atol=1e-3)
