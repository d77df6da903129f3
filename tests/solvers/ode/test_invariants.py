"""Random small cases, seeded: what holds of every solve whatever its method, tolerances, times and field."""

from __future__ import annotations

import math
import random

import pytest
import torch

from zoo import odeint
from zoo.solvers.base import Result

FIELDS = {
    "decay": lambda t, y: -y,
    "turn": lambda t, y: torch.roll(y, 1, -1) * torch.cos(t),
    "blow up": lambda t, y: y**2,
    "stiff": lambda t, y: -1e4 * (y - torch.cos(t)),
    "root": lambda t, y: -torch.sqrt(y),
    "infinite": lambda t, y: torch.where(y > 1, torch.inf, y),
    "nan later": lambda t, y: torch.where(t > 0.3, torch.nan, y),
    "still": lambda t, y: torch.zeros_like(y),
}
SOLVERS = ["euler", "rk4", "heun", "bosh3", "dopri5", "tsit5", "dopri8", "implicit_euler", "trapezoid"]
ADAPTIVE = ("heun", "bosh3", "dopri5", "tsit5", "dopri8")


def case(seed: int):
    r = random.Random(seed)
    name = r.choice(SOLVERS)
    spec = {
        "name": name,
        "rtol": 10 ** r.uniform(-8, 0),
        "atol": r.choice([0.0, 1e-9, 1e-6, 1.0]),
        "max_steps": r.choice([1, 5, 60]),
    }
    if name in ADAPTIVE:
        spec |= {"per_sample": r.random() < 0.4}
        spec |= r.choice([{}, {}, {"first_step": 10 ** r.uniform(-12, 6)}, {"max_step": 0.1}, {"jump_ts": [0.3, 7.0]}])
    else:
        spec |= {"steps": r.choice([1, 4, 9] if name in ("euler", "rk4") else [1, 3])}
    start, length = r.choice([0.0, -1.0, 1e6]), r.choice([1e-2, 1.0, 3.0]) * r.choice([1, -1])
    ts = [start + length * x for x in sorted({0.0, 1.0, *(round(r.random(), 2) for _ in range(r.choice([0, 2])))})]
    event = (lambda t, y: y[:, 0] - 0.4) if r.random() < 0.3 else None
    dtype = r.choice([torch.float32, torch.float64, torch.bfloat16])
    return r.choice(list(FIELDS)), spec, ts, event, dtype, r.choice([1, 3]), r.choice([(), None])


@pytest.mark.parametrize("block", range(6))
def test_invariants_of_random_solves(block):
    for seed in range(25 * block, 25 * block + 25):
        field, spec, ts, event, dtype, batch, args = case(seed)
        y0 = torch.rand(batch, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)
        kept = y0.clone()
        with torch.no_grad():
            s = odeint(FIELDS[field], y0, ts, spec, args=args, event=event)
        said, stats = (seed, field, spec, ts, s.result.name), s.stats
        assert torch.equal(y0, kept) and torch.equal(s.value[0], y0), said
        assert s.value.shape == (len(ts), batch, 2) and s.value.dtype == dtype, said
        assert torch.isfinite(s.value).all(), said
        low, high = min(ts), max(ts)
        assert ((stats.reached >= low) & (stats.reached <= high)).all(), said
        assert torch.equal(stats.converged, (stats.reached == ts[-1]) & stats.event_time.isnan() & ~missed(s)), said
        assert (stats.steps == stats.accepted + stats.rejected).all(), said
        adaptive = spec["name"] in ADAPTIVE
        assert not adaptive or int(stats.steps.max()) <= spec["max_steps"], said
        assert adaptive or (spec["steps"] <= 9 and s.result is not Result.max_steps), said
        assert s.result is not (Result.fixed_steps if adaptive else Result.converged), said
        ended_well = bool((stats.converged | ~stats.event_time.isnan()).all())
        assert s.result.success == ended_well or (ended_well and s.result is Result.unsolved), said
        if s.result is Result.converged:
            assert (stats.residual <= 1).all(), said
        for row in range(1, len(ts)):  # a sample that ended earlier repeats its last state
            ended = (stats.reached - ts[0]).abs() < abs(ts[row - 1] - ts[0])
            assert torch.equal(s.value[row][ended], s.value[row - 1][ended]), said
        assert not any(map(math.isnan, stats.reached.tolist())), said


def missed(s) -> torch.Tensor:
    """Who came to the end over an implicit step whose equation was not solved."""
    return ~s.stats.converged & (s.result in (Result.unsolved, Result.nonfinite))
