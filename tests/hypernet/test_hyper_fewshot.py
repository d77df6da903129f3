"""The hypernetwork that writes classifiers: its base, its symmetries, its batch of tasks."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from zoo.hypernet.compression import BatchSize, compression
from zoo.hypernet.hyper_fewshot import HyperClassifier, target


def episodes(tasks: int = 3, ways: int = 4, shots: int = 2, queries: int = 3):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(tasks, ways * (shots + queries), 1, 8, 8, generator=random)
    y = torch.arange(ways).expand(tasks, -1)
    n = ways * shots
    return x[:, :n], y.repeat_interleave(shots, 1), x[:, n:], y.repeat_interleave(queries, 1)


def model(**options) -> HyperClassifier:
    torch.manual_seed(0)
    net = HyperClassifier(**{"channels": 8, "downsample": 2, "hidden": 8, "heads": 2, **options})
    if net.writer is not None:  # away from its start, where it writes nothing
        for layer in (net.writer.row, net.writer.film):
            torch.nn.init.normal_(layer.weight, std=0.3)
    return net


def test_without_the_writer_it_is_a_prototypical_network():
    net = model(hidden=0)
    x, y, q, _ = episodes()
    seen, asked = net.body(x.flatten(0, 1)).view(3, 8, -1), net.body(q.flatten(0, 1)).view(3, 12, -1)
    p = seen.view(3, 4, 2, -1).mean(2)
    distance = -0.5 * (asked[:, :, None] - p[:, None]).square().sum(-1)
    torch.testing.assert_close(net(x, y, q).log_softmax(-1), distance.log_softmax(-1), rtol=1e-4, atol=1e-5)


def test_at_the_start_the_writer_changes_nothing():
    torch.manual_seed(0)
    net = HyperClassifier(channels=8, downsample=2, hidden=8, heads=2)
    *asked, _ = episodes()
    together = net(*asked)
    net.writer = None
    torch.testing.assert_close(net(*asked), together)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_tasks_do_not_mix(norm):
    net = model(norm=norm)
    x, y, q, _ = episodes()
    together = net(x, y, q)
    torch.testing.assert_close(net(x[1:2], y[1:2], q[1:2]), together[1:2], rtol=1e-4, atol=1e-5)


def test_orders_have_no_say_and_the_number_of_ways_is_free():
    net = model()
    x, y, q, _ = episodes()
    usual, turned, shuffled = net(x, y, q), torch.tensor([1, 3, 0, 2]), torch.randperm(8)
    torch.testing.assert_close(net(x, turned[y], q)[..., turned], usual, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(net(x[:, shuffled], y[:, shuffled], q), usual, rtol=1e-4, atol=1e-5)
    assert net(*episodes(ways=7)[:3]).shape == (3, 21, 7)


def test_every_parameter_gets_a_gradient():
    net = model()
    *asked, y = episodes()
    cross_entropy(net(*asked).flatten(0, 1), y.flatten()).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_it_reports_a_classifier_for_every_task():
    net = model()
    report = compression(net, BatchSize(samples=3, ways=7))
    assert report.generated == target(8, 7).numel and report.sets == 3
    assert report.generators == 1 + sum(p.numel() for p in net.writer.parameters())
    assert report.others == sum(p.numel() for p in net.body.parameters())
    assert compression(model(hidden=0)).generators == 1


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="multiple of heads"):
        HyperClassifier(hidden=6, heads=4)
    with pytest.raises(ValueError, match="downsample between 0 and 4"):
        HyperClassifier(downsample=5)
    with pytest.raises(ValueError, match="Support and query must be"):
        model()(torch.randn(2, 4, 3, 8, 8), torch.zeros(2, 4, dtype=torch.long), torch.randn(2, 4, 3, 8, 8))
