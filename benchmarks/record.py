"""What every benchmark writes: its rows, and all that is needed to judge them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from zoo.training.environment import environment

ROOT = Path(__file__).resolve().parents[1]


def write_record(out: Path, rows: list[dict[str, Any]], *, packages: tuple[str, ...] = (), **facts: Any) -> None:
    """Write rows and environment as JSON."""
    out.parent.mkdir(parents=True, exist_ok=True)
    rounded = [{k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    record = {**facts, **environment(*packages), "rows": rounded}
    out.write_text(json.dumps(record, indent=2) + "\n")
    print(f"written to {out}")
