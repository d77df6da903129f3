from __future__ import annotations

import math

import pytest
import torch

from zoo.layers.attention import RelativeAttention, causal_mask, relative_shift, sinusoids


@pytest.mark.parametrize(("t", "m"), [(1, 0), (5, 0), (5, 3), (3, 7), (1, 4)])
def test_the_shift_brings_every_distance_to_its_place(t: int, m: int) -> None:
    k = m + t
    scores = torch.randn(2, 3, t, k)
    shifted = relative_shift(scores)
    assert shifted.shape == scores.shape
    for i in range(t):
        for j in range(m + i + 1):
            distance = m + i - j
            assert torch.equal(shifted[:, :, i, j], scores[:, :, i, k - 1 - distance])


def test_the_mask_lets_a_place_see_itself_and_what_lies_in_its_window() -> None:
    hidden = causal_mask(4, 3, 3, torch.device("cpu"))
    for i in range(4):
        for j in range(7):
            assert bool(hidden[i, j]) == (not 0 <= 3 + i - j < 3)


def test_sinusoids_run_from_the_farthest_distance_to_none() -> None:
    encoded = sinusoids(5, 6, torch.zeros(1, dtype=torch.float64))
    for row, n in enumerate(range(4, -1, -1)):
        for c in range(3):
            angle = n / 10000 ** (2 * c / 6)
            assert encoded[row, c] == pytest.approx(math.sin(angle), abs=1e-6)
            assert encoded[row, 3 + c] == pytest.approx(math.cos(angle), abs=1e-6)


@pytest.mark.parametrize(("m", "window"), [(0, 1000), (3, 1000), (3, 2)])
def test_attention_follows_the_equation(m: int, window: int) -> None:
    torch.manual_seed(0)
    t, heads, d = 4, 2, 3
    layer = RelativeAttention(8, heads, d).double()
    torch.nn.init.normal_(layer.content_bias), torch.nn.init.normal_(layer.position_bias)
    z, past = torch.randn(1, t, 8).double(), torch.randn(1, m, 8).double()
    x, past_x = torch.randn(1, t, 18).double(), torch.randn(1, m, 18).double()
    _, k, v = layer.split(past, past_x)
    got = layer(z, x, k, v, layer.distances(m + t, z), causal_mask(t, m, window, z.device))

    both, both_x = torch.cat([past, z], 1)[0], torch.cat([past_x, x], 1)[0]
    stacked = both @ layer.qkv.weight.T + both_x  # queries, then keys, then values, each head by head
    r = sinusoids(m + t, 8, z) @ layer.position.weight.T
    out = torch.zeros(t, heads * d).double()
    for i in range(t):
        for h in range(heads):
            q, ks, vs = (stacked[:, part * heads * d + h * d :][:, :d] for part in range(3))
            seen = [j for j in range(m + t) if 0 <= m + i - j < window]
            s = torch.stack(
                [
                    (q[m + i] + layer.content_bias[h]) @ ks[j]
                    + (q[m + i] + layer.position_bias[h]) @ r[m + t - 1 - (m + i - j), h * d :][:d]
                    for j in seen
                ]
            ) / math.sqrt(d)
            out[i, h * d : (h + 1) * d] = torch.softmax(s, 0) @ vs[seen]
    torch.testing.assert_close(got[0], out @ layer.out.weight.T + layer.out.bias)


@pytest.mark.parametrize("sizes", [(7, 1), (8, 3), (8, 0)])
def test_sizes_that_do_not_fit(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="divisible by both"):
        RelativeAttention(*sizes)
