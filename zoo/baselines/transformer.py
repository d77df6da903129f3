"""The explicit twins of the DEQ transformer: the same decoder layer, a fixed number of times.

    tied:      z_0 = 0,           z_{l+1} = f(z_l, x; z_L past)         one layer, L times, x injected each time
    untied:    z_0 = embed(w),    z_{l+1} = f_l(z_l; z_l past)          L layers with weights of their own

The tied twin is the DEQ transformer with its solver cut to L plain iterations; as L grows it becomes it. The untied
twin is a Transformer-XL: every layer remembers the states that came into it.

Reference: Dai et al., "Transformer-XL: Attentive language models beyond a fixed-length context", 2019,
https://arxiv.org/abs/1901.02860

Shape letters: ``B`` sequences, ``T`` places, ``M`` places of the memory, ``D`` width, ``L`` layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.layers.decoder import DecoderCell, DecoderConfig, DecoderLM, Memory


class TransformerLM(DecoderLM):
    """Decoder language model with relative positions and memory.

    Args:
        depth: ``L``.
        tied: one layer applied ``depth`` times, or ``depth`` layers.
        tied_biases: whether untied layers share the two learned biases of their attention.
        vocab_size, width, heads, head_width, inner, embed_width, cutoffs, division, tie_projections, dropout,
            attention_dropout, norm_first, weight_norm, memory_length, eval_memory_length, window: see
            `zoo.deq.transformer.DEQTransformerLM`.

    Raises:
        ValueError: sizes that do not fit one another.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        width: int = 128,
        heads: int = 4,
        head_width: int | None = None,
        inner: int = 512,
        depth: int = 8,
        tied: bool = True,
        tied_biases: bool = False,
        embed_width: int | None = None,
        cutoffs: Sequence[int] = (),
        division: int = 4,
        tie_projections: bool = True,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        norm_first: bool = False,
        weight_norm: bool = True,
        memory_length: int = 96,
        eval_memory_length: int | None = None,
        window: int = 1000,
    ) -> None:
        config = DecoderConfig(
            vocab_size=vocab_size,
            width=width,
            heads=heads,
            head_width=head_width,
            inner=inner,
            embed_width=embed_width,
            cutoffs=cutoffs,
            division=division,
            tie_projections=tie_projections,
            dropout=dropout,
            attention_dropout=attention_dropout,
            norm_first=norm_first,
            weight_norm=weight_norm,
            memory_length=memory_length,
            eval_memory_length=eval_memory_length,
            window=window,
        )
        super().__init__(config)
        if depth < 1:
            raise ValueError(f"A transformer needs at least one layer; got depth={depth}.")
        self.depth, self.tied = depth, tied
        cells = [config.cell() for _ in range(1 if tied else depth)]
        if tied_biases:
            for cell in cells[1:]:
                cell.attention.content_bias = cells[0].attention.content_bias
                cell.attention.position_bias = cells[0].attention.position_bias
        self.cells = nn.ModuleList(cells)
        self.inject = nn.Linear(width, cells[0].attention.qkv.out_features) if tied else None

    def states(self, words: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Return the last states (B, T, D) for words' vectors (B, T, D).

        Args:
            words: the embedded segment.
            memory: tied: the last states (B, M, D) of the past and its injections (B, M, 3 H d); untied: the states
                (B, M, D) that came into each layer.
        """
        return self._tied(words, memory) if self.inject is not None else self._untied(words, memory)

    def _layers(self) -> list[DecoderCell]:
        return [cell for cell in self.cells if isinstance(cell, DecoderCell)]

    def _tied(self, words: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        assert self.inject is not None
        (b, t, _), cell = words.shape, self._layers()[0]
        x = self.inject(words)
        past_z, past_x = memory if memory is not None else (words.new_zeros(b, 0, self.width), x[:, :0])
        m = past_z.shape[1]
        k, v = cell.past(past_z, past_x)
        places, masks = self.places(cell, words, t, m), self.masks(cell, words, t, m)
        z = torch.zeros_like(words)
        for _ in range(self.depth):
            z = cell(z, x, k, v, *masks, places=places)
        return z, self.remember((past_z, z), (past_x, x))

    def _untied(self, words: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        b, t, _ = words.shape
        past = memory if memory is not None else (words.new_zeros(b, 0, self.width),) * self.depth
        m = past[0].shape[1]
        z, came_in = words, []
        none = words.new_zeros(())
        for cell, before in zip(self._layers(), past, strict=True):
            came_in.append((before, z))
            k, v = cell.past(before, none)
            z = cell(z, none, k, v, *self.masks(cell, words, t, m), places=self.places(cell, words, t, m))
        return z, self.remember(*came_in)
