"""Control paths against closed forms: exact at the knots, and the curve that each kind promises between them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from zoo.node.cde import NeuralCDE
from zoo.node.interpolation import KINDS, control, fill


def knots(batch: int = 3, rows: int = 6, channels: int = 2):
    make = torch.Generator().manual_seed(5)
    times = (0.1 + torch.rand(batch, rows, generator=make, dtype=torch.float64)).cumsum(1)
    values = torch.randn(batch, rows, channels, generator=make, dtype=torch.float64)
    return times, values, torch.ones(batch, rows, channels, dtype=torch.bool)


def curve(path, t):
    """``X`` without its time channel at times (B, N)."""
    return torch.stack([path.evaluate(x)[:, 1:] for x in t.unbind(1)], 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_is_exact_at_its_knots(kind):
    times, values, mask = knots()
    path = control(kind, times, values, mask)
    torch.testing.assert_close(curve(path, times), values, rtol=0, atol=0)
    clock = torch.stack([path.evaluate(t)[:, 0] for t in times.unbind(1)], 1)
    torch.testing.assert_close(clock, times - times[:, :1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_path_is_exact_where_channels_were_seen_at_different_times(kind):
    times, values, mask = knots()
    mask = torch.rand(mask.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    found = curve(control(kind, times, values, mask), times)
    torch.testing.assert_close(found[mask], values[mask], rtol=0, atol=0)


def test_cubic_is_the_natural_spline():
    times, values, mask = knots()
    path = control("cubic", times, values, mask)
    for k in range(3):
        spline = CubicSpline(times[k].numpy(), values[k].numpy(), bc_type="natural")
        t = np.linspace(float(times[k, 0]), float(times[k, -1]), 41)
        ours = curve(path, torch.from_numpy(t)[None].expand(3, -1))[k]
        np.testing.assert_allclose(ours.numpy(), spline(t), rtol=1e-9, atol=1e-10)


def test_hermite_has_backward_differences_as_slopes():
    times, values, mask = knots()
    path = control("hermite", times, values, mask)
    span, rise = (times[:, 1:] - times[:, :-1])[..., None], values[:, 1:] - values[:, :-1]
    slope = rise / span
    left = path.b[..., 1:] / span
    right = (path.b + 2 * path.c + 3 * path.d)[..., 1:] / span
    torch.testing.assert_close(left[:, 1:], slope[:, :-1])
    torch.testing.assert_close(right, slope)  # the next piece begins with it: continuously differentiable
    torch.testing.assert_close(left[:, 0], slope[:, 0])


def test_linear_is_the_line_and_rectilinear_the_stairs():
    times, values, mask = knots()
    middle = 0.5 * (times[:, 1:] + times[:, :-1])
    line = curve(control("linear", times, values, mask), middle)
    torch.testing.assert_close(line, 0.5 * (values[:, 1:] + values[:, :-1]))
    stairs = curve(control("rectilinear", times, values, mask), middle)
    torch.testing.assert_close(stairs, values[:, :-1], rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_of_a_piece_is_the_same_curve(kind):
    times, values, mask = knots()
    path = control(kind, times, values, mask)
    t0, t1 = 0.7 * times[:, 2] + 0.3 * times[:, 3], 0.2 * times[:, 2] + 0.8 * times[:, 3]
    b, c, d = path.between(t0, t1)
    for s in (0.0, 0.25, 1.0):
        expected = path.evaluate(t0 + s * (t1 - t0))
        torch.testing.assert_close(path.evaluate(t0) + b * s + c * s**2 + d * s**3, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_beyond_the_last_knot_the_time_alone_moves(kind):
    times, values, mask = knots()
    path = control(kind, times, values, mask)
    b, c, d = path.between(times[:, -1], times[:, -1] + 0.5)
    torch.testing.assert_close(b[:, 0], torch.full((3,), 0.5, dtype=torch.float64))
    assert not b[:, 1:].any() and not c.any() and not d.any()


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_piece(kind):
    times, values, mask = knots()
    padded = torch.cat([times, times[:, -1:].expand(-1, 3)], 1)
    long = [torch.cat([x, torch.zeros_like(x[:, :3])], 1) for x in (values, mask)]
    alone, path = control(kind, times, values, mask), control(kind, padded, *long)
    middle = 0.5 * (times[:, 1:] + times[:, :-1])
    torch.testing.assert_close(curve(path, middle), curve(alone, middle), rtol=1e-12, atol=1e-12)


def test_gaps_are_filled_along_the_line_or_forward():
    times = torch.tensor([[0.0, 1.0, 3.0, 4.0, 6.0]], dtype=torch.float64)
    values = torch.tensor([[9.0, 1.0, 9.0, 4.0, 9.0]], dtype=torch.float64)[..., None]
    mask = torch.tensor([[False, True, False, True, False]])[..., None]
    assert fill(times, values, mask).flatten().tolist() == [1.0, 1.0, 3.0, 4.0, 4.0]
    assert fill(times, values, mask, forward=True).flatten().tolist() == [0.0, 1.0, 1.0, 4.0, 4.0]
    assert fill(times, values, torch.zeros_like(mask)).abs().sum() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_linear_cde_has_its_closed_form(kind):
    """With f(z) = 1 for every entry, dz = sum_c dX_c: z(T) - z(0) is the rise of the path, whatever its shape."""
    times, values, mask = knots()
    model = NeuralCDE(2, 2, width=3, path=kind).double()
    model.field.forward = lambda z: z.new_ones(len(z), 3, 3)
    path = control(kind, times, values, mask)
    start = model.start(path.evaluate(times[:, 0]))
    _, end = model.run(path, times, torch.zeros_like(times, dtype=torch.bool))
    rise = times[:, -1] - times[:, 0] + (values[:, -1] - values[:, 0]).sum(1)
    torch.testing.assert_close(end - start, rise[:, None].expand(-1, 3), rtol=1e-8, atol=1e-9)


def test_a_scalar_cde_along_a_line_is_an_exponential():
    """dz = z dX has z(T) = z(0) exp(X(T) - X(0)), and depends on the path's ends alone."""
    times, values, mask = knots(channels=1)
    ends = []
    for kind in KINDS:
        model = NeuralCDE(1, 2, width=1, path=kind).double()
        model.configure_implicit({"name": "dopri5", "rtol": 1e-10, "atol": 1e-12, "max_steps": 1000})
        model.field.forward = lambda z: torch.cat([torch.zeros_like(z), z], 1)[:, None]  # driven by the value alone
        path = control(kind, times, values, mask)
        torch.nn.init.zeros_(model.start[2].weight)
        torch.nn.init.ones_(model.start[2].bias)
        ends.append(model.run(path, times, torch.zeros_like(times, dtype=torch.bool))[1])
    expected = (values[:, -1] - values[:, 0]).exp()
    for end in ends:
        torch.testing.assert_close(end, expected, rtol=1e-7, atol=1e-9)


def test_an_unknown_path_names_the_nearest():
    with pytest.raises(ValueError, match="'linear'"):
        NeuralCDE(2, 2, path="linaer")


@pytest.mark.parametrize("kind", KINDS)
def test_a_series_of_one_row_has_a_path(kind):
    times, values = torch.tensor([[0.5]]), torch.tensor([[[1.0, 2.0]]])
    path = control(kind, times, values, torch.ones(1, 1, 2, dtype=torch.bool))
    assert path.evaluate(torch.tensor([0.5])).tolist() == [[0.0, 1.0, 2.0]]
    assert path.evaluate(torch.tensor([2.0])).tolist() == [[1.5, 1.0, 2.0]]  # beyond it the time alone moves
    model = NeuralCDE(features=2, path=kind)
    answer = model(times, values, torch.ones(1, 1, 2, dtype=torch.bool), torch.tensor([[0.5, 1.0]]))
    assert answer.values.shape == (1, 2, 2) and answer.values.isfinite().all()
