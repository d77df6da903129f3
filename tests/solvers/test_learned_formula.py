"""The learned solver's network, feature by feature, and the step that it corrects."""

from __future__ import annotations

import math

import pytest
import torch
from problems import matrix
from torch import nn

from zoo.solvers import SOLVERS
from zoo.solvers.iterate import iterate
from zoo.solvers.learned import First, Learned, Proposer, Residual
from zoo.solvers.train_learned import Solved, loss, train

D = torch.float64


def shaken(module: nn.Module, seed: int = 0) -> nn.Module:
    """The same module with other weights, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    for p in module.parameters():
        nn.init.normal_(p, std=0.5, generator=generator)
    return module.double()


@pytest.mark.parametrize("n", [2, 3, 4])
@pytest.mark.parametrize("step", [4, 10, 25])
def test_the_corrections_come_from_angles_sizes_weights_and_progress(n, step):
    m, network = 4, shaken(Proposer(window=4, width=3))
    seen = []
    network.mixer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    vectors = torch.randn(2, n, 5, dtype=D, generator=torch.Generator().manual_seed(1))
    gram = vectors @ vectors.transpose(1, 2)
    live = torch.ones(2, n, dtype=D)
    live[1, n - 1] = 0.0
    weights = torch.randn(2, n, dtype=D, generator=torch.Generator().manual_seed(2))
    progress = torch.tensor([-1.5, -3.0], dtype=D)
    delta, extra = network.correct(gram, live, weights, progress, step)
    for b in range(2):
        size = [math.sqrt(gram[b, i, i]) for i in range(n)]
        used = [bool(live[b, i]) for i in range(n)]
        angles = [
            float(gram[b, i, j]) / size[i] / size[j] if max(i, j) < n and used[i] and used[j] else 0.0
            for i in range(m) for j in range(i)
        ]  # fmt: skip
        ratios = [math.log(size[i] / size[0]) if i < n and used[i] else 0.0 for i in range(m)]
        shares = [float(weights[b, i]) if i < n and used[i] else 0.0 for i in range(m)]
        expected = [*angles, *ratios, *shares, float(progress[b]), min(step, 10) / 10]
        assert seen[0][b].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        out = network.mixer(seen[0])[b]
        raw = [float(out[i]) if used[i] else 0.0 for i in range(n)]
        mean = sum(raw) / sum(used)
        assert delta[b].tolist() == pytest.approx([r - mean if u else 0.0 for r, u in zip(raw, used, strict=True)])
        assert extra[b].tolist() == pytest.approx([float(out[m])])


def test_a_step_is_andersons_with_the_corrections():
    """The second proposal by hand: weights and damping corrected, and the residual's network on the mixture."""
    n, shapes = 4, [(4,)]
    w, x = 0.5 * matrix(n, 0.9), torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=D)
    f = lambda z: z @ w.T + x  # noqa: E731
    network = shaken(Proposer(shapes, window=3, hidden=2, width=2, residual=True), 3)
    for p in network.parameters():
        p.data.mul_(0.02)
    seen = []
    solver = Learned(network=network, max_steps=2, rtol=1e-15, atol=0.0, ridge=0.0)
    iterate(lambda z: (seen.append(z.clone()), f(z))[1], torch.zeros(1, n, dtype=D), solver)
    z0 = torch.zeros(1, n, dtype=D)
    z1 = f(z0) + network.first(f(z0))
    torch.testing.assert_close(seen[1], z1, rtol=1e-12, atol=0)
    z, g = torch.stack([z1, z0], 1), torch.stack([f(z1) - z1, f(z0) - z0], 1)  # newest first
    assert g[0, 0].norm() < g[0, 1].norm()  # trusted still
    gram = g @ g.transpose(1, 2)
    a = torch.linalg.solve(gram, torch.ones(1, 2, 1, dtype=D))[:, :, 0]
    a = a / a.sum()
    progress = (g[:, 0].norm(dim=1) / g[:, 1].norm(dim=1)).log()
    delta, extra = network.correct(gram, torch.ones(1, 2, dtype=D), a, progress, 2)
    a = a + delta
    mixed, state = (a[:, :, None] * g).sum(1), (a[:, :, None] * (z + g)).sum(1)
    expected = state + extra * mixed + network.residual(state, mixed)
    torch.testing.assert_close(seen[2], expected, rtol=1e-7, atol=1e-9)


def test_a_sample_that_the_network_misleads_is_left_to_anderson():
    n = 4
    w, x = matrix(n, 0.9), torch.randn(1, n, dtype=D, generator=torch.Generator().manual_seed(6))
    network = Proposer([(n,)], window=3).double()
    nn.init.constant_(network.first.offset, 50.0)  # a first iterate far away, and nothing after it
    nn.init.constant_(network.mixer[2].bias, 3.0)
    seen = []
    with torch.no_grad():
        iterate(lambda z: (seen.append(z.clone()), z @ w.T + x)[1], torch.zeros(1, n, dtype=D),
                Learned(network=network, max_steps=4, rtol=1e-15, atol=0.0, restart=math.inf))  # fmt: skip
    assert (seen[1] - x - 50).abs().max() < 1e-12
    plain = SOLVERS["anderson"](window=3)
    with torch.no_grad():
        state = plain.start(seen[0], x.clone())
        for place, z in enumerate(seen[1:], 1):
            if place > 1:
                torch.testing.assert_close(plain.propose(state)[0], z, rtol=1e-9, atol=1e-9)
            state = plain.absorb(state, z, z @ w.T + x)
    warm = []
    iterate(lambda z: (warm.append(z.clone()), z @ w.T + x)[1], torch.full((1, n), 1e-3, dtype=D),
            Learned(network=network, max_steps=2, rtol=1e-15, atol=0.0))  # fmt: skip
    assert torch.equal(warm[1], warm[0] @ w.T + x)  # a start that is not zero knows more than the network


def test_the_first_iterate_by_hand():
    """Two parts: a map of two channels, and a vector; each sees the mean features of both."""
    net = shaken(First([(2, 3, 3), (4,)], hidden=2), 4)
    v = torch.randn(2, 22, dtype=D, generator=torch.Generator().manual_seed(5))
    image, vector = v[:, :18].view(2, 2, 3, 3), v[:, 18:]
    h = [torch.relu(net.enter[0](image)), torch.relu(net.enter[1](vector))]
    both = net.share(torch.cat([h[0].mean((2, 3)), h[1]], 1))
    h = [torch.relu(h[0] + both[:, :2, None, None]), torch.relu(h[1] + both[:, 2:])]
    expected = torch.cat([net.leave[0](h[0]).flatten(1), net.leave[1](h[1])], 1) + net.offset
    torch.testing.assert_close(net(v), expected, rtol=1e-12, atol=1e-12)
    assert net.enter[0].padding == (1, 1) and net.enter[0].kernel_size == (3, 3) == net.leave[0].kernel_size
    assert net.offset.shape == (22,) and not First([(2, 3, 3), (4,)], hidden=2).offset.any()


def test_the_residual_by_hand():
    net = shaken(Residual([(2, 4, 4), (1, 2, 2), (3,)], hidden=2), 4)
    z, g = torch.randn(2, 2, 39, dtype=D, generator=torch.Generator().manual_seed(5))

    def parts(x: torch.Tensor) -> list[torch.Tensor]:
        return [x[:, :32].view(2, 2, 4, 4), x[:, 32:36].view(2, 1, 2, 2), x[:, 36:]]

    h = [torch.sigmoid(gate(a)) * enter(b) for gate, enter, a, b in zip(net.gate, net.enter, parts(z), parts(g),
                                                                         strict=True)]  # fmt: skip
    pool, up = nn.functional.avg_pool2d(h[0], 2), h[1].repeat_interleave(2, 2).repeat_interleave(2, 3)
    met = [h[0] + up + h[2][:, :, None, None], h[1] + pool + h[2][:, :, None, None],
           h[2] + h[0].mean((2, 3)) + h[1].mean((2, 3))]  # fmt: skip
    expected = torch.cat([leave(a).flatten(1) for leave, a in zip(net.leave, met, strict=True)], 1)
    torch.testing.assert_close(net(z, g), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(net(z, 2 * g), 2 * expected, rtol=1e-12, atol=1e-12)  # linear in the residual
    assert net.gate[0].bias is not None and net.enter[0].bias is None and net.leave[2].bias is None
    assert net.enter[0].padding == (1, 1)


def test_networks_are_written_and_read(tmp_path):
    network = shaken(Proposer([(2, 3, 3), (4,)], window=3, hidden=2, width=5, residual=True)).float()
    network.save(tmp_path / "solver.safetensors")
    read = Proposer.load(tmp_path / "solver.safetensors")
    assert read.config == network.config and not any(p.requires_grad for p in read.parameters())
    assert all(torch.equal(a, b) for a, b in zip(read.parameters(), network.parameters(), strict=True))
    solver = Learned(weights=str(tmp_path / "solver.safetensors"))
    assert solver.network is Learned(weights=str(tmp_path / "solver.safetensors")).network
    assert solver._plain.window == 3 and Learned()._plain.window == 5
    with pytest.raises(ValueError, match="no weights"):
        Learned(weights=str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="22 numbers"):
        iterate(lambda z: z / 2, torch.zeros(1, 21), solver)


def test_training_is_adam_along_a_cosine_with_clipped_gradients():
    x = torch.randn(3, 4, dtype=D, generator=torch.Generator().manual_seed(9))
    w = matrix(4, 0.8)
    exact = x @ torch.linalg.inv(torch.eye(4, dtype=D) - w)
    batches = [Solved(lambda z, i=i: z @ w + x[i:], exact[i:]) for i in (0, 1)]
    mine, theirs = (shaken(Proposer([(4,)], window=2, hidden=2, width=2), 1) for _ in range(2))
    train(theirs, batches, updates=5, steps=3, lr=0.02, clip=0.1)
    optimizer = torch.optim.Adam(mine.parameters(), lr=0.02)
    for k in range(5):
        optimizer.param_groups[0]["lr"] = 0.02 * 0.5 * (1 + math.cos(math.pi * k / 5))
        for p in mine.parameters():
            p.grad = None
        loss(mine, batches[k % 2], 3).backward()
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 0.1)
        optimizer.step()
    for p, q in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q, rtol=1e-9, atol=1e-12)
