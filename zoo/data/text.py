"""What every text shares: the parts, the tokenizer, and the Lightning data module over streams of tokens in memory."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from zoo.data.base import InMemoryDataModule
from zoo.data.files import DataError, first_that_works, missing, read_bytes
from zoo.data.files import download as download_file
from zoo.data.stream import Segments
from zoo.registry import unknown
from zoo.storage.guards import MiB, is_file
from zoo.storage.model_folder import WeightsError
from zoo.storage.text_preprocessing import TextPreprocessing
from zoo.storage.tokenizer import LEVELS, BytePairs, Tokenizer, learn


class Source(NamedTuple):
    """A published file: its address, its place below the root, and its checksum."""

    url: str
    file: str
    md5: str


class Corpus(NamedTuple):
    """A text in three parts, in their published order."""

    train: str
    val: str
    test: str


class TextData(InMemoryDataModule[Tensor]):
    """A text in memory, as segments of parallel streams; a Lightning data module that plain PyTorch can use too.

    A batch is ``(tokens (B, T), targets (B, T), number)``, see `zoo.data.stream.Segment`. The vocabulary is made from
    the training part alone; what it lacks becomes the unknown symbol, and is counted as such.

    Args:
        root: the folder of the data sets; None: the environment's ZOO_DATA, else ./data.
        batch_size: streams read side by side (by a device).
        length: tokens of a segment.
        level: what a token is: characters, words, bytes, or bpe (byte pairs; needs the package tokenizers); None: as
            is usual for the set.
        order: of the training: streams (each batch continues the one before) or random (none does).
        min_count: of words: how often one must occur in the training part to be in the vocabulary.
        bpe_size: of byte pairs: size of the vocabulary, at most.
        eval_batch_size: streams that an evaluation is shared by, whatever batch_size is, as the number depends on it a
            little: each stream begins without what came before. 1 is the strictest measure, and the slowest.
        val_fraction: the part that is held out for validation, of a text that was published in one piece.
        test_fraction: the part that is held out for the test, the last of such a text.
        vocabulary: a model folder or a run whose tokenizer is taken, to train its weights on with --pretrained; or a
            JSON file of the package tokenizers; null: a new one is made from the training part.
        seed: of the cuts and the order; not of the parts.
        download: fetch files that are missing, of a set that is published at one address.

    Raises:
        DataError: at ``prepare_data`` or ``setup``: a file is missing, a part of the text is empty, or the package
            tokenizers is missing.
        ValueError: an argument is out of range, or does nothing with the others.
    """

    usual: ClassVar[str] = "characters"  # what a token is, unless the user says so
    parts: ClassVar[bool] = False  # whether the text was published in three parts
    sources: ClassVar[tuple[Source, ...]] = ()  # files that can be downloaded, where all are at stable addresses

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 32,
        length: int = 128,
        level: str | None = None,
        order: Literal["streams", "random"] = "streams",
        min_count: int = 1,
        bpe_size: int = 8192,
        eval_batch_size: int = 16,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        vocabulary: str | None = None,
        seed: int = 0,
        download: bool = True,
    ) -> None:
        super().__init__(root, batch_size, seed)
        name = type(self).__name__
        for key, value in (
            ("length", length),
            ("eval_batch_size", eval_batch_size),
            ("min_count", min_count),
        ):
            if value < 1:
                raise ValueError(f"{name}: {key} must be at least 1; got {value}.")
        if level is not None and level not in LEVELS:
            raise ValueError(f"{name}: {unknown('level', level, LEVELS)}")
        if order not in ("streams", "random"):
            raise ValueError(f"{name}: {unknown('order', order, ('streams', 'random'))}")
        cut("", val_fraction, test_fraction)  # refuses shares that cannot be
        self.val_fraction, self.test_fraction = val_fraction, test_fraction
        self.length, self.order = length, order
        self.eval_batch_size = eval_batch_size
        self.level = level or self.usual
        self.min_count, self.bpe_size, self.vocabulary = min_count, bpe_size, vocabulary
        self.download = download
        if vocabulary is not None:
            why = f"the tokenizer is that of {vocabulary}"
            self.refuse_idle(why, level=level, min_count=min_count, bpe_size=bpe_size)
        if self.level != "words":
            self.refuse_idle(f"a token is one of {self.level}, not of words", min_count=min_count)
        if self.level != "bpe":
            self.refuse_idle(f"a token is one of {self.level}, not of bpe", bpe_size=bpe_size)
        if self.parts:
            why = "the text was published in three parts"
            self.refuse_idle(why, val_fraction=val_fraction, test_fraction=test_fraction)
        self._tokenizer: Tokenizer | None = None

    @abstractmethod
    def read(self) -> Corpus:
        """Return the three parts; raises DataError where a file is missing or no text."""

    def places(self, source: Source) -> list[Path]:
        """Return the paths where a published file may lie; the first is that of a download."""
        return [self.root / source.file]

    def complete(self) -> bool:
        """Return whether all files are there, so that nothing is to be downloaded."""
        return all(any(is_file(p) for p in self.places(source)) for source in self.sources)

    def prepare_data(self) -> None:
        if not self.sources or self.complete():
            return
        for source in self.sources:
            looked = self.places(source)
            if any(is_file(p) for p in looked):
                continue
            why = f"Downloading is off (download=false); {source.url} has it."
            if self.download:
                failed = first_that_works([partial(download_file, source.url, looked[0], source.md5)])
                if not failed:
                    continue
                why = f"The download of {source.url} failed ({failed})."
            raise missing(type(self).__name__, looked, source.file, why)

    def load(self) -> tuple[dict[str, Tensor], str]:
        self.prepare_data()  # a model asks for the vocabulary before a Trainer comes
        corpus = self.read()
        for part, text in corpus._asdict().items():
            if not text.strip():
                raise DataError(f"{type(self).__name__}: the {part} part of the text is empty; give a longer text.")
        found = hashlib.sha256()
        for text in corpus:
            raw = text.encode("utf-8", "surrogatepass")
            found.update(len(raw).to_bytes(8, "little") + raw)
        try:
            if self.vocabulary:
                symbols = _symbols(self.vocabulary)
                self.level = symbols.level
            else:
                symbols = learn(corpus.train, self.level, min_count=self.min_count, vocab_size=self.bpe_size)
        except (ImportError, WeightsError) as error:
            raise DataError(str(error)) from error
        splits = {part: torch.from_numpy(symbols.encode(text)) for part, text in corpus._asdict().items()}
        for part, tokens in splits.items():
            if len(tokens) < 2:
                raise DataError(
                    f"{type(self).__name__}: the {part} part has {len(tokens)} token, so nothing can be predicted; "
                    "give a longer text."
                )
        self._tokenizer = symbols
        return splits, found.hexdigest()

    @property
    def tokenizer(self) -> Tokenizer:
        """From text to the numbers of this data set, and back; ``as_dict()`` of it is plain data."""
        self.setup()
        assert self._tokenizer is not None, "load() made it"
        return self._tokenizer

    @property
    def vocab_size(self) -> int:
        """Symbols of the vocabulary, with the unknown one."""
        return self.tokenizer.vocab_size

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Plain values from which `TextPreprocessing` turns text into this data set's numbers."""
        return {"kind": "text", "tokenizer": self.tokenizer.as_dict()}

    def size_of(self, split: Tensor) -> int:
        """Return the tokens that are predicted: all but the first."""
        return len(split) - 1

    def loader(self, name: str) -> Segments:
        train = name == "train"
        return Segments(
            self.split(name),
            batch_size=self.batch_size if train else self.eval_batch_size,
            length=self.length,
            train=train,
            order=self.order,
            seed=self.seed,
            where=self.position if train else None,
            ranks=self.ranks,
        )


def _symbols(vocabulary: str) -> Tokenizer:
    """Return the tokenizer of a model folder or a run, or that of a JSON file."""
    if not vocabulary.endswith(".json"):
        return TextPreprocessing.of(vocabulary).symbols()
    path = Path(vocabulary).expanduser()
    if not is_file(path):
        raise DataError(f"{path} was not found. Name a tokenizer's JSON file, a run or a model folder.")
    try:
        return BytePairs(read_bytes(path, 256 * MiB).decode("utf-8"))
    except ValueError as error:  # UnicodeDecodeError among them
        raise DataError(f"{path} is no tokenizer of the package tokenizers: {error}") from error


def cut(text: str, val: float, test: float) -> Corpus:
    """Cut one text in three parts, in order: the last are for validation and test. Cuts fall on ends of lines.

    Raises:
        ValueError: shares that leave nothing for a part.
    """
    if not (val > 0 and test > 0 and val + test < 1):
        raise ValueError(
            f"val_fraction and test_fraction must be above 0 and leave something to train on; got {val}, {test}."
        )
    first = _line_end(text, round(len(text) * (1 - val - test)))
    second = _line_end(text, round(len(text) * (1 - test)))
    return Corpus(text[:first], text[first:second], text[second:])


def _line_end(text: str, near: int) -> int:
    """Return the place after the first end of a line from ``near`` on, if one is in sight; else ``near`` itself."""
    return text.find("\n", near, near + 1000) + 1 or near
