"""Long range on graphs: an implicit graph network, and its explicit twin of equal size, on chains.

    OMP_NUM_THREADS=1 nice python -m experiments.chains [--lengths 10 50] [--seed 0] [--work DIR]

Every node of a chain has the class that only its first node tells. Two graph convolutions see two edges far; the
implicit network's messages reach the end. Both train by their recipes. Writes ``experiments/results/chains.json``.

Reference: Gu et al., "Implicit graph neural networks", 2020, section 5.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import zoo
from zoo.training.environment import environment

RESULT = Path(__file__).parent / "results" / "chains.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[10, 50])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=None, help="where the runs go; a temporary folder if left out")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp())
    rows: list[dict[str, Any]] = []
    for length in given.lengths:
        for name in ("ignn_small", "gcn_small"):
            data = {"name": "chains", "length": length}
            trainer = {"enable_progress_bar": False}
            run = zoo.train(name, data, trainer=trainer, seed=given.seed, out=work / f"{name}_{length}")
            rows.append(
                {
                    "name": name,
                    "length": length,
                    "parameters": run["parameters"],
                    "test_accuracy": run["test"]["accuracy"],
                    "nfe": run["test"].get("nfe_forward"),
                    "seconds": run["seconds"],
                }
            )
    report = {"what": "accuracy of nodes on chains", "seed": given.seed, "rows": rows, **environment()}
    RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
