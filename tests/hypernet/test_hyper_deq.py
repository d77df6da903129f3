"""Generated equilibria: contraction by construction, gradients into the generator, codes by sample and by task."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.data.vision import Digits
from zoo.hypernet.hyper_deq import HyperDEQ, HyperDEQClassifier

B, N, C = 6, 5, 3
TIGHT = {"rtol": 1e-13, "atol": 1e-14, "max_steps": 400}
EXACT = {"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-13, "atol": 1e-14, "max_steps": 50}}


class Cell(nn.Module):
    """``tanh(W z + b + x)``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(N, N)

    def forward(self, z, x):
        return torch.tanh(self.linear(z) + x)


def layer(**options) -> HyperDEQ:
    torch.manual_seed(0)
    options = {"solver": {"name": "anderson", **TIGHT}, "adjoint": EXACT, "limit": 0.7, **options}
    made = HyperDEQ(Cell(), C, **options).double()
    with torch.no_grad():  # far from where it starts, so that the constraint is at work
        for p in made.generator.parameters():
            p.mul_(3)
    return made


def data(samples: int = B, codes: int = B):
    g = torch.Generator().manual_seed(1)
    return (
        torch.randn(samples, N, dtype=torch.float64, generator=g),
        torch.randn(codes, C, dtype=torch.float64, generator=g),
    )


def gradients(made: HyperDEQ, x, code) -> dict[str, torch.Tensor]:
    code = code.clone().requires_grad_()
    made.zero_grad()
    (made(x, code) * torch.linspace(-1, 1, N, dtype=torch.float64)).square().sum().backward()
    return {"code": code.grad, **{n: p.grad.clone() for n, p in made.named_parameters()}}


@pytest.mark.parametrize("generator", ["full", "low_rank", "film", "chunked", "layers"])
@pytest.mark.parametrize("codes", [B, 2, 1])
def test_the_implicit_gradient_into_the_generator_is_the_unrolled_one(generator, codes):
    made, (x, code) = layer(generator=generator), data(codes=codes)
    implicit = gradients(made, x, code)
    assert made.last.stats.converged.all()
    made.configure_implicit({"name": "picard", **TIGHT}, "unroll")
    unrolled = gradients(made, x, code)
    assert implicit.keys() == unrolled.keys()
    for name, grad in unrolled.items():
        assert grad.abs().max() > 1e-6, name
        assert (implicit[name] - grad).abs().max() < 1e-8 * max(1, grad.abs().max()), name


@pytest.mark.parametrize("solver", ["anderson", "broyden", "picard", "newton", "learned"])
@pytest.mark.parametrize("adjoint", ["implicit", "neumann", "phantom", "jfb", "unroll"])
def test_gradients_reach_the_generator_through_every_pair(solver, adjoint):
    if (solver, adjoint) == ("newton", "unroll"):
        pytest.skip("refused in words by the adjoint")
    made, (x, code) = layer(), data()
    made.configure_implicit({"name": solver, "rtol": 1e-6, "max_steps": 60}, adjoint)
    assert all(g.abs().max() > 0 for g in gradients(made, x, code).values())


def test_every_sample_has_its_own_weights_and_one_fixed_point():
    made, (x, code) = layer(), data()
    z = made(x, code)
    theta = made.weights(code)
    w, b = theta["linear.weight"], theta["linear.bias"]
    torch.testing.assert_close(z, torch.tanh(torch.einsum("boi,bi->bo", w, z) + b + x), rtol=1e-10, atol=1e-10)
    assert (torch.linalg.matrix_norm(w, 2) <= 0.7 * (1 + 1e-9)).all()
    assert torch.linalg.matrix_norm(w, 2).max() > 0.6
    torch.testing.assert_close(made(x, code, z0=10 * torch.ones_like(x)), z, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("i", range(3))
def test_an_answer_does_not_depend_on_its_batch_mates(i):
    made, (x, code) = layer(), data()
    torch.testing.assert_close(made(x[i : i + 1], code[i : i + 1]), made(x, code)[i : i + 1], rtol=1e-9, atol=1e-9)


def test_contraction_holds_for_codes_of_any_size():
    """Weights a million times as large still give Banach's rate: the residual falls by the limit, or faster."""
    made, (x, code) = layer(limit=0.8, generator="full"), data()
    with torch.no_grad():
        for p in made.generator.parameters():
            p.mul_(1e6)
    made.configure_implicit({"name": "picard", "rtol": 1e-9, "max_steps": 400})
    with torch.no_grad():
        made.generator.base["linear/bias"].zero_()
        theta = made.weights(code)
        step = lambda z: torch.tanh(torch.einsum("boi,bi->bo", theta["linear.weight"], z) + x)  # noqa: E731
        z, last = torch.zeros_like(x), None
        for _ in range(10):
            new = step(z)
            size = (new - z).norm(dim=1)
            assert last is None or (size <= 0.8 * last * (1 + 1e-9)).all()
            z, last = new, size
    made(x, code)
    assert made.last.result is zoo.Result.converged
    made.limit = None
    made(x, code)
    assert made.last.result is not zoo.Result.converged


def test_tasks_share_their_weights():
    made, (x, code) = layer(), data(codes=2)
    together = made(x, code)
    rows = code.repeat_interleave(3, dim=0)
    torch.testing.assert_close(together, made(x, rows), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(made(x[:3], code[0]), together[:3], rtol=1e-9, atol=1e-9)


def test_finished_samples_leave_with_their_weights():
    made, (x, code) = layer(solver={"name": "picard", "rtol": 1e-6, "max_steps": 100}), data()
    sizes, plain = [], made.target.each
    made.target.each = lambda theta, *inputs: (sizes.append(len(inputs[0])), plain(theta, *inputs))[1]
    with torch.no_grad():
        x[1:] = 0
        made.generator.base["linear/bias"].zero_()
        for p in made.generator.delta.parameters():
            p.zero_()
        made(x, code)  # all but the first sample are solved by zero
    assert sizes[0] == B and sizes[-1] == 1


def test_the_twin_has_one_set_of_weights():
    images = torch.randn(3, 1, 8, 8)
    for context, shape in (("image", 2), ("constant", 1)):
        model = HyperDEQClassifier(channels=4, features=6, context=context).eval()
        seen = []
        model.layer.generator.register_forward_hook(lambda m, i, out, seen=seen: seen.append(i[0].dim()))
        assert model(images).shape == (3, 10) and seen == [shape]
        assert model.layer.last.stats.converged.all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["hyper_deq.digits"])
def test_shipped_weights_answer_under_autocast_as_in_float32(name, dtype):
    model = zoo.load(name).eval()
    data = Digits(batch_size=64)
    data.setup("test")
    images, _ = next(iter(data.test_dataloader()))
    with torch.no_grad():
        whole = model(images)
        with torch.autocast("cpu", dtype):
            narrow = model(images)
    assert narrow.dtype == dtype
    assert model.layer.last.stats.converged.all()
    top = whole.topk(2, 1).values
    clear = top[:, 0] - top[:, 1] > 0.05 * whole.abs().amax(1)  # more than the rounding of such logits
    assert clear.sum() >= 50
    assert torch.equal(narrow.argmax(1)[clear], whole.argmax(1)[clear])


@pytest.mark.parametrize("context", ["image", "constant"])
def test_training_under_autocast_reaches_every_parameter(context):
    torch.manual_seed(0)
    model = HyperDEQClassifier(channels=4, features=6, context=context)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(3, 1, 8, 8)).float().logsumexp(1).sum()
    loss.backward()
    for name, p in model.named_parameters():
        assert p.grad.dtype == torch.float32 and p.grad.isfinite().all(), name
        assert p.grad.abs().max() > 0, name


def test_the_limit_holds_under_autocast():
    made, (_, code) = layer().float(), data()
    with torch.autocast("cpu", torch.bfloat16):
        w = made.weights(code.float())["linear.weight"]
    assert (torch.linalg.matrix_norm(w.double(), 2) <= 0.7 * (1 + 1e-5)).all()


def test_bad_input_is_named():
    x, code = data(codes=4)
    with pytest.raises(ValueError, match=r"6 samples need a code each.*got\s+codes of shape \(4, 3\)"):
        layer()(x, code)
    with pytest.raises(ValueError, match="limit must be above 0"):
        layer(limit=0.0)
    with pytest.raises(ValueError, match="one of gram, power"):
        layer(method="svd")
    with pytest.raises(ValueError, match="'image' or 'constant'"):
        HyperDEQClassifier(context="none")
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        HyperDEQClassifier(limit=1.0)
    with pytest.raises(ValueError, match="kernel odd"):
        HyperDEQClassifier(kernel=2)
