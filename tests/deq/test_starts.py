"""Several starts of a reasoner: the least residual has the answer, puzzle by puzzle, whatever the batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zoo.deq.reasoner.base import Reasoner
from zoo.deq.reasoner.equivariant import EquivariantReasoner
from zoo.deq.reasoner.starts import Starts, asked_starts, best_of, random_starts
from zoo.implicit import record_solves
from zoo.layers.grids import GridCell, GridHead
from zoo.solvers.base import Result, SolveError


class Slope(GridCell):
    """A steep way to the answer 1 from above a bound that the givens say, a flat one from below it."""

    def inject(self, givens):
        return givens.flatten(1)[:, :1].float()

    def state_shape(self, givens):
        return (1,)

    def forward(self, z, e):
        return 1 + torch.where(z > e, 0.01, 0.999) * (z - 1)

    def head(self):
        return Score()


class Score(GridHead):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, z, givens):
        return (self.weight * z).view(-1, 1, 1, 1).expand(*givens.shape, 2)


def model(**options):
    out = Reasoner(Slope()).eval()
    out.configure_implicit({"name": "picard", "rtol": 1e-4, "max_steps": 8}, **options)
    return out


GIVENS = torch.tensor([-1, 0, 1, 0, 1])[:, None, None]  # from zero: steep, flat, flat, ...


def test_one_start_is_the_usual_one():
    usual = model()(GIVENS)
    with random_starts(1):
        assert torch.equal(model()(GIVENS), usual)
    assert asked_starts() == Starts()


def test_the_least_residual_has_the_answer():
    reasoner = model()
    with random_starts(6, every=True):
        best = reasoner.best(GIVENS)
    assert best.residuals.shape == (6, 5) and torch.isfinite(best.residuals).all()
    assert torch.equal(best.start, best.residuals.argmin(0))
    assert torch.equal(best.solution.stats.residual, best.residuals.amin(0))
    assert (
        best.start[1] > 0
        and best.solution.stats.converged[1]
        and not torch.isfinite(best.residuals).logical_not().any()
    )
    again = reasoner.cell(best.solution.value, reasoner.embed(GIVENS))
    torch.testing.assert_close(  # the state that came out is the one that was measured
        ((again - best.solution.value).norm(dim=1) / best.solution.value.norm(dim=1)).double(),
        best.solution.stats.residual.double(), rtol=1e-3, atol=1e-6,
    )  # fmt: skip


def test_a_puzzle_that_has_converged_asks_for_no_more():
    reasoner = model()
    with random_starts(6):
        best = reasoner.best(GIVENS)
    tried = torch.isfinite(best.residuals)
    assert tried[:, 0].tolist() == [
        True,
        *[False] * (len(tried) - 1),
    ]  # the first puzzle converges from the usual start
    for b in range(5):
        done = (best.residuals[:, b] < 1e-4).nonzero().flatten()
        assert not len(done) or not tried[int(done[0]) + 1 :, b].any()
    assert best.solution.stats.steps[1] > best.solution.stats.steps[0]


def test_an_answer_does_not_depend_on_its_batch_mates():
    reasoner = model()
    with random_starts(5, seed=3):
        whole = reasoner(GIVENS)
        assert torch.equal(whole, torch.cat([reasoner(g[None]) for g in GIVENS]))


def test_the_solves_of_all_starts_are_one_record():
    reasoner = model()
    with record_solves() as solves, random_starts(4, every=True):
        reasoner(GIVENS)
    assert [who for who, _ in solves] == [reasoner] and solves[0][1] is reasoner.last
    stats = reasoner.last.stats
    assert stats.sample_nfe >= stats.nfe > 9 and stats.steps[1] > 8  # more than one solve of 8 steps takes


def test_starts_are_for_evaluation_and_for_solves_that_begin():
    reasoner = model()
    with random_starts(4, every=True):
        reasoner.train()(GIVENS)
        assert reasoner.last.stats.nfe <= 9
        reasoner.eval()(GIVENS, torch.full((5, 1), 2.0))
        assert reasoner.last.stats.nfe <= 9


def test_throw_raises_where_no_start_converged():
    reasoner = model(throw=True)
    with random_starts(8), pytest.raises(SolveError, match="converged in"):
        reasoner(torch.full((2, 1, 1), 9))  # every start is on the flat side
    with random_starts(8):
        assert reasoner(GIVENS[:2]).shape == (2, 1, 1, 2)
        assert reasoner.last.result is Result.converged


def test_a_reasoner_of_the_zoo_takes_starts():
    torch.manual_seed(0)
    reasoner = EquivariantReasoner(channels=8, box=(2, 2)).eval()
    reasoner.configure_implicit({"name": "picard", "max_steps": 2, "rtol": 1e-9})
    givens = torch.randint(0, 5, (3, 4, 4))
    with random_starts(3):
        assert reasoner(givens).shape == (3, 4, 4, 4)
        assert reasoner.best(givens).residuals.shape == (3, 3)


@pytest.mark.parametrize("count", [0, -2])
def test_a_number_of_starts_is_at_least_one(count):
    with pytest.raises(ValueError, match="at least 1; got"), random_starts(count):
        pass


def test_best_of_asks_for_a_start_at_a_time():
    drawn = []

    def start(generator):
        drawn.append(torch.rand(1, 1, generator=generator))
        return drawn[-1]

    reasoner = model()

    def solve(rows, z0):
        z = reasoner.equilibrium(GIVENS[rows], reasoner.start(GIVENS[rows]) if z0 is None else z0)
        return z, reasoner.last

    best_of(Starts(4, seed=7, every=True), 5, solve, start)
    assert len(drawn) == 3 and len({float(d) for d in drawn}) == 3
