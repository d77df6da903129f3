"""The implicit graph network: well posed on any graph, and it sees to the end of it; its explicit twin does not."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

import zoo
from zoo.baselines.gcn import GCN
from zoo.data.graphs import Chains
from zoo.deq.graph import IGNN
from zoo.layers.graphs import UNKNOWN, mean_over_neighbours
from zoo.tasks.node_classification import NodeClassification


def graphs(seed, nodes=6, batch=2, features=3):
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, nodes, features, generator=random, dtype=torch.float64)
    weights = torch.rand(batch, nodes, nodes, generator=random, dtype=torch.float64)
    return x, weights * (torch.rand(batch, nodes, nodes, generator=random) < 0.4)


@given(st.integers(0, 200), st.floats(0.1, 30.0), st.floats(0.1, 0.95))
def test_any_graph_and_any_weights_have_one_equilibrium(seed, scale, contraction):
    torch.manual_seed(seed)
    model = IGNN(2, 3, 4, contraction).double()
    with torch.no_grad():
        model.weight.mul_(scale)
    x, adjacency = graphs(seed)
    model.configure_implicit({"name": "picard", "rtol": 1e-11, "atol": 1e-13, "max_steps": 3000})
    with torch.no_grad():
        z = model.equilibrium(x, adjacency)
        mean, w = mean_over_neighbours(adjacency), model.bounded()
        injected = model.inject(x + mean @ x)
        step = lambda z: torch.relu(mean @ z @ w.T + injected)  # noqa: E731
        torch.testing.assert_close(step(z), z, rtol=1e-8, atol=1e-9)
        a, b = 9 * torch.randn_like(z), 9 * torch.randn_like(z)
        assert (step(a) - step(b)).abs().max() <= contraction * (a - b).abs().max() * (1 + 1e-12)
    assert model.last.result is zoo.Result.converged


def test_the_gradient_is_that_of_the_iteration():
    x, adjacency = graphs(0)
    found = []
    for adjoint in ({"name": "implicit", "solver": {"name": "gmres", "rtol": 1e-11, "atol": 1e-14}}, "unroll"):
        torch.manual_seed(1)
        model = IGNN(2, 3, 4, 0.6).double()
        model.configure_implicit({"name": "picard", "rtol": 1e-12, "atol": 1e-13, "max_steps": 200}, adjoint)
        loss = model(x, adjacency).square().sum()
        found.append(torch.autograd.grad(loss, list(model.parameters())))
    for implicit, unrolled in zip(*found, strict=True):
        torch.testing.assert_close(implicit, unrolled, rtol=1e-6, atol=1e-8)


def test_an_order_of_the_nodes_means_nothing():
    x, adjacency = graphs(3)
    model = IGNN(2, 3, 4, 0.6).double()
    order = torch.randperm(6)
    turned = model(x[:, order], adjacency[:, order][:, :, order])
    torch.testing.assert_close(turned, model(x, adjacency)[:, order], rtol=1e-3, atol=1e-3)


def reach(model, length=12):
    """How many nodes of a chain know its first one."""
    nodes = torch.zeros(1, length, 4, requires_grad=True)
    adjacency = torch.diag(torch.ones(length - 1), -1)[None]
    known = []
    for i in range(length):
        found = torch.autograd.grad(model(nodes, adjacency)[0, i].square().sum(), nodes)[0]
        known.append(bool(found[0, 0].abs().sum() > 0))
    return sum(known)


def test_messages_reach_the_end_of_a_chain_or_as_many_edges_as_there_are_layers():
    torch.manual_seed(0)
    model = IGNN(2, 4, 8, 0.9)
    with torch.no_grad():
        model.inject.bias.fill_(3.0)  # no rectifier is shut
    exact = {"name": "gmres", "rtol": 1e-6, "atol": 1e-9, "max_steps": 60}  # the looser, the shorter the gradient's way
    model.configure_implicit({"name": "picard", "rtol": 1e-6, "max_steps": 100}, {"name": "implicit", "solver": exact})
    assert reach(model) == 12
    assert reach(GCN(2, 4, 8, layers=3)) == 4


def test_chains_are_split_and_labelled_as_they_say():
    data = Chains(length=10, each=10, features=5, batch_size=8)
    nodes, train = data.split("train")
    assert nodes.shape == (20, 10, 5) and nodes.sum() == 20
    counts = {name: int((data.split(name)[1] != UNKNOWN).sum()) for name in ("train", "val", "test")}
    assert counts == {"train": 10, "val": 20, "test": 170}
    known = train != UNKNOWN
    assert torch.equal(train[known], nodes[:, 0].argmax(1)[:, None].expand(20, 10)[known])
    x, adjacency, y = next(iter(data.train_dataloader()))
    assert x.shape == (8, 10, 5) and adjacency.shape == (8, 10, 10) and y.shape == (8, 10)
    assert adjacency[0, 1, 0] == 1 and adjacency[0, 0, 1] == 0 and adjacency[0].sum() == 9
    with pytest.raises(ValueError, match="as many features as kinds"):
        Chains(features=1)


@pytest.mark.slow
def test_the_twin_of_equal_size_fails_where_the_implicit_network_learns():
    data = Chains(length=9, each=20, features=8, batch_size=40)
    batch = next(iter(data.train_dataloader()))
    test = next(iter(data.test_dataloader()))
    scores = {}
    for name in ("ignn_small", "gcn_small"):
        torch.manual_seed(0)
        model = zoo.create_model(name, features=8)
        optimizer = torch.optim.Adam(model.parameters(), 2e-2)
        for _ in range(120):
            optimizer.zero_grad()
            logits, labels = model(*batch[:2]).flatten(0, 1), batch[2].flatten()
            cross_entropy(logits, labels, ignore_index=UNKNOWN).backward()
            optimizer.step()
        far = test[2].clone()
        far[:, :3] = UNKNOWN  # which two layers reach
        known = far != UNKNOWN
        scores[name] = float((model(*test[:2]).argmax(2) == far)[known].float().mean())
        scores[f"{name} parameters"] = sum(p.numel() for p in model.parameters())
    assert scores["ignn_small"] > 0.95 and scores["gcn_small"] < 0.65
    assert abs(scores["ignn_small parameters"] / scores["gcn_small parameters"] - 1) < 0.06


def test_only_known_labels_count(monkeypatch):
    logged = {}
    monkeypatch.setattr(NodeClassification, "log", lambda self, name, value, **_: logged.__setitem__(name, value))
    x, adjacency = torch.randn(2, 4, 3), torch.zeros(2, 4, 4)
    model = GCN(2, 3, 4)
    task = NodeClassification(model)
    guess = model(x, adjacency).argmax(2)
    labels = torch.full((2, 4), UNKNOWN)
    labels[0, :2] = guess[0, :2]
    labels[1, 3] = 1 - guess[1, 3]
    task.validation_step((x, adjacency, labels), 0)
    assert float(logged["val/accuracy"].compute()) == pytest.approx(2 / 3)
    task.validation_step((x, adjacency, torch.full((2, 4), UNKNOWN)), 0)
    assert float(logged["val/loss"]) == 0.0


@pytest.mark.parametrize("kind", [IGNN, GCN])
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_edges_may_be_of_any_type(kind, dtype):
    model = kind(2, 3, 4).double()
    x, adjacency = graphs(2)
    edges = adjacency > 0
    assert torch.equal(model(x, edges.to(dtype)), model(x, edges.double()))


@pytest.mark.parametrize("kind", [IGNN, GCN])
def test_nan_is_refused(kind):
    x, adjacency = graphs(2)
    x[1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="features of these graphs hold NaN"):
        kind(2, 3, 4).double()(x, adjacency)
    adjacency[0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="adjacency of these graphs hold NaN"):
        kind(2, 3, 4).double()(x.nan_to_num(), adjacency)
    with pytest.raises(ValueError, match=r"got torch.int64. Use nodes.float\(\)"):
        kind(2, 3, 4)(torch.ones(1, 4, 3).long(), torch.ones(1, 4, 4))


def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"nodes of shape \(B, N, 100\)"):
        IGNN()(torch.zeros(1, 4, 3), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="negative entries"):
        GCN(2, 3)(torch.zeros(1, 4, 3), -torch.ones(1, 4, 4))
    with pytest.raises(ValueError, match=r"in \(0, 1\)"):
        IGNN(contraction=1.0)
    with pytest.raises(ValueError, match="at least one class"):
        GCN(layers=0)
