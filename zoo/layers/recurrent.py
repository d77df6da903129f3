"""Gated recurrent cells with layer normalization, and the language model around a stack of them.

A cell reads an input ``x_t`` and a state, a tuple of tensors (B, ...) that begins with its output ``h``. What a cell
computes from the inputs alone is computed for all times at once, by `Cell.read`.

Shape letters: ``B`` sequences, ``T`` times, ``H`` width, ``V`` symbols. The four gates are in the order i, g, f, o.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.dropout import check_probability, dropout_mask
from zoo.layers.language import LanguageHead, check_tokens

State = tuple[Tensor, ...]


class Cell(nn.Module, ABC):
    """One step of a recurrence. Sets ``width``, the width of its output."""

    width: int

    @abstractmethod
    def read(self, x: Tensor) -> Tensor:
        """Return what the inputs alone give, for all times: (B, T, ...) of symbols (B, T) or vectors (B, T, inputs)."""

    @abstractmethod
    def start(self, like: Tensor) -> State:
        """Return the state before the first input, zeros, for as many sequences as ``like`` has, on its device."""

    @abstractmethod
    def forward(self, read: Tensor, state: State, mask: Tensor | None = None) -> State:
        """Take one step.

        Args:
            read: (B, ...), one time of what `read` gave.
            state: of the step before.
            mask: (B, H), multiplies what is written to the cell; None: ones.
        """


class Gates(nn.Module):
    """From the gates' pre-activations to the next cell and output.

        i, g, f, o = LN(a_i), LN(a_g), LN(a_f), LN(a_o)
        c' = sigmoid(f) c + sigmoid(i) m tanh(g),      h' = sigmoid(o) tanh(LN(c'))

    Every ``LN`` has a gain and a shift of its own; the shift of ``f`` starts at 1, so that a new cell remembers. The
    mask ``m`` drops what is written, never what is remembered.

    Args:
        width: ``H``.
        normalise: if not, each ``LN`` is the identity, and the gates have a bias.

    References: Ba, Kiros and Hinton, "Layer normalization", 2016, https://arxiv.org/abs/1607.06450; Semeniuta, Severyn
    and Barth, "Recurrent dropout without memory loss", 2016, https://arxiv.org/abs/1603.05118
    """

    def __init__(self, width: int, normalise: bool = True) -> None:
        super().__init__()
        self.width = width
        shift = torch.zeros(4, width)
        shift[2] = 1
        self.shift = nn.Parameter(shift)
        self.gain = nn.Parameter(torch.ones(4, width)) if normalise else None
        self.cell_norm = nn.LayerNorm(width) if normalise else nn.Identity()

    def forward(self, a: Tensor, c: Tensor, mask: Tensor | None = None) -> State:
        """Return ``h'`` and ``c'`` (B, H) from pre-activations (B, 4, H) and the cell (B, H)."""
        if self.gain is not None:
            a = F.layer_norm(a, (self.width,)) * self.gain
        i, g, f, o = (a + self.shift).unbind(1)
        written = i.sigmoid() * g.tanh()
        c = f.sigmoid() * c + (written if mask is None else written * mask)
        return o.sigmoid() * self.cell_norm(c).tanh(), c


class LSTMCell(Cell):
    """The LSTM, with layer normalization: ``a = W_h h + W_x x`` into `Gates`.

    Args:
        inputs: width of the input vectors; or how many symbols there are, where the inputs are symbols.
        width: ``H``.
        symbols: whether the inputs are symbols, which are read as one-hot vectors.
        normalise: layer normalization; if not, this is the plain LSTM.
    """

    def __init__(self, inputs: int, width: int, symbols: bool = False, normalise: bool = True) -> None:
        super().__init__()
        self.width = width
        self.input = reader(inputs, width, symbols)
        self.hidden = nn.Parameter(orthogonal_gates(width))
        self.gates = Gates(width, normalise)

    def read(self, x: Tensor) -> Tensor:
        return self.input(x).unflatten(-1, (4, self.width))

    def start(self, like: Tensor) -> State:
        zero = self.hidden.new_zeros(like.shape[0], self.width)
        return zero, zero

    def forward(self, read: Tensor, state: State, mask: Tensor | None = None) -> State:
        h, c = state
        return self.gates(read + (h @ self.hidden).view(-1, 4, self.width), c, mask)


def reader(inputs: int, width: int, symbols: bool) -> nn.Module:
    """Make ``W_x`` (4 H): a table for symbols, which equals a product with one-hot vectors, or a linear layer."""
    made = nn.Embedding(inputs, 4 * width) if symbols else nn.Linear(inputs, 4 * width, bias=False)
    nn.init.xavier_uniform_(made.weight)
    return made


def orthogonal_gates(width: int, inputs: int | None = None) -> Tensor:
    """Return ``W_h`` for ``h @ W_h``, (H, 4 H): each gate's part orthogonal."""
    return torch.cat([nn.init.orthogonal_(torch.empty(inputs or width, width)) for _ in range(4)], 1)


class RecurrentLM(LanguageHead, nn.Module):
    """A language model of stacked cells: symbols -> cells -> logits. Its memory is the state of the cells.

        logits_t = W dropout(h_t) + b,        h_t of the uppermost cell

    Args:
        make_cell: ``(inputs, width, symbols) -> Cell``, called for each layer.
        vocab_size: ``V``.
        width: ``H`` of each cell.
        layers: cells on top of each other.
        embed_width: width of the symbols' vectors; None: the first cell reads one-hot vectors, as suits characters.
        dropout: probability of dropping an entry of a cell's output, or of a symbol's vector.
        recurrent_dropout: probability of dropping what is written to a cell.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self,
        make_cell: Callable[[int, int, bool], Cell],
        vocab_size: int,
        width: int,
        layers: int,
        embed_width: int | None,
        dropout: float,
        recurrent_dropout: float,
    ) -> None:
        super().__init__()
        if min(vocab_size, width, layers, embed_width or 1) < 1:
            raise ValueError(
                f"vocab_size, width, layers and embed_width must be at least 1; got {vocab_size}, {width}, {layers}, "
                f"{embed_width}."
            )
        for p in (dropout, recurrent_dropout):
            check_probability(p)
        self.vocab_size, self.dropout, self.recurrent_dropout = vocab_size, dropout, recurrent_dropout
        self.embed = nn.Embedding(vocab_size, embed_width) if embed_width else None
        inputs = [embed_width or vocab_size, *[width] * (layers - 1)]
        self.cells = nn.ModuleList(make_cell(n, width, k == 0 and embed_width is None) for k, n in enumerate(inputs))
        self.output = nn.Linear(width, vocab_size)

    def forward(self, tokens: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """Return logits (B, T, V) of what follows tokens (B, T), and the cells' states after the last of them."""
        tokens = check_tokens(tokens, self.vocab_size)
        x = tokens if self.embed is None else self._drop(self.embed(tokens))
        states = []
        for k, cell in enumerate(self.cells):
            x, state = self._run(cell, x, cell.start(tokens) if memory is None else tuple(memory[k]))  # type: ignore[operator]
            x = self._drop(x)
            states.append(tuple(part.detach() for part in state))
        return self.output(x), tuple(states)

    def _run(self, cell: Any, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The outputs (B, T, H) of one cell, and its last state."""
        reads = cell.read(x).unbind(1)
        masks: Any = [None] * len(reads)
        if self.training and self.recurrent_dropout:
            like = state[0]
            masks = dropout_mask(like, self.recurrent_dropout, len(reads), len(like), cell.width).unbind(0)
        outputs = []
        for read, mask in zip(reads, masks, strict=True):
            state = cell(read, state, mask)
            outputs.append(state[0])
        return torch.stack(outputs, 1), state

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)
