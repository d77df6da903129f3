"""Autocast within a batch of weights: what the plain module gives, sample by sample, in type and value."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.hypernet import HyperTarget
from zoo.layers.autocast import vmap


class Products(nn.Module):
    """Products by other roads than a layer, and sums of narrow and wide numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 6)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        a = x @ self.weight.T
        b = torch.einsum("bi,oi->bo", x, self.weight)
        c = torch.addmm(self.bias, x, self.weight.mT)
        return torch.cat([a, b + self.bias, c.softmax(-1)], 1)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)

    def forward(self, x):
        return self.norm(x + self.attention(x, x, x)[0])


class Island(nn.Module):
    """A part that leaves autocast by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return self.linear(x)


MODULES = {
    "linear": (lambda: nn.Linear(6, 5), (1, 6)),
    "conv1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (1, 2, 8)),
    "conv2d": (lambda: nn.Conv2d(2, 3, 3, padding=1), (1, 2, 6, 6)),
    "grouped": (lambda: nn.Conv2d(4, 4, 3, groups=2), (1, 4, 6, 6)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 2, stride=2), (1, 2, 4, 4)),
    "group_norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), (1, 2, 6, 6)),
    "batch_norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), (1, 2, 6, 6)),
    "instance_norm": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.InstanceNorm2d(4, affine=True)), (1, 2, 6, 6)),
    "rms_norm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.RMSNorm(8), nn.SELU(), nn.PReLU()), (2, 6)),
    "products": (Products, (1, 6)),
    "attention": (Attention, (1, 4, 8)),
    "island": (Island, (1, 6)),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("generated", ["*", "bias"])
@pytest.mark.parametrize("name", MODULES)
def test_a_batch_of_weights_under_autocast_is_the_loop_over_its_sets(name, generated, dtype):
    torch.manual_seed(0)
    make, shape = MODULES[name]
    module = make()
    names = [n for n, _ in module.named_parameters() if generated == "*" or n.endswith("bias")]
    target = HyperTarget(module, names)
    theta = {k: (v + 0.1 * torch.randn(3, *v.shape)).requires_grad_() for k, v in target.initial.items()}
    x = torch.randn(3, *shape)
    with torch.autocast("cpu", dtype):
        got = target(theta, x, batched=True)
        one = [target({k: v[b] for k, v in theta.items()}, x[b]) for b in range(3)]
    expected = torch.stack(one)
    assert got.dtype == expected.dtype
    step = torch.finfo(dtype).eps * float(expected.detach().abs().max())  # one rounding of the largest number
    torch.testing.assert_close(got, expected, rtol=0, atol=2 * step)
    given, pull = tuple(theta.values()), torch.randn(expected.shape)
    mine = torch.autograd.grad((got.float() * pull).sum(), given)
    theirs = torch.autograd.grad((expected.float() * pull).sum(), given)
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype == torch.float32
        rounding = torch.finfo(dtype).eps * float(pull.abs().sum()) / len(pull)  # of sums over all that a weight is in
        torch.testing.assert_close(a, b, rtol=0, atol=rounding)


def test_a_linear_target_computes_in_the_narrow_type():
    """In float32 the answers would not lie on bfloat16's grid."""
    torch.manual_seed(0)
    target = HyperTarget(nn.Linear(64, 8, bias=False))
    x, weight = torch.randn(3, 64), torch.randn(3, 8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        got = target.each({"weight": weight}, x)
    assert got.dtype == torch.bfloat16
    rounded = torch.einsum("boi,bi->bo", weight.bfloat16().double(), x.bfloat16().double())
    torch.testing.assert_close(got.double(), rounded, rtol=2 * 2**-8, atol=1e-3)
    assert not torch.equal(rounded, torch.einsum("boi,bi->bo", weight.double(), x.double()))


def test_losses_are_computed_wide_and_double_is_left_alone():
    x, y = torch.randn(3, 4, 5), torch.zeros(3, 4, dtype=torch.int64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = vmap(lambda x, y: F.cross_entropy(x.bfloat16(), y), "cpu")(x, y)
        double = vmap(lambda x: x @ x.mT, "cpu")(x.double())
    assert loss.dtype == torch.float32 and double.dtype == torch.float64


def test_without_autocast_it_is_torchs_own():
    x = torch.randn(3, 4, 5)
    torch.testing.assert_close(vmap(lambda x: x @ x.mT, "cpu")(x), x @ x.mT, rtol=0, atol=1e-6)
