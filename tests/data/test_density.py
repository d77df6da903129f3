"""Distributions in the plane: what is drawn has the density that is claimed, and is always the same."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zoo.data import DATA
from zoo.data.density import grid

PLANE = ["two_moons", "eight_gaussians", "checkerboard", "pinwheel", "two_spirals", "swissroll", "rings"]
KNOWN = ["eight_gaussians", "checkerboard", "rings"]


def data(name: str, **options):
    return DATA[name](**{"count": 500, **options})


@pytest.mark.parametrize("name", PLANE)
def test_splits_are_fixed_and_of_a_common_scale(name):
    assert DATA.entry(name).kind == "density"
    one, other = data(name, seed=0), data(name, seed=3)
    assert one.fingerprint() == other.fingerprint()
    assert one.sizes == {"train": 500, "val": 2_000, "test": 10_000}
    x = one.split("test")[0]
    assert x.shape == (10_000, one.features) and x.dtype == torch.float32
    assert x.abs().max() < 8 and 0.9 < x.std() < 3  # a flow starts from a standard normal distribution
    # another count to train on leaves what is measured on alone, and no sample is in two splits
    more = data(name, count=700)
    assert torch.equal(more.split("test")[0], x) and torch.equal(more.split("val")[0], one.split("val")[0])
    rows = torch.cat([one.split(s)[0] for s in ("train", "val", "test")])
    assert len(rows.unique(dim=0)) == len(rows)


@pytest.mark.parametrize("name", KNOWN)
def test_the_known_density_is_that_of_the_samples(name):
    d = data(name)
    side, reach = 1200, 6.0
    ticks = (np.arange(side) + 0.5) * (2 * reach / side) - reach
    points = np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
    cell = (2 * reach / side) ** 2
    p = np.exp(d.log_density(points))
    assert p.sum() * cell == pytest.approx(1, abs=1e-4)
    x = d.split("test")[0].double().numpy()
    share = np.histogram2d(x[:, 0], x[:, 1], bins=12, range=[[-reach, reach]] * 2)[0] / len(x)
    want = p.reshape(12, 100, 12, 100).sum((1, 3)).T * cell
    assert (np.abs(share - want) < 5 * np.sqrt(want * (1 - want) / len(x)) + 1e-4).all()
    spread = np.nan_to_num(d.log_density(x)).std() / 100  # of a mean of 10,000
    assert d.optimum() == pytest.approx(d.entropy(), abs=5 * spread + 1e-3)


def test_entropies_by_hand():
    assert data("checkerboard").entropy() == pytest.approx(math.log(32))
    apart = math.log(8) + 1 + math.log(2 * math.pi * 0.125)  # eight that would not overlap
    assert apart - 0.02 < data("eight_gaussians").entropy() < apart


@pytest.mark.parametrize("name", sorted(set(PLANE) - set(KNOWN)))
def test_an_unknown_density_is_said_to_be_unknown(name):
    assert data(name).optimum() is None and data(name).entropy() is None


def test_batches_depend_on_seed_and_epoch_alone():
    first, again = ([b[0] for b in data("rings", batch_size=100).train_dataloader()] for _ in range(2))
    other = next(iter(data("rings", batch_size=100, seed=1).train_dataloader()))[0]
    assert len(first) == 5 and all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other)
    loader = data("rings", batch_size=100).train_dataloader()
    one, two = (torch.cat([b[0] for b in loader]) for _ in range(2))
    assert not torch.equal(one, two) and torch.equal(one.sort(0).values, two.sort(0).values)


def test_the_grid_of_figures():
    g = grid(3, 2.0)
    assert g.tolist() == [[a, b] for b in (-2.0, 0.0, 2.0) for a in (-2.0, 0.0, 2.0)]


@pytest.mark.parametrize(
    ("options", "said"),
    [({"count": 0}, "count must be at least 1"), ({"batch_size": 0}, "batch_size"), ({"seed": -1}, "seed")],
)
def test_what_cannot_be(options, said):
    with pytest.raises(ValueError, match=said):
        data("rings", **options)
