"""The tables of README and of the site, from experiments/results: ``experiments/summary.py [--write]``.

A number there is never typed by hand. README's table stands between two markers, and a test compares; those of the
site are made when it is built, by the directive ``{results} NAME`` (docs/_ext/results.py).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.tasks.metrics import metric_info, primary_metric

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"


def load() -> dict[str, dict[str, Any]]:
    return {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))}


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [" | ".join(head), " | ".join("---" for _ in head), *(" | ".join(row) for row in rows)]
    return "\n".join(f"| {line} |" for line in lines)


def number(value: Any, form: str = "{:.1f}") -> str:
    """A number for a table; empty where it was not measured."""
    return "" if value is None else form.format(value)


def runs(records: dict[str, dict[str, Any]]) -> str:
    """Trained models: one row for each kept ``results.json``."""
    rows = []
    for name, r in records.items():
        if "test" not in r or "model" not in r:
            continue
        train, test, shown = r.get("train", {}), r["test"], primary_metric(r)
        rows.append(
            [
                f"`{r['model']}`",
                r["data"],
                f"{r['parameters']:,}",
                f"{shown.short} {shown.write(test[shown.key])}",
                " + ".join(n for k in ("nfe_forward", "nfe_backward") if (n := number(train.get(k)))),
                number(test.get("nfe_forward")),
                f"{r['seconds'] / 60:.1f} min",
                f"[json](experiments/results/{name}.json)",
            ]
        )
    head = ["model", "data", "parameters", "test", "evaluations a training step", "at the test", "training"]
    return table([*head, "record"], rows)


def speed(records: dict[str, dict[str, Any]]) -> str:
    """Solvers and gradients beside TorchDEQ."""
    rows = []
    for r in records.get("bench_fixed_point", {}).get("rows", []):
        goal, floor = number(r.get("goal_overhead"), "<= {:.2f}"), number(r.get("floor_overhead"), "{:.2f}")
        if "zoo_overhead" in r:
            own, peer, form = r["zoo_overhead"], r.get("torchdeq_overhead"), "{:.2f}"
            measure = "overhead"
        elif "speedup" in r:
            own, peer, form, goal = r["zoo_ms"], r.get("torchdeq_ms"), "{:.1f}", f">= {r['goal_speedup']}x faster"
            measure = f"CPU ms ({r['speedup']:.2f}x faster)"
            floor = number(r.get("floor_speedup"), "{:.2f}x faster")
        else:
            continue
        rows.append([r["what"], measure, goal, floor, form.format(own), number(peer, form)])
    return table(["what", "measure", "goal", "floor", "zoo", "TorchDEQ 0.1.0"], rows)


def ode_speed(records: dict[str, dict[str, Any]]) -> str:
    """ODE solvers beside torchdiffeq: the goal, the bound, and what was measured on each processor."""
    ours, other = (records.get(name, {}).get("rows", {}) for name in ("bench_ode", "bench_ode_xeon"))
    rows = [
        [
            what,
            *(str(r.get(k, "")) for k in ("goal", "bound", "measured", "peer")),
            str(other.get(what, {}).get("measured", "")),
        ]
        for what, r in ours.items()
    ]
    return table(["what", "goal", "evaluations alone", "zoo", "torchdiffeq 0.2.5", "zoo, on a Xeon"], rows)


def products(records: dict[str, dict[str, Any]]) -> str:
    """Products of an implicit gradient to a true residual, and what taking finished samples out of the batch saves."""
    rows = []
    for r in records.get("bench_fixed_point", {}).get("rows", []):
        found = {k.removeprefix("zoo_"): v for k, v in r.items() if k.startswith("zoo_")}
        if "goal_products" in r:
            text = ", ".join(f"{k} {v or 'not in 100'}" for k, v in found.items())
            least = r.get("floor_products")
            if least:
                text += f"; the least by which any method can: {least}"
            rows.append([r["what"], f"gmres <= {r['goal_products']}", text])
        elif "evaluations" in r:
            names = [k for k in found if f"torchdeq_{k}" in r]
            text = ", ".join(f"{n} {found[n] or 'not in 100'} ({r[f'torchdeq_{n}'] or 'not in 100'})" for n in names)
            rows.append([f"{r['what']} (TorchDEQ's)", "no more than TorchDEQ", text])
        elif "picard_compacted" in r:
            names = [k.removesuffix("_compacted") for k in r if k.endswith("_compacted")]
            text = ", ".join(f"{n} {r[f'{n}_compacted']:,} of {r[f'{n}_whole']:,}" for n in names)
            rows.append([f"{r['what']}, compacted and whole", "fewer", text])
    return table(["what", "goal", "measured"], rows)


def odenet_speed(records: dict[str, dict[str, Any]]) -> str:
    """Training steps of ODE-Nets beside the same on torchdiffeq."""
    rows, other = [], records.get("bench_odenet_xeon", {}).get("rows", [])
    xeon = {(r["problem"], r["ours"]): f"{r['speedup']:.2f}x" for r in other}
    for r in records.get("bench_odenet", {}).get("rows", []):
        goal = ">= 1.5x" if r["problem"].startswith("conv") else ">= 3x"
        bound = f"{r['bound']:.2f}x" if "bound" in r else ""
        shown = [f"{r['speedup']:.2f}x", bound, str(r["nfe"]), str(r["peer nfe"])]
        rows.append([r["problem"], r["ours"], goal, *shown, xeon.get((r["problem"], r["ours"]), "")])
    head = ["training step", "zoo", "goal", "faster than torchdiffeq", "evaluations alone", "NFE", "torchdiffeq's NFE"]
    return table([*head, "faster, on a Xeon"], rows)


def hyper_speed(records: dict[str, dict[str, Any]]) -> str:
    """A batch of generated weights through `HyperTarget`, over the same written by hand."""
    found = records.get("bench_hypernet", {}).get("rows", [])
    names = dict.fromkeys(r["problem"] for r in found)
    by = {(r["problem"], r["threads"]): r for r in found}
    threads = sorted({r["threads"] for r in found})
    rows = [[n, f"<= {found[0]['goal']}", *(number(by[n, t]["ratio"], "{:.2f}") for t in threads)] for n in names]
    return table(["training step", "goal", *(f"zoo / by hand, {t} thread{'s' * (t > 1)}" for t in threads)], rows)


COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {  # of a comparison: title, and how a value is written
    "parameters": ("parameters", "{:,.0f}".format),
    "epochs": ("epochs", "{:.0f}".format),
    "nfe_forward": ("NFE forward", "{:.1f}".format),
    "nfe_backward": ("NFE backward", "{:.1f}".format),
    "flops_forward": ("MFLOP forward", lambda v: f"{v / 1e6:.1f}"),
    "step_ms": ("training step, ms", "{:.0f}".format),
    "latency_ms": ("one sample, ms", "{:.1f}".format),
    "held_bytes": ("kept for backward a sample, KiB", lambda v: f"{v / 1024:,.0f}"),
}


def compared(name: str) -> Callable[[dict[str, dict[str, Any]]], str]:
    """The table of a kept comparison, one row a model."""

    def make(records: dict[str, dict[str, Any]]) -> str:
        found = records.get(name, {}).get("rows", [])
        if not found:
            return "(not measured yet)"
        measured = metric_info(found[0]["metric"])
        rows = []
        for r in found:
            if r["status"] != "finished":
                rows.append([f"`{r['label']}`", r["error"], *("" for _ in COLUMNS)])
                continue
            spread = f" +- {measured.write(r['std']['score'])}" if len(r["seeds"]) > 1 and "score" in r["std"] else ""
            cells = [write(r["values"][k]) if k in r["values"] else "" for k, (_, write) in COLUMNS.items()]
            rows.append([f"`{r['label']}`", f"{measured.write(r['values']['score'])}{spread}", *cells])
        return table(["model", f"test {measured.short}", *(title for title, _ in COLUMNS.values())], rows)

    return make


def theory(records: dict[str, dict[str, Any]]) -> str:
    """The theory's table as `python -m zoo.compare --theory` wrote it, with links from the root of the repository."""
    text = (RESULTS / "theory.md").read_text(encoding="utf-8")
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("|")]
    return "\n".join(lines).replace("](figures/", "](experiments/results/figures/")


def goals(records: dict[str, dict[str, Any]]) -> str:
    """What experiments were to reach, and what they did."""
    rows = [
        [what, goal, got, f"[json](experiments/results/{name}.json)"]
        for name, read in GOALS.items()
        if name in records
        for what, goal, got in read(records[name])
    ]
    return table(["what", "goal", "measured", "record"], rows)


Goal = tuple[str, str, str]  # what, the goal, what was measured


def _reached(what: str, goal: str) -> Callable[[dict[str, Any]], list[Goal]]:
    """The measure of a kept run."""

    def read(r: dict[str, Any]) -> list[Goal]:
        shown = primary_metric(r)
        return [(what, goal, f"{shown.write(r['test'][shown.key])}")]

    return read


def _memory(r: dict[str, Any]) -> list[Goal]:
    return [
        (
            f"bytes kept for the backward pass, `{name}`, at {', '.join(map(str, m['iterations']))} iterations",
            "equal within 5 %",
            f"{m['implicit'][0]:,}, differing by {m['spread']:.2%}; unrolled {m['unrolled'][0]:,} to "
            f"{m['unrolled'][-1]:,}",
        )
        for name, m in r["models"].items()
    ]


def _forgetting(r: dict[str, Any]) -> list[Goal]:
    got = f"{r['test']['accuracy']:.2%}, forgetting {r['test']['forgetting']:.2%}"
    goal = ">= 99.0 %, forgetting < 0.5 %" if r["model"] == "continual" else "(plain fine-tuning, beside it)"
    return [(f"split MNIST, mean over five tasks, `{r['model']}`", goal, got)]


def _jacobian(r: dict[str, Any]) -> list[Goal]:
    c = r["comparison"][0]
    got = (
        f"{c['nfe_saved']:.0%} fewer: {c['nfe_with']:.1f} for {c['nfe_without']:.1f}, "
        f"accuracy {c['accuracy_with']:.2%} and {c['accuracy_without']:.2%}"
    )
    return [("evaluations of `mdeq_tiny` on digits with the Jacobian penalty", "30 % fewer at equal accuracy", got)]


def _spirals(r: dict[str, Any]) -> list[Goal]:
    times = r["times below the gru"]
    got = "; ".join(f"{k} {v['extrapolation']:.2f}x" for k, v in times.items() if k != "gru")
    mse = next(row["extrapolation"]["mse"] for row in r["rows"] if row["model"] == "gru")
    epochs = r["rows"][0]["epochs"]
    what = f"spirals, {r.get('series', 512):,} series, {epochs} epochs: squared error below the GRU's ({mse:.3g})"
    return [(what, ">= 3x", got)]


def _flows(r: dict[str, Any]) -> list[Goal]:
    return [
        (
            f"{name}: flow matching against maximum likelihood, equal field and seconds",
            "within 0.05 nats",
            f"{s['difference']:+.3f} ({s['maximum likelihood']['nll']:.3f} and {s['flow matching']['nll']:.3f})",
        )
        for name, s in r["sets"].items()
    ]


def _physionet(r: dict[str, Any]) -> list[Goal]:
    out = []
    for row in r["rows"]:
        aim = row.get("aim", "mortality")
        key = "auc" if aim == "mortality" else "mse"
        write = metric_info(key).write
        said = row["published"]
        goal = f"(published, other split: {write(said[key])} +- {write(said['deviation'])})" if said else ""
        out.append((f"PhysioNet 2012, {aim}, `{row['model']}`, {metric_info(key).short}", goal, write(row[key])))
    return out


def _chains(r: dict[str, Any]) -> list[Goal]:
    return [
        (f"chains of {row['length']} nodes, `{row['name']}`", "", f"accuracy {row['test_accuracy']:.1%}")
        for row in r["rows"]
    ]


def _learned(r: dict[str, Any]) -> list[Goal]:
    return [
        (
            f"learned solver on `{r['model']}`, to a residual of {tolerance}",
            "fewer evaluations",
            f"{by['learned']['evaluations']:.1f}; anderson {by['anderson']['evaluations']:.1f}, "
            f"broyden {by['broyden']['evaluations']:.1f}",
        )
        for tolerance, by in r["by residual"].items()
    ]


def _hamiltonian(r: dict[str, Any]) -> list[Goal]:
    return [
        (f"energy drift over 500 units of time, {name}", "", f"{run['energy drift, 500 units of time']:.3g}")
        for name, run in r["runs"].items()
    ]


def _annuli(r: dict[str, Any]) -> list[Goal]:
    return [
        (f"nested annuli, {name} neural ODE", "", f"worst error {max(x['error'] for x in found):.2%}")
        for name, found in r["runs"].items()
    ]


def _omniglot(r: dict[str, Any]) -> list[Goal]:
    kinds = [k for k in r["rows"][0] if k.endswith("_shot")]
    return [
        (
            f"Omniglot {kind.replace('_', ' ')}, `{row['model']}`",
            "",
            f"{row[kind]['accuracy']:.2%} +- {row[kind]['interval']:.2%}",
        )
        for row in r["rows"]
        for kind in kinds
    ]


def _finetune(r: dict[str, Any]) -> list[Goal]:
    most = f"more than {r['steps']}"
    got = {k: v or most for k, v in r["steps to the accuracy"].items()}
    what = f"`{r['model']}` on {r['data']}: steps to {r['accuracy']:.0%} validation accuracy from {r['weights']}"
    return [(what, "fewer than from scratch", f"{got['pretrained']}; from scratch {got['scratch']}")]


def _perplexities(r: dict[str, Any]) -> list[Goal]:
    return [
        (f"War and Peace, byte pairs, `{row['label']}`", "", f"perplexity {math.exp(row['values']['score']):.1f}")
        for row in r["rows"]
    ]


def _precision(r: dict[str, Any]) -> list[Goal]:
    out = []
    for name, by in r["models"].items():
        full, half = by["32-true"], by["bf16-mixed"]
        got = f"{half['nfe_forward']:.0f} for {full['nfe_forward']:.0f}"
        got += f", accuracy {half['accuracy']:.2%} for {full['accuracy']:.2%}"
        out.append((f"evaluations of `{name}` in bf16-mixed and in float32", f"at most {r['goal']}x", got))
    return out


def _ranks(r: dict[str, Any]) -> list[Goal]:
    per = {k: v[0]["in_all"] / 1e6 for k, v in r["ranks"].items()}
    what = f"`{r['model']}` on {r['processes']} processes: parameters, gradients and Adam's state of each, MB"
    return [(what, "", ", ".join(f"{k} {v:.1f}" for k, v in per.items()))]


def _steps(r: dict[str, Any]) -> list[Goal]:
    first, last = r["rows"][1], r["rows"][-1]
    what = f"resident memory of `{r['model']}` from step {first['step']} to {last['step']}"
    return [(what, "no growth", f"{last['resident_bytes'] / first['resident_bytes'] - 1:+.2%}")]


def _first_step(r: dict[str, Any]) -> list[Goal]:
    found = r["summary"]["hairer"]
    share, first = 1 - found["zoo's evaluations, mean share"], "first steps rejected"
    text = f"{share:.0%} fewer; {r['summary']['zoo'][first]} first steps rejected for {found[first]}"
    return [(f"evaluations of {r['cases']} adaptive solves, beside Hairer's first step", "fewer", text)]


def _compiled(r: dict[str, Any]) -> list[Goal]:
    return [(f"`--compile`, {x['problem']}", "faster where it pays", f"{x['speedup']:.2f}x") for x in r["rows"]]


GOALS: dict[str, Callable[[dict[str, Any]], list[Goal]]] = {
    "odenet_mnist_mnist": _reached("ODE-Net on mnist", ">= 99.3 %"),
    "hyper_cnn_mnist": _reached("hyper-CNN on mnist (99.24 % published)", ">= 99.1 %"),
    "cnn_mnist": _reached("its plain twin (99.28 % published)", ""),
    "hyper_fewshot_omniglot": _reached("Omniglot 5-way 1-shot, hypernetwork", ">= 97 %"),
    "imaml_head_omniglot": _reached(
        "the same, iMAML of the last layer (99.5 % published for all layers; both of ours see a batch's statistics)",
        ">= 97 %",
    ),
    "omniglot": _omniglot,
    "continual_split_mnist": _forgetting,
    "multihead_split_mnist": _forgetting,
    "memory": _memory,
    "jacobian": _jacobian,
    "learned_solver_mdeq_tiny": _learned,
    "learned_solver_mdeq_tiny_free": _learned,
    "finetune": _finetune,
    "flows": _flows,
    "spirals": _spirals,
    "spirals_300": _spirals,
    "spirals_2048": _spirals,
    "physionet": _physionet,
    "annuli": _annuli,
    "hamiltonian": _hamiltonian,
    "chains": _chains,
    "compare_war_and_peace": _perplexities,
    "precision": _precision,
    "ranks_memory": _ranks,
    "steps_memory": _steps,
    "bench_first_step": _first_step,
    "bench_compile": _compiled,
}


def _test(name: str) -> Callable[[dict[str, dict[str, Any]]], str]:
    """The test's number of a kept run, with the data and the model that it is of."""

    def read(records: dict[str, dict[str, Any]]) -> str:
        r = records[name]
        shown = primary_metric(r)
        value = f"{shown.short} {shown.write(r['test'][shown.key])}"
        return f"{r['data']} [{value}](experiments/results/{name}.json) (`{r['model']}`)"

    return read


def _of(name: str, data: str, read: Callable[[dict[str, Any]], str]) -> Callable[[dict[str, dict[str, Any]]], str]:
    """A number that a record holds in a form of its own."""
    return lambda records: f"{data} [{read(records[name])}](experiments/results/{name}.json)"


def _best(r: dict[str, Any], key: str, aim: str, lower: bool) -> str:
    """The best of the rows of one aim."""
    rows = [row for row in r["rows"] if row.get("aim", "mortality") == aim]
    row = (min if lower else max)(rows, key=lambda row: row[key])
    return f"{metric_info(key).short} {metric_info(key).write(row[key])} ({row['model']})"


def _nodes(r: dict[str, Any]) -> str:
    row = max((row for row in r["rows"] if row["name"].startswith("ignn")), key=lambda row: row["length"])
    return f"acc {row['test_accuracy']:.1%} over {row['length']} edges"


ZOO: list[tuple[str, str, list[Callable[[dict[str, dict[str, Any]]], str]]]] = [  # family, models, what was measured
    (
        "equilibrium: images",
        "`mdeq` (all published sizes), `mdeq_segmentation`, `monotone`, `concave`, `implicit_field`",
        [_test("mdeq_tiny_mnist"), _test("mdeq_tiny_fashion_mnist"), _test("mdeq_segmentation_tiny_shapes")],
    ),
    (
        "equilibrium: text",
        "`deq_transformer` (the published WikiText-103 one too)",
        [_test("deq_transformer_small_tiny_shakespeare")],
    ),
    ("equilibrium: graphs", "`ignn`", [_of("chains", "chains", _nodes)]),
    ("equilibrium: constraints", "`constrained_net`; the layers `QP`, `Projection`, `LeastSquares`", []),
    (
        "neural ODE: images",
        "`odenet`, augmented, second order, heavy ball; `steady`",
        [_test("odenet_mnist_mnist"), _test("odenet_slim_fashion_mnist")],
    ),
    ("neural ODE: densities", "`ffjord`, `rnode`, `flow_matching`", [_test("cnf_flow_matching_two_moons")]),
    (
        "neural ODE: series, motion",
        "`latent_ode`, `ode_rnn`, `neural_cde`; `hamiltonian`",
        [_of("physionet", "PhysioNet, interpolation,", lambda r: _best(r, "mse", "interpolation", True))],
    ),
    (
        "hypernetworks",
        "`hypernet`, `hyper_wrn_40_1`, `hyperlstm`, `hyper_deq`, `hyper_ode`, `continual`",
        [_test("hyper_cnn_mnist"), _test("hyperlstm_small_tiny_shakespeare"), _test("continual_split_mnist")],
    ),
    (
        "meta-learning",
        "`imaml`, `maml`, `fomaml`, `hyper_fewshot`, `prototypes`",
        [_test("hyper_fewshot_omniglot"), _test("imaml_head_omniglot")],
    ),
    (
        "explicit twins",
        "`resnet_tiny`, `timm:NAME`, `cnn`, `wrn_40_1`, `transformer`, `lstm`, `gru`, `gcn`, `penalty_net`",
        [_test("resnet_tiny_mnist"), _test("lstm_small_tiny_shakespeare")],
    ),
]


def zoo(records: dict[str, dict[str, Any]]) -> str:
    """The families, their models, and the numbers that were measured here."""
    rows = [[family, models, "<br>".join(read(records) for read in reads)] for family, models, reads in ZOO]
    return table(["family", "models", "measured here, on the test set"], rows)


def linear_solves(records: dict[str, dict[str, Any]]) -> str:
    """Evaluations of a linear equilibrium, by the size of its map."""
    found = records["theory"]["linear"]["rows"]
    solvers = list(dict.fromkeys(r["solver"] for r in found))
    rows = []
    for kind in dict.fromkeys(r["kind"] for r in found):
        by = {r["solver"]: r for r in found if r["kind"] == kind}
        cells = [str(by[s]["evaluations"]) if by[s]["converged"] == 1 else "diverges" for s in solvers]
        shown = kind.replace("|", "\\|")
        rows.append([f"`{shown}`", f"{by[solvers[0]]['norm']:.2f}", f"{by[solvers[0]]['radius']:.2f}", *cells])
    return table(["map", "norm", "spectral radius", *(f"`{s}`" for s in solvers)], rows)


def adjoint_costs(records: dict[str, dict[str, Any]]) -> str:
    """What an adjoint of a fixed point costs and how far its gradient is from the exact one."""
    theory_ = records["theory"]
    at = [theory_["gradients"]["tolerances"].index(t) for t in (1e-2, 1e-4, 1e-6)]
    ways = {"implicit": "implicit", "unroll": "unrolled", "phantom": "phantom", "jfb": "jfb"}
    rows = []
    for name, found in theory_["gradients"]["fixed_point"].items():
        way = f"DEQ, {ways.get(name)}"
        held = theory_["memory"]["ways"].get(way, {}).get("bytes", [None])[-1]
        took = theory_["timing"]["ways"].get(way, {}).get("ms", [None])[-1]
        cells = [f"{found[i]['error']:.0e}" for i in at] + [number(found[at[1]].get("nfe_backward"), "{:.0f}")]
        rows.append([f"`{name}`", *cells, number(None if held is None else held / 1024, "{:.0f}"), number(took)])
    head = ["adjoint", *(f"error at rtol {theory_['gradients']['tolerances'][i]:.0e}" for i in at)]
    return table([*head, "products backward, at 1e-04", "KiB kept, 64 iterations", "ms a step, 64 iterations"], rows)


def ode_adjoint_costs(records: dict[str, dict[str, Any]]) -> str:
    """Gradient errors and evaluations of the ODE adjoints."""
    rows = [
        [
            f"`{r['solver']}`",
            f"`{r['adjoint']}`",
            r["setting"],
            f"{r['dweights']:.0e}",
            f"{r['nfe']}",
            f"{r['nfe_backward']}",
            number(r["ms"], "{:.0f}"),
        ]
        for r in records["ode_gradients"]["rows"]
        if "dweights" in r
        and r["setting"].startswith("tol")
        and r["solver"] in ("dopri5", "tsit5", "dopri8", "torchdiffeq:dopri5")
    ]
    head = ["solver", "adjoint", "setting", "error of the weights' gradient", "evaluations", "backward", "ms"]
    return table(head, rows)


TABLES: dict[str, Callable[[dict[str, dict[str, Any]]], str]] = {
    "zoo": zoo,
    "digits": compared("compare_digits"),
    "fashion_mnist": compared("compare_fashion_mnist"),
    "fashion_mnist_50m": compared("compare_fashion_mnist_50m"),
    "text": compared("compare_tiny_shakespeare"),
    "bpe": compared("compare_war_and_peace"),
    "theory": theory,
    "runs": runs,
    "goals": goals,
    "speed": speed,
    "products": products,
    "ode": ode_speed,
    "odenet": odenet_speed,
    "hypernet": hyper_speed,
    "linear_solves": linear_solves,
    "adjoint_costs": adjoint_costs,
    "ode_adjoint_costs": ode_adjoint_costs,
}
FILES = {ROOT / "README.md": {"zoo": zoo}}


def fill(file: Path) -> str:
    """A file's text with its tables made anew, each between its markers."""
    records, text = load(), file.read_text(encoding="utf-8")
    for name, make in FILES[file].items():
        start, end = f"<!-- {name}: experiments/summary.py -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(start)
        _, found, after = rest.partition(end)
        if not found:
            raise ValueError(f"{file.name} lacks the markers {start} ... {end}")
        text = f"{before}{start}\n{make(records)}\n{end}{after}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into the files")
    if parser.parse_args().write:
        for file in FILES:
            file.write_text(fill(file), encoding="utf-8")
    else:
        records = load()
        print("\n\n".join(make(records) for make in TABLES.values()))


if __name__ == "__main__":
    main()
