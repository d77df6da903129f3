"""What the seeds of a comparison allow to say: intervals, paired tests, the Pareto front, and a table for a paper.

With ``n`` seeds of mean ``m`` and standard deviation ``s`` the 95 % interval is ``m +- t_{0.975, n-1} s / sqrt(n)``
(Student). Two models are compared over the seeds that both have, by ``t = mean(d) / (std(d) / sqrt(n))`` of their
differences ``d``; of several comparisons with the best model the p-values are Holm's, so that the chance of one false
alarm among them stays 5 %. Three seeds tell large differences only.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from scipy import stats

from zoo.compare.rows import LOADED
from zoo.compare.table import label
from zoo.tasks.metrics import metric_info

Row = Mapping[str, Any]
COSTS = ("flops_forward", "latency_ms", "parameters")  # the first that every model has bounds the front
SPECIAL = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
}


def interval(scores: Sequence[float], level: float = 0.95) -> float | None:
    """Return half the width of the confidence interval of a mean; None for fewer than two numbers.

    >>> round(interval([0.90, 0.92, 0.94]), 4)
    0.0497
    """
    if len(scores) < 2:
        return None
    t = float(stats.t.ppf(0.5 + level / 2, len(scores) - 1))
    return t * statistics.stdev(scores) / math.sqrt(len(scores))


def scores_of(row: Row) -> dict[int, float]:
    """The finite scores of a model by their seeds; empty where its weights were loaded, the same for every seed."""
    if row["reasons"].get("seconds") == LOADED:
        return {}
    pairs = zip(row["seeds"], row["scores"], strict=True)
    return {seed: s for seed, s in pairs if isinstance(s, int | float) and math.isfinite(s)}


def paired(one: Row, other: Row) -> float | None:
    """Return the p-value of a paired t-test over the seeds that two models share; None for fewer than two of them.

    Differences that are all alike have no deviation: p is 1 where they are 0, else 0.
    """
    a, b = scores_of(one), scores_of(other)
    common = sorted(set(a) & set(b))
    if len(common) < 2:
        return None
    apart = [a[s] - b[s] for s in common]
    if max(apart) - min(apart) <= 1e-12:
        return 1.0 if abs(apart[0]) <= 1e-12 else 0.0
    return float(stats.ttest_rel([a[s] for s in common], [b[s] for s in common]).pvalue)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    out, most = {}, 0.0
    for rank, (name, value) in enumerate(sorted(p.items(), key=lambda item: item[1])):
        most = max(most, min(1.0, (len(p) - rank) * value))
        out[name] = round(most, 12)
    return out


def front(rows: Sequence[Row]) -> tuple[str, set[str]]:
    """Return the cost, and the labels of the models that no other beats in both score and cost; a tie beats nobody."""
    have = [r for r in rows if "score" in r["values"]]
    cost = next((c for c in COSTS if have and all(c in r["values"] for r in have)), "")
    if not cost:
        return "", set()
    sign = 1 if metric_info(have[0]["metric"]).larger else -1
    points = {label(r): (sign * r["values"]["score"], -r["values"][cost]) for r in have}
    beaten = {
        name
        for name, p in points.items()
        if any(q != p and all(x >= y for x, y in zip(q, p, strict=True)) for q in points.values())
    }
    return cost, set(points) - beaten


def findings(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each model its score with interval, whether it is on the Pareto front, and how it compares with the best.

    ``p`` is Holm's adjusted p-value of the paired test with the best model; None for the best itself, and where fewer
    than two seeds are shared.
    """
    have = [r for r in rows if "score" in r["values"]]
    if not have:
        return []
    larger = metric_info(have[0]["metric"]).larger
    best = (max if larger else min)(have, key=lambda r: r["values"]["score"])
    raw = {label(r): p for r in have if r is not best and (p := paired(r, best)) is not None}
    adjusted = holm(raw)
    cost, on = front(have)
    return [
        {
            "label": label(r),
            "score": r["values"]["score"],
            "interval": interval(list(scores_of(r).values())),
            "seeds": len(scores_of(r)) or len(r["seeds"]),
            "best": r is best,
            "p": adjusted.get(label(r)),
            "pareto": label(r) in on,
            "cost": cost,
        }
        for r in have
    ]


def lines(found: Sequence[Mapping[str, Any]], metric: str) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the findings as a table of words."""
    scale = metric_info(metric).scale
    head = ["", f"test {metric}", "95 % interval", "p against the best", "Pareto front"]
    body = []
    for f in found:
        width = "" if f["interval"] is None else f"+- {scale * f['interval']:.2g}"
        p = "the best" if f["best"] else "" if f["p"] is None else f"{f['p']:.3f}" if f["p"] >= 0.001 else "< 0.001"
        body.append([f["label"], f"{scale * f['score']:.4g}", width, p, "yes" if f["pareto"] else ""])
    return head, body


def to_latex(rows: Sequence[Row]) -> str:
    """A table for a paper, with booktabs: scores with 95 % intervals, the best in bold, the Pareto front marked."""
    found = {f["label"]: f for f in findings(rows)}
    if not found:
        return "% nothing was measured\n"
    metric = next(r["metric"] for r in rows if label(r) in found)
    scale, name = metric_info(metric).scale, escaped(metric_info(metric).name)
    out = [r"\begin{tabular}{lrrrr}", r"\toprule"]
    out += [rf"model & {name} & parameters & inference (ms) & training (s) \\", r"\midrule"]
    for row in (r for r in rows if label(r) in found):
        f, values = found[label(row)], row["values"]
        score = f"{scale * f['score']:.2f}"
        score = rf"\mathbf{{{score}}}" if f["best"] else score
        score += rf" \pm {scale * f['interval']:.2f}" if f["interval"] is not None else ""
        cells = [escaped(f["label"]) + (r"$^\dagger$" if f["pareto"] else ""), f"${score}$"]
        for key, form in (("parameters", ",.0f"), ("latency_ms", ".2f"), ("seconds", ".0f")):
            cells.append(f"{values[key]:{form}}" if key in values else "--")
        out.append(f"{' & '.join(cells)} \\\\")
    cost = next(iter(found.values()))["cost"]
    note = f" {escaped(cost)}: no model is better in both." if cost else ""
    out += [
        r"\bottomrule",
        r"\end{tabular}",
        f"% $\\pm$: 95 % interval over seeds (Student). $^\\dagger$: Pareto front,{note}",
    ]
    return "\n".join(out) + "\n"


def escaped(text: str) -> str:
    """A text without what LaTeX reads as commands.

    >>> print(escaped("mdeq_tiny 50%"))
    mdeq\\_tiny 50\\%
    """
    return "".join(SPECIAL.get(c, c) for c in text)
