"""Dense prediction on images of any size: every pixel is seen, and a local model does not notice the windows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.layers.sliding_window import sliding, whole


def local(images):
    """Scores of two classes that depend on each pixel alone; refuses other sizes than multiples of 4."""
    assert images.shape[-1] % 4 == 0 and images.shape[-2] % 4 == 0
    return torch.cat([images.sum(1, keepdim=True), images.square().sum(1, keepdim=True)], 1)


@given(st.integers(1, 21), st.integers(1, 21), st.sampled_from([4, 8, 12]), st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_windows_and_padding_leave_no_trace(height, width, window, overlap):
    images = torch.randn(2, 3, height, width, dtype=torch.float64)
    exact = torch.cat([images.sum(1, keepdim=True), images.square().sum(1, keepdim=True)], 1)
    torch.testing.assert_close(sliding(local, images, window, overlap), exact)
    torch.testing.assert_close(whole(local, images, 4), exact)


def test_overlapping_windows_are_averaged():
    calls = iter(range(10))
    scores = sliding(lambda w: torch.full_like(w, float(next(calls))), torch.zeros(1, 1, 4, 6), 4, 0.5)
    assert scores[0, 0, 0].tolist() == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]


def test_a_window_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"overlap in \[0, 1\)"):
        sliding(local, torch.zeros(1, 3, 8, 8), 4, 1.0)
