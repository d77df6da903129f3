"""Learn 640 penalties and 600 example weights by the gradient of the validation loss across training.

    OMP_NUM_THREADS=1 nice python -m experiments.hyperparameters [--outer 60]

Softmax regression on the digits, trained to its optimum on few images; the adjoint ``implicit`` gives the derivative of
the validation loss with respect to every hyperparameter at once. Each case is compared with the best of a grid over one
number, chosen by the same validation loss; the test images choose nothing. With this many hyperparameters the 300
validation images are training data too, so ``trained on both`` says what they give when simply added to the others.

    penalties   one L2 penalty for each of the 640 weights, 150 training images
    examples    one weight for each of 600 training images, a third of whose labels are wrong: which are left out?

Writes ``experiments/results/hyperparameters.json``.

Reference: Lorraine, Vicol and Duvenaud, "Optimizing millions of hyperparameters by implicit differentiation",
AISTATS 2020, https://arxiv.org/abs/1911.02590
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.data import DATA
from zoo.hypernet.hyperparameters import minimise
from zoo.storage.files import write_json
from zoo.training.environment import environment

HERE = Path(__file__).parent / "results"
CLASSES = 10
GRID = [10.0**k for k in (-4, -3.5, -3, -2.5, -2, -1.5, -1, -0.5)]  # of one penalty for all weights
Split = tuple[Tensor, Tensor]
Energy = Callable[[tuple[Tensor, ...]], Tensor]


def splits(train: int, held: int, seed: int) -> tuple[Split, Split, Split]:
    """Flat images and labels: to train on, to validate on, to test on."""
    data = DATA["digits"](augment=False)
    data.prepare_data()
    x, y = (torch.cat(parts) for parts in zip(data.split("train"), data.split("val"), strict=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[: train + held]
    flat = lambda x: data.transform(x, None).flatten(1).double()  # noqa: E731
    x_test, y_test = data.split("test")
    rows, others = order[:train], order[train:]
    return (flat(x[rows]), y[rows]), (flat(x[others]), y[others]), (flat(x_test), y_test)


def loss(w: tuple[Tensor, ...], split: Split) -> Tensor:
    return F.cross_entropy(F.linear(split[0], *w), split[1])


def accuracy(w: tuple[Tensor, ...], split: Split) -> float:
    return (F.linear(split[0], *w).argmax(1) == split[1]).double().mean().item()


def rate(x: Tensor, most: float) -> float:
    """A step that contracts: 1 over a bound of the Hessian, of softmax regression with penalties up to ``most``."""
    return 1 / (0.5 * float(torch.linalg.matrix_norm(x, 2) ** 2) / len(x) + 0.5 + most)


def zeros(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_zeros(CLASSES, x.shape[1]), x.new_zeros(CLASSES)


def row(w: tuple[Tensor, ...], val: Split, test: Split) -> dict[str, float]:
    return {
        "validation loss": loss(w, val).item(),
        "test loss": loss(w, test).item(),
        "validation accuracy": accuracy(w, val),
        "test accuracy": accuracy(w, test),
    }


def learn(
    energy: Callable[[Tensor], Energy], h: Tensor, step: float, val: Split, test: Split, outer: int, lr: float
) -> tuple[Tensor, list[dict[str, Any]]]:
    """Adam on the hyperparameters ``h`` by the hypergradient; every solve starts from the solution of the last."""
    h = h.clone().requires_grad_()
    optimizer = torch.optim.Adam([h], lr=lr)
    w, curve = zeros(val[0]), []
    for k in range(outer + 1):
        solution = minimise(energy(h), w, step=step)
        w = tuple(v.detach() for v in solution.value)
        value = loss(solution.value, val)
        optimizer.zero_grad()
        value.backward()
        stats = solution.stats
        curve.append({**row(w, val, test), "evaluations": stats.nfe, "products": stats.backward[0].nfe,
                      "result": solution.result.name})  # fmt: skip
        if k % 10 == 0:
            print(f"  {k:>3}  " + "  ".join(f"{a} {b:.4f}" for a, b in curve[-1].items() if isinstance(b, float))
                  + f"  {stats.nfe} + {stats.backward[0].nfe}", flush=True)  # fmt: skip
        if k < outer:
            optimizer.step()
    return h.detach(), curve


def grid(energy: Callable[[Tensor], Energy], x: Tensor, val: Split, test: Split) -> list[dict[str, float]]:
    """One penalty for all weights."""
    out = []
    for penalty in GRID:
        with torch.no_grad():
            h = x.new_full((CLASSES, x.shape[1]), penalty).log()
            solver = {"name": "anderson", "window": 10, "rtol": 1e-5, "atol": 1e-9, "max_steps": 2000}
            w = minimise(energy(h), zeros(x), step=rate(x, penalty), solver=solver).value
        out.append({"penalty": penalty, **row(w, val, test)})
    return out


def together(train: Split, val: Split, test: Split, penalty: float) -> dict[str, float]:
    """One penalty for all weights, trained on the validation images too."""
    both = tuple(torch.cat(parts) for parts in zip(train, val, strict=True))

    def energy(w: tuple[Tensor, ...]) -> Tensor:
        return loss(w, both) + penalty * w[0].square().sum() / 2

    with torch.no_grad():
        solver = {"name": "anderson", "window": 10, "rtol": 1e-5, "atol": 1e-9, "max_steps": 2000}
        w = minimise(energy, zeros(both[0]), step=rate(both[0], penalty), solver=solver).value
    return {"test loss": loss(w, test).item(), "test accuracy": accuracy(w, test)}


def penalties(outer: int, seed: int) -> dict[str, Any]:
    """A penalty for each weight."""
    train, val, test = splits(150, 300, seed)

    def energy(h: Tensor) -> Energy:
        return lambda w: loss(w, train) + (h.exp() * w[0].square()).sum() / 2

    table = grid(energy, train[0], val, test)
    best = min(table, key=lambda r: r["validation loss"])
    print(f"penalties: best of the grid {best}", flush=True)
    start = train[0].new_full((CLASSES, train[0].shape[1]), best["penalty"]).log()
    _, curve = learn(energy, start, rate(train[0], 1.0), val, test, outer, lr=0.1)
    both = together(train, val, test, best["penalty"])
    print(f"penalties: trained on both {both}", flush=True)
    return {
        "hyperparameters": start.numel(),
        "grid": table,
        "best of the grid": best,
        "trained on both": both,
        "curve": curve,
    }


def examples(outer: int, seed: int) -> dict[str, Any]:
    """A weight for each example, of which a third have wrong labels."""
    (x, y), val, test = splits(600, 300, seed)
    g = torch.Generator().manual_seed(seed)
    wrong = torch.rand(len(y), generator=g) < 1 / 3
    noisy = torch.where(wrong, (y + torch.randint(1, CLASSES, y.shape, generator=g)) % CLASSES, y)
    penalty = 1e-2

    def energy(h: Tensor) -> Energy:
        def value(w: tuple[Tensor, ...]) -> Tensor:
            each = F.cross_entropy(F.linear(x, *w), noisy, reduction="none")
            return (2 * torch.sigmoid(h) * each).mean() + penalty * w[0].square().sum() / 2

        return value

    def uniform(h: Tensor) -> Energy:
        return lambda w: loss(w, (x, noisy)) + (h.exp() * w[0].square()).sum() / 2

    table = grid(uniform, x, val, test)
    best = min(table, key=lambda r: r["validation loss"])
    print(f"examples: best of the grid {best}", flush=True)
    h, curve = learn(energy, x.new_zeros(len(y)), rate(x, penalty) / 2, val, test, outer, lr=0.3)
    both = together((x, noisy), val, test, best["penalty"])
    print(f"examples: trained on both {both}", flush=True)
    rank = h[~wrong][:, None] > h[wrong][None]
    return {
        "hyperparameters": len(y),
        "wrong labels": int(wrong.sum()),
        "grid": table,
        "best of the grid": best,
        "trained on both": both,
        "curve": curve,
        "probability that a right label outweighs a wrong one": rank.double().mean().item(),
        "mean weight": {k: 2 * h[m].sigmoid().mean().item() for k, m in (("right", ~wrong), ("wrong", wrong))},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outer", type=int, default=60, help="steps of the hyperparameters")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.process_time()
    facts: dict[str, Any] = {"experiment": "hyperparameters", "seed": args.seed, "outer steps": args.outer}
    for name, case in (("penalties", penalties), ("examples", examples)):
        facts[name] = case(args.outer, args.seed)
        first, last = facts[name]["curve"][0], facts[name]["curve"][-1]
        print(f"{name}: validation loss {first['validation loss']:.4f} -> {last['validation loss']:.4f}, "
              f"test accuracy {first['test accuracy']:.2%} -> {last['test accuracy']:.2%}", flush=True)  # fmt: skip
    facts["seconds (processor)"] = round(time.process_time() - begin, 1)
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / "hyperparameters.json", {**facts, **environment()})


if __name__ == "__main__":
    main()
