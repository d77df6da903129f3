"""The task hypernetwork: its weights, mixed batches, and the scale of what it writes."""

from __future__ import annotations

import pytest
import torch

from zoo.hypernet.hyper_continual import TaskHypernetwork


def model(**options) -> TaskHypernetwork:
    torch.manual_seed(0)
    return TaskHypernetwork(features=64, **{"hidden": (16,), "chunk": 100, "tasks": 3, **options})


def test_a_batch_of_several_tasks_is_answered_as_each_alone():
    net = model()
    x, task = torch.randn(6, 1, 8, 8), torch.tensor([2, 0, 1, 0, 2, 2])
    alone = torch.cat([net(x[i : i + 1], task[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(net(x, task), alone)
    weights = net.weights(torch.tensor([1]))
    assert weights.shape == (1, net.target.numel) == (1, 64 * 16 + 16 + 16 * 2 + 2)
    torch.testing.assert_close(net.run(weights[0], x[2:3]), alone[2:3])


def test_every_parameter_gets_a_gradient_and_other_codes_none():
    net = model()
    net(torch.randn(4, 64), torch.tensor([1, 1, 1, 1])).square().sum().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert net.codes.grad[1].abs().sum() > 0 and not net.codes.grad[[0, 2]].any()


def test_what_is_written_has_the_scale_of_a_usual_start():
    net = model(hidden=(100, 100), chunk=1024)
    out = net(torch.randn(256, 64), torch.zeros(256, dtype=torch.long))
    usual = net.target(net.target.initial, torch.randn(256, 64))
    assert 0.2 < (out.std() / usual.std()).item() < 5


def test_wrong_tasks_are_named():
    net = model()
    with pytest.raises(ValueError, match="numbered 0 to 2; got"):
        net(torch.randn(1, 64), torch.tensor([3]))
    with pytest.raises(ValueError, match="a task number for each of 2 samples"):
        net(torch.randn(2, 64), torch.tensor([0]))
    with pytest.raises(ValueError, match="at least one task"):
        model(tasks=0)
    with pytest.raises(ValueError, match="width"):
        model(hidden=(0,))
