"""An LSTM language model with layer normalization: the explicit twin of the recurrent hypernetwork.

References: Hochreiter and Schmidhuber, "Long short-term memory", 1997; Ba, Kiros and Hinton, "Layer normalization",
2016, https://arxiv.org/abs/1607.06450. The cell is `zoo.layers.recurrent.LSTMCell`, as torch's own LSTM has no layer
normalization.
"""

from __future__ import annotations

from zoo.layers.recurrent import LSTMCell, RecurrentLM


class LSTM(RecurrentLM):
    """Language model of layer-normalized LSTM cells; tokens (B, T) to logits (B, T, vocab_size) and a memory.

    Args:
        vocab_size: symbols of the vocabulary.
        width: of each cell.
        layers: cells on top of each other.
        embed_width: width of the symbols' vectors; None: one-hot vectors, as suits characters.
        dropout: probability of dropping an entry of a cell's output, or of a symbol's vector.
        recurrent_dropout: probability of dropping what is written to a cell.
        normalise: layer normalization; if not, this is the plain LSTM.

    Raises:
        ValueError: sizes that cannot be.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        width: int = 256,
        layers: int = 1,
        embed_width: int | None = None,
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        normalise: bool = True,
    ) -> None:
        def cell(inputs: int, width: int, symbols: bool) -> LSTMCell:
            return LSTMCell(inputs, width, symbols, normalise)

        super().__init__(cell, vocab_size, width, layers, embed_width, dropout, recurrent_dropout)
