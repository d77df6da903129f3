"""The image networks that baselines train and hypernetworks write."""

from __future__ import annotations

import pytest
import torch

from zoo.layers.convnet import ConvNet, WideBlock, WideResNet


def test_on_mnist_the_grid_changes_nothing():
    net, x = ConvNet(), torch.randn(2, 1, 28, 28)
    whole = net(x)
    assert whole.shape == (2, 784, 1, 1)
    net.pool = torch.nn.Identity()
    torch.testing.assert_close(net(x), whole)


@pytest.mark.parametrize("size", [8, 13, 32])
def test_other_images_pass_too(size):
    assert ConvNet(in_chans=3, grid=2)(torch.randn(2, 3, size, size)).shape == (2, 64, 1, 1)


def test_a_shortcut_without_parameters_pads_channels_and_skips_pixels():
    block = WideBlock(4, 6, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    torch.nn.init.zeros_(block.conv2.bias)
    z = torch.randn(2, 4, 7, 7)
    out = block(z)
    torch.testing.assert_close(out[:, :4], z[:, :, ::2, ::2])
    assert out.shape == (2, 6, 4, 4) and not out[:, 4:].any()


def test_the_maps_of_a_wide_residual_network():
    net = WideResNet(in_chans=1, depth=16, width=2).eval()
    assert len(net.blocks) == 6
    assert net(torch.randn(1, 1, 32, 32)).shape == (1, 128, 8, 8)
