"""The table of the theory, "explicit, L layers / Neural ODE / DEQ", filled with what was measured."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from zoo.compare.theory.figures import draw
from zoo.compare.theory.lipschitz import FLOW, FREE, HELD
from zoo.compare.theory.scale import EXPERIMENTS, Scale
from zoo.reporting.html import Page, markdown, terminal
from zoo.storage.files import write_json
from zoo.training.environment import environment

HEAD = ("", "explicit, L layers", "Neural ODE", "DEQ")
STATED = "by definition: "  # how a cell begins that holds what is so by definition; every other is measured and links


def run_theory(
    out: str | Path | None = None, *, scale: Scale | None = None, say: Callable[[str], None] | None = None
) -> dict[str, Any]:
    """Measure every experiment; return the content of ``theory.json``.

    Args:
        out: folder of theory.json, theory.md, theory.html and figures/; None: nothing is written.
        scale: how large; None: the published setting.
        say: called with a line before each experiment.
    """
    scale, say = scale or Scale(), say or (lambda line: None)
    out = Path(out) if out is not None else None
    if out is not None:
        out.mkdir(
            parents=True, exist_ok=True
        )  # a folder that cannot be written is an error before anything is computed
    results: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for i, name in enumerate(EXPERIMENTS, 1):
        say(f"{i}/{len(EXPERIMENTS)} {name}")
        start = time.perf_counter()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            results[name] = importlib.import_module(f"zoo.compare.theory.{name}").measure(scale)
        seconds[name] = round(time.perf_counter() - start, 1)
    results["table"] = {"head": list(HEAD), "rows": table(results)}
    results["seconds"] = seconds
    results["environment"] = environment()
    if out is None:
        return results
    write_json(out / "theory.json", results)
    write_report(results, out)
    return results


def show(results: Mapping[str, Any]) -> None:
    """Print the table."""
    terminal("The theory, measured", results["table"]["head"], results["table"]["rows"])


def write_report(results: Mapping[str, Any], out: Path) -> None:
    """theory.md, theory.html and the figures, from the content of ``theory.json``."""
    pictures = draw(results, out / "figures")
    head, rows, linear = results["table"]["head"], results["table"]["rows"], results["linear"]
    env = results["environment"]
    foot = (
        f"Measured in {sum(results['seconds'].values()):.0f} s on {env['hardware']['cpu']}, torch "
        f"{env['versions']['torch']}, commit {(env['commit'] or 'unknown')[:12]}, {env['time']}."
    )
    page = Page("The theory, measured", "Explicit networks, neural ODEs and equilibrium models on the same problems.")
    page.table(head, rows)
    page.heading("The linear equilibrium model, in closed form", "linear")
    page.block(linear["text"])
    page.table(*linear_table(linear))
    page.heading("Figures", "figures")
    for picture in pictures.values():
        page.picture(picture)
    page.write(out / "theory.html", foot)

    text = ["# The theory, measured", "", markdown(head, [[_linked(c) for c in row] for row in rows])]
    text += ["## The linear equilibrium model, in closed form", "", "```text", linear["text"], "```", ""]
    text += [markdown(*linear_table(linear)), "## Figures", ""]
    text += [f"![{p.caption}](figures/{p.png.name})\n\n{p.caption}\n" for p in pictures.values()]
    (out / "theory.md").write_text("\n".join([*text, foot, ""]), encoding="utf-8")


def table(r: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the table; a cell that ends in ``[#name]`` links to its figure, any other is `STATED`."""
    ways, forward, times = r["memory"]["ways"], r["memory"]["forward"], r["timing"]["ways"]
    fixed, ode, models = r["gradients"]["fixed_point"], r["gradients"]["ode"], r["annuli"]["models"]
    tight = r["gradients"]["tolerances"]
    deepest, last = r["memory"]["depths"][-1], len(r["memory"]["depths"]) - 1
    free, held, flow = (r["lipschitz"]["training"][k] for k in (FREE, HELD, FLOW))
    at = min(range(len(tight)), key=lambda i: abs(tight[i] - 1e-4))

    def grown(found: Mapping[str, Any]) -> str:
        return f"L^{abs(found['exponent']):.2f}, {found['bytes'][last] / 1024:.0f} KiB at {deepest}"

    def growth(way: str) -> str:
        return grown(ways[way])

    def step(*labels: str) -> str:
        return ", ".join(f"{label.split(', ')[-1]} {times[label]['ms'][last]:.1f} ms" for label in labels)

    def accuracy(label: str) -> str:
        found = models[label]["accuracy"]
        return f"{statistics.mean(found):.1%} (worst {min(found):.1%})"

    def errors(rows: Mapping[str, Any], *names: str) -> str:
        return ", ".join(f"{n} {rows[n][at]['error']:.0e}" for n in names)

    nfe = [ode["unroll"][0]["nfe"], ode["unroll"][-1]["nfe"]]
    iterations = [fixed["implicit"][0]["nfe"], fixed["implicit"][-1]["nfe"]]
    span = f"tolerance {tight[0]:.0e} to {tight[-1]:.0e} [#theory_gradients]"
    rate = max(r["lipschitz"]["rates"], key=lambda row: row["rate"] / row["measured"])
    return [
        ["forward computation", f"{STATED}z_{{l+1}} = f_l(z_l)", f"{STATED}dz/dt = f(z, t), solved in time",
         f"{STATED}z* = f(z*, x), solved"],
        ["effective depth", f"{STATED}L", f"{nfe[0]} to {nfe[1]} evaluations, {span}",
         f"infinite; {iterations[0]} to {iterations[1]} evaluations, {span}"],
        ["memory, forward only", grown(forward["explicit, L layers"]) + " [#theory_memory]",
         f"rk4 {grown(forward['ODE, rk4'])} [#theory_memory]",
         f"Picard {grown(forward['DEQ, Picard'])}; Anderson {grown(forward['DEQ, Anderson'])} [#theory_memory]"],
        ["memory for the backward", growth("explicit, L layers") + " [#theory_memory]",
         f"backsolve {growth('ODE, backsolve')}; checkpoint {growth('ODE, checkpoint')}; "
         f"unrolled {growth('ODE, unrolled')} [#theory_memory]",
         f"implicit {growth('DEQ, implicit')}; unrolled {growth('DEQ, unrolled')} [#theory_memory]"],
        [f"training step at {deepest}", f"{times['explicit, L layers']['ms'][last]:.1f} ms [#theory_timing]",
         step("ODE, unrolled", "ODE, backsolve") + " [#theory_timing]",
         step("DEQ, unrolled", "DEQ, implicit", "DEQ, jfb") + " [#theory_timing]"],
        [f"gradient error at tolerance {tight[at]:.0e}", f"{STATED}no solver, no tolerance",
         errors(ode, "unroll", "backsolve") + " [#theory_gradients]",
         errors(fixed, "implicit", "unroll", "phantom", "jfb") + " [#theory_gradients]"],
        ["expressiveness: nested annuli", accuracy("explicit, 2 layers") + " [#theory_annuli]",
         f"{accuracy('Neural ODE')}; augmented {accuracy('augmented ODE, + 3')} [#theory_annuli]",
         f"{accuracy('DEQ')}; W free {accuracy('DEQ, W free')}" + " [#theory_annuli]"],
        ["convergence", f"{STATED}no solve",
         f"error of the gradient {ode['unroll'][0]['error']:.0e} to {ode['unroll'][-1]['error']:.0e}, {span}",
         f"rate at most L: {rate['rate']:.3f} for a measured L of {rate['measured']:.3f} [#theory_lipschitz]"],
        ["stability in training", f"{STATED}no solve that could fail",
         f"free: |W| {flow[0]['norm']:.2f} to {flow[-1]['norm']:.2f}, {solved(flow):.0%} of the later steps solved; "
         f"evaluations {flow[0]['nfe']} to {flow[-1]['nfe']} [#theory_beyond]",
         f"free: |W| {free[0]['norm']:.2f} to {free[-1]['norm']:.2f}, {solved(free):.0%} of the later steps converged; "
         f"spectrally normalised: |W| {held[-1]['norm']:.2f}, {solved(held):.0%} [#theory_beyond]"],
    ]  # fmt: skip


def solved(run: list[Mapping[str, float]]) -> float:
    """The share of the steps in the second half in which every sample converged."""
    half = run[len(run) // 2 :]
    return sum(row["converged"] == 1.0 for row in half) / len(half)


def linear_table(linear: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The check of the closed form: value and gradients of the solved model against it."""
    head = ["W", "norm", "radius", "solver", "evaluations", "converged", "error of z*", "dL/dW", "dL/dU", "dL/db"]
    rows = []
    for r in linear["rows"]:
        errors = [f"{r[k]:.0e}" if k in r else "diverged" for k in ("error_W", "error_U", "error_b")]
        value = f"{r['error_z']:.0e}" if r["converged"] == 1 else "diverged"
        rows.append([r["kind"], f"{r['norm']:.2f}", f"{r['radius']:.2f}", r["solver"], str(r["evaluations"]),
                     f"{r['converged']:.0%}", value, *errors])  # fmt: skip
    return head, rows


def _linked(cell: str) -> str:
    text, _, anchor = cell.partition(" [#")
    return f"{text} ([figure](figures/{anchor[:-1]}.png))" if anchor else text
