"""A transformer's decoder layer as a map that can be iterated, and the language model around such maps.

One evaluation is attention over the sequence and its memory, then a feed-forward network, with the input injected into
queries, keys and values:

    post-norm:   h = N(z + A(z, x)),        f(z, x) = N(h + F(h))
    pre-norm:    h = N(z + A(N(z), x)),     f(z, x) = h + F(h)

``N`` is layer normalization without learned scales, ``A`` the relative attention of `zoo.layers.attention`, ``F`` the
feed-forward network. Dropout masks are drawn once for all evaluations and stay the same along the sequence.

References: Bai, Kolter and Koltun, "Deep equilibrium models", 2019, https://arxiv.org/abs/1909.01377; Dai et al.,
"Transformer-XL", 2019, https://arxiv.org/abs/1901.02860

Shape letters: ``B`` sequences, ``T`` places, ``M`` places of the memory, ``D`` width, ``H`` heads of ``d``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.adaptive import AdaptiveVocabulary
from zoo.layers.attention import RelativeAttention, causal_mask
from zoo.layers.dropout import check_probability, dropout_mask
from zoo.layers.feedforward import FeedForward
from zoo.layers.language import LanguageHead
from zoo.layers.norm import magnitudes

Memory = tuple[Tensor, ...]  # batch first; what each is, the model says


class PositionInfo(NamedTuple):
    """What the positions decide, the same for every sample and every evaluation."""

    r: Tensor  # keys of the distances, (H, M + T, d)
    hidden: Tensor  # True where a place must not look, (T, M + T)


class DecoderCell(nn.Module):
    """The map ``f``: attention, then the feed-forward network.

    Args:
        width, heads, head_width: of the attention.
        inner: of the feed-forward network.
        norm_first: normalize before attention and feed-forward, not after them.
        normalize: weight normalization of all linear maps.
    """

    def __init__(
        self, width: int, heads: int, *, head_width: int | None, inner: int, norm_first: bool, normalize: bool
    ) -> None:
        super().__init__()
        self.width, self.inner, self.norm_first = width, inner, norm_first
        self.attention = RelativeAttention(width, heads, head_width, normalize)
        self.feedforward = FeedForward(width, inner, normalize)

    def norm(self, h: Tensor) -> Tensor:
        return F.layer_norm(h, (self.width,))

    def past(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values (B, H, M, d) of past states (B, M, D); they depend on no state that is solved for."""
        _, k, v = self.attention.split(self.norm(z) if self.norm_first else z, x)
        return k, v

    def forward(
        self, z: Tensor, x: Tensor, past_k: Tensor, past_v: Tensor, *masks: Tensor, places: PositionInfo
    ) -> Tensor:
        """Evaluate f once, (B, T, D).

        Args:
            z, x: states (B, T, D) and injections (B, T, 3 H d).
            past_k, past_v: of `past`.
            masks: of dropout, or none: after attention (B, 1, D), within the feed-forward network (B, 1, inner) and
                after it (B, 1, D), and on the attention's weights (B, H, T, M + T).
            places: of the sequence and its memory.
        """
        first, within, last = masks[:3] if masks else (None, None, None)
        drop = masks[3] if len(masks) > 3 else None
        h = self.attention(self.norm(z) if self.norm_first else z, x, past_k, past_v, *places, drop)
        h = self.norm(z + (h if first is None else h * first))
        g = self.feedforward(h, within)
        g = h + (g if last is None else g * last)
        return g if self.norm_first else self.norm(g)


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """What a decoder language model is made of; what each option means is said where a user gives it, by
    `zoo.deq.transformer.DEQTransformerLM`.

    Raises:
        ValueError: sizes that do not fit one another.
    """

    vocab_size: int
    width: int
    heads: int
    head_width: int | None
    inner: int
    embed_width: int | None
    cutoffs: Sequence[int]
    division: int
    tie_projections: bool
    dropout: float
    attention_dropout: float
    norm_first: bool
    weight_norm: bool
    memory_length: int
    eval_memory_length: int | None
    window: int

    def __post_init__(self) -> None:
        check_probability(self.dropout)
        check_probability(self.attention_dropout)
        lengths = self.memory_lengths
        if min(lengths) < 0 or self.window < 1 or self.inner < 1:
            raise ValueError(
                f"memory_length and eval_memory_length must be at least 0, window and inner at least 1; got {lengths}, "
                f"window={self.window}, inner={self.inner}."
            )

    @property
    def memory_lengths(self) -> list[int]:
        """In training, and in evaluation."""
        length = self.memory_length if self.eval_memory_length is None else self.eval_memory_length
        return [self.memory_length, length]

    def vocabulary(self) -> AdaptiveVocabulary:
        """Return a new vocabulary of these sizes."""
        return AdaptiveVocabulary(
            self.vocab_size,
            self.width,
            self.cutoffs,
            embed_width=self.embed_width,
            division=self.division,
            tie_projections=self.tie_projections,
        )

    def cell(self) -> DecoderCell:
        """Return a new cell of these sizes."""
        return DecoderCell(
            self.width,
            self.heads,
            head_width=self.head_width,
            inner=self.inner,
            norm_first=self.norm_first,
            normalize=self.weight_norm,
        )


class DecoderLM(LanguageHead, nn.Module, ABC):
    """What the decoder language models share: the vocabulary, the masks, the memory, and the loss.

    A model says in `states` how the words' vectors become states.

    Args:
        config: sizes and options.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vocab_size, self.width = config.vocab_size, config.width
        self.dropout, self.attention_dropout = config.dropout, config.attention_dropout
        self.memory_length, self.eval_memory_length = config.memory_lengths
        self.window = config.window
        self.words = config.vocabulary()

    @abstractmethod
    def states(self, words: Tensor, memory: Memory | None) -> tuple[Tensor, Memory]:
        """Return last states (B, T, D) of words' vectors (B, T, D), and what the next segment is to remember."""

    def forward(self, tokens: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory | None]:
        """Return log-probabilities (B, T, V) of what follows each token of (B, T), and the memory for the next segment.

        Args:
            tokens: whole numbers below ``vocab_size``.
            memory: what this model returned for the segment in front; None: the text begins here.

        Raises:
            ValueError: tokens that are none of the vocabulary; a memory of another batch.
        """
        h, memory = self.hidden(tokens, memory)
        return self.words.log_probabilities(h), memory

    def loss(self, tokens: Tensor, targets: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory | None]:
        """Return ``-log p(target)`` in nats for each place, (B, T), and the memory; no scores of all words are made."""
        h, memory = self.hidden(tokens, memory)
        return self.words.nll(h, targets), memory

    def hidden(self, tokens: Tensor, memory: Memory | None = None) -> tuple[Tensor, Memory | None]:
        """Return the states (B, T, D) that score the next words, and the memory."""
        if memory is not None and memory[0].shape[0] != tokens.shape[0]:
            raise ValueError(
                f"The memory holds {len(memory[0])} sequences, the tokens {len(tokens)}: a memory belongs to the batch "
                "that it came from. Give None where other texts begin."
            )
        words = self._drop(self.words.embed(tokens))
        h, memory = self.states(words, memory)
        return self._drop(h), (memory if self.keeps else None)

    @property
    def keeps(self) -> int:
        """How many places of the past are remembered in the present mode."""
        return self.memory_length if self.training else self.eval_memory_length

    def no_weight_decay(self) -> set[str]:
        """Return what weight decay must leave alone: magnitudes of normalized weights, and the biases of the heads."""
        biases = {n for n, _ in self.named_parameters() if n.endswith(("content_bias", "position_bias"))}
        return magnitudes(self) | biases

    def places(self, cell: DecoderCell, like: Tensor, t: int, m: int) -> PositionInfo:
        """Return distances and the causal mask of ``t`` places after ``m`` of memory."""
        mask = self._mask(like, self.width) if self.training and self.dropout else None
        return PositionInfo(cell.attention.distances(m + t, like, mask), causal_mask(t, m, self.window, like.device))

    def masks(self, cell: DecoderCell, like: Tensor, t: int, m: int) -> tuple[Tensor, ...]:
        """Return dropout masks of one forward pass, as `DecoderCell.forward` takes them; none in evaluation mode."""
        if not self.training or not (self.dropout or self.attention_dropout):
            return ()
        b = like.shape[0]
        drop = [self._mask(like, b, 1, size) for size in (cell.width, cell.inner, cell.width)]
        if self.attention_dropout:
            drop.append(dropout_mask(like, self.attention_dropout, b, cell.attention.heads, t, m + t))
        return tuple(drop)

    def remember(self, *pairs: tuple[Tensor | None, Tensor]) -> Memory:
        """Return the last places of past and present, (B, N, ...) each, detached, as many as are kept."""
        out = []
        for past, present in pairs:
            whole = present if past is None else torch.cat([past, present], dim=1)
            out.append(whole[:, max(whole.shape[1] - self.keeps, 0) :].detach())
        return tuple(out)

    def _mask(self, like: Tensor, *shape: int) -> Tensor:
        return dropout_mask(like, self.dropout, *shape)

    def _drop(self, h: Tensor) -> Tensor:
        """Variational dropout: whole features, for all places of a sequence."""
        if not self.training or not self.dropout:
            return h
        return h * self._mask(h, h.shape[0], 1, h.shape[-1])
