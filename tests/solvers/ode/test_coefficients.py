"""Every number of the one-step methods, by what it must satisfy: tables, controller, orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from zoo.solve import odeint
from zoo.solvers import SOLVERS
from zoo.solvers.ode import tableaus
from zoo.solvers.ode.one_step import Controller
from zoo.solvers.ode.runge_kutta import Bosh3, Dopri5, Euler, Heun
from zoo.solvers.ode.tableaus import Tableau

TABLEAUS = {t.name: t for t in vars(tableaus).values() if isinstance(t, Tableau)}
EXACT = 2e-14  # the rows' entries are below 20: a wrong last digit of any fraction changes a sum by 1e-10 at least


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_rows_sum_to_their_times_and_the_weights_to_one(name):
    t = TABLEAUS[name]
    assert len(t.a) == len(t.c) == len(t.b) - 1
    for row, time, number in zip(t.a, t.c, itertools.count(1), strict=False):
        assert len(row) == number
        assert math.fsum(row) == pytest.approx(time, abs=EXACT)
    assert math.fsum(t.b) == pytest.approx(1, abs=EXACT)
    assert math.fsum(t.e or ()) == pytest.approx(0, abs=EXACT)
    assert math.fsum(t.dense_coeff or ()) == pytest.approx(0, abs=1e-12)  # a constant field has no quartic term


@pytest.mark.parametrize("name", TABLEAUS)
def test_the_weights_integrate_powers_of_time(name):
    t = TABLEAUS[name]
    c = np.array([0.0, *t.c])
    for q in range(t.order):
        assert np.dot(t.b, c**q) == pytest.approx(1 / (q + 1), abs=1e-13)
    if t.e:  # of one order less: exact for powers below it, and not for the next
        lower = np.array(t.b) - np.array(t.e)
        for q in range(t.order - 1):
            assert np.dot(lower, c**q) == pytest.approx(1 / (q + 1), abs=1e-13)
        assert any(abs(np.dot(lower, c**q) - 1 / (q + 1)) > 1e-6 for q in (t.order - 1, t.order))


@pytest.mark.parametrize("name", TABLEAUS)
def test_sparse_terms_and_the_error_constant_follow_from_the_tables(name):
    t = TABLEAUS[name]
    n = len(t.b)
    a = np.zeros((n, n))
    for i, row in enumerate(t.a, 1):
        a[i, : len(row)] = row
    for i, terms in enumerate(t.stages, 1):
        assert dict(terms) == {j: w for j, w in enumerate(a[i]) if w}
    for terms, row in ((t.solution, t.b), (t.error, t.e or ()), (t.quartic, t.dense_coeff or ())):
        assert dict(terms) == {j: w for j, w in enumerate(row) if w}
    constant = abs(np.array(t.e or [0.0] * n) @ np.linalg.matrix_power(a, t.order - 1) @ np.ones(n))
    assert t.error_constant == pytest.approx(constant, rel=1e-12)
    assert t.fsal is (name in ("bosh3", "dopri5", "tsit5"))
    method = next(m for m in (SOLVERS[n] for n in SOLVERS.names(kind="ode")) if getattr(m, "tableau", None) is t)
    assert (method.order, method.fsal, method.embedded) == (t.order, t.fsal, t.e is not None)
    assert method.error_constant == t.error_constant


def test_error_constants_known_by_hand():
    assert TABLEAUS["heun"].error_constant == 0.5  # dt/2 (k2 - k1) = dt^2/2 L f
    assert TABLEAUS["euler"].error_constant == 0


@pytest.mark.parametrize("options", [{}, {"p": 0.4, "i": 0.3}, {"p": 0.2, "i": 0.25, "d": 0.1, "safety": 0.8}])
@pytest.mark.parametrize("order", [1, 2, 5])
def test_the_controller_is_its_formula(options, order):
    c = Controller(**options)
    p, i, d, safety = (options.get(k, v) for k, v in (("p", 0.0), ("i", 1.0), ("d", 0.0), ("safety", 0.9)))
    ratios = list(itertools.product((0.3, 0.9, 1.7), (0.5, 1.3), (0.7, 2.0)))
    for r, r1, r2 in ratios:
        expected = safety * r ** (-(p + i + d) / order) * r1 ** ((p + 2 * d) / order) * r2 ** (-d / order)
        assert 0.2 < expected < 10
        assert c(order, (r, r1, r2)) == pytest.approx(expected, rel=1e-12)
    arrays = c(order, tuple(np.array(x) for x in zip(*ratios, strict=True)))
    assert arrays.tolist() == pytest.approx([c(order, r) for r in ratios], rel=1e-12)


def test_the_controller_bounds_every_change():
    c = Controller()
    hard = [(1e9, 0.2), (math.inf, 0.2), (math.nan, 0.2), (0.0, 10.0), (1e-12, 10.0), (1e-3, 10.0)]
    for r, factor in hard:
        assert c(1, (r, 1.0, 1.0)) == factor
        assert c(1, (np.array([r]), np.ones(1), np.ones(1))).tolist() == [factor]
    # a ratio of next to nothing counts as 1e-10: with order 10, 0.9 * 1e10^(1/10) is below the bound of 10
    assert c(10, (0.0, 1.0, 1.0)) == pytest.approx(9.0)
    assert c(10, (np.zeros(1), np.ones(1), np.ones(1)))[0] == pytest.approx(9.0)
    wide = Controller(shrink=0.01, grow=50.0)
    assert wide(1, (1e9, 1.0, 1.0)) == 0.01 and wide(1, (0.0, 1.0, 1.0)) == 50.0


def test_fixed_steps_are_counted_by_the_interval():
    assert Euler().substeps(1.0, 1.0) == 32 and Euler().substeps(0.5, 1.0) == 16
    assert Euler(steps=10).substeps(1.0, 1.0) == 10 and Euler(steps=10).substeps(0.25, 1.0) == 3
    assert Euler(step_size=0.1).substeps(1.0, 1.0) == 10 and Euler(step_size=0.3).substeps(1.0, 1.0) == 4
    assert Euler(step_size=5.0).substeps(1.0, 1.0) == 1
    assert Euler(step_size=0.1).substeps(0.1 + 5e-11, 1.0) == 1  # rounding of the clock is no step of its own
    assert Euler(step_size=0.1).substeps(0.1 + 2e-10, 1.0) == 2
    for method, options, adaptive in (
        (Heun, {}, True), (Heun, {"steps": 3}, False), (Heun, {"step_size": 0.1}, False), (Euler, {}, False),
    ):  # fmt: skip
        assert method(**options).adaptive is adaptive


@pytest.mark.parametrize("option", ["steps", "step_size", "first_step"])
def test_a_length_that_is_not_positive_is_refused(option):
    for value in (0, -1):
        with pytest.raises(ValueError, match=option):
            Dopri5(**{option: value})
    assert getattr(Dopri5(**{option: 1}), option) == 1
    small = getattr(Dopri5(**{option: 0.5}), option)
    assert small == 0.5


def test_options_that_exclude_each_other():
    with pytest.raises(ValueError, match="both"):
        Dopri5(steps=3, step_size=0.1)
    with pytest.raises(ValueError, match="norm"):
        Dopri5(norm="median")
    for options in ({"steps": 3}, {"step_size": 0.1}):
        with pytest.raises(ValueError, match="per_sample"):
            Dopri5(per_sample=True, **options)
    with pytest.raises(ValueError, match="per_sample"):
        Euler(per_sample=True)
    assert Dopri5(per_sample=True).adaptive and Dopri5(norm="mean").norm == "mean"
    assert Dopri5(controller={"safety": 0.5}).controller == Controller(safety=0.5)


@pytest.mark.parametrize("method", [Heun, Bosh3, Dopri5])
def test_tolerances_are_checked_one_by_one(method):
    for options in ({"rtol": -1e-3}, {"atol": -1e-3}, {"rtol": 0.0, "atol": 0.0}, {"max_steps": 0}):
        with pytest.raises(ValueError):
            method(**options)
    for options in ({"rtol": 0.0}, {"atol": 0.0}, {"rtol": 1e-3, "atol": 0.0}, {"max_steps": 1}):
        method(**options)


ORDERS = {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "adaptive_heun": 2, "fehlberg2": 2, "bosh3": 3, "rk4": 4,
          "dopri5": 5, "tsit5": 5, "dopri8": 8, "implicit_euler": 1, "implicit_midpoint": 2,
          "trapezoid": 2}  # fmt: skip


def test_every_method_declares_its_order():
    for name in SOLVERS.names(kind="ode"):
        plain = name.partition(":")[2] or name
        expected = {"heun": 2, "leapfrog": 2, "yoshida4": 4, **ORDERS}.get(plain, 1)
        assert SOLVERS[name].order == expected, name


@pytest.mark.parametrize("name", ["heun", "bosh3", "dopri5", "tsit5", "dopri8"])
def test_one_step_tells_its_error_by_the_table(name):
    t = SOLVERS[name].tableau
    dt, rate = 0.1, -1.3
    k = np.zeros(len(t.b))
    for i in range(len(t.b)):
        row = t.a[i - 1] if i else ()
        k[i] = rate * (1 + dt * np.dot(row, k[: len(row)]))
    y1 = 1 + dt * np.dot(t.b, k)
    error = dt * np.dot(t.e, k)
    y0 = torch.ones(1, 1, dtype=torch.float64)
    for per_sample in (False, True):
        solver = {"name": name, "first_step": dt, "rtol": 1e-1, "atol": 1e-2, "per_sample": per_sample}
        stats = (s := odeint(lambda t, y: rate * y, y0, [0.0, dt], solver)).stats
        assert s.value[-1].item() == pytest.approx(y1, rel=1e-14)
        assert stats.trace.shape == (1, 1) and stats.accepted.tolist() == [1] and stats.rejected.tolist() == [0]
        assert stats.trace[0, 0].item() == pytest.approx(abs(error) / (1e-2 + 1e-1 * 1.0), rel=1e-6, abs=1e-13)
        assert stats.residual.tolist() == stats.trace[0].tolist()
        assert stats.last_dt.item() == pytest.approx(dt) and stats.steps.tolist() == [1]
