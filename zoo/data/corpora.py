"""The texts by name: one that ships with Python, Shakespeare, a novel, the published benchmarks, and any file."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

from zoo.data.files import DataError, missing, read_bytes
from zoo.data.text import Corpus, TextData, cut
from zoo.storage.guards import free_memory, is_file


class PlainText(TextData):
    """A text of one piece, whose last parts are held out for validation and, at the very end, for the test."""

    @abstractmethod
    def whole(self) -> str:
        """The text; raises DataError where it cannot be had."""

    def read(self) -> Corpus:
        return cut(self.whole(), self.val_fraction, self.test_fraction)


class PythonDocs(PlainText):
    """English prose that ships with Python: the topics of its ``help()``, about 370,000 characters.

    The topics come in a fixed order that is none of the alphabet's, so that the held-out parts are of many kinds, and
    a paragraph that several topics share is kept once, where it comes first: no paragraph of the training part is met
    again in a held-out one. The text grows with Python's version (by a tenth from 3.11 to 3.13), and so the fingerprint
    differs; compare runs of the same one.
    """

    def whole(self) -> str:
        try:
            from pydoc_data.topics import topics
        except ImportError as error:
            raise DataError(
                "This Python came without its help texts (pydoc_data.topics). Install the complete standard library, "
                "or name a text of your own: --data text --data.path FILE."
            ) from error
        seen: set[str] = set()
        kept = []
        for name in sorted(topics, key=lambda n: hashlib.sha256(n.encode()).digest()):
            for paragraph in re.split(r"\n[ \t]*\n", topics[name]):
                if paragraph.strip() and paragraph.strip() not in seen:
                    seen.add(paragraph.strip())
                    kept.append(paragraph.strip("\n"))
        return "\n\n".join(kept) + "\n"


class TinyShakespeare(PlainText):
    """1,115,394 characters of Shakespeare, of 65 kinds: ``tinyshakespeare/input.txt``.

    Its publisher trains on the first nine tenths; what is left is shared by validation and test here.
    """

    def whole(self) -> str:
        return _first(
            "tiny_shakespeare",
            [self.root / "tinyshakespeare" / "input.txt", self.root / "tiny_shakespeare" / "input.txt"],
            "tinyshakespeare/input.txt",
            "It is not downloaded; https://github.com/karpathy/char-rnn has it in data/tinyshakespeare.",
        )


class WarAndPeace(PlainText):
    """Tolstoy's novel in English, 3.2 million characters: ``war-and-peace/2600-0.txt`` of Project Gutenberg.

    The publisher's header and footer are left out.
    """

    def whole(self) -> str:
        folders = [self.root / "war-and-peace", self.root / "war_and_peace"]
        text = _first(
            "war_and_peace",
            [f / n for f in folders for n in ("2600-0.txt", "pg2600.txt")],
            "war-and-peace/2600-0.txt",
            "It is not downloaded; https://www.gutenberg.org/ebooks/2600 has it, as plain text UTF-8.",
        )
        return without_gutenberg(text)


class TextFile(PlainText):
    """Any text file in UTF-8, by ``--data.path``.

    Args:
        path: the file: absolute, from the present folder, or from the folder of the data sets.
    """

    def __init__(
        self,
        path: str = "",
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
    ) -> None:
        super().__init__(
            root,
            batch_size,
            length,
            level,
            order,
            min_count,
            bpe_size,
            eval_batch_size,
            val_fraction,
            test_fraction,
            vocabulary,
            seed,
        )
        if not path:
            raise ValueError("The data set 'text' needs a file: --data.path FILE.")
        self.path = path

    def whole(self) -> str:
        places = [Path(self.path).expanduser(), self.root / self.path]
        return _first("text", places, self.path, "A text file in UTF-8 is expected.")


class Benchmark(TextData):
    """A published corpus of words in three files; the words are separated by spaces, rare ones are ``<unk>`` already.

    A class names its folders and, for each part, the names that the file may have.
    """

    usual = "words"
    folders: ClassVar[Sequence[str]]
    stem: ClassVar[str]  # of the published files: ``<stem>.train.<ending>``
    endings: ClassVar[Sequence[str]]
    where: ClassVar[str]

    def read(self) -> Corpus:
        return Corpus(self._part("train"), self._part("valid"), self._part("test"))

    def _part(self, part: str) -> str:
        names = [f"{self.stem}.{part}.{e}" for e in self.endings] + [f"{part}.txt"]
        places = [self.root / folder / name for folder in self.folders for name in names]
        return _first(self.folders[0], places, f"{self.folders[0]}/{names[0]}", f"It is not downloaded; {self.where}")


class WikiText2(Benchmark):
    """WikiText-2: 2.1 million words of Wikipedia, a vocabulary of 33,278."""

    folders = ("wikitext-2", "wikitext2")
    stem, endings = "wiki", ("tokens",)
    where = "it was published as wikitext-2-v1.zip by Merity and others, 2016, https://arxiv.org/abs/1609.07843."


class WikiText103(Benchmark):
    """WikiText-103: 103 million words of Wikipedia, a vocabulary of 267,735."""

    folders = ("wikitext-103", "wikitext103")
    stem, endings = "wiki", ("tokens",)
    where = "it was published as wikitext-103-v1.zip by Merity and others, 2016, https://arxiv.org/abs/1609.07843."


class PennTreebank(Benchmark):
    """Penn Treebank as Mikolov prepared it: 0.93 million words, a vocabulary of 10,000.

    With ``--data.level characters`` the same text is read character by character.
    """

    folders = ("ptb", "penn", "simple-examples/data")
    stem, endings = "ptb", ("txt",)
    where = "it was published in simple-examples.tgz by Mikolov, 2010."


def without_gutenberg(text: str) -> str:
    """What stands between Project Gutenberg's header and footer; all of it where there are none."""
    start = re.search(r"^\*\*\* ?START OF TH[^\n]*\n", text, re.M)
    stop = re.search(r"^(?:End of (?:the )?Project Gutenberg|\*\*\* ?END OF TH)", text, re.M)
    return text[start.end() if start else 0 : stop.start() if stop else len(text)].strip() + "\n"


def _first(name: str, places: Sequence[Path], layout: str, why: str) -> str:
    """The text of the first file that is there; ends of lines as on Unix."""
    for path in places:
        if is_file(path):
            if path.stat().st_size == 0:  # no text is downloaded, so that deleting it would not help
                raise DataError(f"{path} is empty. Put a text in UTF-8 there, or name another file or folder.")
            try:
                return read_bytes(path, free_memory() // 8).decode("utf-8-sig").replace("\r\n", "\n")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path} is no text in UTF-8: byte {error.start:,} is {error.object[error.start]:#04x}. Convert it "
                    "first, as with iconv -f latin1 -t utf-8."
                ) from error
    raise missing(name, places, layout, why)
