"""What the Jacobian penalty saves: evaluations of a solve, at equal accuracy, with and without it.

    OMP_NUM_THREADS=1 nice python -m experiments.jacobian [--epochs 12] [--seeds 0] [--work DIR]

`mdeq_tiny` is trained on digits by its recipe, with the recipe's penalty and without any; nothing else differs. Both
are then tested with budgets of 1, 2, 3, ... Broyden steps, and with a budget that is never used up. Two comparisons:

- evaluations that a solve takes until it meets the recipe's tolerance (rtol 1e-3), at the accuracies that go with it;
- the smallest budget at which a model is as accurate as the *less accurate* of the two is with all its steps.

Writes ``experiments/results/jacobian.json``.

Reference: Bai, Koltun and Kolter, "Stabilizing equilibrium models by Jacobian regularization", ICML 2021.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.data.vision import Digits
from zoo.training.build import load_run
from zoo.training.environment import environment

RESULT = Path(__file__).parent / "results" / "jacobian.json"
BUDGETS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 18, 24)
ENOUGH = 100  # steps; what does not converge in these does not converge
TOLERANCE = 1e-3


@torch.no_grad()
def measure(model: Any, budget: int) -> dict[str, float]:
    """Accuracy, evaluations a solve and share of converged samples on the test part."""
    model.configure_implicit({"name": "broyden", "max_steps": budget, "rtol": TOLERANCE})
    right = count = evaluations = converged = 0.0
    for x, y in Digits(batch_size=64).test_dataloader():
        right += float((model(x).argmax(1) == y).sum())
        stats = model.last.stats
        evaluations += float(stats.steps.sum()) + len(y)  # each sample's steps, and the evaluation it ends with
        converged += float(stats.converged.sum())
        count += len(y)
    return {"accuracy": right / count, "nfe": evaluations / count, "converged": converged / count}


def train(weight: float | None, epochs: int, seed: int, folder: Path) -> dict[str, Any]:
    """One run of the recipe; ``weight`` None: with the recipe's own penalty."""
    task = {} if weight is None else {"jacobian_weight": weight}
    results = zoo.train(
        "mdeq_tiny",
        "digits",
        task=task,
        trainer={"max_epochs": epochs, "enable_progress_bar": False},
        seed=seed,
        out=folder,
    )
    model = load_run(folder).model.eval()
    curve = {str(k): measure(model, k) for k in BUDGETS}
    return {
        "seed": seed,
        "seconds": results["seconds"],
        "train_nfe": results["train"].get("nfe_forward"),
        "spectral_radius": results["val"].get("spectral_radius"),
        "to_tolerance": measure(model, ENOUGH),
        "by_budget": curve,
    }


def compare(with_penalty: dict[str, Any], without: dict[str, Any]) -> dict[str, Any]:
    """The two comparisons for one seed."""
    target = min(r["to_tolerance"]["accuracy"] for r in (with_penalty, without))
    out: dict[str, Any] = {"target_accuracy": target}
    for name, r in (("with", with_penalty), ("without", without)):
        out[f"budget_{name}"] = next((int(k) for k, m in r["by_budget"].items() if m["accuracy"] >= target), None)
        out[f"nfe_{name}"] = r["to_tolerance"]["nfe"]
        out[f"accuracy_{name}"] = r["to_tolerance"]["accuracy"]
    out["nfe_saved"] = 1 - out["nfe_with"] / out["nfe_without"]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--work", type=Path, default=None, help="where the runs go; a temporary folder if left out")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp())
    rows: dict[str, list[dict[str, Any]]] = {"with": [], "without": []}
    for seed in given.seeds:
        for name, weight in (("with", None), ("without", 0.0)):
            rows[name].append(train(weight, given.epochs, seed, work / f"{name}_{seed}"))
    report = {
        "what": "mdeq_tiny on digits, with and without the Jacobian penalty",
        "epochs": given.epochs,
        "tolerance": TOLERANCE,
        "goal": "evaluations at equal accuracy fall by at least 30 %",
        "comparison": [compare(a, b) for a, b in zip(rows["with"], rows["without"], strict=True)],
        "rows": rows,
        **environment(),
    }
    RESULT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report["comparison"], indent=2))


if __name__ == "__main__":
    main()
