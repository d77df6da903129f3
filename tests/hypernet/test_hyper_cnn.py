"""The static hypernetworks: the published counts, and the kernels that the paper's equations give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zoo
from zoo.hypernet.compression import compression


def parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_generator_of_the_paper_for_mnist():
    """12,544 weights from an embedding of 4 and 4,240 parameters."""
    model = zoo.create_model("hyper_cnn")
    report = compression(model)
    assert report.generated == 7 * 7 * 16 * 16 == 12_544
    places = model.features.generator.delta.places
    assert places.embedding.shape == (1, 4)
    assert parameters(model.features.generator) - parameters(places) == 4_240
    assert parameters(model) == 12_910


@pytest.mark.parametrize(
    ("width", "tiles", "published", "count", "plain"),
    [(1, 242, "0.097", 96_570, 562_730), (2, 966, "0.148", 147_578, 2_235_498)],
)
def test_the_wide_residual_networks_of_the_paper(width, tiles, published, count, plain):
    """Its table 3: 0.097M and 0.148M parameters in place of 0.563M and 2.236M."""
    model, twin = (zoo.create_model(f"{kind}_40_{width}") for kind in ("hyper_wrn", "wrn"))
    report = compression(model)
    assert model.features.generator.delta.places.embedding.shape == (tiles, 64)
    assert report.generated == tiles * 16 * 16 * 9
    assert report.generators - 64 * tiles == 75_920
    assert parameters(model) == count and f"{count / 1e6:.3f}" == published
    assert parameters(twin) == report.plain == plain
    assert report.ratio == pytest.approx({1: 5.83, 2: 15.15}[width], abs=0.01)  # 15.1 times is the paper's figure


def test_the_same_network_with_the_kernels_that_were_written():
    """Put into the plain twin, the generated kernels give the hypernetwork's answer."""
    torch.manual_seed(0)
    model, twin = (zoo.create_model(f"test_{kind}", in_chans=1).eval() for kind in ("hyper_wrn", "wrn"))
    kernels = model.features.generator()
    own = {n.removeprefix("features.target.module."): v for n, v in model.features.target.module.state_dict().items()}
    twin.features.load_state_dict({**own, **kernels})
    twin.classifier.load_state_dict(model.classifier.state_dict())
    x = torch.randn(2, 1, 12, 12)
    torch.testing.assert_close(model(x), twin(x))


@pytest.mark.parametrize("name", ["hyper_wrn_40_1", "hyper_cnn"])
def test_kernels_start_at_the_size_of_their_own_initialization(name):
    """Of the embedding's chance, a single kernel may be twice too large or small; the network as a whole is not."""
    ratios = []
    for _ in range(1 if name == "hyper_wrn_40_1" else 32):  # as many kernels of a network that has but a few
        model = zoo.create_model(name, in_chans=1)
        kernels, initial = model.features.generator(), model.features.target.initial
        ratios += [float(k.detach().std() / initial[n].std()) for n, k in kernels.items()]
    assert 0.7 < sum(ratios) / len(ratios) < 1.3


def test_statistics_of_the_normalizations_move_in_training():
    model = zoo.create_model("test_hyper_wrn", in_chans=1)
    norm = model.features.target.module.norm
    model(torch.randn(4, 1, 8, 8))
    assert int(norm.num_batches_tracked) == 1


def test_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="depth of 10, 16, 22.*got 41"):
        zoo.create_model("hyper_wrn_40_1", depth=41)
    with pytest.raises(ValueError, match="kernel odd"):
        zoo.create_model("hyper_cnn", kernel=4)
    with pytest.raises(ValueError, match="in_chans and width"):
        zoo.create_model("wrn_40_1", width=0)
    with pytest.raises(ValueError, match=r"Expected images of shape \(B, 1, H, W\)"):
        zoo.create_model("hyper_cnn")(torch.randn(2, 3, 28, 28))
