"""Texts of the user's own: a file, a folder of files, or a column of a Parquet file."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from zoo.data.corpora import PlainText, read_text
from zoo.data.files import DataError
from zoo.data.own.columns import read_columns
from zoo.data.text import Corpus
from zoo.storage.guards import affordable, is_file, is_folder

PARTS = {"train": ("train",), "val": ("valid", "validation", "val"), "test": ("test",)}
PARQUET = (".parquet", ".pq")


class TextFile(PlainText):
    """Any text in UTF-8, by ``--data.path``: a file, a folder of ``.txt`` files, or a column of a Parquet file.

    The files of a folder are joined in the order of their names; one with ``train.txt``, ``valid.txt`` and ``test.txt``
    holds the parts. The rows of a column are joined by ends of lines.

    Args:
        path: the file or folder: absolute, from the present folder, or from the folder of the data sets.
        column: of a Parquet file: the column of the texts.
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
        column: str = "text",
    ) -> None:
        super().__init__(
            root, batch_size, length, level, order, min_count, bpe_size, eval_batch_size, val_fraction, test_fraction,
            vocabulary, seed,
        )  # fmt: skip
        if not path:
            raise ValueError("The data set 'text' needs a file or a folder: --data.path PATH.")
        if not path.endswith(PARQUET):
            self.refuse_idle(f"{path} is no Parquet file", column=column)
        self.path, self.column = path, column

    def place(self) -> Path:
        """Return the file or the folder."""
        places = [Path(self.path).expanduser(), self.root / self.path]
        found = next((p for p in places if is_file(p) or is_folder(p)), None)
        if found is None:
            raise DataError(
                f"text: {places[0].name} was not found; looked for {' and for '.join(map(str, places))}. A text file "
                "in UTF-8, a folder of .txt files or a Parquet file is expected; name it by --data.path."
            )
        return found

    def read(self) -> Corpus:
        place = self.place()
        if is_folder(place):
            parts = {part: next((place / f"{n}.txt" for n in names if is_file(place / f"{n}.txt")), None)
                     for part, names in PARTS.items()}  # fmt: skip
            if all(parts.values()):
                why = f"{place} holds train.txt, valid.txt and test.txt"
                self.refuse_idle(why, val_fraction=self.val_fraction, test_fraction=self.test_fraction)
                return Corpus(*(read_text(path) for path in parts.values() if path is not None))
        return super().read()

    def whole(self) -> str:
        place = self.place()
        if is_folder(place):
            files = sorted(p for p in place.rglob("*.txt") if not p.name.startswith(".") and p.is_file())
            if not files:
                raise DataError(f"{place} holds no .txt files. Put texts in UTF-8 there, or name another folder.")
            affordable(place, 4 * sum(p.stat().st_size for p in files), "its texts")
            return "\n".join(read_text(path) for path in files)
        if place.name.endswith(PARQUET):
            table = read_columns(place)
            if self.column not in table or table[self.column].dtype.kind == "f":
                raise DataError(f"{place} has no column of texts named {self.column!r}; it has {', '.join(table)[:200]}"
                                ". Name it by --data.column.")  # fmt: skip
            return "\n".join(table[self.column].tolist()) + "\n"
        return read_text(place)
