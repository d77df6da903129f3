"""Columns out of CSV and Parquet files: numbers as float64, all else as text. CSV needs no other package."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from zoo.data.files import DataError, read_bytes
from zoo.registry import unknown
from zoo.storage.guards import affordable, free_memory, is_file, reason

ENDINGS = (".csv", ".tsv", ".parquet", ".pq")
EMPTY = ("", "na", "nan", "null", "none", "?")  # cells without a value
Columns = dict[str, np.ndarray]


def find_file(name: str, path: str, root: Path) -> Path:
    """Return a file by its path: absolute, from the present folder, or from the folder of the data sets.

    Raises:
        ValueError: no path was given.
        DataError: there is no such file.
    """
    if not path:
        raise ValueError(f"The data set {name!r} needs a file: --data.path FILE.")
    places = [Path(path).expanduser(), root / path]
    for place in places:
        if is_file(place):
            return place
    raise DataError(
        f"{name}: {path} was not found; looked for {' and for '.join(map(str, places))}. Name the file by --data.path."
    )


def read_columns(path: Path) -> Columns:
    """Return the columns of a table by name.

    Raises:
        DataError: it is no table with a line of names, or a row has too many or too few cells.
    """
    suffix = path.suffix.lower()
    if suffix in (".parquet", ".pq"):
        return _parquet(path)
    if suffix not in (".csv", ".tsv"):
        raise DataError(f"{path} is no table: names of tables end in {', '.join(ENDINGS)}.")
    try:
        text = read_bytes(path, max(free_memory() // 8, 1)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is no text in UTF-8 (byte {error.start:,}). Convert it first, as with iconv."
        ) from error
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if suffix == ".tsv" else ",", strict=True)
        names = [n.strip() for n in next(rows, [])]
        cells = [(rows.line_num, row) for row in rows if row]
    except csv.Error as error:
        raise DataError(f"{path} is no table of cells with commas between them: {reason(error)}.") from error
    if len(set(names)) < len(names) or not all(names):
        raise DataError(f"{path}: its first line must name every column once; got {', '.join(names)[:200]}.")
    for line, row in cells:
        if len(row) != len(names):
            raise DataError(f"{path}, line {line}: {len(row)} cells, and {len(names)} columns are named.")
    if not cells:
        raise DataError(f"{path} holds no rows below its line of names.")
    return {n: column([row[i].strip() for _, row in cells], n, path) for i, n in enumerate(names)}


def column(cells: Sequence[str], name: str, path: Path) -> np.ndarray:
    """Return float64 where the cells are numbers, NaN for an empty one; text where most of them are none.

    Raises:
        DataError: most are numbers, and some are none.
    """
    values, strange = np.full(len(cells), np.nan), []
    for i, cell in enumerate(cells):
        try:
            values[i] = float(cell)
        except ValueError:
            if cell.lower() not in EMPTY:
                strange.append(i)
    if not strange:
        return values
    if len(strange) * 2 < len(cells):
        first, numbers = strange[0], len(cells) - len(strange)
        raise DataError(
            f"{path}, row {first + 1}: {cells[first]!r} in column {name!r} is no number, and {numbers} "
            f"of {len(cells)} of its cells are. Mend it, or leave the column out with --data.columns."
        )
    return np.array(cells, dtype=str)


def chosen(table: Mapping[str, np.ndarray], names: Sequence[str], what: str, path: Path) -> list[str]:
    """Return names of columns that are there; raises DataError that names the nearest to one that is not."""
    for name in names:
        if name not in table:
            raise DataError(f"{path}: {unknown(what, name, table)}")
    return list(names)


def refuse_empty(values: np.ndarray, name: str, path: Path) -> None:
    """Raise DataError for a cell of numbers that is empty or not finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{path}, row {bad[0] + 1}: column {name!r} is empty or not finite there ({len(bad)} such rows). Fill or "
            "remove them, or give --data.missing drop or mean."
        )


def _parquet(path: Path) -> Columns:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            f"{path.name} is read by pyarrow: pip install 'implicit-zoo[table]'; or write it as CSV."
        ) from error
    try:
        file = parquet.ParquetFile(path)
        affordable(path, 2 * sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)))
        table = file.read()
    except (ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path} is no table in Parquet that can be read: {reason(error)}.") from error
    if not table.num_rows:
        raise DataError(f"{path} holds no rows.")
    found: Columns = {}
    for name in table.column_names:
        values = table.column(name).to_numpy(zero_copy_only=False)
        if values.dtype.kind in "biuf":
            found[name] = values.astype(np.float64)
        elif values.dtype.kind == "M":
            found[name] = values.astype("datetime64[ns]").astype(np.int64) / 1e9
        else:
            found[name] = column(["" if v is None else str(v) for v in values], name, path)
    return found
