from __future__ import annotations

import pytest
import torch

from zoo.deq.segmentation import MDEQSegmentation
from zoo.hub.factory import create_model

# Counted by instantiating the code that the paper's authors released, in its Cityscapes configurations.
RELEASED = {
    "mdeq_segmentation_small": 8_968_467,
    "mdeq_segmentation_large": 55_955_859,
    "mdeq_segmentation_xl": 79_551_755,
}


@pytest.mark.parametrize("name", RELEASED)
def test_as_many_parameters_as_the_released_code(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert sum(p.numel() for p in model.parameters()) == RELEASED[name]


def small() -> MDEQSegmentation:
    torch.manual_seed(0)
    model = MDEQSegmentation(num_classes=5, channels=[4, 4], expansion=2, groups=2, downsample=1, kernel=3)
    model.configure_implicit({"name": "anderson", "max_steps": 8}, "implicit")
    return model


def test_scores_every_pixel_and_every_parameter_gets_a_gradient() -> None:
    model = small()
    scores = model(torch.randn(2, 3, 16, 24))
    assert scores.shape == (2, 5, 16, 24)
    torch.nn.functional.cross_entropy(scores, torch.zeros(2, 16, 24, dtype=torch.long)).backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


def test_errors_name_the_fix() -> None:
    with pytest.raises(ValueError, match="Pad or resize them to 16x24"):
        small()(torch.zeros(1, 3, 14, 24))
    with pytest.raises(ValueError, match="kernel 1 or 3"):
        MDEQSegmentation(kernel=2)
