"""Text to token numbers and back: characters, words, bytes, or byte pairs. A tokenizer is plain data, saved as such.

The vocabulary is made from the training part of a text alone. Symbols that it lacks become ``unknown``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from zoo.registry import sentence, unknown

LEVELS = ("characters", "words", "bpe", "bytes")
UNKNOWN = "<unk>"  # as the published word-level corpora write it
END = "<eos>"  # of a line, likewise


class Tokenizer(ABC):
    """From text to numbers below ``vocab_size``, and back."""

    level: ClassVar[str]
    unknown: int | None  # the number of the unknown symbol; None where every text can be written

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """How many symbols there are."""

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Return the token numbers of a text, int32 (n,)."""

    @abstractmethod
    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of token numbers."""

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Return plain values, from which `tokenizer` makes it again."""

    def strange(self, text: str) -> list[str]:
        """Return the symbols of a text that the vocabulary lacks, each once."""
        return []


class Characters(Tokenizer):
    """Every character is a token. The last number stands for characters that the training part lacks.

    Args:
        alphabet: the characters in the order of their numbers.
    """

    level = "characters"

    def __init__(self, alphabet: Sequence[str]) -> None:
        if not alphabet or any(len(c) != 1 for c in alphabet) or len(set(alphabet)) < len(alphabet):
            raise ValueError("An alphabet is a list of characters, each of length one and there once.")
        self.alphabet = tuple(alphabet)
        self.unknown: int = len(self.alphabet)
        self._points = np.array([ord(c) for c in self.alphabet])
        self._table = np.full(int(self._points.max()) + 1, self.unknown, np.int32)
        self._table[self._points] = np.arange(len(self.alphabet))

    @classmethod
    def learn(cls, text: str) -> Characters:
        return cls(sorted(set(text)))

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet) + 1

    def encode(self, text: str) -> np.ndarray:
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        inside = points < len(self._table)
        return np.where(inside, self._table[np.where(inside, points, 0)], self.unknown).astype(np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        symbols = (*self.alphabet, "\ufffd")
        return "".join(symbols[i] for i in numbers)

    def strange(self, text: str) -> list[str]:
        return sorted(set(text) - set(self.alphabet))

    def as_dict(self) -> dict[str, Any]:
        return {"level": self.level, "alphabet": "".join(self.alphabet)}


class Words(Tokenizer):
    """Every word between white space is a token, and so is the end of every line, as the published corpora are read.

    Numbers follow frequency, as an adaptive softmax needs them; the end of a line is number 0. A comma that follows a
    word without a space belongs to it: text that was not prepared for words is better cut into byte pairs.

    Args:
        words: in the order of their numbers; one of them is ``<unk>``.
    """

    level = "words"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {w: i for i, w in enumerate(self.words)}
        if len(self._numbers) < len(self.words) or not {UNKNOWN, END} <= self._numbers.keys():
            raise ValueError(f"A vocabulary is a list of words, each there once, with {UNKNOWN} and {END} among them.")
        self.unknown: int = self._numbers[UNKNOWN]

    @classmethod
    def learn(cls, text: str, min_count: int = 1) -> Words:
        """Keep the words that occur at least ``min_count`` times; with ``<unk>`` for the others, where it lacks."""
        counts = Counter(w for line in _lines(text) for w in line.split())
        words = [END, *(w for w, n in counts.most_common() if (n >= min_count and w != END) or w == UNKNOWN)]
        return cls(words if UNKNOWN in counts else [*words, UNKNOWN])

    @property
    def vocab_size(self) -> int:
        return len(self.words)

    def encode(self, text: str) -> np.ndarray:
        numbers, unknown, end = self._numbers, self.unknown, self._numbers[END]

        def stream() -> Iterable[int]:
            for line in _lines(text):
                yield from (numbers.get(w, unknown) for w in line.split())
                if line.endswith("\n"):
                    yield end

        return np.fromiter(stream(), np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        out: list[str] = []
        for word in (self.words[i] for i in numbers):
            begins = not out or out[-1] == "\n"
            out.append("\n" if word == END else word if begins else f" {word}")
        return "".join(out)

    def strange(self, text: str) -> list[str]:
        return sorted({w for w in text.split() if w not in self._numbers})

    def as_dict(self) -> dict[str, Any]:
        return {"level": self.level, "words": " ".join(self.words)}


class Bytes(Tokenizer):
    """Every byte of the text in UTF-8 is a token; every text can be written."""

    level = "bytes"
    unknown = None

    @property
    def vocab_size(self) -> int:
        return 256

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("utf-8", "surrogatepass"), np.uint8).astype(np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        return bytes(numbers).decode("utf-8", "replace")

    def as_dict(self) -> dict[str, Any]:
        return {"level": self.level}


class BytePairs(Tokenizer):
    """Byte-level byte-pair encoding by the package ``tokenizers``, or any other tokenizer that it reads from JSON.

    Args:
        json: the tokenizer as that package writes it.
    """

    level = "bpe"
    unknown = None

    def __init__(self, json: str) -> None:
        self.json = json
        try:
            self._inner = _tokenizers().Tokenizer.from_str(json)
        except ImportError:
            raise
        except Exception as error:  # the package raises bare ones
            raise ValueError(f"The byte pairs of a tokenizer cannot be read ({sentence(error)}).") from error

    @classmethod
    def learn(cls, text: str, vocab_size: int) -> BytePairs:
        tk = _tokenizers()
        inner = tk.Tokenizer(tk.models.BPE())
        inner.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
        inner.decoder = tk.decoders.ByteLevel()
        trainer = tk.trainers.BpeTrainer(
            vocab_size=vocab_size, initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        inner.train_from_iterator(_lines(text), trainer)
        return cls(inner.to_str())

    @property
    def vocab_size(self) -> int:
        return int(self._inner.get_vocab_size())

    def encode(self, text: str) -> np.ndarray:
        parts = self._inner.encode_batch(list(_lines(text)), add_special_tokens=False)
        return np.fromiter((i for part in parts for i in part.ids), np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        return str(self._inner.decode(list(numbers), skip_special_tokens=False))

    def as_dict(self) -> dict[str, Any]:
        return {"level": self.level, "json": self.json}


def tokenizer(given: Mapping[str, Any]) -> Tokenizer:
    """Return the tokenizer that ``as_dict`` described.

    Raises:
        ValueError: no level, or an unknown one, or what belongs to it is missing.
        ImportError: byte pairs, and the package ``tokenizers`` is not installed.
    """
    keys = {"characters": "alphabet", "words": "words", "bpe": "json"}
    level = str(given.get("level", ""))
    if level not in keys:
        if level == "bytes":
            return Bytes()
        raise ValueError(f"A tokenizer says its level: {unknown('level', level, LEVELS)}")
    value = given.get(keys[level])
    if not isinstance(value, (str, list, tuple)):
        raise ValueError(f"A tokenizer of {level} needs {keys[level]!r}; got {', '.join(map(str, given))}.")
    if not all(isinstance(symbol, str) for symbol in value):
        raise ValueError(f"A tokenizer of {level} is made of texts; one of its {keys[level]} is none.")
    if level == "bpe":
        return BytePairs(str(value))
    if level == "characters":
        return Characters(value)
    return Words(value.split(" ") if isinstance(value, str) else value)


def learn(text: str, level: str, *, min_count: int = 1, vocab_size: int = 8192) -> Tokenizer:
    """Learn a tokenizer from the training part of a text.

    Args:
        text: the training part.
        level: "characters", "words", "bpe" or "bytes".
        min_count: of words: how often one must occur to be in the vocabulary.
        vocab_size: of byte pairs, at most.

    Raises:
        ValueError: an unknown level, or a number out of range.
        ImportError: byte pairs, and the package ``tokenizers`` is not installed.
    """
    if level not in LEVELS:
        raise ValueError(unknown("level", level, LEVELS))
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1; got {min_count}.")
    if level == "bytes":
        return Bytes()
    if level == "characters":
        return Characters.learn(text)
    if level == "words":
        return Words.learn(text, min_count)
    if vocab_size < 257:
        raise ValueError(f"A vocabulary of byte pairs needs more symbols than the 256 bytes; got {vocab_size}.")
    return BytePairs.learn(text, vocab_size)


def _lines(text: str) -> Iterable[str]:
    """Yield lines with their ends, cut at ``\\n`` alone; ``str.splitlines`` would cut at rarer signs, too."""
    start = 0
    while start < len(text):
        stop = text.find("\n", start) + 1 or len(text)
        yield text[start:stop]
        start = stop


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "Byte-pair encoding needs the package tokenizers: pip install 'implicit-zoo[text]'; or take --data.level "
            "characters, words or bytes, which need nothing."
        ) from error
    import tokenizers.decoders
    import tokenizers.models
    import tokenizers.pre_tokenizers
    import tokenizers.trainers

    return tokenizers
