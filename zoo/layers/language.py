"""What every language model offers, so that one task trains, measures and samples them all.

Shape letters: ``B`` sequences, ``T`` tokens of a segment, ``V`` symbols of the vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


class LanguageHead:
    """Beside ``nn.Module``: the loss of a language model, ``-log p(target | tokens so far)`` for each token.

    A model sets ``vocab_size`` and writes ``forward(tokens, memory=None) -> (logits, memory)``: tokens (B, T) int64,
    logits (B, T, V), where ``logits[:, t]`` says what follows ``tokens[:, t]``. ``memory`` is what the next segment of
    the same streams is given: plain tuples or lists of tensors, detached by the model, with B along one axis of each;
    or None, where a stream begins or the model keeps none. A model with a factored (adaptive) softmax overrides `loss`,
    so that no logits over a large vocabulary are made in training.
    """

    vocab_size: int

    def loss(self, tokens: Tensor, targets: Tensor, memory: Any = None) -> tuple[Tensor, Any]:
        """Return the negative log-likelihood in nats of each target, and the memory for the next segment.

        Args:
            tokens: (B, T), what is read.
            targets: (B, T), what follows each token, every one of them in the vocabulary.
            memory: of the segment before; None where a stream begins.

        Returns:
            the losses (B, T), not reduced, and the memory.
        """
        logits, memory = self(tokens, memory)  # type: ignore[operator]
        return F.cross_entropy(logits.transpose(1, 2), targets.long(), reduction="none"), memory


def check_tokens(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return token numbers (B, T) of the vocabulary as int64, and refuse anything else.

    It waits for the device; but an index that is out of range would stop a GPU without a word on where.

    Raises:
        ValueError: another shape or type, or a number outside of ``0 .. vocab_size - 1``.
    """
    whole = not (tokens.is_floating_point() or tokens.is_complex() or tokens.dtype is torch.bool)
    if tokens.dim() != 2 or not whole or tokens.numel() == 0:
        raise ValueError(
            f"Expected whole token numbers (B, T), of int64; got {tuple(tokens.shape)} of {tokens.dtype}. Encode the "
            "text with the tokenizer of the model."
        )
    if torch.compiler.is_exporting():  # numbers have no values yet
        return tokens.long()
    low, high = int(tokens.min()), int(tokens.max())
    if low < 0 or high >= vocab_size:
        way = f"or create the model with vocab_size={high + 1}"
        if low < 0:  # a filling such as -1 or -100, for which no vocabulary is large enough
            way = "and replace negative numbers, such as those that fill up a row, by a symbol of the vocabulary"
        raise ValueError(
            f"Token numbers run from {low} to {high}, but the vocabulary has {vocab_size} symbols, 0 to "
            f"{vocab_size - 1}. Encode the text with the tokenizer of the model, {way}."
        )
    return tokens.long()
