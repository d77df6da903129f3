"""Models of irregular series, continuous and explicit: what all of them must do, and what each adds."""

from __future__ import annotations

import pytest
import torch
from problems import left

import zoo
from zoo.hub import cards
from zoo.implicit import implicit_modules, record_solves
from zoo.node.latent_ode import LatentODE
from zoo.node.ode_rnn import ODERNN
from zoo.node.piecewise import merge_records

MODELS = ["test_gru", "test_latent_ode", "test_latent_ode_rule", "test_neural_cde", "test_ode_rnn"]
IMPLICIT = [n for n in MODELS if cards.card(n).solver]
FIXED = {"name": "rk4", "steps": 2}  # the same steps for every batch: an answer then depends on its own series alone


def build(name: str, dtype: torch.dtype = torch.float64, **options) -> torch.nn.Module:
    torch.manual_seed(0)
    return zoo.create_model(name, solver=FIXED if name in IMPLICIT else None, **options).to(dtype).eval()


def series(batch: int = 4, rows: int = 7, asked: int = 5, features: int = 2, dtype: torch.dtype = torch.float64):
    """Ragged series: the k-th has lost its last k rows and asked times to padding."""
    make = torch.Generator().manual_seed(3)
    times = torch.rand(batch, rows, generator=make, dtype=dtype).cumsum(1)
    query = times[:, -1:] + torch.rand(batch, asked, generator=make, dtype=dtype).cumsum(1) * 0.3
    values = torch.randn(batch, rows, features, generator=make, dtype=dtype)
    mask = torch.rand(batch, rows, features, generator=make) < 0.7
    mask[:, 0] = True
    for k in range(batch):
        end, last = rows - k, asked - k
        mask[k, end - 1] = True
        mask[k, end:], times[k, end:], query[k, last:] = False, times[k, end - 1], query[k, last - 1]
    return times, values, mask, query


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [0, 3])
def test_shapes_and_gradients(name, classes):
    model = build(name, num_classes=classes).train()
    times, values, mask, query = series()
    out = model(times, values, mask, query)
    loss = torch.zeros((), dtype=torch.float64)
    if out.values is not None:
        assert out.values.shape == (4, 5, 2)
        loss = loss + out.values.square().sum()
    if classes:
        assert out.logits.shape == (4, 3)
        loss = loss + out.logits.square().sum()
    assert (out.kl is not None) == isinstance(model, LatentODE)
    loss.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("classes", [0, 2])
def test_a_padded_batch_answers_as_each_series_alone(name, classes):
    model = build(name, num_classes=classes)
    times, values, mask, query = series()
    whole = model(times, values, mask, query)
    for k in range(4):
        end, last = 7 - k, 5 - k
        alone = model(times[k : k + 1, :end], values[k : k + 1, :end], mask[k : k + 1, :end], query[k : k + 1, :last])
        if whole.values is not None:
            torch.testing.assert_close(whole.values[k, :last], alone.values[0], rtol=1e-9, atol=1e-11)
        if classes:
            torch.testing.assert_close(whole.logits[k], alone.logits[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", MODELS)
def test_what_was_not_seen_never_matters(name):
    model = build(name)
    times, values, mask, query = series()
    first = model(times, values, mask, query).values
    for other in (1e6, float("nan")):
        changed = torch.where(mask, values, other)
        torch.testing.assert_close(model(times, changed, mask, query).values, first, rtol=0, atol=0)
    seen = values.clone()
    seen[0, 0] += 1.0
    assert (model(times, seen, mask, query).values[0] - first[0]).abs().max() > 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_only_differences_of_times_matter(name):
    model = build(name)
    times, values, mask, query = series()
    moved = model(times + 100.0, values, mask, query + 100.0).values
    torch.testing.assert_close(moved, model(times, values, mask, query).values, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_rows_without_observation_change_no_answer_at_the_same_times(name):
    """A row in which nothing was seen is a time that nobody asked about."""
    model = build(name)
    times, values, mask, query = series(batch=1, rows=6)
    empty = mask.clone()
    empty[:, 3] = False
    keep = [0, 1, 2, 4, 5]
    without = model(times[:, keep], values[:, keep], mask[:, keep], query).values
    given = model(times, values, empty, query).values
    torch.testing.assert_close(given, without, rtol=1e-3, atol=1e-4)  # the pieces differ, so do the solver's steps


@pytest.mark.parametrize("name", MODELS)
def test_asking_twice_at_one_time_gives_one_answer(name):
    model = build(name)
    times, values, mask, query = series(batch=1)
    twice = torch.cat([query[:, :2], query[:, 1:]], 1)
    answers = model(times, values, mask, twice).values
    torch.testing.assert_close(answers[:, 1], answers[:, 2], rtol=0, atol=0)
    torch.testing.assert_close(answers[:, 2:], model(times, values, mask, query).values[:, 1:], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", [n for n in IMPLICIT if "latent" not in n])
def test_an_answer_between_the_rows_does_not_know_what_comes_later(name):
    """ODE-RNN answers before it sees; the linear path of a CDE looks one knot ahead, the rectilinear not at all."""
    model = build(name, **({"path": "rectilinear"} if "cde" in name else {}))
    times, values, mask, _ = series(batch=1)
    query = 0.5 * (times[:, 2:3] + times[:, 3:4])
    first = model(times, values, mask, query).values
    later = values.clone()
    later[:, 3:] += 1.0
    torch.testing.assert_close(model(times, later, mask, query).values, first, rtol=0, atol=0)


@pytest.mark.parametrize("name", IMPLICIT)
def test_gradients_are_exact_and_every_adjoint_has_them(name):
    times, values, mask, query = series(batch=2, rows=3, asked=2)
    model = build(name)

    def answer(x):
        return model(times, x, mask, query).values

    assert torch.autograd.gradcheck(answer, (values.requires_grad_(),), atol=1e-6)
    found = {}
    tight = {"name": "dopri5", "rtol": 1e-9, "atol": 1e-10}
    for adjoint in ("unroll", "checkpoint", "backsolve"):
        model.configure_implicit(tight, adjoint)
        model.zero_grad()
        answer(values).square().sum().backward()
        found[adjoint] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert found["unroll"].keys() == found["backsolve"].keys() == found["checkpoint"].keys()
    for key, grad in found["unroll"].items():
        torch.testing.assert_close(found["checkpoint"][key], grad, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found["backsolve"][key], grad, rtol=1e-4, atol=1e-6)
    last = implicit_modules(model)[0][1].last
    assert last.stats.backward and last.stats.backward[-1].nfe > 0


@pytest.mark.parametrize("name", IMPLICIT)
def test_the_record_counts_every_piece(name):
    model = build(name)
    calls = 0

    def count(*_):
        nonlocal calls
        calls += 1

    for _, module in implicit_modules(model):
        module.field.register_forward_hook(count)
    times, values, mask, query = series()
    with record_solves() as solves:
        model(times, values, mask, query)
    assert calls == sum(m.last.stats.nfe for _, m in implicit_modules(model)) > 0
    assert [r for _, r in solves] == [m.last for _, m in implicit_modules(model)]  # the pieces of each count as one
    for _, module in implicit_modules(model):
        assert module.last.stats.steps.shape == (4,) and bool(module.last.stats.converged.all())
    model.configure_implicit({"name": "dopri5", "rtol": 1e-10, "atol": 1e-12, "max_steps": 1})
    model(times, values, mask, query)
    assert implicit_modules(model)[0][1].last.result.name == "max_steps"
    assert merge_records([]) is None


@pytest.mark.parametrize("name", IMPLICIT)
def test_steps_of_each_series_own_give_the_same(name):
    times, values, mask, query = series()
    model = build(name)
    tight = {"name": "dopri5", "rtol": 1e-8, "atol": 1e-10}
    model.configure_implicit(tight)
    shared = model(times, values, mask, query).values
    model.configure_implicit({**tight, "per_sample": True})
    torch.testing.assert_close(model(times, values, mask, query).values, shared, rtol=1e-5, atol=1e-7)


def test_the_state_between_observations_solves_its_equation():
    """With f(h) = A h in place of the network, the state after a gap is exp(A gap) h."""
    torch.manual_seed(0)
    model = ODERNN(2, 0, width=3, hidden=()).double()
    model.configure_implicit({"name": "dopri5", "rtol": 1e-10, "atol": 1e-12})
    layer = model.field.layers[0].base
    torch.nn.init.zeros_(layer.bias)
    h, dt = torch.randn(4, 3, dtype=torch.float64), torch.tensor([0.0, 0.3, 1.0, -0.7], dtype=torch.float64)
    expected = torch.stack([torch.matrix_exp(layer.weight * t) @ x for t, x in zip(dt, h, strict=True)])
    torch.testing.assert_close(model.over(dt, h, []), expected, rtol=1e-8, atol=1e-9)


def test_the_divergence_of_a_latent_ode_is_that_of_two_gaussians():
    model = build("test_latent_ode")
    times, values, mask, query = series()
    mean, log_scale = model.encode(times, values, mask, times[:, 0])
    q = torch.distributions.Normal(mean, log_scale.exp())
    p = torch.distributions.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    expected = torch.distributions.kl_divergence(q, p).sum(1)
    torch.testing.assert_close(model(times, values, mask, query).kl, expected)
    torch.testing.assert_close(model(times, values, mask, query).values, model(times, values, mask, query).values)
    model.train()
    torch.manual_seed(1)
    first = model(times, values, mask, query).values
    assert (model(times, values, mask, query).values - first).abs().max() > 1e-6  # a draw of z_0


BAD = [
    ({"mask": lambda m: torch.zeros_like(m)}, "holds no observation at all"),
    ({"times": lambda t: t.flip(1)}, "has times that decrease"),
    ({"times": lambda t: torch.cat([t[:, :1], t[:, :-1]], 1)}, "has two rows at one time"),
    ({"times": lambda t: t * float("nan")}, "has a time that is not finite"),
    ({"values": lambda v: v * float("inf")}, "holds NaN or infinity where its mask is True"),
    ({"query": lambda q: q.flip(1)}, "is asked for times that decrease"),
    ({"values": lambda v: v[..., :1]}, "takes values"),
    ({"mask": lambda m: m.double()}, "must be bool"),
    ({"query": lambda q: q[:, :0]}, "Q >= 1"),
    ({"query": lambda q: None}, "give the times to predict at"),
]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("change", "sentence"), BAD)
def test_series_that_cannot_be_used_are_refused(name, change, sentence):
    given = dict(zip(("times", "values", "mask", "query"), series(), strict=True))
    given |= {k: f(given[k]) for k, f in change.items()}
    with pytest.raises((ValueError, TypeError), match=sentence):
        build(name)(**given)


@pytest.mark.parametrize("name", MODELS)
def test_empty_series_and_sizes_that_cannot_be_are_refused(name):
    times, values, mask, query = series()
    with pytest.raises(ValueError, match="Empty series"):
        build(name)(times[:, :0], values[:, :0], mask[:, :0], query)
    with pytest.raises(ValueError, match="num_classes of 0"):
        zoo.create_model(name, num_classes=1)


@pytest.mark.parametrize("name", MODELS)
def test_one_batch_is_learned(name):
    torch.manual_seed(0)
    model = zoo.create_model(name)
    times, values, mask, query = series(dtype=torch.float32)
    target = torch.stack([query.sin(), query.cos()], -1)

    def loss():
        torch.manual_seed(1)  # the same draw of a latent state at every step, so that only the weights lower the loss
        return (model(times, values, mask, query).values - target).square().mean()

    assert left(loss, model, 0.5, lr=2e-2) < 0.5


def test_a_rule_rests_and_writes_a_linear_field():
    from zoo.node.fields import RuledField

    torch.manual_seed(0)
    field = RuledField(5, 2, (7,)).double()
    y, t = torch.randn(3, 5, dtype=torch.float64), torch.tensor(0.0)
    slope = field(t, y)
    assert bool((slope[:, :2] == 0).all())
    other = torch.cat([y[:, :2], torch.randn(3, 3, dtype=torch.float64)], 1)
    between = torch.cat([y[:, :2], 0.3 * y[:, 2:] + 0.7 * other[:, 2:]], 1)  # affine in what moves
    torch.testing.assert_close(field(t, between), 0.3 * slope + 0.7 * field(t, other))
    with pytest.raises(ValueError, match="rule"):
        RuledField(3, 3)


def test_refining_explains_better_what_was_seen_and_is_counted():
    torch.manual_seed(0)
    model = LatentODE(latent=4, width=8, hidden=(16,), head=16, rule=2, refine=0).eval()
    times = torch.linspace(0, 1, 12).expand(5, -1).contiguous()
    values, mask = torch.randn(5, 12, 2), torch.rand(5, 12, 2) > 0.3
    mask[:, 0] = True

    def energy() -> torch.Tensor:
        with torch.no_grad():
            found = model(times, values, mask, times).values
        return torch.where(mask, found - values, 0.0).square().flatten(1).sum(1)

    before = energy()
    calls = model.flow.last.stats.nfe
    model.refine = 5
    after = energy()
    assert bool((after < before).all())
    assert model.flow.last.stats.nfe > 5 * calls
    assert model.flow.last.stats.steps.shape == (5,)
    with torch.no_grad():  # each sample for itself
        both, alone = (model(times[:n], values[:n], mask[:n], times[:n]).values[0] for n in (5, 1))
    torch.testing.assert_close(both, alone, rtol=0.02, atol=0.02)  # to the solver's tolerance: steps are shared
    recorded = model(times, values, mask, times).values  # with a gradient: the encoder's own answer
    model.refine = 0
    torch.testing.assert_close(recorded, model(times, values, mask, times).values)


@pytest.mark.parametrize("options", [{"rule": 8}, {"rule": -1}, {"refine": -1}, {"noise": 0.0}])
def test_a_rule_of_all_numbers_is_refused(options):
    with pytest.raises(ValueError, match="rule"):
        LatentODE(latent=8, **options)
