"""PhysioNet 2012: irregular records of intensive care, and who of the patients died in hospital."""

from __future__ import annotations

import io
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from zoo.data.files import corrupt, missing
from zoo.data.images import stratified
from zoo.data.series import Series, SeriesData, as_series

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
    divided by 48 h, a channel standardised by mean and deviation of the training records and cut at 5 deviations
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
        """Shift and unit of each channel, by what was measured in training."""
        if self.scale == "range":
            low = np.where(mask, values, np.inf).min((0, 1))
            high = np.where(mask, values, -np.inf).max((0, 1))
            return np.where(np.isfinite(low), low, 0.0), np.where(high > low, high - low, 1.0)
        count = np.maximum(mask.sum((0, 1)), 1)
        mean = np.where(mask, values, 0.0).sum((0, 1)) / count
        spread = np.sqrt(np.where(mask, (values - mean) ** 2, 0.0).sum((0, 1)) / count)
        return mean, np.where(spread > 0, spread, 1.0)

    def split_by_aim(self, times: np.ndarray, values: np.ndarray, mask: np.ndarray, died: np.ndarray) -> Series:
        """What is seen and what is asked; records without any of either are left out."""
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
        """Times (n, T), values and mask (n, T, D) of single measurements, on multiples of the step."""
        rows = round(HOURS / self.step) + 1
        row = np.minimum(np.ceil(hour / self.step - 1e-6).astype(np.int64), rows - 1)
        place = (record * rows + row) * self.features + channel
        size = count * rows * self.features
        number = np.bincount(place, minlength=size).reshape(count, rows, self.features)
        total = np.bincount(place, weights=value, minlength=size).reshape(count, rows, self.features)
        mask = number > 0
        return compact(np.broadcast_to(np.arange(rows) * self.step, (count, rows)), total / np.maximum(number, 1), mask)

    def raw(self) -> dict[str, np.ndarray]:
        """All single measurements: parsed once, then kept beside the files where the folder can be written."""
        folder = self.root / "PhysioNet2012"
        kept = folder / "measurements.npz"
        if kept.is_file():
            with np.load(kept) as file:
                return dict(file)
        found = parse(folder, self.published)
        try:
            part = kept.with_suffix(".part.npz")
            np.savez_compressed(part, **found)  # type: ignore[arg-type]
            part.replace(kept)
        except OSError as error:
            warnings.warn(
                f"{kept} cannot be written ({error.strerror}); the records are parsed each time.", stacklevel=2
            )
        return found


def compact(times: np.ndarray, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rows in which something was measured, first; behind them the last one's time, and a mask of False."""
    used = mask.any(2)
    long = max(1, int(used.sum(1).max(initial=0)))
    order = np.argsort(~used, 1, kind="stable")[:, :long]
    here = np.arange(long) < used.sum(1)[:, None]
    last = np.take_along_axis(order, np.maximum(used.sum(1) - 1, 0)[:, None], 1)
    clock = np.take_along_axis(times, np.where(here, order, last), 1)
    picked = [np.take_along_axis(x, order[..., None], 1) for x in (values, mask)]
    return clock, picked[0], picked[1] & here[..., None]


def parse(folder: Path, published: int) -> dict[str, np.ndarray]:
    """Single measurements of both sets: number of the record, hour, channel and value; and who died."""
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
            cells = [line.split(",") for line in lines[1:]]
            outcomes[name[9]] = {int(c[0]): int(c[-1]) for c in cells}
            continue
        which = name[4]
        number = len(records[which])
        records[which][int(Path(name).stem)] = number
        for line in text.splitlines()[1:]:
            try:
                time, parameter, cell = line.split(",")
                hour, value = int(time[:2]) + int(time[3:]) / 60, float(cell)
            except ValueError:
                raise corrupt(place, f"the line {line!r} is not Time,Parameter,Value") from None
            if parameter in index and measured(parameter, value):
                rows[which].append((number, hour, index[parameter], value))
    for which in "ab":
        if len(records[which]) != published or set(records[which]) != set(outcomes.get(which, {})):
            have = f"{len(records[which])} records and {len(outcomes.get(which, {}))} outcomes"
            raise corrupt(
                folder, f"set {which.upper()} has {have}; {published} of both, of the same ids, were published"
            )
        table = np.array(rows[which])
        died = np.zeros(published, dtype=np.int64)
        for identity, number in records[which].items():
            died[number] = outcomes[which][identity]
        out |= {f"record_{which}": table[:, 0].astype(np.int64), f"hour_{which}": table[:, 1].astype(np.float32)}
        out |= {f"channel_{which}": table[:, 2].astype(np.int64), f"value_{which}": table[:, 3], f"died_{which}": died}
    return out


def measured(parameter: str, value: float) -> bool:
    """Whether a value can be one: -1 stands for unknown, and some channels are never 0."""
    positive = parameter in ("Height", "Weight", "Temp", "pH")
    return value > 0 if positive else value >= 0


def members(folder: Path) -> Iterator[tuple[str, str]]:
    """Name and text of every file: ``set-a/132539.txt``, ``Outcomes-a.txt``; by name, from the folder or an archive."""
    if (folder / "set-a").is_dir():
        for path in sorted([*folder.glob("set-[ab]/*.txt"), *folder.glob("Outcomes-[ab].txt")]):
            yield path.relative_to(folder).as_posix(), path.read_text()
        return
    archives = [folder / f"PhysioNet2012.tar.{kind}" for kind in ("xz", "gz")]
    archive = next((p for p in archives if p.is_file()), None)
    if archive is None:
        raise missing(
            "PhysioNet",
            [folder / "set-a", *archives],
            "PhysioNet2012/set-a",
            "It is not downloaded: see physionet.org.",
        )
    texts = {}
    try:
        with tarfile.open(archive) as file:
            for member in file:
                name = member.name.removeprefix("./").removeprefix("PhysioNet2012/")
                if name.startswith(("set-a/", "set-b/", "Outcomes-")) and name.endswith(".txt"):
                    stream = file.extractfile(member)
                    if stream is not None:
                        texts[name] = io.TextIOWrapper(stream, encoding="utf-8").read()
    except (tarfile.TarError, EOFError, OSError, UnicodeDecodeError) as error:
        raise corrupt(archive, f"the archive is broken or ends early ({error})") from error
    yield from sorted(texts.items())
