"""Learn a solver for a trained model, and count the evaluations that it saves.

    OMP_NUM_THREADS=1 nice python -m experiments.learned_solver [--model mdeq_tiny.digits] [--updates 500]

The shipped model was trained with a Jacobian penalty and converges within few evaluations whatever the solver; a model
trained without one leaves more to learn:

    python -m zoo.fit --model mdeq_tiny --data digits --task.jacobian_weight 0 --task.warmup_steps 60 \\
        --trainer.max_epochs 8
    python -m experiments.learned_solver --model runs/... --data digits --name mdeq_tiny_free --steps 10 \\
        --updates 250 --passes 2 --weights FILE

The model's weights stay as they are. Its equilibria on (shifted) training images are solved tightly; the network of the
solver ``learned`` is trained on them; then, on the test images, every solver starts from zero and the evaluations that
each image took to a residual are counted, with the accuracy of what came out.

Writes ``experiments/results/learned_solver_<name>.json`` and the network to ``--weights``, by default beside the
model's own weights, where ``zoo.load(model, solver={"name": "learned", "weights": model})`` finds it.

Reference: Bai, Koltun and Kolter, "Neural Deep Equilibrium Solvers", ICLR 2022.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zoo
from zoo import penalties
from zoo.data import DATA
from zoo.solvers.learned import SHIPPED, Proposer
from zoo.solvers.packing import Packing
from zoo.solvers.train_learned import Solved, train
from zoo.storage.files import write_json
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
TIGHT = {"name": "anderson", "rtol": 1e-6, "atol": 1e-9, "max_steps": 100}
RESIDUALS = (1e-2, 1e-3, 1e-4, 1e-5)
BUDGET = 60


def shapes(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[list[int]]:
    """Of the parts of one sample's state."""
    images, _ = next(iter(batches))
    with torch.no_grad(), penalties.capture() as solves:
        model(images[:1])
    return [list(s) for s in Packing.of(solves[0][2]).shapes]


def solved(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> list[Solved]:
    """The equations that a model poses on batches of images, with their answers."""
    out = []
    for images, _ in batches:
        with torch.no_grad(), penalties.capture() as solves:
            model(images)
        _, f, z = solves[0]
        packing = Packing.of(z)
        out.append(Solved(packing.wrap(f), packing.pack(z)))
    return out


def measure(model: nn.Module, solver: dict[str, Any], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    """Evaluations (first one included), residual reached, accuracy and processor time over the test images."""
    model.configure_implicit(solver)
    evaluations, converged, residual, right, count = 0, 0, 0.0, 0, 0
    begin = time.process_time()
    for images, labels in batches:
        with torch.no_grad():
            right += int((model(images).argmax(1) == labels).sum())
        stats = model.last.stats
        evaluations += int((stats.steps + 1).sum())
        converged += int(stats.converged.sum())
        residual = max(residual, float(stats.residual.max()))
        count += len(labels)
    return {
        "evaluations": evaluations / count,
        "converged": converged / count,
        "worst residual": residual,
        "accuracy": right / count,
        "seconds": time.process_time() - begin,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mdeq_tiny.digits", metavar="NAME.DATA")
    parser.add_argument("--data", default=None, metavar="NAME", help="by default the model's, behind its dot")
    parser.add_argument("--name", default=None, help="of the results; by default the model's, before its dot")
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--steps", type=int, default=6, help="proposals that are unrolled")
    parser.add_argument("--passes", type=int, default=4, help="over the training images, shifted anew each time")
    parser.add_argument("--window", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=16)
    parser.add_argument("--residual", action="store_true", help="correct the mixed residual too")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    begin = time.process_time()

    model = zoo.load(args.model, solver=TIGHT)
    model.requires_grad_(False)
    name, _, of = args.model.partition(".")
    data = DATA[args.data or of](batch_size=64, augment=True, seed=args.seed)
    data.prepare_data()
    loader = data.train_dataloader()
    network = Proposer(shapes(model, loader), window=args.window, hidden=args.hidden, residual=args.residual)
    batches = [batch for _ in range(args.passes) for batch in solved(model, loader)]
    print(f"{len(batches)} batches solved after {time.process_time() - begin:.0f} s", flush=True)
    curve: list[tuple[int, float]] = []

    def report(update: int, loss: float) -> None:
        if update % 20 == 0:
            curve.append((update, loss))
            print(f"update {update:>5}   mean log distance {loss:.3f}", flush=True)

    train(network, batches, updates=args.updates, steps=args.steps, lr=args.lr, report=report)
    seconds = time.process_time() - begin
    weights = args.weights or SHIPPED / args.model / "solver.safetensors"
    network.save(weights)

    table: dict[str, dict[str, Any]] = {}
    test = list(data.test_dataloader())
    for rtol in RESIDUALS:
        for name in ("picard", "broyden", "anderson", "learned"):
            spec = {"name": name, "rtol": rtol, "atol": 1e-9, "max_steps": BUDGET}
            spec |= {"window": args.window} if name == "anderson" else {}
            spec |= {"weights": str(weights)} if name == "learned" else {}
            row = table.setdefault(f"{rtol:g}", {})[name] = measure(model, spec, test)
            print(f"rtol {rtol:g}  {name:<9} {row['evaluations']:.2f} evaluations, {row['converged']:.1%} converged, "
                  f"accuracy {row['accuracy']:.2%}, {row['seconds']:.2f} s", flush=True)  # fmt: skip
    args.out.mkdir(parents=True, exist_ok=True)
    own = sum(p.numel() for p in network.parameters())
    facts = {
        "experiment": "learned_solver",
        "model": args.name or args.model,
        "seed": args.seed,
        "updates": args.updates,
        "unrolled": args.steps,
        "window": args.window,
        "residual": args.residual,
        "parameters": {"solver": own, "model": sum(p.numel() for p in model.parameters())},
        "training seconds (processor)": round(seconds, 1),
        "curve": curve,
        "test images": sum(len(y) for _, y in test),
        "by residual": table,
        **environment(),
    }
    write_json(args.out / f"learned_solver_{args.name or name}.json", facts)


if __name__ == "__main__":
    main()
