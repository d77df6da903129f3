"""PhysioNet 2012: irregular records of intensive care, and who of the patients died in hospital."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from zoo.data.files import checked, corrupt, missing
from zoo.data.images import stratified
from zoo.data.series import Series, SeriesData, as_series
from zoo.storage.arrays import read_npz
from zoo.storage.guards import MiB, is_file, is_folder, read_file, read_tar, reason

STATIC = ("Age", "Gender", "Height", "ICUType", "Weight")
# fmt: off
SEEN = (
    "Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS",
    "Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP", "MechVent", "Na", "NIDiasABP", "NIMAP", "NISysABP",
    "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI", "TroponinT", "Urine",
    "WBC",
)
# fmt: on
CHANNELS = (*STATIC, *SEEN)  # 41; the weight is measured again during the stay
HOURS = 48.0
HIDDEN = 0.3  # of the rows of a record, where they are to be interpolated


class PhysioNet(SeriesData):
    """8,000 records of the first 48 hours in intensive care: 41 channels, each measured when somebody measured it.

    Rows are times rounded up to a multiple of ``step``, at which several values of a channel are averaged. A time is
    divided by 48 h, a channel standardized by mean and deviation of the training records and cut at 5 deviations
    (``scale=deviation``), or mapped to [0, 1] by their least and greatest value (``range``, the unit of Rubanova's
    errors). Impossible values (-1 for unknown, 0 for height, weight, temperature and pH) count as not measured.

    Set A is for training, a stratified fifth of it for validation, and set B is the test: 3,200, 800 and
    4,000 records (a few less for ``extrapolation``, where a day is empty). Rubanova et al. split the same 8,000 at
    random, 4 to 1, so that their errors are of other records, and of finer steps.

    ``mortality`` asks who died in hospital, ``interpolation`` for the values of three tenths of the rows, which are
    hidden, ``reconstruction`` for the values seen, ``extrapolation`` for those of the second day from those of the
    first.

    Args:
        root: the folder of the data sets, which holds PhysioNet2012/ with set-a, set-b, Outcomes-a.txt and
            Outcomes-b.txt, or with an archive PhysioNet2012.tar.xz (.gz) of them; None: ZOO_DATA, else ./data.
        batch_size: records a batch.
        seed: of the order; the split is the same for all.
        aim: ``mortality``, ``interpolation``, ``reconstruction`` or ``extrapolation``.
        step: hours from one row to the next, at least.
        scale: ``deviation`` or ``range``.

    Raises:
        DataError: at ``setup``: a file is missing, or is not what was published.

    Reference: Silva et al., "Predicting In-Hospital Mortality of ICU Patients: The PhysioNet/Computing in Cardiology
    Challenge 2012", 2012.
    """

    features = len(CHANNELS)
    aims = ("mortality", "interpolation", "reconstruction", "extrapolation")
    published = 4000  # records of each set

    def __init__(
        self,
        root: str | None = None,
        batch_size: int = 64,
        seed: int = 0,
        aim: Literal["mortality", "interpolation", "reconstruction", "extrapolation"] = "mortality",
        step: float = 1.0,
        scale: Literal["deviation", "range"] = "deviation",
    ) -> None:
        super().__init__(root, batch_size, seed, aim)
        if not 0 < step <= HOURS:
            raise ValueError(f"PhysioNet: step must be in (0, 48] hours; got {step}.")
        if scale not in ("deviation", "range"):
            raise ValueError(f"PhysioNet: scale must be 'deviation' or 'range'; got {scale!r}.")
        self.step, self.scale = step, scale
        self.num_classes = 2 if aim == "mortality" else 0

    def prepare_data(self) -> None:
        self.raw()

    def read(self) -> dict[str, Series]:
        raw = self.raw()
        died = {s: raw[f"died_{s}"] for s in "ab"}
        columns = ("record", "hour", "channel", "value")
        grids = {}
        for s in "ab":
            record, hour, channel, value = (raw[f"{k}_{s}"] for k in columns)
            grids[s] = self.grid(record, hour, channel, value, len(died[s]))
        kept, held = stratified(died["a"], 0.2, seed=0)
        parts = {"train": ("a", kept), "val": ("a", held), "test": ("b", np.arange(len(died["b"])))}
        times, values, mask = grids["a"]
        shift, unit = self.units(values[kept], mask[kept])
        out = {}
        for name, (which, rows) in parts.items():
            times, values, mask = (x[rows] for x in grids[which])
            scaled = (values - shift) / unit
            scaled = np.clip(scaled, -5, 5) if self.scale == "deviation" else np.clip(scaled, 0, 1)
            out[name] = self.split_by_aim(times / HOURS, scaled, mask, died[which][rows])
        return out

    def units(self, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return shift and unit of each channel, by what was measured in training."""
        if self.scale == "range":
            low = np.where(mask, values, np.inf).min((0, 1))
            high = np.where(mask, values, -np.inf).max((0, 1))
            return np.where(np.isfinite(low), low, 0.0), np.where(high > low, high - low, 1.0)
        count = np.maximum(mask.sum((0, 1)), 1)
        mean = np.where(mask, values, 0.0).sum((0, 1)) / count
        spread = np.sqrt(np.where(mask, (values - mean) ** 2, 0.0).sum((0, 1)) / count)
        return mean, np.where(spread > 0, spread, 1.0)

    def split_by_aim(self, times: np.ndarray, values: np.ndarray, mask: np.ndarray, died: np.ndarray) -> Series:
        """Return what is seen and what is asked; records without any of either are left out."""
        if self.aim == "extrapolation":
            early = mask & (times <= 0.5)[..., None]
            late = mask & ~early
            seen, asked = compact(times, values, early), compact(times, values, late)
        elif self.aim == "interpolation":
            hidden = np.random.Generator(np.random.PCG64(0)).random(mask.shape[:2])[..., None] < HIDDEN
            seen, asked = compact(times, values, mask & ~hidden), compact(times, values, mask & hidden)
        else:
            seen = compact(times, values, mask)
            asked = seen if self.aim == "reconstruction" else (times[:, :0], values[:, :0], mask[:, :0])
        keep = seen[2].any((1, 2)) & (asked[2].any((1, 2)) if self.num_classes == 0 else True)
        label = died[keep] if self.num_classes else None
        (t, v, m), (query, target, wanted) = ([x[keep] for x in part] for part in (seen, asked))
        return as_series(t, v, m, query, target, wanted, label)

    def grid(
        self, record: np.ndarray, hour: np.ndarray, channel: np.ndarray, value: np.ndarray, count: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return times (n, T), values and mask (n, T, D) of single measurements, on multiples of the step."""
        rows = round(HOURS / self.step) + 1
        row = np.minimum(np.ceil(hour / self.step - 1e-6).astype(np.int64), rows - 1)
        place = (record * rows + row) * self.features + channel
        size = count * rows * self.features
        number = np.bincount(place, minlength=size).reshape(count, rows, self.features)
        total = np.bincount(place, weights=value, minlength=size).reshape(count, rows, self.features)
        mask = number > 0
        return compact(np.broadcast_to(np.arange(rows) * self.step, (count, rows)), total / np.maximum(number, 1), mask)

    def raw(self) -> dict[str, np.ndarray]:
        """Return all single measurements: parsed once, then kept beside the files where the folder can be written."""
        folder = self.root / "PhysioNet2012"
        kept = folder / "measurements.npz"
        if is_file(kept):
            return measurements(kept, self.published)
        found = parse(folder, self.published)
        try:
            part = kept.with_suffix(".part.npz")
            np.savez_compressed(part, **found)  # type: ignore[arg-type]  # its stub takes allow_pickle only
            part.replace(kept)
        except OSError as error:
            warnings.warn(
                f"{kept} cannot be written ({error.strerror}); the records are parsed each time.", stacklevel=2
            )
        return found


def measurements(path: Path, published: int) -> dict[str, np.ndarray]:
    """Return what `parse` found and `PhysioNet.raw` kept; raises DataError where the file holds anything else."""
    fields = {"record": "i", "hour": "f", "channel": "i", "value": "f"}
    again = "Delete it, and the records are parsed again"
    with checked():
        found = read_npz(path, tuple(f"{k}_{s}" for s in "ab" for k in (*fields, "died")))
    for s in "ab":
        died, count = found[f"died_{s}"], len(np.atleast_1d(found[f"record_{s}"]))
        whole = died.shape == (published,) and died.dtype.kind == "i" and bool(np.isin(died, (0, 1)).all())
        for name, kind in fields.items():
            x = found[f"{name}_{s}"]
            whole = whole and x.shape == (count,) and x.dtype.kind == kind and bool(np.isfinite(x).all())
        ranges = (("record", published), ("channel", len(CHANNELS)), ("hour", HOURS + 1))
        if not whole or any(
            count and not 0 <= found[f"{k}_{s}"].min() <= found[f"{k}_{s}"].max() < n for k, n in ranges
        ):
            raise corrupt(path, f"its arrays of set {s.upper()} are not {published:,} records. {again}")
    return found


def compact(times: np.ndarray, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Move the rows in which something was measured to the front; the last one's time and a mask of False follow."""
    used = mask.any(2)
    long = max(1, int(used.sum(1).max(initial=0)))
    order = np.argsort(~used, 1, kind="stable")[:, :long]
    here = np.arange(long) < used.sum(1)[:, None]
    last = np.take_along_axis(order, np.maximum(used.sum(1) - 1, 0)[:, None], 1)
    clock = np.take_along_axis(times, np.where(here, order, last), 1)
    picked = [np.take_along_axis(x, order[..., None], 1) for x in (values, mask)]
    return clock, picked[0], picked[1] & here[..., None]


def parse(folder: Path, published: int) -> dict[str, np.ndarray]:
    """Parse single measurements of both sets: number of the record, hour, channel and value; and who died."""
    index = {name: k for k, name in enumerate(CHANNELS)}
    out: dict[str, np.ndarray] = {}
    rows: dict[str, list[tuple[int, float, int, float]]] = {"a": [], "b": []}
    records: dict[str, dict[int, int]] = {"a": {}, "b": {}}
    outcomes: dict[str, dict[int, int]] = {}
    for name, text in members(folder):
        place = folder / name
        if name.startswith("Outcomes-"):
            lines = text.strip().splitlines()
            if not lines or not lines[0].startswith("RecordID,") or not lines[0].strip().endswith("In-hospital_death"):
                raise corrupt(place, "its first line does not name RecordID and In-hospital_death")
            try:
                cells = [line.split(",") for line in lines[1:]]
                outcomes[name[9]] = {int(identity): int(died) for identity, *_, died in cells}
            except ValueError as error:
                raise corrupt(place, f"a line does not hold whole numbers ({reason(error)})") from error
            if not set(outcomes[name[9]].values()) <= {0, 1}:
                raise corrupt(place, "its last column is not 0 or 1 everywhere")
            continue
        which = name[4]
        number = len(records[which])
        if not Path(name).stem.isdecimal():
            raise corrupt(place, "its name is not the number of a record")
        records[which][int(Path(name).stem)] = number
        for line in text.splitlines()[1:]:
            try:
                time, parameter, cell = line.split(",")
                hour, value = int(time[:2]) + int(time[3:]) / 60, float(cell)
                if not (0 <= hour <= HOURS + 1 and math.isfinite(value)):
                    raise ValueError("out of range")
            except ValueError:
                raise corrupt(place, f"the line {line[:60]!r} is not Time,Parameter,Value") from None
            if parameter in index and measured(parameter, value):
                rows[which].append((number, hour, index[parameter], value))
    for which in "ab":
        if len(records[which]) != published or set(records[which]) != set(outcomes.get(which, {})):
            have = f"{len(records[which])} records and {len(outcomes.get(which, {}))} outcomes"
            raise corrupt(
                folder, f"set {which.upper()} has {have}; {published} of both, of the same ids, were published"
            )
        table = np.array(rows[which], dtype=np.float64).reshape(-1, 4)
        died = np.zeros(published, dtype=np.int64)
        for identity, number in records[which].items():
            died[number] = outcomes[which][identity]
        out |= {f"record_{which}": table[:, 0].astype(np.int64), f"hour_{which}": table[:, 1].astype(np.float32)}
        out |= {f"channel_{which}": table[:, 2].astype(np.int64), f"value_{which}": table[:, 3], f"died_{which}": died}
    return out


def measured(parameter: str, value: float) -> bool:
    """Return whether a value can be one: -1 stands for unknown, and some channels are never 0."""
    positive = parameter in ("Height", "Weight", "Temp", "pH")
    return value > 0 if positive else value >= 0


def members(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield name and text of every file: ``set-a/132539.txt``, ``Outcomes-a.txt``; by name, from folder or archive."""
    if is_folder(folder / "set-a"):
        for path in sorted([*folder.glob("set-[ab]/*.txt"), *folder.glob("Outcomes-[ab].txt")]):
            with checked():
                data = read_file(path, MiB)
            yield path.relative_to(folder).as_posix(), _text(data, path)
        return
    archives = [folder / f"PhysioNet2012.tar.{kind}" for kind in ("xz", "gz")]
    archive = next((p for p in archives if is_file(p)), None)
    if archive is None:
        looked, where = [folder / "set-a", *archives], "It is not downloaded: see physionet.org."
        raise missing("PhysioNet", looked, "PhysioNet2012/set-a", where)
    with checked():
        texts = {_name(name): data for name, data in read_tar(archive, lambda n: bool(_name(n)), 512 * MiB)}
    yield from ((name, _text(data, archive / name)) for name, data in sorted(texts.items()))


def _name(member: str) -> str:
    """Return the name of an archive's file below the folder of the set; empty for what is no part of it."""
    name = member.removeprefix("./").removeprefix("PhysioNet2012/")
    return name if re.fullmatch(r"set-[ab]/[^/]+\.txt|Outcomes-[ab]\.txt", name) else ""


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise corrupt(path, f"it is no text in UTF-8 ({reason(error)})") from error
