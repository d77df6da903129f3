"""Equilibrium reasoners: what they are equivariant to, that size is no weight, and that a state can be gone on from."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from zoo.deq.reasoner.equivariant import EquivariantReasoner
from zoo.implicit import solver_budget

SIZES = {4: (2, 2), 6: (2, 3), 9: (3, 3), 16: (4, 4)}


def grids(n: int, batch: int = 2, seed: int = 0) -> torch.Tensor:
    """Givens (B, n, n) of which two in three are blank; they need not be puzzles."""
    draw = torch.Generator().manual_seed(seed)
    shown = torch.rand(batch, n, n, generator=draw) < 1 / 3
    return torch.where(shown, torch.randint(1, n + 1, (batch, n, n), generator=draw), 0)


def model(box=(3, 3), channels: int = 8) -> EquivariantReasoner:
    torch.manual_seed(0)
    return EquivariantReasoner(channels, box).double().eval()


def after(net, givens, steps: int = 5):
    """The logits after a few iterations; an untrained map need not have an equilibrium."""
    with torch.no_grad(), solver_budget(most=steps):
        return net(givens)


@pytest.mark.parametrize("n", SIZES)
def test_renaming_the_symbols_renames_the_answer(n):
    net, givens = model(SIZES[n]), grids(n)
    names = torch.randperm(n, generator=torch.Generator().manual_seed(1))
    renamed = torch.cat([torch.zeros(1, dtype=torch.long), names + 1])[givens]
    torch.testing.assert_close(after(net, renamed)[..., names], after(net, givens))
    assert not torch.allclose(after(net, renamed), after(net, givens))


def within_bands(n: int, size: int, seed: int) -> torch.Tensor:
    """An order of n lines that permutes bands of ``size`` lines, and the lines of each band."""
    draw = torch.Generator().manual_seed(seed)
    bands = torch.randperm(n // size, generator=draw)
    return torch.cat([b * size + torch.randperm(size, generator=draw) for b in bands])


@pytest.mark.parametrize("n", SIZES)
def test_permuting_lines_within_bands_permutes_the_answer(n):
    box = SIZES[n]
    net, givens = model(box), grids(n)
    rows, columns = within_bands(n, box[0], 1), within_bands(n, box[1], 2)
    moved = after(net, givens[:, rows][:, :, columns])
    torch.testing.assert_close(moved, after(net, givens)[:, rows][:, :, columns])
    mixed = torch.arange(n).roll(1)  # across the bands: another puzzle
    assert not torch.allclose(after(net, givens[:, mixed]), after(net, givens)[:, mixed])


def test_a_transposed_grid_of_square_boxes_has_the_transposed_answer_where_rows_and_columns_are_heard_alike():
    """Row and column are heard by matrices of their own: the transposition exchanges the two."""
    net, givens = model(), grids(9)
    torch.testing.assert_close(after(swapped(net), givens.mT), after(net, givens).transpose(1, 2))


def swapped(net):
    """The same net with the messages of rows and columns exchanged."""
    other = model()
    other.load_state_dict(net.state_dict())
    parts = list(net.cell.widen.weight.detach().split(net.cell.channels, dim=1))
    parts[1], parts[2] = parts[2], parts[1]
    with torch.no_grad():
        other.cell.widen.weight.copy_(torch.cat(parts, 1))
    return other


@pytest.mark.parametrize("n", SIZES)
def test_one_set_of_weights_serves_every_size(n):
    net, own = model((3, 3)), model(SIZES[n])
    own.load_state_dict(net.state_dict())
    answer = after(net, grids(n))
    assert answer.shape == (2, n, n, n)
    torch.testing.assert_close(answer, after(own, grids(n)), rtol=0, atol=0)


def test_the_shape_of_a_box_is_an_argument():
    flat, tall = model((2, 3)), model((3, 2))
    tall.load_state_dict(swapped(flat).state_dict())
    givens = grids(6)
    torch.testing.assert_close(after(tall, givens.mT), after(flat, givens).transpose(1, 2))
    assert not torch.allclose(after(model((3, 2)), givens), after(flat, givens))
    assert flat.cell.box_of(6) == (2, 3) and flat.cell.box_of(12) == (3, 4) and flat.cell.box_of(7) == (1, 7)


def test_the_cell_is_its_equation():
    net, givens = model((2, 3)), grids(6)
    cell, n, d = net.cell, 6, net.cell.channels
    z = torch.randn(2, n, n, n, d, dtype=torch.float64)
    kind = torch.zeros_like(givens)[..., None].expand(-1, -1, -1, n).clone()
    for k in range(1, n + 1):
        kind[..., k - 1] = torch.where(givens == k, 1, torch.where(givens == 0, 0, 2))
    box = z.view(2, 3, 2, 2, 3, n, d).mean((2, 4), keepdim=True).expand(-1, -1, 2, -1, 3, -1, -1).reshape(z.shape)
    parts = [z, z.mean(2, keepdim=True), z.mean(1, keepdim=True), box, z.mean(3, keepdim=True), cell.embedding(kind)]
    h = cell.widen(torch.cat([p.expand_as(z) for p in parts], -1))
    out = z + cell.narrow(h * torch.sigmoid(h))
    expected = out / (out.square().mean(-1, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(cell(z.flatten(1, 2), net.embed(givens)), expected.flatten(1, 2))


def test_the_prototype_had_as_many_parameters():
    assert sum(p.numel() for p in EquivariantReasoner(24).parameters()) == 8233


def test_a_state_is_gone_on_from():
    net, givens = model(), grids(9)
    with torch.no_grad():
        with solver_budget(most=5):
            z = net.equilibrium(givens)
        with solver_budget(most=3):
            on = net(givens, z)
    torch.testing.assert_close(on, after(net, givens, 8), rtol=0, atol=0)


def test_every_further_step_comes_nearer_where_the_map_contracts():
    net, givens = model(), grids(9)
    with torch.no_grad():
        net.cell.widen.weight[:, : 5 * net.cell.channels].mul_(0.1)
        net.configure_implicit({"name": "picard", "rtol": 1e-12, "max_steps": 500})
        end = net.equilibrium(givens)
        assert net.last.stats.converged.all()
        away = []
        for steps in (1, 2, 4, 8, 16, 32):
            with solver_budget(most=steps):
                away.append((net.equilibrium(givens) - end).flatten(1).norm(dim=1))
    assert all((later < earlier).all() for earlier, later in pairwise(away))


def test_a_puzzle_is_answered_as_in_a_batch():
    net, givens = model(), grids(9, 5)
    for i in range(5):
        torch.testing.assert_close(after(net, givens[i : i + 1], 20), after(net, givens, 20)[i : i + 1])


def test_random_starts_are_drawn_and_cut():
    net, givens = model(), grids(9)
    drawn = [net.start(givens, random=True, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
    torch.testing.assert_close(drawn[0], drawn[1], rtol=0, atol=0)
    assert not torch.equal(drawn[0], drawn[2]) and not net.start(givens).any()
    assert drawn[0].abs().max() <= 2 and 0.7 < drawn[0].std() < 1
    assert drawn[0].shape == net.start(givens).shape == (2, 81, 9, 8)


@pytest.mark.parametrize(
    ("givens", "said"),
    [
        (torch.zeros(9, 9, dtype=torch.long), r"givens\[None\]"),
        (torch.zeros(1, 9, 9), "whole numbers"),
        (torch.zeros(1, 9, 8, dtype=torch.long), "must be square"),
        (torch.full((1, 9, 9), 10), "Givens are 0 to 9 here; got 10"),
        (torch.full((1, 4, 4), -1), "Givens are 0 to 4 here; got -1"),
    ],
)
def test_a_grid_that_is_none_is_refused(givens, said):
    with pytest.raises(ValueError, match=said):
        model()(givens)


@pytest.mark.parametrize("options", [{"channels": 0}, {"box": (0, 3)}, {"start_std": 0.0}])
def test_a_reasoner_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match="must be"):
        EquivariantReasoner(**options)
