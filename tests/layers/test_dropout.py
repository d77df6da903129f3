from __future__ import annotations

import pytest
import torch

from zoo.layers.dropout import dropout_mask


def test_mask_is_zero_or_scaled_and_has_mean_one() -> None:
    torch.manual_seed(0)
    m = dropout_mask(torch.zeros(1), 0.25, 100, 200, 1, 1)
    assert m.shape == (100, 200, 1, 1)
    assert m.unique().tolist() == pytest.approx([0, 4 / 3])
    assert m.mean().item() == pytest.approx(1, abs=0.02)


def test_mask_follows_device_and_dtype() -> None:
    m = dropout_mask(torch.zeros(1, device="meta", dtype=torch.float64), 0.5, 2, 3)
    assert m.device.type == "meta" and m.dtype == torch.float64
    assert not m.requires_grad


def test_no_dropout_is_all_ones() -> None:
    assert torch.equal(dropout_mask(torch.zeros(1), 0.0, 3, 2), torch.ones(3, 2))


@pytest.mark.parametrize("p", [-0.1, 1.0, 1.5, float("nan")])
def test_only_probabilities_below_one(p: float) -> None:
    with pytest.raises(ValueError, match="at least 0 and below 1"):
        dropout_mask(torch.zeros(1), p, 2)
