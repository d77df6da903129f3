"""The few-shot backbone: what each norm looks at."""

from __future__ import annotations

import pytest
import torch
from torch.func import vmap

from zoo.layers.conv4 import Conv4


def test_group_looks_at_one_image_and_batch_at_those_given_together():
    torch.manual_seed(0)
    x = torch.randn(6, 1, 12, 12)
    for norm, alone in (("group", True), ("batch", False)):
        net = Conv4(1, 8, 3, norm).eval()
        assert net(x).shape == (6, 8)
        assert torch.allclose(net(x[:3]), net(x)[:3], atol=1e-5) is alone
        torch.testing.assert_close(vmap(net)(x.view(2, 3, 1, 12, 12))[1], net(x[3:]), rtol=1e-4, atol=1e-5)


def test_the_image_may_have_any_size_and_downsample_halves():
    for count, side in ((4, 2), (2, 7), (0, 28)):
        net = Conv4(1, 4, count)
        assert net.blocks(torch.randn(2, 1, 28, 28)).shape[-1] == side


@pytest.mark.parametrize("options", [{"in_chans": 0}, {"channels": 0}, {"downsample": 5}, {"norm": "layer"}])
def test_wrong_arguments_are_named(options):
    with pytest.raises(ValueError, match="Conv4"):
        Conv4(**options)
