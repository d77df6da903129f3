"""The explicit twins of the reasoners: the tied one is the reasoner cut short, the untied one is as large."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.baselines.reasoner import ExplicitReasoner
from zoo.deq.reasoner.conv import ConvReasoner
from zoo.deq.reasoner.equivariant import EquivariantReasoner
from zoo.implicit import solver_budget


@pytest.mark.parametrize(
    ("twin", "model", "grid"),
    [
        (ExplicitReasoner("equivariant", 5, True, 6, (2, 3)), EquivariantReasoner(6, (2, 3)), (6, 6)),
        (ExplicitReasoner("conv", 5, True, 6, symbols=7), ConvReasoner(6, symbols=7), (5, 4)),
    ],
)
def test_the_tied_twin_is_the_reasoner_cut_to_its_depth(twin, model, grid):
    model.load_state_dict(twin.state_dict())
    givens = torch.randint(7, (3, *grid), generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), solver_budget(most=5):
        torch.testing.assert_close(twin(givens), model(givens))


def test_the_untied_twin_goes_through_its_cells_in_turn():
    torch.manual_seed(0)
    twin = ExplicitReasoner("equivariant", 3, False, 6, (2, 2))
    givens = torch.randint(5, (2, 4, 4))
    z = twin.start(givens)
    for cell in (twin.cell, *twin.further):
        z = cell(z, cell.inject(givens))
    torch.testing.assert_close(twin(givens), twin.read(z, givens), rtol=0, atol=0)
    assert len(twin.further) == 2
    assert not torch.equal(twin.cell.widen.weight, twin.further[0].widen.weight)


def size(model) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("reasoner", "tied", "untied"),
    [
        ("reasoner_equivariant", "reasoner_tied", "reasoner_untied"),
        ("reasoner_conv", "reasoner_conv_tied", "reasoner_conv_untied"),
    ],
)
def test_twins_of_equal_parameters(reasoner, tied, untied):
    own, same, near = (size(zoo.create_model(name)) for name in (reasoner, tied, untied))
    assert same == own and abs(near / own - 1) < 0.03


@pytest.mark.parametrize(("options", "said"), [({"depth": 0}, "depth must be"), ({"cell": "gru"}, "cell must be")])
def test_a_twin_out_of_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        ExplicitReasoner(**options)
