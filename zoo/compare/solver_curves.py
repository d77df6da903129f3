"""What a trained model's solves do along an axis: iterations, budget, depth, tolerance. Each is a curve of the report.

A curve is ``bench -> numbers``, or a sentence that says why there are none.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from zoo.adjoints.implicit import Implicit
from zoo.implicit import implicit_modules
from zoo.reporting.counters import held_bytes
from zoo.solve import make_adjoint
from zoo.solvers.krylov import Neumann
from zoo.solvers.ode.base import ODESolver
from zoo.solvers.ode.one_step import OneStep

if TYPE_CHECKING:
    from zoo.compare.bench import Bench

BUDGETS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
DEPTHS = (2, 4, 8, 16)
TOLERANCES = (1e-1, 1e-2, 1e-3, 1e-4)
REFERENCE, EXACT = 1e-6, 1e-8  # tolerances of the gradient that others are held against, in float32 and in float64
TRUSTED = 1e-5  # the largest residual of a reference: a tenth of the least tolerance
ALIKE = 0.1  # the two references differ by more only where the loss draws other random numbers in float64
PATIENCE, ATTEMPTS = 200, 10_000  # iterations, and time steps: it is the tolerance that ends a solve
FEW = 4  # samples: what is measured here is a ratio, not a load
NEVER = 1e-30  # a tolerance that nothing meets: the budget ends the solve


def residuals(bench: Bench) -> list[float] | str:
    """Median residual over a test batch after each evaluation; a sample that is done keeps its last one."""
    bench.model.eval()
    with torch.no_grad():
        bench.task.answer(bench.test[0])
    traces = [s.trace for s in bench.solved() if s.accepted is None and s.trace.numel()]
    if not traces:
        return "an integration in time has no residual"
    trace = traces[0].double().clone()
    for k in range(1, len(trace)):
        trace[k] = torch.where(trace[k].isnan(), trace[k - 1], trace[k])
    return trace.median(dim=1).values.tolist()


def anytime(bench: Bench) -> dict[str, list[float]] | str:
    """Accuracy on test batches by the steps that the solver of the evaluation may take."""
    if any(isinstance(_evaluating(m), ODESolver) for m in bench.modules):
        return "an integration in time has no answer before its end"
    if bench.task.monitor != "val/accuracy":
        return f"drawn of an accuracy; this task is measured by {bench.task.monitor.partition('/')[2]}"
    bench.model.eval()
    score = []
    for budget in BUDGETS:

        def brief(module: Any, budget: int = budget) -> tuple[Any, Any]:
            return changed(_evaluating(module), max_steps=budget), module.adjoint

        with torch.no_grad(), altered(bench, brief):
            right = torch.cat([bench.task.answer(b).argmax(-1) == b[1] for b in bench.test])
        score.append(float(right.double().mean()))
    return {"budget": list(BUDGETS), "score": score}


def growth(bench: Bench) -> dict[str, Any] | str:
    """Bytes per sample that a training step's forward keeps, by the evaluations of its solves.

    Of the model's own adjoint, and of one that scales otherwise: what unrolls against what does not.
    """
    for module in bench.modules:
        if isinstance(module.solver, ODESolver) and not isinstance(module.solver, OneStep):
            return f"{type(module.solver).__name__} takes no fixed number of steps"
    own = name_of(bench.modules[0].adjoint)
    flat = "backsolve" if isinstance(bench.modules[0].solver, ODESolver) else "implicit"
    ways = [_held_by_depth(bench, None)]
    try:
        ways.append(_held_by_depth(bench, flat if own == "unroll" else "unroll"))
    except Exception as error:  # not every solver can be unrolled, nor every field be integrated backwards
        ways.append({"adjoint": flat if own == "unroll" else "unroll", "why": reason(error)})
    return {"ways": ways}


def _held_by_depth(bench: Bench, adjoint: str | None) -> dict[str, Any]:
    batch = bench.task.cut(bench.train[0], FEW)
    bench.model.train()
    evaluations, held = [], []
    for depth in DEPTHS:

        def deep(module: Any, depth: int = depth) -> tuple[Any, Any]:
            across = make_adjoint(adjoint) if adjoint else module.adjoint
            if isinstance(module.solver, ODESolver):
                return changed(module.solver, steps=depth, step_size=None, first_step=None, per_sample=False), across
            return changed(module.solver, max_steps=depth, rtol=NEVER, atol=NEVER), across

        with altered(bench, deep):
            held.append(held_bytes(lambda: bench.task.score(batch, "train").loss) / bench.task.rows(batch))
            evaluations.append(sum(s.nfe for s in bench.solved()))
    name = adjoint or name_of(bench.modules[0].adjoint)
    return {"adjoint": name, "own": adjoint is None, "evaluations": evaluations, "bytes": held}


def gradient(bench: Bench) -> dict[str, Any] | str:
    """Relative error and cosine of the loss's gradient, by the tolerance of the solves, with the model's own adjoint.

    Held against the implicit gradient (in time: the unrolled one) of a tight solve, on the same few samples and draws.
    """
    for module in bench.modules:
        if isinstance(module.solver, ODESolver) and not getattr(module.solver, "adaptive", True):
            return f"{type(module.solver).__name__} takes fixed steps, so that it has no tolerance"
    reference, worst, dtype = _reference(bench)
    if not worst <= TRUSTED:
        return f"no reference to hold it against: its solves end at a residual of {worst:.0e}, above {TRUSTED:.0e}"
    size = torch.linalg.vector_norm(reference)
    if not size > 0:
        return "the gradient is zero"
    error, cosine, nfe = [], [], []
    for tolerance in TOLERANCES:
        g, evaluations = _gradient(bench, tolerance)
        error.append(float(torch.linalg.vector_norm(g - reference) / size))
        cosine.append(float(torch.nn.functional.cosine_similarity(g, reference, dim=0)))
        nfe.append(evaluations)
    found = {"tolerance": list(TOLERANCES), "error": error, "cosine": cosine, "evaluations": nfe}
    return {"adjoint": name_of(bench.modules[0].adjoint), "reference": dtype, "residual": worst, **found}


def _reference(bench: Bench) -> tuple[Tensor, float, str]:
    """The gradient of tight solves, their worst residual, and what it was computed in: float64 where that is the same.

    A loss that draws random numbers may draw others in float64: then, and where the model takes float32 only, float32.
    """
    near, _ = _gradient(bench, REFERENCE, exact=True)
    fallback = near, _worst(bench), "float32"
    try:
        double = _doubled(bench)
        exact, _ = _gradient(double, EXACT, exact=True)
    except Exception:  # not every model computes in float64
        return fallback
    alike = bool(torch.linalg.vector_norm(exact - near) <= ALIKE * torch.linalg.vector_norm(exact))
    worst = _worst(double)
    return (exact, worst, "float64") if alike and worst <= TRUSTED else fallback


def _doubled(bench: Bench) -> Bench:
    """The same bench in float64."""
    double = copy.copy(bench)
    double.task = copy.deepcopy(bench.task).double()
    double.model = double.task.model
    double.modules = [m for _, m in implicit_modules(double.model)]
    wide = lambda t: t.double() if isinstance(t, Tensor) and t.is_floating_point() else t  # noqa: E731
    double.train = [tree_map(wide, batch) for batch in bench.train[:1]]
    return double


def _worst(bench: Bench) -> float:
    """The largest residual of the last fixed-point solves and of the linear ones behind them; infinite where an
    integration did not come to its end."""
    found = []
    for s in bench.solved():
        if s.accepted is not None:
            found.append(0.0 if bool(s.converged.all()) else math.inf)
            continue
        found += [float(part.residual.max()) for part in (s, *s.backward[-1:])]
    return max(found, default=math.inf)


def _gradient(bench: Bench, tolerance: float, exact: bool = False) -> tuple[Tensor, int]:
    """The gradient of all parameters as one vector, in float64, and the evaluations forward."""
    batch = bench.task.cut(bench.train[0], FEW)
    parameters = [p for p in bench.model.parameters() if p.requires_grad]
    bench.model.train()

    def tight(module: Any) -> tuple[Any, Any]:
        timed = isinstance(module.solver, ODESolver)
        atol = tolerance if timed else 1e-3 * tolerance
        steps = max(ATTEMPTS if timed else PATIENCE, module.solver.max_steps)
        budget = {"rtol": tolerance, "atol": atol, "max_steps": steps}
        adjoint = module.adjoint
        if exact and timed:
            adjoint = make_adjoint("checkpoint")
        elif exact:
            linear = {"name": "gmres", **budget}
            selected = adjoint.select if isinstance(adjoint, Implicit) else "best"
            adjoint = make_adjoint({"name": "implicit", "solver": linear, "select": selected})
        elif isinstance(adjoint, Implicit) and not isinstance(adjoint.solver, Neumann):  # whose budget is its method
            adjoint = changed(adjoint, solver=changed(adjoint.solver, **budget))
        return changed(module.solver, **budget), adjoint

    with altered(bench, tight), torch.random.fork_rng():
        torch.manual_seed(0)
        loss = bench.task.score(batch, "train").loss
        grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, grads, strict=True)]
    return torch.cat([g.flatten().double() for g in parts]), sum(s.nfe for s in bench.solved())


@contextlib.contextmanager
def altered(bench: Bench, to: Callable[[Any], tuple[Any, Any]]) -> Iterator[None]:
    """Scope in which each implicit module has the solver and the adjoint that ``to`` gives it, evaluated or trained."""
    kept = [(m.solver, m.eval_solver, m.adjoint) for m in bench.modules]
    try:
        for module in bench.modules:
            solver, adjoint = to(module)
            module.solver, module.eval_solver, module.adjoint = solver, None, adjoint
        yield
    finally:
        for module, (solver, evaluating, adjoint) in zip(bench.modules, kept, strict=True):
            module.solver, module.eval_solver, module.adjoint = solver, evaluating, adjoint


def changed(thing: Any, **options: Any) -> Any:
    """A copy with other options; a learned solver, too, keeps its parameters."""
    thing = copy.copy(thing)
    for name, value in options.items():
        object.__setattr__(thing, name, value)
    return thing


def name_of(adjoint: Any) -> str:
    return type(adjoint).__name__.lower()


def reason(error: Exception) -> str:
    """An exception as the reason of a blank cell."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {text}"[:200]


def _evaluating(module: Any) -> Any:
    return module.solver if module.eval_solver is None else module.eval_solver


CURVES: Mapping[str, Callable[[Any], Any]] = {
    "residuals": residuals,
    "anytime": anytime,
    "growth": growth,
    "gradient": gradient,
}
