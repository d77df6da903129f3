"""Generator and target as one: the ways of calling, the memory of a step, the report."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from torch import nn

import zoo
from zoo.hub import cards
from zoo.hypernet import Generator, HyperNetwork, HyperTarget
from zoo.hypernet.compression import BatchSize, compression
from zoo.hypernet.target import TargetError
from zoo.reporting.counters import held_bytes

# a MetaLearner finds weights by a solve; all other models of the family generate them
WRITTEN = [
    n
    for n in zoo.list_models("test_*")
    if (path := cards.card(n).path).startswith("zoo.hypernet.") and not path.endswith(":MetaLearner")
]


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(12, 16), nn.Dropout(0.5), nn.ReLU(), nn.Linear(16, 3))


def build(module: nn.Module | None = None, kind="full", code_size: int = 4, **options) -> HyperNetwork:
    torch.manual_seed(0)
    target = HyperTarget(module or mlp())
    return HyperNetwork(target, Generator(target, code_size, kind), **options)


def gradients(net: HyperNetwork, call) -> list[torch.Tensor]:
    torch.manual_seed(2)
    net.zero_grad()
    call(net).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


CALLS = {
    "one code": lambda net: net(torch.ones(4), torch.ones(7, 12)),
    "tasks": lambda net: net(torch.arange(20.0).view(5, 4), torch.ones(5, 7, 12), batched=True),
    "each": lambda net: net.each(torch.arange(20.0).view(5, 4), torch.ones(5, 12)),
}


@pytest.mark.parametrize("call", CALLS)
def test_rematerialized_gradients_are_the_same_dropout_included(call):
    plain, again = build(), build(rematerialise=True)
    torch.manual_seed(2)
    expected = CALLS[call](plain)
    torch.manual_seed(2)
    torch.testing.assert_close(CALLS[call](again), expected)
    for a, b in zip(gradients(plain, CALLS[call]), gradients(again, CALLS[call]), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("microbatch", [1, 2, 5, 9])
@pytest.mark.parametrize("rematerialise", [False, True])
def test_microbatches_change_nothing(microbatch, rematerialise):
    plain, cut = build().eval(), build(microbatch=microbatch, rematerialise=rematerialise).eval()
    for call in ("tasks", "each"):
        torch.testing.assert_close(CALLS[call](cut), CALLS[call](plain))
        for a, b in zip(gradients(plain, CALLS[call]), gradients(cut, CALLS[call]), strict=True):
            torch.testing.assert_close(a, b)


def test_a_batch_of_one_keeps_its_axis():
    net = build(microbatch=1)
    assert net.each(torch.ones(1, 4), torch.ones(1, 12)).shape == (1, 3)
    assert net(torch.ones(1, 4), torch.ones(1, 7, 12), batched=True).shape == (1, 7, 3)


def test_the_bytes_kept_for_the_backward_pass():
    """The MLP 784-100-10 with 64 sets of weights: kept are codes, inputs and outputs, not 64 times 79,510 weights."""
    code = torch.randn(64, 8)
    x = torch.randn(64, 784, requires_grad=True)  # as behind an encoder: otherwise the first layer keeps x alone

    def kept(**options) -> int:
        net = build(nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10)), code_size=8, **options)
        return held_bytes(lambda: net.each(code, x))

    plain, again = kept(), kept(rematerialise=True)
    assert plain > 64 * 78_400 * 4  # the first layer's weights, at the least
    assert plain > 20 * again, (plain, again)
    assert plain > 20 * kept(rematerialise=True, microbatch=8)


def test_running_statistics_must_not_move_twice():
    net = build(nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16)), rematerialise=True)
    with pytest.raises(TargetError, match=r"module.1 \(BatchNorm1d\) would update its running statistics twice"):
        net(torch.ones(4), torch.randn(7, 12))
    net.eval()
    assert net(torch.ones(4), torch.randn(7, 12)).shape == (7, 16)


def test_outputs_of_several_tensors():
    class Two(nn.Linear):
        def forward(self, x):
            y = super().forward(x)
            return {"y": y, "both": (y, x)}

    net = build(Two(12, 3), microbatch=2)
    out = net.each(torch.ones(5, 4), torch.ones(5, 12))
    assert out["y"].shape == (5, 3) and out["both"][1].shape == (5, 12)


def test_the_report_counts_what_the_model_has():
    module = nn.Sequential(nn.Linear(100, 50), nn.Linear(50, 10))
    target = HyperTarget(module, "0.weight")
    generator = Generator(target, 0, {"name": "tiles", "outputs": 10, "inputs": 10, "embedding": 4}, base="none")
    report = compression(HyperNetwork(target, generator))
    assert report.generated == 5000 and report.others == 50 + 510
    # 50 tiles of 4 numbers; 10 matrices 4x4 with a bias; one matrix 10x4 with a bias
    assert report.generators == 200 + 160 + 40 + 40 + 10
    assert report.plain == 5560 and report.ratio == pytest.approx(5560 / 1010)
    assert report.bytes_a_set == report.bytes_a_batch == 20_000
    assert "5,000 weights generated (20.0 kB a set, 1 set a batch) by 450 parameters" in str(report)
    assert "1,010 in all, 5.5 times fewer than the 5,560 without generator" in str(report)
    assert report.asdict()["ratio"] == 5.505 and report.asdict()["bytes_a_batch"] == 20_000
    assert compression(nn.Linear(3, 2)) is None
    full = HyperTarget(nn.Linear(10, 10))
    report = compression(HyperNetwork(full, Generator(full, 3)), BatchSize(64))  # a code for every sample
    assert "440 in all, 4.0 times the 110 without generator" in str(report)
    assert "(440 bytes a set, 64 sets or 28.2 kB a batch)" in str(report) and report.bytes_a_batch == 64 * 440
    assert compression(HyperNetwork(full.half(), Generator(full, 3).half())).bytes_a_set == 220


@pytest.mark.parametrize("name", WRITTEN)
def test_every_hypernetwork_of_the_zoo_is_counted(name):
    model = zoo.create_model(name)
    report = compression(model, BatchSize(samples=7, steps=3, ways=4))
    assert report.generated > 0 and report.generators > 0
    assert report.generators + report.others == sum(p.numel() for p in model.parameters())
    assert report.bytes_a_set == 4 * report.generated and report.sets > 0


def test_bad_input():
    net = build()
    with pytest.raises(TargetError, match=r"One code of shape \(C,\).*got \(2, 4\).*batched=True"):
        net(torch.ones(2, 4), torch.ones(2, 12))
    with pytest.raises(TargetError, match=r"shape \(B, C\); got \(4,\)"):
        net.each(torch.ones(4), torch.ones(2, 12))
    with pytest.raises(TargetError, match="does not pair with 3 sets"):
        net.each(torch.ones(3, 4), torch.ones(2, 12))
    with pytest.raises(ValueError, match="another target"):
        HyperNetwork(HyperTarget(nn.Linear(2, 2)), net.generator)
    with pytest.raises(ValueError, match="microbatch must be at least 0"):
        build(microbatch=-1)


def test_it_can_be_pickled_and_copied():
    net, code, x = build().eval(), torch.randn(3, 4), torch.randn(3, 12)
    expected = net.each(code, x)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    torch.testing.assert_close(torch.load(file, weights_only=False).each(code, x), expected)
    torch.testing.assert_close(copy.deepcopy(net).each(code, x), expected)


@pytest.mark.slow
def test_it_can_be_compiled():
    net, code, x = build().eval(), torch.randn(3, 4), torch.randn(3, 12)
    torch.testing.assert_close(torch.compile(net.each, backend="aot_eager")(code, x), net.each(code, x))


def test_second_derivatives_pass_through():
    net, code, x = build().double().eval(), torch.randn(3, 4).double(), torch.randn(3, 12).double()
    code.requires_grad_()
    assert torch.autograd.gradcheck(lambda c: net.each(c, x), code)
    assert torch.autograd.gradgradcheck(lambda c: net.each(c, x).square(), code)


@pytest.mark.parametrize("rematerialise", [False, True])
def test_mixed_precision_reaches_the_generator(rematerialise):
    net = build(rematerialise=rematerialise)
    with torch.autocast("cpu", torch.bfloat16):
        loss = net.each(torch.randn(3, 4), torch.randn(3, 12)).float().square().mean()
    loss.backward()
    for p in net.parameters():
        assert p.grad.dtype == torch.float32 and p.grad.isfinite().all() and p.grad.abs().sum() > 0


def test_the_initial_values_may_be_dropped_once_a_generator_is_made():
    net = build()
    net.target.initial.clear()
    assert net(torch.ones(4), torch.ones(7, 12)).shape == (7, 3)
    assert compression(net).bytes_a_set == 4 * net.target.numel
