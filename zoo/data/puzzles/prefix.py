"""Prefix sums modulo two: the smallest task that takes more iterations the longer the input is."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from zoo.data.puzzles.base import PuzzleData


class PrefixSums(PuzzleData):
    """Bit strings (1 x L) and, at each place, the parity of the bits up to it.

    Args:
        batch_size: strings a batch.
        seed: of the order; not of the strings.
        train_size, val_size, test_size: strings of each split.
        length: bits of a string to train on and to validate on.
        test_length: bits of a test string. The difficulty is the number of bits.

    Raises:
        ValueError: an argument is out of range; at ``setup``: there are not as many strings as wanted.

    Reference: Schwarzschild et al., "Can you learn an algorithm? Generalizing from easy to hard problems with recurrent
    networks", 2021, arXiv:2106.04537.
    """

    joint = False
    symbols, num_classes = 2, 2
    tiers: ClassVar = {"all": (0, 1 << 62)}
    more = "for longer strings"

    def __init__(
        self,
        batch_size: int = 64,
        seed: int = 0,
        train_size: int = 2000,
        val_size: int = 256,
        test_size: int = 500,
        length: int = 16,
        test_length: int = 64,
    ) -> None:
        super().__init__(None, batch_size, seed, train_size, val_size, test_size)
        if length < 1 or test_length < 1:
            raise ValueError(f"PrefixSums: length and test_length must be at least 1; got {length} and {test_length}.")
        self.length, self.test_length = length, test_length

    def model_arguments(self) -> dict[str, Any]:
        return {**super().model_arguments(), "grid": (1, self.length)}

    def check(self, givens: Tensor, answer: Tensor) -> Tensor:
        return (answer == givens.cumsum(2) % 2).flatten(1).all(1)

    def key(self) -> dict[str, Any]:
        return {"length": self.length, "test_length": self.test_length}

    def draw(self, split: str, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        length = self.test_length if split == "test" else self.length
        bits = random.integers(0, 2, (count, 1, length)).astype(np.uint8)
        return bits, (bits.cumsum(2) % 2).astype(np.uint8)

    def marks(self, givens: np.ndarray) -> list[bytes]:
        return [bits.tobytes() for bits in givens]

    def measure(self, givens: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return np.full(len(givens), givens.shape[2])
