"""Reasoners on any grid (convolutions, two levels): their equations, their sizes, and that a batch is no company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from zoo.deq.reasoner.conv import ConvReasoner
from zoo.deq.reasoner.two_level import AttentionReasoner, MixerReasoner
from zoo.implicit import solver_budget

MODELS = {
    "conv": lambda: ConvReasoner(6, symbols=4, num_classes=2),
    "mixer": lambda: MixerReasoner(8, 1, grid=(5, 6), symbols=4, num_classes=2),
    "attention": lambda: AttentionReasoner(8, 1, 2, symbols=4, num_classes=2, box=(2, 3)),
}


def made(name: str):
    torch.manual_seed(0)
    return MODELS[name]().double().eval()


def grids(batch: int = 3, rows: int = 5, columns: int = 6) -> torch.Tensor:
    return torch.randint(4, (batch, rows, columns), generator=torch.Generator().manual_seed(0))


def after(net, givens, steps: int = 4):
    with torch.no_grad(), solver_budget(most=steps):
        return net(givens)


@pytest.mark.parametrize("name", MODELS)
def test_a_grid_is_answered_as_in_a_batch_and_steps_go_on(name):
    net, givens = made(name), grids()
    together = after(net, givens)
    assert together.shape == (3, 5, 6, 2)
    for i in range(3):
        torch.testing.assert_close(after(net, givens[i : i + 1]), together[i : i + 1])
    with torch.no_grad(), solver_budget(most=2):
        torch.testing.assert_close(net(givens, net.equilibrium(givens)), together)


@pytest.mark.parametrize("name", MODELS)
def test_symbols_that_are_none_are_refused(name):
    with pytest.raises(ValueError, match="Givens are 0 to 3 here; got 4, 9"):
        made(name)(torch.tensor([[4, 9, 0, 0, 0, 0]] * 5)[None])


@pytest.mark.parametrize("name", ["conv", "attention"])
def test_one_set_of_weights_serves_every_size(name):
    net = made(name)
    for rows, columns in ((3, 3), (1, 8), (11, 7)):
        assert after(net, grids(2, rows, columns)).shape == (2, rows, columns, 2)


def test_a_mixer_is_for_one_size():
    with pytest.raises(ValueError, match=r"made for grids 5x6, and got 6x5.*grid=\(6, 5\)"):
        made("mixer")(grids(1, 6, 5))


def test_the_convolution_cell_is_its_equation():
    net, givens = made("conv"), grids()
    cell, z = net.cell, torch.randn(3, 6, 5, 6, dtype=torch.float64)
    h = F.conv2d(z, cell.widen.weight, padding=1) + cell.embedding(givens).permute(0, 3, 1, 2)
    out = z + torch.einsum("dk,bkhw->bdhw", cell.narrow.weight[..., 0, 0], h * torch.sigmoid(h))
    out = out + cell.narrow.bias[:, None, None]
    expected = out / (out.square().mean(1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(cell(z, net.embed(givens)), expected)


def test_what_lies_far_away_in_a_large_grid_is_not_heard_in_a_few_steps():
    net, givens = made("conv"), grids(1, 21, 21)
    part = after(net, givens[:, :12, :12], 4)
    torch.testing.assert_close(part[:, :8, :8], after(net, givens, 4)[:, :8, :8])


def test_two_levels_are_revised_in_turn():
    net, givens = made("attention"), grids()
    cell, e = net.cell, net.embed(givens)
    y, latent = torch.randn(2, 3, 30, 8, dtype=torch.float64)
    revised = latent
    for _ in range(cell.latent_steps):
        revised = cell.net(revised + y + e)
    expected = torch.stack([cell.net(y + revised), revised], 1)
    torch.testing.assert_close(cell(torch.stack([y, latent], 1), e), expected)
    torch.testing.assert_close(net.read(expected, givens).flatten(1, 2), net.head.score(expected[:, 0]))


def test_attention_tells_places_and_boxes_apart():
    net = made("attention")
    same = torch.zeros(1, 4, 6, dtype=torch.long)
    rows = after(net, same).view(24, 2)
    assert len(torch.unique(rows.round(decimals=6), dim=0)) == 24
    plain = AttentionReasoner(8, 1, 2, symbols=4, num_classes=2).double()
    assert plain.cell.position.in_features == 16 and net.cell.position.in_features == 24


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ConvReasoner(0), "at least 1"),
        (lambda: MixerReasoner(7), "width even"),
        (lambda: MixerReasoner(8, 0), "at least 1"),
        (lambda: MixerReasoner(8, grid=(0, 3)), "at least 1"),
        (lambda: AttentionReasoner(8, heads=3), "heads must divide the width"),
        (lambda: AttentionReasoner(8, latent_steps=0, heads=2), "at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
