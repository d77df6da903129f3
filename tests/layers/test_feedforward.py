import torch

from zoo.layers.feedforward import FeedForward


def test_it_follows_the_equation_at_every_place() -> None:
    layer = FeedForward(4, 6).double()
    h, mask = torch.randn(2, 3, 4).double(), torch.tensor([0.0, 2.0, 1.0, 0.0, 1.0, 2.0]).double()
    inner = (h @ layer.widen.weight.T + layer.widen.bias).clamp(min=0)
    torch.testing.assert_close(layer(h), inner @ layer.narrow.weight.T + layer.narrow.bias)
    torch.testing.assert_close(layer(h, mask), (mask * inner) @ layer.narrow.weight.T + layer.narrow.bias)


def test_a_normalized_weight_has_the_length_that_is_learned() -> None:
    layer = FeedForward(4, 6)
    torch.nn.init.constant_(layer.widen.parametrizations.weight.original0, 0.5)
    torch.testing.assert_close(layer.widen.weight.norm(dim=1), torch.full((6,), 0.5))
    assert not hasattr(FeedForward(4, 6, normalize=False).widen, "parametrizations")
