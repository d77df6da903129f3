"""The density task: one switch between likelihood and flow matching, the penalties, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from zoo.hub.cards import card
from zoo.hub.factory import create_model
from zoo.tasks.density import Density


def task(**options) -> Density:
    torch.manual_seed(0)
    return Density(create_model("test_cnf"), **options).train()


def batch(n: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1)), torch.zeros(n)


@pytest.mark.parametrize("objective", ["likelihood", "flow_matching", "ot_flow_matching"])
def test_every_objective_trains_the_same_field_and_is_judged_alike(objective):
    one = task(objective=objective)
    scored = one.score(batch(), "train")
    scored.loss.backward()
    assert all(p.grad is not None for p in one.model.parameters()) and scored.size == 16
    assert (one.model.last is None) == (objective != "likelihood")  # flow matching solves nothing
    one.eval()
    with torch.no_grad():
        judged = one.score(batch(), "val")
        want = -one.model.log_prob(batch()[0], "exact").mean()
    torch.testing.assert_close(judged.loss, want)
    torch.testing.assert_close(judged.metrics["nll"].compute(), want)
    assert one.monitor == "val/nll" and not one.maximise
    assert one.answer(batch()).shape == (16,)


def test_evaluation_takes_the_exact_trace_whatever_training_takes():
    one = Density(create_model("test_cnf", trace="hutchinson")).eval()
    a, b = (one.score(batch(), "test").loss for _ in range(2))
    assert torch.equal(a, b)
    one.train()
    torch.manual_seed(0)
    assert not torch.equal(one.score(batch(), "train").loss, one.score(batch(), "train").loss)


def test_the_penalties_add_up():
    plain = task()
    flow = plain.model.flow(batch()[0])
    nll = -flow.log_prob.mean()
    torch.testing.assert_close(plain.score(batch(), "train").loss, nll, rtol=1e-3, atol=1e-3)
    both = task(kinetic=0.5, frobenius=2.0).score(batch(), "train").loss
    torch.testing.assert_close(both, nll + 0.25 * flow.kinetic.mean() + flow.jacobian.mean(), rtol=1e-4, atol=1e-4)
    one = task(error=1e5)
    torch.manual_seed(7)
    loss = one.score(batch(), "train").loss
    torch.manual_seed(7)  # the same random time
    flow = one.model.flow(batch()[0], error=True)
    assert flow.error.mean() > 0
    torch.testing.assert_close(loss, -flow.log_prob.mean() + 1e5 * flow.error.mean())


def test_a_penalty_shortens_the_path():
    """One small step along the penalty's part of the gradient, which is the difference of two."""

    def gradient(weight: float) -> list[torch.Tensor]:
        one = task(kinetic=weight)
        one.score((2 * batch()[0] + 1, None), "train").loss.backward()
        return [p.grad for p in one.model.parameters()]

    one, part = task(), [b - a for a, b in zip(gradient(0.0), gradient(2.0), strict=True)]
    size, energies = sum(p.square().sum() for p in part), []
    for _ in range(2):
        energies.append(float(one.model.flow(2 * batch()[0] + 1).kinetic.mean()))
        with torch.no_grad():
            for p, g in zip(one.model.parameters(), part, strict=True):
                p.sub_(g, alpha=1e-2 / float(size.sqrt()))
    # the loss holds kinetic / D of it, here once: as much as the slope says
    assert energies[1] - energies[0] == pytest.approx(-1e-2 * float(size.sqrt()), rel=0.2)


def test_steer_draws_the_end_of_the_path():
    one, seen = task(steer=0.5), []
    flow = one.model.flow

    def watch(x, trace=None, *, end=None, error=False):
        seen.append(end)
        return flow(x, trace, end=end, error=error)

    one.model.flow = watch
    for _ in range(8):
        one.score(batch(), "train")
    assert all(0.5 < e < 1.5 for e in seen) and len(set(seen)) == 8
    one.eval()
    torch.testing.assert_close(one.score(batch(), "val").loss, -one.model.log_prob(batch()[0]).mean())


def test_bits_a_dimension():
    one = task(bits=True).eval()
    scored = one.score(batch(), "test")
    assert float(scored.metrics["bits_per_dim"].compute()) == pytest.approx(float(scored.loss) / (2 * math.log(2)))


def test_a_batch_too_small_to_pair_is_said():
    with pytest.raises(ValueError, match="at least 2 samples"):
        task(objective="ot_flow_matching").score(batch(1), "train")


def test_the_card_turns_one_switch():
    assert card("ffjord").name == "cnf_ffjord"
    fields = {n: create_model(n).state_dict() for n in ("cnf_ffjord", "cnf_flow_matching", "cnf_ot_flow_matching")}
    shapes = [{k: v.shape for k, v in f.items()} for f in fields.values()]
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "likelyhood"}, "must be 'likelihood'"),
        ({"kinetic": -1.0}, "kinetic must not be negative"),
        ({"kinetic": 0.1, "objective": "flow_matching"}, "follows no path"),
        ({"steer": 1.0}, "below the flow's end time"),
    ],
)
def test_what_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        task(**options)
