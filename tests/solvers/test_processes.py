"""Solutions and errors survive a process boundary."""

from __future__ import annotations

import multiprocessing
import pickle

import pytest
import torch
from problems import unfinished

import zoo
from zoo.solvers.base import Result, SolveError


@pytest.mark.slow
def test_an_error_in_a_worker_reaches_its_parent():
    with (
        multiprocessing.get_context("spawn").Pool(1) as pool,
        pytest.raises(SolveError, match="0 of 1 samples") as info,
    ):
        pool.map_async(unfinished, [0]).get(timeout=120)
    assert info.value.solution.result is Result.max_steps


@pytest.mark.parametrize("throw", [False, True])
def test_solutions_pickle(throw):
    w = torch.full((1,), 0.5, requires_grad=True)
    solution = zoo.fixed_point(lambda z: (z[0] * w + 1, z[1] * w), (torch.zeros(2, 3), torch.ones(2)))
    back = pickle.loads(pickle.dumps(SolveError(solution) if throw else solution))
    back = back.solution if throw else back
    assert back.result is solution.result and torch.equal(back.value[0], solution.value[0])
    assert torch.equal(back.stats.residual, solution.stats.residual) and not back.value[0].requires_grad


def test_integrals_of_tuples_pickle():
    solution = zoo.odeint(lambda t, y: (-y[0], y[1]), (torch.ones(2, 3), torch.ones(2, 1)), [0.0, 1.0], dense=True)
    back = pickle.loads(pickle.dumps(solution))
    assert torch.equal(back.value[1], solution.value[1])
    assert torch.equal(back.evaluate(0.5)[0], solution.evaluate(0.5)[0])
