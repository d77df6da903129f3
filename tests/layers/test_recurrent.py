"""The recurrent cells: exact against torch's LSTM, gradients, carried states, and what normalization leaves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.baselines.lstm import LSTM
from zoo.layers.recurrent import Gates, LSTMCell


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_without_normalization_the_cell_is_torchs_lstm():
    torch.manual_seed(0)
    ours, theirs = LSTMCell(5, 7, normalise=False).double(), nn.LSTM(5, 7, batch_first=True).double()
    order = [0, 2, 1, 3]  # ours is i, g, f, o; torch has i, f, g, o
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(ours.input.weight.view(4, 7, 5)[order].reshape(28, 5))
        theirs.weight_hh_l0.copy_(ours.hidden.T.view(4, 7, 7)[order].reshape(28, 7))
        ours.gates.shift.normal_()
        theirs.bias_ih_l0.copy_(ours.gates.shift[order].flatten())
        theirs.bias_hh_l0.zero_()
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    state, outputs = ours.start(x), []
    for read in ours.read(x).unbind(1):
        state = ours(read, state)
        outputs.append(state[0])
    expected, (_, c) = theirs(x)
    torch.testing.assert_close(torch.stack(outputs, 1), expected)
    torch.testing.assert_close(state[1], c[0])


def test_symbols_are_read_as_one_hot_vectors():
    cell = LSTMCell(5, 3, symbols=True)
    symbols = torch.tensor([[4, 0, 2]])
    hot = nn.functional.one_hot(symbols, 5).float() @ cell.input.weight
    torch.testing.assert_close(cell.read(symbols).flatten(2), hot)


def test_normalized_gates_ignore_scale_and_shift_of_what_they_read():
    gates = Gates(64)
    a, c = torch.randn(2, 4, 64), torch.randn(2, 64)
    torch.testing.assert_close(gates(100 * a + 3, c), gates(a, c), rtol=1e-3, atol=1e-4)


def test_a_mask_drops_what_is_written_and_not_what_is_remembered():
    gates = Gates(8, normalise=False)
    a, c = torch.randn(2, 4, 8), torch.randn(2, 8)
    _, kept = gates(a, c, torch.zeros(2, 8))
    torch.testing.assert_close(kept, (a[:, 2] + 1).sigmoid() * c)


def test_gradients():
    torch.manual_seed(0)
    cell = LSTMCell(3, 4).double()
    read = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    h, c = (torch.randn(2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    torch.autograd.gradcheck(lambda r, h, c: cell(r, (h, c)), (read, h, c))


@pytest.mark.parametrize("options", [{}, {"layers": 2, "embed_width": 5}])
def test_two_segments_with_a_memory_are_one_long_segment(options):
    torch.manual_seed(0)
    model = LSTM(11, 8, **options).eval()
    tokens = torch.randint(11, (3, 9))
    whole, last = model(tokens)
    first, memory = model(tokens[:, :4])
    second, end = model(tokens[:, 4:], memory)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(end, last)
    assert not any(part.requires_grad for state in memory for part in state)


def test_dropout_is_drawn_in_training_only():
    torch.manual_seed(0)
    model = LSTM(11, 8, dropout=0.5, recurrent_dropout=0.5)
    tokens = torch.randint(11, (2, 5))
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


def test_the_published_counts_for_penn_treebanks_characters():
    assert round(count(LSTM(50, 1000, normalise=False)) / 1e6, 2) == 4.25
    assert round(count(LSTM(50, 1000)) / 1e6, 2) == 4.26


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="at least 1; got 0"):
        LSTM(0)
    with pytest.raises(ValueError, match="below 1; got 1"):
        LSTM(5, recurrent_dropout=1.0)
    with pytest.raises(ValueError, match="run from 0 to 5, but the vocabulary has 5 symbols"):
        LSTM(5)(torch.tensor([[0, 5]]))
