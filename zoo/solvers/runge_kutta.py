"""Explicit Runge-Kutta methods: tableaus as data, and one stepper for all of them.

A method of ``S`` stages goes from ``y`` at ``t`` to ``y_next`` at ``t + dt`` by

    k_i = f(t + c_i dt, y + dt sum_{j<i} a_ij k_j),    y_next = y + dt sum_i b_i k_i,    error = dt sum_i e_i k_i

where ``e`` is ``b`` less the weights of an embedded method of lower order. Stages stay separate contiguous tensors and
are summed by ``add_(k, alpha=a dt)`` with ``a dt`` a Python float: such a sum saves nothing for the backward pass, so
that a discrete gradient keeps what ``f`` keeps, and nothing of the method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from zoo.solvers.ode import Attempt, Field, Norm, Problem, Step, VectorField, scaled, tolerance
from zoo.solvers.one_step import OneStep


Terms = tuple[tuple[int, float], ...]  # (stage, weight), zeros left out


@dataclass(frozen=True)
class Tableau:
    """The coefficients of an explicit method.

    Args:
        order: of ``y_next``; the error estimate is of one order less.
        c: times of the stages 2..S, as shares of the step.
        a: their rows; the first stage is ``k_1 = f(t, y)``. Where the last row is ``b``, the method is "first same as
            last": its last stage is the first of the next step.
        b: weights of the solution.
        e: weights of the error estimate; None where the method has none.
        bend: weights of the quartic term of the dense output; None: the dense output is a cubic.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] | None = None
    bend: tuple[float, ...] | None = None

    @property
    def fsal(self) -> bool:
        return bool(self.a) and self.b == (*self.a[-1], 0.0)

    @cached_property
    def stages(self) -> tuple[Terms, ...]:
        return tuple(_terms(row) for row in self.a)

    @cached_property
    def solution(self) -> Terms:
        return _terms(self.b)

    @cached_property
    def error(self) -> Terms:
        return _terms(self.e or ())

    @cached_property
    def quartic(self) -> Terms:
        return _terms(self.bend or ())


def _terms(row: tuple[float, ...]) -> Terms:
    return tuple((i, w) for i, w in enumerate(row) if w)


def combine(y: Tensor, dt: float | Tensor, terms: Terms, ks: list[Tensor]) -> Tensor:
    """``y + dt sum_i w_i k_i`` in one fresh tensor."""
    if dt.__class__ is not float:
        return y + weighted(1.0, terms, ks) * dt
    i, w = terms[0]
    out = torch.add(y, ks[i], alpha=w * dt)
    for i, w in terms[1:]:
        out.add_(ks[i], alpha=w * dt)
    return out


def weighted(dt: float | Tensor, terms: Terms, ks: list[Tensor]) -> Tensor:
    """``dt sum_i w_i k_i`` in one fresh tensor."""
    if dt.__class__ is not float:
        return weighted(1.0, terms, ks) * dt
    i, w = terms[0]
    out = ks[i] * (w * dt)
    for i, w in terms[1:]:
        out.add_(ks[i], alpha=w * dt)
    return out


@dataclass(frozen=True, kw_only=True)
class RungeKutta(OneStep):
    """The stepper of every tableau.

    Args:
        compile: run each step, field and error estimate included, as one function of ``torch.compile`` under the
            Python clock: adaptive steps, and nothing left to call one by one. Pays for small fields that are solved
            thousands of times (``experiments/results/bench_ode.json``); the first call takes seconds to a minute. Off
            by default, as it cannot be known beforehand. Second derivatives and side effects of ``f`` need it off.
    """

    compile: bool = False

    tableau: ClassVar[Tableau]

    def __init_subclass__(cls) -> None:
        if "tableau" in cls.__dict__:
            cls.order, cls.fsal, cls.embedded = cls.tableau.order, cls.tableau.fsal, cls.tableau.e is not None

    def stepper(self, problem: Problem, norm: Norm) -> Step:
        field, y0 = problem.field, problem.y0
        rtol, atol = tolerance(self, y0)
        tableau, adaptive = self.tableau, self.adaptive
        shares = torch.tensor(tableau.c, dtype=y0.dtype, device=y0.device)

        def step(t: float | Tensor, dt: float | Tensor, y: Tensor, k: Tensor, bend: bool) -> Attempt:
            if dt.__class__ is float:
                times = (shares * dt).add_(t).unbind() if tableau.c else ()
            else:
                times = tuple(torch.add(t, dt, alpha=c) for c in tableau.c)
            return attempt(tableau, adaptive, rtol, atol, norm, field, times, dt, y, k, bend)

        if not self.compile:
            return step
        from zoo.solvers.compiled import compiled_stepper

        return compiled_stepper(self, problem, norm, step)


def attempt(
    tableau: Tableau,
    adaptive: bool,
    rtol: float,
    atol: float,
    norm: Norm,
    field: Field | VectorField,
    times: tuple[Tensor, ...],
    dt: float | Tensor,
    y: Tensor,
    k: Tensor,
    bend: bool,
) -> Attempt:
    """One step of a tableau, with its error over tolerance."""
    ks = [k]
    z = y
    for time, terms in zip(times, tableau.stages, strict=True):
        z = combine(y, dt, terms, ks)
        ks.append(field(time, z))
    y1 = z if tableau.fsal else combine(y, dt, tableau.solution, ks)
    ratio = None
    if adaptive:
        with torch.no_grad():
            ratio = norm(scaled(weighted(dt, tableau.error, ks), y, y1, rtol, atol))
    quartic = weighted(dt, tableau.quartic, ks) if bend and tableau.bend else None
    return Attempt(y1, ks[-1] if tableau.fsal else None, ratio, quartic)


EULER = Tableau("euler", 1, (), (), (1.0,))
MIDPOINT = Tableau("midpoint", 2, (1 / 2,), ((1 / 2,),), (0.0, 1.0))
HEUN = Tableau("heun", 2, (1.0,), ((1.0,),), (1 / 2, 1 / 2), e=(-1 / 2, 1 / 2))
BOSH3 = Tableau(
    "bosh3",
    3,
    (1 / 2, 3 / 4, 1.0),
    ((1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    (2 / 9, 1 / 3, 4 / 9, 0.0),
    e=(2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8),
)
RK4 = Tableau("rk4", 4, (1 / 2, 1 / 2, 1.0), ((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6))
DOPRI5 = Tableau(
    "dopri5",
    5,
    (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    (
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0.0),
    e=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    bend=(
        -12715105075 / 11282082432,
        0.0,
        87487479700 / 32700410799,
        -10690763975 / 1880347072,
        701980252875 / 199316789632,
        -1453857185 / 822651844,
        69997945 / 29380423,
    ),
)
TSIT5 = Tableau(
    "tsit5",
    5,
    (0.161, 0.327, 0.9, 0.9800255409045097, 1.0, 1.0),
    (
        (0.161,),
        (-0.008480655492356989, 0.335480655492357),
        (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
        (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
        (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
        (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774),
    ),
    (0.09646076681806523, 0.01, 0.4798896504144996, 1.379008574103742, -3.290069515436081, 2.324710524099774, 0.0),
    e=(
        -0.00178001105222577714,
        -0.0008164344596567469,
        0.007880878010261995,
        -0.1447110071732629,
        0.5823571654525552,
        -0.45808210592918697,
        1 / 66,
    ),
    bend=(
        -1.0530884977290216,
        0.1017,
        2.490627285651252793,
        -16.54810288924490272,
        47.37952196281928122,
        -34.87065786149660974,
        2.5,
    ),
)
_B8 = (
    14005451 / 335480064,
    0.0,
    0.0,
    0.0,
    0.0,
    -59238493 / 1068277825,
    181606767 / 758867731,
    561292985 / 797845732,
    -1041891430 / 1371343529,
    760417239 / 1151165299,
    118820643 / 751138087,
    -528747749 / 2220607170,
    1 / 4,
)
_B7 = (
    13451932 / 455176623,
    0.0,
    0.0,
    0.0,
    0.0,
    -808719846 / 976000145,
    1757004468 / 5645159321,
    656045339 / 265891186,
    -3867574721 / 1518517206,
    465885868 / 322736535,
    53011238 / 667516719,
    2 / 45,
    0.0,
)
DOPRI8 = Tableau(
    "dopri8",
    8,
    (
        1 / 18,
        1 / 12,
        1 / 8,
        5 / 16,
        3 / 8,
        59 / 400,
        93 / 200,
        5490023248 / 9719169821,
        13 / 20,
        1201146811 / 1299019798,
        1.0,
        1.0,
    ),
    (
        (1 / 18,),
        (1 / 48, 1 / 16),
        (1 / 32, 0.0, 3 / 32),
        (5 / 16, 0.0, -75 / 64, 75 / 64),
        (3 / 80, 0.0, 0.0, 3 / 16, 3 / 20),
        (
            29443841 / 614563906,
            0.0,
            0.0,
            77736538 / 692538347,
            -28693883 / 1125000000,
            23124283 / 1800000000,
        ),
        (
            16016141 / 946692911,
            0.0,
            0.0,
            61564180 / 158732637,
            22789713 / 633445777,
            545815736 / 2771057229,
            -180193667 / 1043307555,
        ),
        (
            39632708 / 573591083,
            0.0,
            0.0,
            -433636366 / 683701615,
            -421739975 / 2616292301,
            100302831 / 723423059,
            790204164 / 839813087,
            800635310 / 3783071287,
        ),
        (
            246121993 / 1340847787,
            0.0,
            0.0,
            -37695042795 / 15268766246,
            -309121744 / 1061227803,
            -12992083 / 490766935,
            6005943493 / 2108947869,
            393006217 / 1396673457,
            123872331 / 1001029789,
        ),
        (
            -1028468189 / 846180014,
            0.0,
            0.0,
            8478235783 / 508512852,
            1311729495 / 1432422823,
            -10304129995 / 1701304382,
            -48777925059 / 3047939560,
            15336726248 / 1032824649,
            -45442868181 / 3398467696,
            3065993473 / 597172653,
        ),
        (
            185892177 / 718116043,
            0.0,
            0.0,
            -3185094517 / 667107341,
            -477755414 / 1098053517,
            -703635378 / 230739211,
            5731566787 / 1027545527,
            5232866602 / 850066563,
            -4093664535 / 808688257,
            3962137247 / 1805957418,
            65686358 / 487910083,
        ),
        (
            403863854 / 491063109,
            0.0,
            0.0,
            -5068492393 / 434740067,
            -411421997 / 543043805,
            652783627 / 914296604,
            11173962825 / 925320556,
            -13158990841 / 6184727034,
            3936647629 / 1978049680,
            -160528059 / 685178525,
            248638103 / 1413531060,
            0.0,
        ),
    ),
    _B8,
    e=tuple(b8 - b7 for b8, b7 in zip(_B8, _B7, strict=True)),
)


@dataclass(frozen=True, kw_only=True)
class Euler(RungeKutta):
    """Explicit Euler, order 1, fixed steps: a residual network of shared weights."""

    tableau: ClassVar[Tableau] = EULER


@dataclass(frozen=True, kw_only=True)
class Midpoint(RungeKutta):
    """Explicit midpoint rule, order 2, fixed steps."""

    tableau: ClassVar[Tableau] = MIDPOINT


@dataclass(frozen=True, kw_only=True)
class Heun(RungeKutta):
    """Heun's method, order 2, with Euler embedded. Cheap steps for loose tolerances, often the best in training."""

    tableau: ClassVar[Tableau] = HEUN


@dataclass(frozen=True, kw_only=True)
class Bosh3(RungeKutta):
    """Bogacki-Shampine 3(2), 3 evaluations a step.

    Reference: Bogacki, Shampine, "A 3(2) pair of Runge-Kutta formulas", Appl. Math. Letters 2(4), 1989.
    """

    tableau: ClassVar[Tableau] = BOSH3


@dataclass(frozen=True, kw_only=True)
class RK4(RungeKutta):
    """The classical method of order 4, fixed steps: accurate and of known cost where the field is smooth."""

    tableau: ClassVar[Tableau] = RK4


@dataclass(frozen=True, kw_only=True)
class Dopri5(RungeKutta):
    """Dormand-Prince 5(4), 6 evaluations a step. The default: what others are compared with.

    Reference: Dormand, Prince, "A family of embedded Runge-Kutta formulae", J. Comp. Appl. Math. 6(1), 1980.
    """

    tableau: ClassVar[Tableau] = DOPRI5


@dataclass(frozen=True, kw_only=True)
class Tsit5(RungeKutta):
    """Tsitouras 5(4), 6 evaluations a step, with smaller error constants than Dormand-Prince.

    Reference: Tsitouras, "Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying assumption",
    Computers and Mathematics with Applications 62(2), 2011.
    """

    tableau: ClassVar[Tableau] = TSIT5


@dataclass(frozen=True, kw_only=True)
class Dopri8(RungeKutta):
    """Dormand-Prince 8(7), 13 evaluations a step: for tolerances below about 1e-7.

    Reference: Prince, Dormand, "High order embedded Runge-Kutta formulae", J. Comp. Appl. Math. 7(1), 1981.
    """

    tableau: ClassVar[Tableau] = DOPRI8
