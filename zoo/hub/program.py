"""Export a trained model as a program without Python: `export_program`, `write_program`.

The program holds the solve as a bounded loop, see `zoo.solvers.bounded`: so many steps of picard or anderson, or fixed
steps of an explicit Runge-Kutta method. Its outputs are the answer, and of each sample the residual and whether the
solve has converged. The batch is of any size.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.adjoints.unroll import Unroll
from zoo.hub.pretrained import load
from zoo.hub.trained import trained_config
from zoo.implicit import implicit_layers, record_solves
from zoo.registry import sentence, unknown
from zoo.solvers.base import Solver
from zoo.solvers.ode.base import ODESolver
from zoo.storage.files import write_json

Format = Literal["torch", "onnx"]
FILES: dict[str, str] = {"torch": "model.pt2", "onnx": "model.onnx"}
RECORD = "program.json"
OUTPUTS = ("answer", "residual", "converged")
ODE_STEPS = 16  # of rk4, unless told otherwise
LENGTH = 32  # symbols that a language model reads, unless told otherwise
ALLOWED = 1e-5  # of difference between the program and the model, beside answers of size 1
CALLS = 20  # whose median is the time of one answer


class Program(nn.Module):
    """A model with its solves told: ``(answer, residual, converged)``.

    Args:
        model: in evaluation mode.
        language: it is a language model, whose answer is the logits (B, V) of the next symbol.
    """

    def __init__(self, model: nn.Module, language: bool = False) -> None:
        super().__init__()
        self.model, self.language = model, language

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        with record_solves() as solves:
            out = self.model(x)
        out = out[0][:, -1] if self.language else out
        residual = torch.full_like(out.flatten(1)[:, 0], math.nan)
        converged = torch.ones_like(residual, dtype=torch.bool)
        for _, record in solves:
            stats = record.stats
            left = stats.residual.to(residual).reshape(x.shape[0], -1).amax(1)
            residual = torch.where((residual >= left) | left.isnan(), residual, left)  # NaN: nobody estimates it
            converged = converged & stats.converged.to(x.device).reshape(x.shape[0], -1).all(1)
        return out, residual, converged


@dataclass(frozen=True)
class Exported:
    """An exported program.

    Attributes:
        program: what `torch.export` made.
        eager: the same model in Python, with the same solver and steps.
        example: an input of two samples.
    """

    program: torch.export.ExportedProgram
    eager: Program
    example: Tensor


def export_program(
    model: nn.Module | str | Path, *, solver: str | None = None, steps: int | None = None, length: int = LENGTH
) -> Exported:
    """Export a trained model of pictures or of language; it stays as it is.

    Args:
        model: a loaded model, or what `zoo.load` takes.
        solver: picard or anderson for fixed points, a fixed-step method for ODEs; None: the model's own where a program
            can hold it, else anderson, or rk4.
        steps: of the solver; None: the model's own ``max_steps``, or 16 steps in time.
        length: symbols that a language model reads.

    Raises:
        ValueError: a model of another kind, or one whose program does not answer as the model does.
        RuntimeError: a solver or an operation that no program holds.
    """
    found = load(model) if not isinstance(model, nn.Module) else model
    saved = trained_config(found)
    if saved is None or not saved.preprocessing:
        raise ValueError("Only a model that was loaded with its weights and its preprocessing can be exported.")
    language = saved.preprocessing.get("kind") == "text"
    found = copy.deepcopy(found).eval()
    for layer in implicit_layers(found):
        _bound(layer, solver, steps)
    parameter = next(found.parameters())
    if language:
        example = torch.arange(2 * length, device=parameter.device).view(2, length) % int(found.vocab_size)  # type: ignore[arg-type]
    else:
        size = saved.preprocessing["size"]
        if size is None:
            raise ValueError(f"{saved.name} answers pictures of any size; a program has one. Give it a size first.")
        height, width = size if isinstance(size, list | tuple) else (size, size)
        shape = (2, len(saved.preprocessing["mean"]), height, width)
        example = torch.linspace(-1, 1, math.prod(shape), device=parameter.device, dtype=parameter.dtype).view(shape)
    eager = Program(found, language)
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(eager, (example,), dynamic_shapes=({0: batch},), strict=False)
    for _, module in found.named_modules():
        if hasattr(module, "last"):
            module.last = None  # type: ignore[assignment]  # it holds tensors of the trace
    made = Exported(program, eager, example)
    run = program.module()
    _compare(eager, lambda x: run(x), example)
    return made


def _bound(layer: Any, solver: str | None, steps: int | None) -> None:
    """Give a layer a solver that a program can hold."""
    present = layer.eval_solver or layer.solver
    ode = isinstance(present, ODESolver)
    if ode:
        spec: Any = {"name": solver or "rk4", "steps": steps or ODE_STEPS}
    else:
        own = type(present).__name__.lower() if isinstance(present, Solver) and present.traceable else "anderson"
        spec = {"name": solver or own, "rtol": present.rtol, "atol": present.atol}
        spec["max_steps"] = steps or present.max_steps
        if spec["name"] == own and isinstance(present, Solver) and present.traceable:
            spec = present.replace(max_steps=spec["max_steps"])
    layer.eval_solver = None
    # unrolled steps answer with the newest iterate, a program with the best, as every other adjoint does
    layer.configure_implicit(spec, "implicit" if not ode and isinstance(layer.adjoint, Unroll) else None)


def _compare(eager: Program, run: Callable[[Tensor], Any], example: Tensor) -> float:
    """The largest difference of the answers for batches of 1, 2 and 5.

    Raises:
        ValueError: it is more than `ALLOWED`, or the solves went otherwise.
    """
    worst = 0.0
    for count in (1, 2, 5):
        x = example.repeat(3, *[1] * (example.dim() - 1))[:count]
        with torch.no_grad():
            expected, _, converged = eager(x)
            answer, _, told = run(x)
        apart = float((answer - expected).abs().max() / expected.abs().max().clamp_min(1))
        if not apart <= ALLOWED or not torch.equal(told, converged):
            raise ValueError(
                f"The program answers otherwise than the model, by {apart:.2g} for a batch of {count} (at most "
                f"{ALLOWED:g} is allowed): it is not written. Take fewer steps, or another solver."
            )
        worst = max(worst, apart)
    return worst


def write_program(
    source: str | Path,
    folder: str | Path,
    format: Format = "torch",
    *,
    solver: str | None = None,
    steps: int | None = None,
    length: int = LENGTH,
) -> tuple[Path, dict[str, Any]]:
    """Write a trained model's program and a record of it into a folder; returns the file and the record.

    ``model.pt2`` is read by ``torch.export.load``, ``model.onnx`` by any ONNX runtime. ``program.json`` says what goes
    in (size, mean and deviation, or the tokenizer), what comes out, the solver with its steps, how far the answers are
    from the model's, and the median time of one answer beside the model's.

    Raises:
        ValueError, RuntimeError: see `export_program`.
        ImportError: ``onnx`` without its packages.
    """
    if format not in FILES:
        raise ValueError(unknown("format", format, FILES))
    if format == "onnx":
        _need_onnx()
    model = load(source)
    made = export_program(model, solver=solver, steps=steps, length=length)
    place, saved = Path(folder), trained_config(model)
    assert saved is not None
    place.mkdir(parents=True, exist_ok=True)
    file = place / FILES[format]
    run: Callable[[Tensor], Any]
    if format == "torch":
        torch.export.save(made.program, file)
        run = torch.export.load(file).module()
    else:
        run = _write_onnx(made, file)
    solvers = [layer.solver for layer in implicit_layers(made.eager.model)]
    one = made.example[:1]
    record = {
        "model": saved.name,
        "format": format,
        "inputs": {"x": {"shape": ["batch", *made.example.shape[1:]], "dtype": str(made.example.dtype)[6:]}},
        "outputs": list(OUTPUTS),
        "preprocessing": dict(saved.preprocessing),
        "solver": [{"name": type(s).__name__, "steps": getattr(s, "steps", None) or s.max_steps} for s in solvers if s],
        "difference": _compare(made.eager, run, made.example),
        "milliseconds_of_one_answer": {"program": _time(run, one), "model": _time(made.eager, one)},
        "threads": torch.get_num_threads(),
    }
    write_json(place / RECORD, record)
    return file, record


def _time(run: Callable[[Tensor], Any], x: Tensor) -> float:
    """The median milliseconds of a call."""
    taken = []
    with torch.no_grad():
        for _ in range(CALLS):
            begun = time.perf_counter()
            run(x)
            taken.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(taken), 3)


def _need_onnx() -> None:
    try:
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise ImportError(
            f"ONNX needs the packages onnx, onnxscript and onnxruntime: pip install 'implicit-zoo[onnx]' ({error})."
        ) from error
    del onnxruntime, onnxscript


def _write_onnx(made: Exported, file: Path) -> Callable[[Tensor], Any]:
    """Write the program as ONNX, and return what runs it."""
    import onnxruntime

    names = {"input_names": ["x"], "output_names": list(OUTPUTS)}
    try:
        written = torch.onnx.export(made.program, dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
        assert written is not None
        written.save(file)
    except Exception as error:  # of many kinds, by what stands in the graph
        raise RuntimeError(f"ONNX cannot hold this model: {sentence(error.__cause__ or error)}") from error
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return lambda x: tuple(torch.from_numpy(y) for y in session.run(list(OUTPUTS), {"x": x.numpy()}))
