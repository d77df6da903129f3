"""Coefficients of the explicit Runge-Kutta methods, as data. A new method is a row here, and a class of two lines."""

from __future__ import annotations

from dataclasses import dataclass, field

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
        dense_coeff: weights of the quartic term of the dense output; None: the dense output is a cubic.

    Attributes:
        error_constant: ``|e A^(order-1) 1|``: ``c`` such that on ``y' = L y`` the error estimate is
            ``c dt^order |L^(order-1) f|``, but for higher powers of dt. 0 without an estimate.
    """

    name: str
    order: int
    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    e: tuple[float, ...] | None = None
    dense_coeff: tuple[float, ...] | None = None
    stages: tuple[Terms, ...] = field(init=False)  # a, b, e, dense_coeff without their zeros
    solution: Terms = field(init=False)
    error: Terms = field(init=False)
    quartic: Terms = field(init=False)
    error_constant: float = field(init=False)

    @property
    def fsal(self) -> bool:
        return bool(self.a) and self.b == (*self.a[-1], 0.0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(_terms(row) for row in self.a))
        object.__setattr__(self, "solution", _terms(self.b))
        object.__setattr__(self, "error", _terms(self.e or ()))
        object.__setattr__(self, "quartic", _terms(self.dense_coeff or ()))
        power = [1.0] * (len(self.c) + 1)  # (A^j 1)_i, from j = 0
        for _ in range(self.order - 1):
            power = [0.0, *(sum(w * power[i] for i, w in row) for row in self.stages)]
        object.__setattr__(self, "error_constant", abs(sum(w * power[i] for i, w in self.error)))


def _terms(row: tuple[float, ...]) -> Terms:
    return tuple((i, w) for i, w in enumerate(row) if w)


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
    dense_coeff=(
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
    dense_coeff=(
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
