"""The explicit baselines: sizes that fit small images, names that do not exist."""

from __future__ import annotations

import pytest
import torch

import zoo
from zoo.registry import UnknownName


def test_the_twin_has_as_many_parameters_as_the_equilibrium_model():
    count = {n: sum(p.numel() for p in zoo.create_model(n).parameters()) for n in ("resnet_tiny", "mdeq_tiny")}
    assert 0.9 < count["resnet_tiny"] / count["mdeq_tiny"] < 1.15


@pytest.mark.parametrize("size", [8, 28])
@pytest.mark.parametrize("arch, enlarge", [("resnet18", 0), ("test_vit", 32), ("test_convnext", 32)])
def test_models_of_timm_take_small_images(arch, enlarge, size):
    model = zoo.create_model("timm", arch=arch, in_chans=1, num_classes=5).eval()
    assert model.enlarge == enlarge
    with torch.no_grad():
        features = model.forward_features(torch.randn(2, 1, size, size))
        assert model.forward_head(features).shape == (2, 5)
    if arch == "resnet18":
        assert features.shape[-1] == -(-size // 8)  # timm's own stem would leave one pixel of 28


def test_an_architecture_that_does_not_exist():
    with pytest.raises(UnknownName, match="resnet18"):
        zoo.create_model("timm", arch="resnet81")


@pytest.mark.parametrize("options", [{"channels": []}, {"depth": 0}, {"dropout": 1.0}, {"global_pool": "mean"}])
def test_sizes_that_cannot_be(options):
    with pytest.raises(ValueError, match="got"):
        zoo.create_model("resnet_tiny", **options)


def test_explicit_models_take_no_solver():
    with pytest.raises(ValueError, match="explicit"):
        zoo.create_model("resnet_tiny", solver="anderson")
    with pytest.raises(ValueError, match="in_chans"):
        zoo.create_model("resnet_tiny", in_chans=3)(torch.zeros(1, 1, 8, 8))
