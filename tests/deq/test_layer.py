"""Any module as an equilibrium layer."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

import zoo
from zoo.deq import DEQ
from zoo.solvers.draws import _looked_at


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, z, x):
        return self.norm(torch.relu(self.linear(z)) + x)


def test_the_layer_is_at_the_cells_fixed_point():
    layer, x = DEQ(Cell(), {"name": "anderson", "rtol": 1e-5}), torch.randn(4, 8)
    z = layer(x)
    torch.testing.assert_close(layer.cell(z, x), z, rtol=1e-3, atol=1e-3)
    z.square().mean().backward()
    assert all(p.grad is not None for p in layer.parameters())
    assert layer.last.result is zoo.Result.converged


def test_a_warm_start_takes_fewer_steps():
    layer, x = DEQ(Cell()), torch.randn(4, 8)
    z = layer(x)
    cold = layer.last.stats.nfe
    layer(x + 1e-4, z0=z.detach())
    assert layer.last.stats.nfe < cold


def test_it_stands_in_a_sequence_and_loads():
    model = nn.Sequential(nn.Linear(5, 8), DEQ(Cell(), "broyden", "jfb"), nn.Linear(8, 2))
    twin = nn.Sequential(nn.Linear(5, 8), DEQ(Cell(), "broyden", "jfb"), nn.Linear(8, 2))
    twin.load_state_dict(model.state_dict())
    x = torch.randn(3, 5)
    torch.testing.assert_close(twin(x), model(x))


def test_it_needs_an_input_or_a_start():
    with pytest.raises(ValueError, match="z0"):
        DEQ(Cell())()


class Dropped(Cell):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, z, x):
        return self.norm(torch.relu(self.drop(self.linear(z))) + x)


def test_dropout_in_a_cell_is_named_where_the_solve_fails():
    torch.manual_seed(0)
    layer, x = DEQ(Dropped()), torch.randn(16, 8)
    with pytest.warns(
        UserWarning, match=r"draws at random at every evaluation \(nn.Dropout: cell.drop\).*dropout_mask"
    ):
        layer(x)
    assert not layer.last.result.success
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer.eval()(x)  # nothing is drawn
        assert layer.last.result is zoo.Result.converged
        DEQ(Cell(), {"name": "picard", "max_steps": 1}).train()(x)  # fails for another reason


class Functional(Cell):
    """Drops by a function, which no search of the modules finds; counts its calls in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, z, x):
        self.calls += 1
        return super().forward(nn.functional.dropout(z, 0.5), x)


def test_random_draws_that_are_no_module_are_named_once_and_change_nothing():
    x = torch.randn(16, 8)

    def run(look):
        torch.manual_seed(0)
        layer = DEQ(Functional())
        if not look:
            _looked_at.add(layer)
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            layer(x)
            layer(x)
        return len(seen), torch.randn(3), layer.cell.calls, layer.last.stats.nfe

    (warned, *looked), (silent, *left) = run(True), run(False)
    assert (warned, silent) == (1, 0)
    for a, b in zip(looked, left, strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    with pytest.warns(UserWarning, match=r"The map of DEQ draws at random.*functional.dropout"):
        DEQ(Functional())(x)
