"""Training in segments of one long solve: what carries, what has a gradient, what counts as solved."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from problems import left
from torch import nn

from zoo.deq.reasoner.equivariant import EquivariantReasoner
from zoo.implicit import record_solves
from zoo.tasks.reasoning import Reasoning


def latin(batch: int = 4, seed: int = 0):
    """Latin squares 4x4 that keep the boxes' rule, with half of their cells blank."""
    square = torch.tensor([[0, 1, 2, 3], [2, 3, 0, 1], [1, 0, 3, 2], [3, 2, 1, 0]])
    draw = torch.Generator().manual_seed(seed)
    answer = torch.stack([torch.randperm(4, generator=draw)[square] for _ in range(batch)])
    shown = torch.rand(answer.shape, generator=draw) < 0.5
    return torch.where(shown, answer + 1, 0), answer


def task(**options) -> Reasoning:
    torch.manual_seed(0)
    return Reasoning(EquivariantReasoner(6, (2, 2)), **options)


def test_the_loss_is_the_mean_over_segments_that_go_on_from_one_another():
    one = task(segments=3, steps=2, free_steps=0)
    givens, answer = latin()
    scored = one.score((givens, answer), "train")
    model, z, expected = one.model, one.model.start(givens), 0.0
    e = model.embed(givens)
    for _ in range(3):
        z = z.detach()
        for _ in range(2):
            z = model.cell(z, e)
        expected = expected + F.cross_entropy(model.read(z, givens).flatten(0, 2), answer.flatten()) / 3
    torch.testing.assert_close(scored.loss, expected)
    parameters = list(model.parameters())
    found = torch.autograd.grad(scored.loss, parameters)
    for a, b in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(a, b)


def test_free_steps_are_drawn_and_recorded_by_nobody():
    one, depths = task(segments=2, steps=1, free_steps=3), set()
    givens, answer = latin()
    for seed in range(12):
        torch.manual_seed(seed)
        calls = []
        handle = one.model.cell.register_forward_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        with record_solves() as solves:
            one.score((givens, answer), "train")
        handle.remove()
        assert calls[-2:] == [True, True] and not any(calls[:-2])
        assert len(solves) == 2 and all(record.cut for _, record in solves)
        depths.add(len(calls) - 2)
    assert depths == {0, 1, 2, 3}


def test_an_evaluation_is_one_solve_as_the_solver_says():
    one = task()
    one.model.configure_implicit({"name": "picard", "max_steps": 7, "rtol": 1e-12})
    with record_solves() as solves, torch.no_grad():
        one.score(latin(), "val")
    ((_, record),) = solves
    assert record.stats.nfe == 7 and not record.cut


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_share_of_random_starts(share):
    one = task(random_start=share)
    givens, _ = latin(400)
    torch.manual_seed(0)
    drawn = one._start(one.model, givens).flatten(1).any(1).float().mean()
    assert abs(float(drawn) - share) < 0.1


def test_what_the_data_say_is_solved_counts_not_the_reference():
    one = task()
    givens, answer = latin()
    one.check = lambda given, guess: torch.tensor([True, False, True, True])
    metrics = one.score((givens, answer), "val").metrics
    assert float(metrics["solved"].compute()) == 0.75
    plain = task(segments=1, free_steps=0)
    with torch.no_grad():
        guess = plain.model.eval()(givens).argmax(-1)
    metrics = plain.score((givens, guess), "val").metrics
    assert float(metrics["solved"].compute()) == float(metrics["cells"].compute()) == 1.0
    guess[0, 0, 0] = (guess[0, 0, 0] + 1) % 4
    metrics = plain.score((givens, guess), "test").metrics
    assert float(metrics["solved"].compute()) == 0.75 and float(metrics["cells"].compute()) == pytest.approx(63 / 64)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.score = nn.Embedding(5, 4)

    def forward(self, givens):
        return self.score(givens)


def test_a_model_without_a_state_is_trained_in_one_piece():
    with pytest.raises(ValueError, match=r"Plain keeps no state .* task.segments to 1"):
        Reasoning(Plain())
    loss = Reasoning(Plain(), segments=1, free_steps=0).score(latin(), "train").loss
    assert loss.requires_grad


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"segments": 0}, "segments must be at least 1"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"free_steps": -1}, "free_steps must be at least 0"),
        ({"random_start": 1.5}, r"share in \[0, 1\]"),
    ],
)
def test_a_task_out_of_range_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        task(**options)


TIGHT = {"rtol": 1e-11, "atol": 1e-12, "max_steps": 300}
EXACT = {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-11, "atol": 0.0, "max_steps": 200}}


def settled(solver="picard", adjoint="unroll", **options) -> Reasoning:
    """A reasoner whose map contracts, and a loss at its equilibrium."""
    one = task(segments=1, steps=0, free_steps=0, **options)
    one.model.double()
    with torch.no_grad():
        one.model.cell.embedding.weight.mul_(3.0)  # what is injected outweighs what is heard
        one.model.cell.widen.weight[:, : 5 * one.model.cell.channels].mul_(0.1)
        one.model.cell.narrow.weight.mul_(8.0)
    own = {"name": "reversible", "damping": 0.5, "max_steps": 22} if solver == "reversible" else {"name": solver}
    one.model.configure_implicit({**TIGHT, **own}, adjoint)
    return one


def gradients(one, batch) -> torch.Tensor:
    found = torch.autograd.grad(one.score(batch, "train").loss, list(one.model.parameters()))
    return torch.cat([g.flatten() for g in found])


@pytest.mark.parametrize(
    ("solver", "adjoint", "off"),
    [
        ("picard", EXACT, 1e-6),
        ("anderson", EXACT, 1e-6),
        ("picard", {"name": "phantom", "steps": 100, "damping": 1.0}, 1e-6),
        ("reversible", "reversible", 1e-2),  # as many steps as can be undone
    ],
)
def test_near_the_equilibrium_all_gradients_agree(solver, adjoint, off):
    batch = latin()
    unrolled = settled()
    expected = gradients(unrolled, batch)
    assert unrolled.model.last.stats.converged.all()
    found = gradients(settled(solver, adjoint), batch)
    error = float((found - expected).norm() / expected.norm())
    assert error < off


def test_a_gradient_cut_short_points_the_same_way():
    batch = latin()
    expected = gradients(settled(), batch)
    found = gradients(settled(adjoint="jfb"), batch)
    assert float(torch.cosine_similarity(found, expected, dim=0)) > 0.5
    assert float((found - expected).norm() / expected.norm()) > 1e-3  # it is no exact one


@pytest.mark.parametrize("adjoint", ["unroll", "jfb", "phantom", "implicit", "reversible"])
def test_every_adjoint_trains_by_its_name(adjoint):
    one = task(segments=2, steps=4, free_steps=2)
    one.model.configure_implicit("reversible" if adjoint == "reversible" else "picard", adjoint)
    batch = latin(8)
    torch.manual_seed(0)
    assert left(lambda: one.score(batch, "train").loss, one.model, 0.7, lr=2e-2) < 0.7
