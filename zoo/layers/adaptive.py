"""The words of a language model, in both directions: adaptive embedding, and the adaptive softmax tied to it.

The vocabulary, sorted by frequency, is cut into clusters ``V_0, V_1, ..., V_n``. A cluster further down has narrower
rows, so that rare words cost few parameters; ``E_c`` are its rows and ``P_c`` brings them to the model's width ``D``:

    embed(w)  = sqrt(D) P_c E_c[w]                                       for w in V_c
    p(w | h)  = softmax([E_0 Q_0 h + b_0, C Q_0 h + c])_w                for w in V_0
    p(w | h)  = p(c | h) softmax(E_c Q_c h + b_c)_w                      for w in V_c, c > 0

``p(c | h)`` is the place of cluster ``c`` in the first softmax. The rows ``E`` are the same ones in both directions,
and so are the projections, ``Q_c = P_c^T``, but for the first cluster. Without cuts this is one embedding, tied to one
linear layer, and there are no projections unless the rows have another width than the model.

References: Grave et al., "Efficient softmax approximation for GPUs", 2017, https://arxiv.org/abs/1609.04309; Baevski
and Auli, "Adaptive input representations for neural language modeling", 2019, https://arxiv.org/abs/1809.10853

Shape letters: ``B`` sequences, ``T`` places, ``D`` the model's width, ``V`` words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.layers.language import check_tokens


class AdaptiveVocabulary(nn.Module):
    """Embeds words and scores them.

    Args:
        vocab_size: words, sorted by frequency where there are cutoffs.
        width: ``D``, of what is embedded to and scored from.
        cutoffs: where the clusters end, increasing, below ``vocab_size``; none: one cluster.
        embed_width: of the first cluster's rows; None: ``width``.
        division: a cluster's rows are this many times narrower than those of the one before.
        tie_projections: whether later clusters score by the projections they embed by.

    Raises:
        ValueError: sizes that do not fit one another.
    """

    def __init__(
        self,
        vocab_size: int,
        width: int,
        cutoffs: Sequence[int] = (),
        embed_width: int | None = None,
        division: int = 4,
        tie_projections: bool = True,
    ) -> None:
        super().__init__()
        embed_width = width if embed_width is None else embed_width
        edges = [0, *cutoffs, vocab_size]
        if vocab_size < 1 or sorted(set(edges)) != edges:
            raise ValueError(
                f"cutoffs must increase and lie above 0 and below vocab_size; got cutoffs={tuple(cutoffs)} for "
                f"vocab_size={vocab_size}."
            )
        widths = [embed_width // division**c for c in range(len(edges) - 1)] if division > 0 else [0]
        if min(widths) < 1 or width < 1:
            raise ValueError(
                f"Every cluster needs rows of at least one number: embed_width={embed_width} divided by "
                f"division={division} over {len(edges) - 1} clusters, in a model of width={width}, leaves "
                f"{widths}. Take fewer cutoffs, a smaller division or a larger embed_width."
            )
        self.vocab_size, self.width, self.edges = vocab_size, width, edges
        sizes = [b - a for a, b in pairwise(edges)]
        n = len(cutoffs)
        projected = n > 0 or embed_width != width
        free = (n + 1 if not tie_projections else 1) if projected else 0  # projections of the softmax's own
        self.rows = nn.ParameterList(torch.empty(s, w) for s, w in zip(sizes, widths, strict=True))
        self.bias = nn.ParameterList(torch.zeros(s) for s in sizes)
        self.project = nn.ParameterList(torch.empty(width, w) for w in widths if projected)
        self.unproject = nn.ParameterList(torch.empty(width, w) for w in widths[:free])
        self.cluster = nn.Parameter(torch.zeros(n, embed_width)) if n else None
        self.cluster_bias = nn.Parameter(torch.zeros(n)) if n else None
        # an embedded word has a mean square of about 1 in each place, and so has its score for a state that has
        for p in self.rows:
            nn.init.normal_(p, std=width**-0.5 if not projected else 1.0 / math.sqrt(p.shape[1]))
        for p in (*self.project, *self.unproject):
            nn.init.normal_(p, std=width**-0.5)

    def embed(self, tokens: Tensor) -> Tensor:
        """Return vectors (B, T, D) of words (B, T).

        Raises:
            ValueError: words that are no whole numbers, or none of this vocabulary.
        """
        tokens = check_tokens(tokens, self.vocab_size)
        scale = math.sqrt(self.width)
        if len(self.rows) == 1:
            return scale * self._projected(0, tokens)
        out = self.rows[0].new_zeros(*tokens.shape, self.width)
        for c, (first, end) in enumerate(pairwise(self.edges)):
            inside = (tokens >= first) & (tokens < end)
            if inside.any():
                rows = self._projected(c, tokens[inside] - first).to(out.dtype)  # autocast makes the product narrower
                out = out.masked_scatter(inside[..., None], rows)
        return scale * out

    def log_probabilities(self, h: Tensor) -> Tensor:
        """Return the logarithm of the probability of every word, (..., V), from states (..., D)."""
        if self.cluster is None:
            return F.log_softmax(self._scores(0, h), dim=-1)
        head = self._head(h)
        parts = [head[..., : self.edges[1]]]
        for c in range(1, len(self.rows)):
            parts.append(head[..., self.edges[1] + c - 1, None] + F.log_softmax(self._scores(c, h), dim=-1))
        return torch.cat(parts, dim=-1)

    def nll(self, h: Tensor, targets: Tensor) -> Tensor:
        """Return ``-log p(target)`` of targets (B, T), from states (B, T, D); only the clusters that occur are scored.

        Raises:
            ValueError: as for `embed`.
        """
        words = check_tokens(targets, self.vocab_size).reshape(-1)
        flat = h.reshape(-1, h.shape[-1])
        if self.cluster is None:
            return F.cross_entropy(self._scores(0, flat), words, reduction="none").view(targets.shape)
        head = self._head(flat)
        cluster = torch.bucketize(words, torch.tensor(self.edges[1:-1], device=words.device), right=True)
        place = torch.where(cluster == 0, words, self.edges[1] + cluster - 1)
        out = -head.gather(1, place[:, None])[:, 0]
        for c in range(1, len(self.rows)):
            (rows,) = (cluster == c).nonzero(as_tuple=True)
            if len(rows):
                tail = F.cross_entropy(self._scores(c, flat[rows]), words[rows] - self.edges[c], reduction="none")
                out = out.index_add(0, rows, tail)
        return out.view(targets.shape)

    def _projected(self, c: int, tokens: Tensor) -> Tensor:
        rows = F.embedding(tokens, self.rows[c])
        return F.linear(rows, self.project[c]) if len(self.project) else rows

    def _inner(self, c: int, h: Tensor) -> Tensor:
        """``Q_c h``."""
        if not len(self.project):
            return h
        return h @ (self.unproject[c] if c < len(self.unproject) else self.project[c])

    def _scores(self, c: int, h: Tensor) -> Tensor:
        return _wide(F.linear(self._inner(c, h), self.rows[c], self.bias[c]))

    def _head(self, h: Tensor) -> Tensor:
        """Log-probabilities of the first cluster's words and, after them, of each later cluster."""
        assert self.cluster is not None and self.cluster_bias is not None
        weight = torch.cat([self.rows[0], self.cluster])
        bias = torch.cat([self.bias[0], self.cluster_bias])
        return F.log_softmax(_wide(F.linear(self._inner(0, h), weight, bias)), dim=-1)


def _wide(scores: Tensor) -> Tensor:
    """In float32 at least: over so many words, halves lose the likelihood's digits, and CPU and GPU differ in where."""
    return scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
