"""Intervals, paired tests, the Pareto front and LaTeX, against numbers that are known."""

from __future__ import annotations

import pytest
from scipy import stats

from zoo.compare.rows import LOADED
from zoo.compare.significance import escaped, findings, front, holm, interval, lines, paired, scores_of, to_latex


def row(name, scores, cost=1.0, seeds=None, **more):
    mean = sum(scores) / len(scores)
    return {"label": name, "metric": "accuracy", "seeds": list(seeds or range(len(scores))), "scores": scores,
            "values": {"score": mean, "flops_forward": cost, "parameters": 1000}, "reasons": {}, **more}  # fmt: skip


def test_an_interval_is_students():
    scores = [0.91, 0.93, 0.92, 0.95]
    low, high = stats.t.interval(0.95, 3, loc=0, scale=stats.sem(scores))
    assert interval(scores) == pytest.approx((high - low) / 2)
    assert interval([0.9]) is None and interval([]) is None


def test_models_are_compared_over_the_seeds_that_both_have():
    one, other = row("a", [0.90, 0.92, 0.99], seeds=[0, 1, 7]), row("b", [0.80, 0.85, 0.1], seeds=[0, 1, 2])
    assert paired(one, other) == pytest.approx(stats.ttest_rel([0.90, 0.92], [0.80, 0.85]).pvalue)
    assert paired(row("a", [0.9]), other) is None
    assert paired(row("a", [0.9, 0.8]), row("b", [0.9, 0.8])) == 1.0
    assert paired(row("a", [0.75, 0.5]), row("b", [0.5, 0.25])) == 0.0
    assert scores_of(row("w", [0.9, 0.9], reasons={"seconds": LOADED})) == {}
    assert scores_of(row("n", [0.9, float("nan")])) == {0: 0.9}


def test_holm_never_lowers_a_p_value_and_keeps_their_order():
    raw = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.9}
    found = holm(raw)
    assert all(found[k] >= raw[k] for k in raw) and list(found) == ["a", "c", "b", "d"]
    assert found["a"] == pytest.approx(0.04) and found["d"] == 0.9 and holm({}) == {}


def test_the_front_holds_what_nobody_beats():
    rows = [row("cheap", [0.8, 0.8], 1.0), row("best", [0.9, 0.9], 5.0), row("beaten", [0.8, 0.8], 2.0),
            row("twin", [0.9, 0.9], 5.0)]  # fmt: skip
    assert front(rows) == ("flops_forward", {"cheap", "best", "twin"})
    less = [{**r, "metric": "mse"} for r in rows]  # of an error less is better
    assert front(less)[1] == {"cheap"}
    assert front([]) == ("", set())


def test_findings_and_their_tables():
    rows = [row("m_a", [0.90, 0.91, 0.92]), row("b", [0.80, 0.83, 0.81], 2.0), row("c", [0.7], 3.0)]
    found = {f["label"]: f for f in findings(rows)}
    assert found["m_a"]["best"] and found["m_a"]["p"] is None and found["m_a"]["pareto"]
    assert 0 < found["b"]["p"] < 0.05 and not found["b"]["pareto"] and found["c"]["p"] is None
    head, body = lines(list(found.values()), "accuracy")
    assert len(head) == len(body[0]) and body[0][3] == "the best" and body[2][2] == ""
    text = to_latex(rows)
    assert r"m\_a$^\dagger$ & $\mathbf{91.00} \pm" in text and text.count(r"\\") == 4
    assert to_latex([]).startswith("%") and escaped("a_b & c\\") == r"a\_b \& c\textbackslash{}"
