"""HyperLSTM: the plain cell where its scales are constant, gradients, memory, and the published sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.hypernet.compression import BatchSize, compression
from zoo.hypernet.hyperlstm import HyperLSTM, HyperLSTMCell
from zoo.layers.recurrent import LSTMCell, RecurrentLM


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("normalise", [True, False])
def test_with_constant_scales_of_one_it_is_the_plain_cell(normalise):
    torch.manual_seed(0)
    hyper = HyperLSTMCell(5, 7, 3, 2, normalise=normalise).double()
    plain = LSTMCell(5, 7, normalise=normalise).double()
    with torch.no_grad():
        hyper.signals.zero_()  # the signals no longer depend on the hyper cell: all of them are 1
        hyper.scales[:8] = 1 / 2  # and each scale is their mean
        hyper.input.weight.copy_(plain.input.weight)
        hyper.hidden.copy_(plain.hidden)
        hyper.gates.load_state_dict(plain.gates.state_dict())
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    a, b = hyper.start(x), plain.start(x)
    for one, other in zip(hyper.read(x).unbind(1), plain.read(x).unbind(1), strict=True):
        a, b = hyper(one, a), plain(other, b)
        torch.testing.assert_close(a[:2], b, rtol=1e-12, atol=1e-12)


def test_the_equations_written_out():
    """One step against the paper's formula, gate by gate, without normalization."""
    torch.manual_seed(0)
    n, k, h_width = 2, 3, 4
    cell = HyperLSTMCell(5, h_width, k, n, normalise=False).double()
    with torch.no_grad():
        for p in cell.parameters():
            p.normal_()
    x = torch.randn(1, 5, dtype=torch.float64)
    state = tuple(torch.randn(1, w, dtype=torch.float64) for w in (h_width, h_width, k, k))
    h, c = state[:2]
    hyper_a = cell.hyper.input(x) + h @ cell.hyper_hidden + state[2] @ cell.hyper.hidden
    i, g, f, o = (hyper_a.view(4, k) + cell.hyper.gates.shift).unbind(0)
    hyper_c = f.sigmoid() * state[3] + i.sigmoid() * g.tanh()
    hidden = o.sigmoid() * hyper_c.tanh()
    gates = []
    for y in range(4):
        a = torch.zeros(1, h_width, dtype=torch.float64)
        for kind, what in enumerate((h @ cell.hidden, cell.input(x), None)):
            block = 4 * kind + y
            z = hidden @ cell.signals[:, block * n : (block + 1) * n]
            z = z + cell.offsets[block * n : (block + 1) * n] if kind < 2 else z
            d = z @ cell.scales[block]
            a = a + (d if what is None else d * what[:, y * h_width : (y + 1) * h_width])
        gates.append(a + cell.gates.shift[y])
    i, g, f, o = gates
    expected_c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    found = cell(cell.read(x), state)
    torch.testing.assert_close(found, (o.sigmoid() * expected_c.tanh(), expected_c, hidden, hyper_c))


def test_every_scale_starts_at_a_tenth():
    cell = HyperLSTMCell(5, 7, 3, 4)
    for_h, for_x, for_b = cell.scaling(torch.randn(2, 3))
    torch.testing.assert_close(for_h, torch.full((2, 4, 7), 0.1))
    torch.testing.assert_close(for_x, torch.full((2, 4, 7), 0.1))
    assert for_b.count_nonzero() == 0


def test_gradients_reach_the_generator():
    torch.manual_seed(0)
    cell = HyperLSTMCell(3, 4, 2, 2).double()
    with torch.no_grad():
        cell.signals.normal_()
    x = torch.randn(2, 3, dtype=torch.float64)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell

        def forward(self, x):
            state = cell(cell.read(x), cell.start(x))
            return cell(cell.read(x), state)

    names = [n for n, _ in Twice().named_parameters()]

    def run(*values):
        return torch.func.functional_call(Twice(), dict(zip(names, values, strict=True)), (x,))

    torch.autograd.gradcheck(run, tuple(p.detach().clone().requires_grad_() for p in cell.parameters()))


def test_two_segments_with_a_memory_are_one_long_segment():
    torch.manual_seed(0)
    model = HyperLSTM(11, 8, 4, 2, layers=2, embed_width=5).eval()
    for cell in model.cells:
        nn.init.normal_(cell.signals)
    tokens = torch.randint(11, (3, 9))
    whole, last = model(tokens)
    first, memory = model(tokens[:, :4])
    second, end = model(tokens[:, 4:], memory)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)


def test_the_published_counts_for_penn_treebanks_characters():
    """Ha, Dai and Le's table: 4.91M, with layer normalization 4.92M; 14.41M with two layers, where ours has 0.1 % less:
    the shift of a normalization takes the place of the bias of d_b."""
    assert round(count(HyperLSTM(50, 1000, 128, 4, normalise=False)) / 1e6, 2) == 4.91
    assert round(count(HyperLSTM(50, 1000, 128, 4)) / 1e6, 2) == 4.92
    assert abs(count(HyperLSTM(50, 1000, 128, 16, layers=2)) / 14.41e6 - 1) < 1e-3


def test_the_small_twins_have_equal_parameters():
    hyper, plain = (count(zoo.create_model(n, vocab_size=66)) for n in ("hyperlstm_small", "lstm_small"))
    assert abs(hyper / plain - 1) < 5e-3  # a unit more or less is 0.4 %


def test_it_reports_its_scales_for_every_sequence_and_step():
    model = HyperLSTM(11, 8, 4, 2, layers=2)
    report = compression(model, BatchSize(samples=5, steps=3))
    assert report.generated == 2 * 12 * 8 and report.sets == 15
    plain = RecurrentLM(lambda n, width, symbols: LSTMCell(n, width, symbols), 11, 8, 2, None, 0.0, 0.0)
    assert report.others == count(plain)  # what is left without the hyper cells is the LSTM


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="signal must be at least 1; got 32 and 0"):
        HyperLSTM(5, signal=0)
