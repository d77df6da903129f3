"""Few-shot accuracy of trained models on Omniglot: 5-way and 20-way, 1-shot and 5-shot, each over 1,000 fixed episodes.

    python -m experiments.omniglot runs/hyper_fewshot_omniglot/... runs/imaml_head_omniglot/...

Takes run folders of ``python -m zoo.fit --data omniglot``; the models are trained once and asked with other numbers of
ways and shots. Where the recipe normalizes by batch statistics (``norm: batch``) the images of a query are normalized
together, as in the papers: the numbers are transductive then.

Writes ``experiments/results/omniglot.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from zoo.data.omniglot import Omniglot
from zoo.layers.conv4 import Conv4
from zoo.storage.files import write_json
from zoo.training.build import load_run
from zoo.training.environment import environment

OUT = Path(__file__).parent / "results" / "omniglot.json"
ASKED = ((5, 1), (20, 1), (5, 5))  # ways and shots


@torch.no_grad()
def accuracy(task: Any, ways: int, shots: int, episodes: int, root: str | None) -> dict[str, float]:
    """Mean accuracy over fixed episodes, and half of its 95 % interval."""
    data = Omniglot(root=root, batch_size=4, ways=ways, shots=shots, queries=10, test_episodes=episodes)
    right = []
    for x, y, query, target in data.test_dataloader():
        right.append((task.model(x, y, query).argmax(-1) == target).double().mean(1))
    found = torch.cat(right)
    return {"accuracy": float(found.mean()), "interval": float(1.96 * found.std() / len(found) ** 0.5)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--root", default=None, help="folder of the data sets (default $ZOO_DATA)")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows = []
    for run in given.runs:
        kept = json.loads((run / "results.json").read_text(encoding="utf-8"))
        task = load_run(run)
        row = {k: kept[k] for k in ("model", "parameters", "seconds", "steps", "seed", "solver", "adjoint", "commit")}
        row["norm"] = next(m.norm for m in task.model.modules() if isinstance(m, Conv4))
        for ways, shots in ASKED:
            row[f"{ways}_way_{shots}_shot"] = accuracy(task, ways, shots, given.episodes, given.root)
            print(f"{row['model']} {ways}-way {shots}-shot: {row[f'{ways}_way_{shots}_shot']}", flush=True)
        rows.append(row)
    write_json(given.out, {"episodes": given.episodes, "rows": rows, **environment()})


if __name__ == "__main__":
    main()
