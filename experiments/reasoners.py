"""Reasoners at test: depth, starts, and whether the residual tells right answers from wrong ones.

    OMP_NUM_THREADS=1 nice python -m experiments.reasoners --model reasoner_equivariant.sudoku9 [--puzzles 10000]

Everything is measured on test puzzles that the model has not seen; an answer is right by the rules of the puzzle. An
iteration is an evaluation of the map.

    depth       share solved by iterations and starts, by tier of difficulty too, and how far the residual tells
    trust       ROC area of the residual, share answered at 99 % precision, wrong answers with a residual below 1e-3
    agreement   share of starts that give the answer of the winner, as a sign of its own, and beside the residual
    solvers     Anderson and Broyden beside plain iteration: share solved by evaluations
    ill-posed   puzzles with no solution and with several: how often the residual shows it

Writes ``experiments/results/reasoners_<data>.json``, and three figures below ``figures/``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import zoo
from zoo.callbacks.trust import answered_share, roc_area
from zoo.data import DATA
from zoo.data.puzzles.base import PuzzleData
from zoo.data.puzzles.rules import sudoku_contradictions
from zoo.data.puzzles.search import candidates, search
from zoo.data.puzzles.sudoku import SudokuData
from zoo.deq.reasoner.base import Reasoner
from zoo.deq.reasoner.starts import random_starts
from zoo.hub.trained import trained_config
from zoo.reporting.puzzles import Moment, depth_figure, residual_figure, settling_figure
from zoo.storage.files import write_json
from zoo.training.environment import environment
from zoo.training.evaluate import set_depth

HERE = Path(__file__).parent / "results"
DEPTHS = (4, 8, 16, 32, 64, 128, 256)
STARTS = (1, 8, 32)
SMALL = 1e-3  # a residual that is taken for a sign of a right answer
MOMENTS, MOMENTS_OF_MAZES = (1, 4, 16, 64), (1, 16, 64, 256)  # iterations that are drawn
SOLVERS: dict[str, dict[str, Any]] = {
    "plain": {"name": "picard"},
    "anderson": {"name": "anderson", "window": 5},
    "broyden": {"name": "broyden"},
}


@dataclass(frozen=True)
class Answers:
    """What a model answers to puzzles: each (N,), but for the answers themselves (N, H, W)."""

    answer: Tensor
    right: Tensor
    residual: Tensor
    steps: Tensor
    converged: Tensor

    def row(self) -> dict[str, Any]:
        """The numbers of a table."""
        wrong = ~self.right
        out: dict[str, Any] = {
            "puzzles": len(self.right),
            "solved": float(self.right.double().mean()),
            "converged": float(self.converged.double().mean()),
            "mean iterations": float(self.steps.double().mean()),
            "answered at 99 % precision": float(answered_share(self.residual, self.right)),
            "wrong below 1e-3": int((wrong & (self.residual < SMALL)).sum()),
            "right below 1e-3": int((self.right & (self.residual < SMALL)).sum()),
            "median residual right": _median(self.residual[self.right]),
            "median residual wrong": _median(self.residual[wrong]),
        }
        out["ROC area"] = float(roc_area(self.residual, self.right)) if wrong.any() and self.right.any() else None
        return out


def _median(values: Tensor) -> float | None:
    return float(values.median()) if len(values) else None


@torch.inference_mode()
def ask(
    model: Reasoner, data: PuzzleData, givens: Tensor, depth: int | None = None, starts: int = 1, size: int = 200
) -> Answers:
    """The answers to puzzles (N, H, W), solved with at most ``depth`` steps from at most ``starts`` starts."""
    if depth is not None:
        set_depth(model, depth)
    parts = []
    with random_starts(starts):
        for some in givens.split(size):
            answer = model(some).argmax(-1)
            assert model.last is not None
            stats = model.last.stats
            parts.append((answer, data.check(some, answer), stats.residual.double(), stats.steps, stats.converged))
    return Answers(*(torch.cat(p) for p in zip(*parts, strict=True)))


def by_depth(
    model: Reasoner, data: PuzzleData, givens: Tensor, difficulty: Tensor, depths: Sequence[int], starts: Sequence[int]
) -> list[dict[str, Any]]:
    """A row for each depth and number of starts, with the share solved by tier of difficulty."""
    rows = []
    for depth in depths:
        for count in starts:
            begin = time.process_time()
            found = ask(model, data, givens, depth, count)
            tiers = {}
            for name, (low, high) in data.tiers.items():
                mine = (difficulty >= low) & (difficulty < high)
                if mine.any():
                    tiers[name] = {"puzzles": int(mine.sum()), "solved": float(found.right[mine].double().mean())}
            rows.append({"depth": depth, "starts": count, **found.row(), "tiers": tiers,
                         "seconds (processor)": round(time.process_time() - begin, 2)})  # fmt: skip
            print(f"depth {depth:>4}  starts {count:>3}  solved {rows[-1]['solved']:.2%}  ROC {rows[-1]['ROC area']}",
                  flush=True)  # fmt: skip
    return rows


@torch.inference_mode()
def agreement(model: Reasoner, data: PuzzleData, givens: Tensor, depth: int, count: int) -> dict[str, Any]:
    """Starts that agree with the winner, as a sign of a right answer: alone, and with the residual where they tie."""
    set_depth(model, depth)
    shares, residuals, rights = [], [], []
    for some in givens.split(200):
        with random_starts(count, every=True) as asked:
            best = model.best(some)
            winner = model.read(best.solution.value, some).argmax(-1)
        generator = torch.Generator().manual_seed(asked.seed)
        same = torch.zeros(len(some))
        for k in range(count):
            z0 = model.start(some[:1], random=True, generator=generator) if k else model.start(some[:1])
            answer = model(some, z0.expand(len(some), *z0.shape[1:])).argmax(-1)
            same += (answer == winner).flatten(1).all(1)
        shares.append(same / count)
        residuals.append(best.solution.stats.residual.double())
        rights.append(data.check(some, winner))
    share, residual, right = (torch.cat(x) for x in (shares, residuals, rights))
    out = {"depth": depth, "starts": count, "puzzles": len(right), "solved": float(right.double().mean())}
    if right.any() and not right.all():
        rank = residual.argsort().argsort().double() / len(right)
        both = rank / count - share.double()  # the residual decides among equal shares, which lie 1 / count apart
        signs = {"agreement": 1 - share.double(), "residual": residual, "both": both}
        for name, sign in signs.items():
            out[f"ROC area of {name}"] = float(roc_area(sign, right))
            out[f"answered at 99 % by {name}"] = float(answered_share(sign, right))
    return out


def by_solver(model: Reasoner, data: PuzzleData, givens: Tensor, budgets: Sequence[int]) -> dict[str, Any]:
    """Share solved by evaluations, for each solver, and what each needs for (99 % of) what plain iteration reaches."""
    table: dict[str, dict[str, Any]] = {}
    usual = model.solver, model.eval_solver
    for name, spec in SOLVERS.items():
        model.eval_solver = None
        for budget in budgets:
            model.configure_implicit({**spec, "max_steps": budget})
            begin = time.process_time()
            found = ask(model, data, givens)
            row = found.row()
            table.setdefault(name, {})[str(budget)] = {
                k: row[k] for k in ("solved", "converged", "mean iterations", "ROC area", "wrong below 1e-3")
            } | {"seconds (processor)": round(time.process_time() - begin, 2)}
            print(f"{name:<9} {budget:>4}  solved {row['solved']:.2%}  {row['mean iterations']:.1f} its", flush=True)
    model.solver, model.eval_solver = usual
    target = 0.99 * max(r["solved"] for r in table["plain"].values())
    least = {
        name: min((int(b) for b, r in rows.items() if r["solved"] >= target), default=None)
        for name, rows in table.items()
    }
    return {"by budget": table, "target": target, "least budget that reaches it": least}


def ill_posed(givens: Tensor, answer: Tensor, data: SudokuData, count: int, seed: int) -> dict[str, Tensor]:
    """Puzzles without a solution, and with several, made of good ones; none has two equal givens in one group.

    Without: a given of a good puzzle becomes another digit. With several: a blank of each is made of one more given,
    until a second solution is there.
    """
    random = np.random.default_rng(seed)
    n, box = data.num_classes, data.box
    found: dict[str, list[np.ndarray]] = {"no solution": [], "several solutions": []}
    for i in random.permutation(len(givens)):
        if all(len(v) >= count for v in found.values()):
            break
        puzzle = givens[i].numpy().reshape(-1).copy()
        shown = np.flatnonzero(puzzle)
        if len(found["no solution"]) < count:
            for _ in range(20):
                other = puzzle.copy()
                other[random.choice(shown)] = random.integers(1, n + 1)
                clean = not len(sudoku_contradictions(torch.from_numpy(other.reshape(1, n, n)).long(), box))
                if clean and _solutions(other, box) == 0:
                    found["no solution"].append(other)
                    break
        if len(found["several solutions"]) < count:
            other = puzzle.copy()
            for place in random.permutation(shown):
                other[place] = 0
                if _solutions(other, box) > 1:
                    found["several solutions"].append(other)
                    break
    return {k: torch.from_numpy(np.stack(v)).view(-1, n, n).long() for k, v in found.items() if v}


def _solutions(puzzle: np.ndarray, box: tuple[int, int]) -> int:
    """How many solutions a puzzle has, 2 standing for more."""
    return int(search(candidates(puzzle[None].astype(np.uint8), box), box, limit=2).count[0])


@torch.inference_mode()
def settling(
    model: Reasoner, givens: Tensor, answer: Tensor, moments: Sequence[int], first: int
) -> tuple[list[Moment], list[float]]:
    """The answers to one puzzle (H, W) at some plain iterations, ``first`` for class 0, and the residual after each."""
    one, moves = givens[None], []
    e, residuals = model.embed(one), []
    z = model.cell(model.start(one), e)
    for k in range(1, max(moments) + 1):  # z is the state after k iterations
        new = model.cell(z, e)
        residuals.append(float((new - z).norm() / z.norm()))
        if k in moments:
            read = model.read(z, one).argmax(-1)[0]
            moves.append(Moment(k, (read + first).numpy(), (read != answer).numpy()))
        z = new
    return moves, residuals


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", default="reasoner_equivariant.sudoku9", metavar="NAME.DATA", help="as zoo.load takes it"
    )
    parser.add_argument("--data", default=None, metavar="NAME", help="by default the model's own")
    parser.add_argument("--puzzles", type=int, default=1000, help="test puzzles; trust is measured on all of them")
    parser.add_argument("--some", type=int, default=1000, help="of these, for the tables by depth, starts and solver")
    parser.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    parser.add_argument("--starts", type=int, nargs="+", default=STARTS)
    parser.add_argument("--ill-posed", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--name", default=None, help="of the results; by default that of the data")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)

    model: Any = zoo.load(args.model)
    config = trained_config(model)
    name = args.data or (config.name.partition(".")[2] if config is not None else "")
    data: Any = DATA[name](test_size=args.puzzles)
    givens, answer = data.split("test")
    some, difficulty = slice(args.some), data.difficulty("test")
    deepest = max(args.depths)

    depth = by_depth(model, data, givens[some], difficulty[some], args.depths, args.starts)
    every = ask(model, data, givens, deepest)
    facts: dict[str, Any] = {
        "experiment": "reasoners",
        "model": config.name if config is not None else args.model,
        "data": name,
        "seed": args.seed,
        "parameters": sum(p.numel() for p in model.parameters()),
        "solver": {"name": type(model.solver).__name__.lower(), "rtol": model.solver.rtol, "atol": model.solver.atol},
        "depth": depth,
        "trust": {"depth": deepest, **every.row()},
        "agreement": agreement(model, data, givens[some], deepest, min(8, max(args.starts))),
        "solvers": by_solver(model, data, givens[some], args.depths),
    }
    if isinstance(data, SudokuData):
        facts["ill-posed"] = {"depth": deepest}
        for kind, puzzles in ill_posed(givens, answer, data, args.ill_posed, args.seed).items():
            found = ask(model, data, puzzles, deepest)
            facts["ill-posed"][kind] = {
                "puzzles": len(puzzles),
                "residual of 1e-3 or more": float((found.residual >= SMALL).double().mean()),
                "not converged": float((~found.converged).double().mean()),
                "a right answer by the rules": float(found.right.double().mean()),
            }
    figures, label = args.out / "figures", args.name or name
    curves = {
        f"{c} start{'s' if c > 1 else ''}": {r["depth"]: r["solved"] for r in depth if r["starts"] == c}
        for c in args.starts
    }
    told, stem = f"{facts['model']}, {len(every.right):,} puzzles.", f"reasoners_{label}"
    written = [
        depth_figure(curves, figures, f"{stem}_depth", told=told),
        residual_figure(every.residual.numpy(), every.right.numpy(), figures, f"{stem}_residual", told),
    ]
    hardest = int(torch.where(every.right, every.steps, -1).argmax())  # solved, by the most iterations
    one, box = givens[hardest], data.box if isinstance(data, SudokuData) else None
    shown = [m for m in (MOMENTS if box else MOMENTS_OF_MAZES) if m <= deepest]
    moments, residuals = settling(model, one, answer[hardest], shown, 1 if box else 0)
    written.append(settling_figure(one.numpy(), moments, residuals, figures, f"{stem}_settling", box))
    facts["figures"] = {p.name: p.caption for p in written}
    facts |= environment()
    args.out.mkdir(parents=True, exist_ok=True)
    write_json(args.out / f"reasoners_{label}.json", facts)
    for part in ("trust", "agreement", "ill-posed"):
        print(f"{part}: {facts.get(part)}")
    print(f"least budget: {facts['solvers']['least budget that reaches it']}")


if __name__ == "__main__":
    main()
