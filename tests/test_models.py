"""One contract, over the tiny ``test_*`` variant of every family: what any model of the zoo must do.

Named apart from a family's own tests: a new card is under this contract without a line of test. Each is given what its
own task and data make of it, so that none is spared for taking graphs, series or episodes instead of images.
"""

from __future__ import annotations

import copy
import functools
import pickle

import pytest
import torch
from problems import contract, left
from torch import Tensor
from torch.utils._pytree import tree_map

import zoo
from zoo.data.series import Series
from zoo.hub import cards
from zoo.implicit import implicit_modules
from zoo.registry import option_names
from zoo.solvers.ode.base import ODESolver
from zoo.training.build import build_run
from zoo.training.options import Options
from zoo.training.request import resolve

NAMES = zoo.list_models("test_*")
CLASSIFIERS = [
    n for n in NAMES if ".classification:" in cards.card(n).task and "in_chans" in option_names(cards.card(n).load())
]  # of images: one of vectors has no maps of features
IMPLICIT = [n for n in NAMES if cards.card(n).solver]  # the others are explicit baselines
# What makes a variant small and its equations well posed, so that a test asks after an answer that there is.
OPTIONS = {
    # as far as two layers see, and wide enough that some unit is alive at every start
    "test_gcn": ["--data.length", "3", "--data.features", "8", "--model.channels", "16"],
    "test_ignn": ["--data.length", "3", "--data.features", "8"],
    "test_imaml": ["--data.ways", "2", "--data.queries", "3", "--model.adapt", "head"],  # what is minimized is convex
    "test_maml": ["--data.ways", "2", "--data.queries", "3"],
    "test_mdeq": ["--model.post_gn_affine", "true"],
    "test_mdeq_segmentation": ["--model.post_gn_affine", "true"],
    "test_odenet": ["--model.act", "tanh"],
} | {n: ["--data.length", "8", "--data.batch_size", "3"] for n in NAMES if "Language" in cards.card(n).task}

TIGHT = {  # in float64
    "fixed_point": {"rtol": 1e-11, "atol": 1e-12, "max_steps": 1000},
    "ode": {"rtol": 1e-7, "atol": 1e-8, "max_steps": 10_000},
}
EXACT = {"name": "implicit", "solver": {"name": "gmres", "max_steps": 300, "rtol": 1e-12, "atol": 0.0}}
FIXED = {"test_hamiltonian": {"name": "leapfrog", "steps": 3}, "others": {"name": "rk4", "steps": 3}}
LONG = {"test_cnf", "test_gru", "test_latent_ode_rule", "test_maml", "test_neural_cde", "test_ode_rnn"}  # to train
UNSWAPPED = {"test_maml": "two steps are the model: they stop where no equation holds"}


@functools.cache
def made(name: str):
    """The task around its model, and a batch of its training data."""
    task, data, _ = build_run(Options(resolve(["--model", name, *OPTIONS.get(name, [])])), 0)
    data.prepare_data()
    data.setup()
    return task, next(iter(data.train_dataloader()))


def build(name: str, dtype: torch.dtype = torch.float32):
    """The card's task around its model; its weights are a little off their start, where zeros would hide others."""
    task = copy.deepcopy(made(name)[0])
    with torch.no_grad():
        for key, p in task.model.named_parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
            if "fade" in key:  # the rate of a decay, which has no gradient below 0
                p.abs_()
        contract(task.model)
    task.model.to(dtype)
    return task


def batch(name: str, task, rows: int = 4, dtype: torch.dtype = torch.float32):
    """The first rows of the training data; of tasks that come one after the other, a row of each."""
    few = task.cut(made(name)[1], rows)
    if cards.card(name).task.endswith("Continual"):
        few = (*few[:2], torch.arange(rows) % task.model.tasks)
    if cards.card(name).task.endswith("NodeClassification"):  # all nodes' class, of which few are known in training
        few = (*few[:2], few[0][:, :1].argmax(-1).expand_as(few[2]))
    if isinstance(few, Series):  # a few times, and something left out, without which what is for that has no gradient
        few = Series(*(x[:, :8] for x in few[:-1]), few.label)
        seen = torch.rand(few.mask.shape, generator=torch.Generator().manual_seed(3)) > 0.3
        seen[:, -1] = True  # from where all samples are predicted
        few = few._replace(mask=few.mask & seen)
    return tree_map(lambda t: t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() else t, few)


def answer(task, given) -> Tensor:
    torch.manual_seed(2)  # the same noise and the same masks
    return task.answer(given)


def loss(task, given) -> Tensor:
    torch.manual_seed(2)
    return task.score(given, "train").loss


def kind(module) -> str:
    """Of the problem that a module's solver is for."""
    return "ode" if isinstance(module.solver, ODESolver) else "fixed_point"


def fixed(name: str, task) -> None:
    """Let every ODE be solved in few steps, whose result is an exact function of the weights whatever its error."""
    for _, module in implicit_modules(task.model):
        if kind(module) == "ode":
            module.configure_implicit(FIXED.get(name, FIXED["others"]))


def other_solver(module) -> str:
    """Another solver of the kind that the module uses."""
    now = type(module.solver).__name__.lower()
    first, second = {"ode": ("tsit5", "dopri5"), "fixed_point": ("anderson", "broyden")}[kind(module)]
    return first if now != first else second


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_timm_conventions(name):
    torch.manual_seed(0)
    model = zoo.create_model(name, num_classes=4, in_chans=1)
    images = torch.randn(4, 1, 8, 8)
    assert (model.num_classes, model.in_chans) == (4, 1) and model(images).shape == (4, 4)
    features = model.forward_features(images)
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (4, model.num_features)
    torch.testing.assert_close(model.eval().forward_head(model.forward_features(images)), model(images))
    assert sum(p.numel() for p in model.get_classifier().parameters()) > 0
    model.reset_classifier(7)
    assert model(images).shape == (4, 7)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_what_the_solve_left(name):
    task = build(name)
    given = batch(name, task)
    rows = task.rows(given)
    found = answer(task, given)
    assert len(found) == rows > 1 and found.isfinite().all() and loss(task, given).shape == ()
    for _, module in implicit_modules(task.model):
        assert module.last.stats.nfe > 0 and len(module.last.stats.steps) == rows


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_gets_a_gradient(name):
    task = build(name)
    loss(task, batch(name, task, 8)).backward()
    trained = {n: p.grad for n, p in task.named_parameters() if p.requires_grad}
    assert trained
    assert [n for n, g in trained.items() if g is None or not g.isfinite().all() or not g.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_the_slope_of_the_loss(name):
    """Along a direction in which every weight moves: what is missing in a gradient, or too much, is missed there."""
    task = build(name, torch.float64)
    fixed(name, task)
    for _, module in implicit_modules(task.model):
        if kind(module) != "ode" and name not in UNSWAPPED:
            module.configure_implicit({"name": "anderson", **TIGHT["fixed_point"]}, EXACT)
    given = batch(name, task, dtype=torch.float64)
    weights = [p for p in task.parameters() if p.requires_grad]
    towards = [torch.randn_like(p) for p in weights]
    found = torch.autograd.grad(loss(task, given), weights)
    slope, step, losses = sum(float((g * d).sum()) for g, d in zip(found, towards, strict=True)), 1e-7, []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(weights, towards, strict=True):
                p.add_(d, alpha=sign * step)
            losses.append(float(loss(task, given)))
    scale = sum(float(g.square().sum()) for g in found) ** 0.5
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-3 * scale)


@pytest.mark.parametrize("name", NAMES)
def test_saved_copied_and_pickled_it_answers_the_same(name):
    task = build(name)
    given = batch(name, task)
    loss(task, given).backward()  # batch statistics move, so that buffers matter; and a solve leaves its record
    twin = copy.deepcopy(made(name)[0])  # which never had these weights
    twin.model.load_state_dict(task.model.state_dict())
    expected = answer(task.eval(), given)
    for other in (twin.model, copy.deepcopy(task.model), pickle.loads(pickle.dumps(task.model))):
        twin.model = other
        torch.testing.assert_close(answer(twin.eval(), given), expected)


@pytest.mark.parametrize("name", [n for n in IMPLICIT if n not in UNSWAPPED])
def test_a_swapped_solver_keeps_the_weights_and_the_answer(name):
    task = build(name, torch.float64).eval()
    before = {k: v.clone() for k, v in task.model.state_dict().items()}
    given = batch(name, task, dtype=torch.float64)
    answers = []
    for choose in (lambda m: type(m.solver).__name__.lower(), other_solver):
        for _, module in implicit_modules(task.model):
            module.configure_implicit({"name": choose(module), **TIGHT[kind(module)]})
        answers.append(answer(task, given))
        for _, module in implicit_modules(task.model):
            assert module.last.stats.converged.all(), module.last
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-5, atol=1e-5)
    for key, value in task.model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_one_sample_is_answered_as_in_a_batch(name):
    task = build(name, torch.float64).eval()
    for _, module in implicit_modules(task.model):
        if name not in UNSWAPPED:
            module.configure_implicit({"name": type(module.solver).__name__.lower(), **TIGHT[kind(module)]})
    given = batch(name, task, dtype=torch.float64)
    torch.testing.assert_close(answer(task, task.cut(given, 1)), answer(task, given)[:1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in NAMES])
def test_one_batch_is_learned(name):
    task = build(name)
    fixed(name, task)
    given = batch(name, task)
    assert left(lambda: loss(task, given), task, 0.5, lr=2e-2) < 0.5


def test_every_family_has_a_variant_for_the_tests():
    families = {cards.card(n).family for n in zoo.list_models()}
    assert families == {cards.card(n).family for n in NAMES}


@pytest.mark.parametrize("name", zoo.list_models())
def test_every_card_says_what_it_must(name):
    card = cards.card(name)
    assert card.summary and card.licence and card.data
    assert card.paper["year"] and card.paper["url"].startswith("https://")
