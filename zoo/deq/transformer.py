"""The DEQ transformer: a language model whose one decoder layer is at equilibrium with itself.

The states of all places of a segment are solved for together; each sees those before it, and the remembered
equilibria of earlier segments:

    x_t = W_x embed(w_t) + b_x,      z* = f(z*, x; z*_past, x_past),      p(w_{t+1}) = adaptive softmax(z*_t)

``f`` is one layer of a Transformer-XL, `zoo.layers.decoder.DecoderCell`; ``x`` is injected into its queries, keys and
values, of the past too. The solve starts at ``z = 0``. At equilibrium, two segments with a memory that holds all of the
first are one long segment.

References: Bai, Kolter and Koltun, "Deep equilibrium models", 2019, https://arxiv.org/abs/1909.01377; Bai, Koltun and
Kolter, "Stabilizing equilibrium models by Jacobian regularization", 2021, https://arxiv.org/abs/2106.14342

What differs from the code that the authors released: here each sequence stops by itself, not by a residual over the
whole batch; keys and values of the memory, and those of the distances, are computed once a solve instead of once an
evaluation, as they depend on no state that is solved for.

Shape letters: ``B`` sequences, ``T`` places, ``M`` places of the memory, ``D`` width, ``V`` words.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from zoo.implicit import ImplicitMixin
from zoo.layers.decoder import DecoderConfig, DecoderLM, Memory


class DEQTransformerLM(ImplicitMixin, DecoderLM):
    """Language model of one decoder layer at equilibrium.

    ``forward`` gives log-probabilities (B, T, V) and the memory for the next segment; ``loss`` what each target costs.

    Args:
        vocab_size: words or symbols.
        width: ``D`` of the state.
        heads: of attention.
        head_width: of each head; None: ``width / heads``.
        inner: width of the feed-forward network.
        embed_width: of the most frequent words' rows; None: ``width``.
        cutoffs: where the clusters of the adaptive vocabulary end; none: one cluster.
        division: the rows of each further cluster are this many times narrower.
        tie_projections: whether the later clusters score by the projections they embed by.
        dropout: probability of dropping a feature, with one mask for all places and evaluations.
        attention_dropout: probability of dropping an attention weight, with one mask for all evaluations.
        norm_first: pre-norm instead of post-norm.
        weight_norm: normalize the weights of the cell; it keeps the map's scale in check.
        memory_length: places of the past that are handed on; 0: none.
        eval_memory_length: the same in evaluation mode; None: ``memory_length``.
        window: how far back a place looks at most, itself included; 1000 as released.

    Raises:
        ValueError: sizes that do not fit one another.

    Reference: Bai, Kolter and Koltun, "Deep equilibrium models", 2019, https://arxiv.org/abs/1909.01377
    """

    def __init__(
        self,
        vocab_size: int = 256,
        width: int = 128,
        heads: int = 4,
        head_width: int | None = None,
        inner: int = 512,
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
        self.cell = config.cell()
        self.inject = nn.Linear(width, self.cell.attention.qkv.out_features)
        self.configure_implicit({"name": "anderson", "max_steps": 30, "rtol": 1e-3}, "implicit")

    def states(self, words: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Return the equilibrium (B, T, D) for words' vectors (B, T, D).

        Args:
            words: the embedded segment.
            memory: states (B, M, D) and injections (B, M, 3 H d) of the past.
        """
        b, t, _ = words.shape
        x = self.inject(words)
        past_z, past_x = memory if memory is not None else (words.new_zeros(b, 0, self.width), x[:, :0])
        m = past_z.shape[1]
        k, v = self.cell.past(past_z, past_x)
        f = partial(self.cell, places=self.places(self.cell, words, t, m))
        z = self.solve(f, words.new_zeros(b, t, self.width), args=(x, k, v, *self.masks(self.cell, words, t, m)))
        return z, self.remember((past_z, z), (past_x, x))
