from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from problems import left
from torch import Tensor, nn

from zoo.deq.mdeq import MDEQ, Cell
from zoo.hub.cards import card
from zoo.hub.factory import create_model
from zoo.reporting.counters import held_bytes

# Counted by instantiating the code that the paper's authors released (github.com/locuslab/deq), per configuration.
RELEASED = {
    "mdeq_tiny": (158_890, 111_696),
    "mdeq_large": (11_097_438, 8_715_232),
    "mdeq_imagenet_small": (16_808_936, 8_716_192),
    "mdeq_imagenet_large": (67_063_624, 54_422_800),
    "mdeq_imagenet_xl": (90_463_280, 77_699_952),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(**options: Any) -> MDEQ:
    torch.manual_seed(0)
    return create_model("test_mdeq", **{"solver": {"name": "anderson", "max_steps": 6}, **options})


def contractive(**options: Any) -> MDEQ:
    """A contraction, in float64: the last normalization adds much and lets little through."""
    model = small(post_gn_affine=True, **options).double()
    for post in model.cell.post:
        nn.init.constant_(post[2].weight, 0.02)
        nn.init.normal_(post[2].bias)
    return model


def images(batch: int = 4, size: int = 8, channels: int = 1) -> Tensor:
    return torch.randn(batch, channels, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", RELEASED)
def test_as_many_parameters_as_the_released_code(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    assert (count(model), count(model.cell)) == RELEASED[name]


def test_tiny_is_the_default() -> None:
    assert count(MDEQ()) == RELEASED["mdeq_tiny"][0]
    assert count(create_model("mdeq")) == RELEASED["mdeq_tiny"][0]


@pytest.mark.parametrize("options", [{}, {"downsample": 1}, {"downsample": 3}, {"channels": [4], "head_channels": [2]}])
def test_shapes(options: dict[str, Any]) -> None:
    model = small(**options).eval()
    x = torch.randn(2, 1, 16, 16)
    z = model.equilibrium(x)
    down = 16 >> options.get("downsample", 0)
    assert [tuple(s.shape) for s in z] == [(2, c, down >> i, down >> i) for i, c in enumerate(model.channels)]
    assert model(x).shape == (2, 10)
    assert model.forward_features(x).shape[:2] == (2, model.num_features)


def test_four_resolutions_of_a_long_image() -> None:
    model = small(channels=[2, 4, 4, 6], head_channels=[1, 1, 2, 2]).eval()
    assert model(torch.randn(1, 1, 16, 32)).shape == (1, 10)


def test_a_stem_halves_odd_sizes_upwards() -> None:
    assert small(downsample=1).eval()(torch.randn(1, 1, 27, 28)).shape == (1, 10)  # 27 -> 14


def test_cell_follows_the_equation() -> None:
    torch.manual_seed(0)
    cell = Cell((4, 4), expansion=2, groups=2).double()
    z = (torch.randn(2, 4, 4, 4).double(), torch.randn(2, 4, 2, 2).double())
    x, masks = torch.randn(2, 4, 4, 4).double(), tuple(torch.rand(2, 4, 1, 1).double() for _ in z)

    def norm(h: Tensor, groups: int) -> Tensor:  # scales are 1 and offsets 0 before training
        rows = h.reshape(len(h), groups, -1)
        return ((rows - rows.mean(2, keepdim=True)) / (rows.var(2, False, keepdim=True) + 1e-5).sqrt()).view_as(h)

    r = []
    for zi, xi, m, b in zip(z, (x, 0), masks, cell.blocks, strict=True):
        h = norm(torch.conv2d(zi, b.conv1.weight, padding=1), 2).relu()
        h = torch.conv2d(h, b.conv2.weight, padding=1)
        r.append(norm((norm(m * h + xi, 2) + zi).relu(), 2))
    up = norm(torch.conv2d(r[1], cell.fuse[0][1][0].weight), 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    down = norm(torch.conv2d(r[0], cell.fuse[1][0][0].weight, stride=2, padding=1), 2)
    want = [
        norm(torch.conv2d(s.relu(), p[1].weight), 1) for s, p in zip((r[0] + up, r[1] + down), cell.post, strict=True)
    ]
    for got, expected in zip(cell(z, x, *masks), want, strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("adjoint", ["implicit", "phantom", "unroll"])
def test_every_parameter_gets_a_gradient(adjoint: str) -> None:
    model = small(adjoint=adjoint, solver={"name": "anderson", "max_steps": 8})
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


def test_gradients_in_eval_mode() -> None:
    model = small().eval()
    x = torch.randn(2, 1, 8, 8, requires_grad=True)
    model(x).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_implicit_gradient_is_that_of_a_long_unroll() -> None:
    grads = []
    for solver, adjoint in [
        ({"name": "picard", "max_steps": 60, "rtol": 1e-13, "atol": 0.0}, "unroll"),
        (
            {"name": "anderson", "max_steps": 60, "rtol": 1e-13, "atol": 1e-14},
            {"name": "implicit", "solver": {"name": "gmres", "max_steps": 60, "rtol": 1e-12, "atol": 0.0}},
        ),
    ]:
        model = contractive(dropout=0.3)
        model.configure_implicit(solver, adjoint)
        torch.manual_seed(3)  # the same masks
        (model(images()) * torch.linspace(-1, 1, 10)).sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, unrolled in grads[0].items():
        torch.testing.assert_close(grads[1][name], unrolled, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_a_reversible_solve_has_the_gradient_of_its_unrolled_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    def unrolled_by_hand(self: MDEQ, f: Any, z0: Any, *, args: Any) -> Any:
        y = z = z0
        for _ in range(7):
            y = tuple(torch.lerp(a, b, 0.5) for a, b in zip(y, f(z, *args), strict=True))
            z = tuple(torch.lerp(a, b, 0.5) for a, b in zip(z, f(y, *args), strict=True))
        return z

    grads = []
    for by_hand in (True, False):
        model = small(
            solver={"name": "reversible", "max_steps": 7, "rtol": 1e-30, "atol": 1e-30}, adjoint="reversible"
        ).double()
        with monkeypatch.context() as patch:
            if by_hand:
                patch.setattr(MDEQ, "solve", unrolled_by_hand)
            torch.manual_seed(3)  # the same masks
            (model(images(2, 4)) * torch.linspace(-1, 1, 10)).sum().backward()
        assert by_hand or model.last.stats.steps.tolist() == [7, 7]
        grads.append({n: p.grad for n, p in model.named_parameters()})
    for name, unrolled in grads[0].items():
        torch.testing.assert_close(grads[1][name], unrolled, rtol=1e-6, atol=1e-8, msg=lambda m, n=name: f"{n}: {m}")


def test_a_swapped_solver_keeps_weights_and_equilibrium() -> None:
    model = contractive().eval()
    before = copy.deepcopy(model.state_dict())
    logits = []
    for name in ("picard", "anderson", "broyden"):
        model.configure_implicit({"name": name, "max_steps": 80, "rtol": 1e-10})
        logits.append(model(images()))
        assert model.last is not None and model.last.stats.converged.all()
    torch.testing.assert_close(logits[0], logits[1], rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(logits[0], logits[2], rtol=1e-7, atol=1e-7)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_an_image_is_seen_alone() -> None:
    model = contractive().eval()
    model.configure_implicit({"name": "anderson", "max_steps": 30, "rtol": 1e-3})
    x = images(5)
    together = model(x)
    alone = torch.cat([model(x[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def masks_seen(model: MDEQ, x: Tensor) -> list[list[Tensor]]:
    seen: list[list[Tensor]] = []
    handle = model.cell.register_forward_pre_hook(lambda cell, args: seen.append(list(args[2:])))
    model(x).sum().backward()
    handle.remove()
    return seen


def test_one_mask_a_solve_and_another_the_next() -> None:
    model = small(dropout=0.5, solver={"name": "picard", "max_steps": 6, "rtol": 1e-12})
    x = torch.randn(4, 1, 8, 8)
    first, second = masks_seen(model, x), masks_seen(model, x)
    assert len(first) >= 6
    for call in first[1:]:
        assert all(torch.equal(a, b) for a, b in zip(call, first[0], strict=True))
    assert [tuple(m.shape) for m in first[0]] == [(4, 4, 1, 1), (4, 4, 1, 1)]
    assert not all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


def test_eval_is_deterministic_and_without_masks() -> None:
    model = small(dropout=0.5).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(model(x), model(x))
    assert all(not call for call in masks_seen(model, x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_a_duplicate_after_training_gives_the_same(duplicate) -> None:
    model = small()
    x = torch.randn(2, 1, 8, 8)
    model(x).sum().backward()
    twin = duplicate(model).eval()
    assert torch.equal(twin(x), model.eval()(x))


def test_state_dict_round_trip() -> None:
    model = small().eval()
    other = MDEQ(**card("test_mdeq").model).eval()  # of other random numbers
    other.configure_implicit(model.solver, model.adjoint)
    x = torch.randn(2, 1, 8, 8)
    assert not torch.equal(model(x), other(x))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))


def test_timm_conventions() -> None:
    model = small().eval()
    x = torch.randn(2, 1, 8, 8)
    assert (model.num_classes, model.in_chans, model.num_features) == (10, 1, 12)
    features = model.forward_features(x)
    assert torch.equal(model.forward_head(features), model(x))
    assert model.forward_head(features, pre_logits=True).shape == (2, 12)
    model.reset_classifier(3)
    assert isinstance(model.get_classifier(), nn.Linear) and model(x).shape == (2, 3)
    model.reset_classifier(0)
    assert model(x).shape == (2, 12)
    model.reset_classifier(0, global_pool="")
    assert model(x).shape == features.shape
    model.reset_classifier(3, global_pool="max")
    assert model(x).shape == (2, 3) and model.global_pool == "max"
    names = {n for n, _ in model.named_parameters()}
    assert model.no_weight_decay() and model.no_weight_decay() <= names
    assert [f["reduction"] for f in model.feature_info] == [1, 2]


def test_weight_norm_can_be_left_out() -> None:
    model = small(weight_norm=False)
    assert not model.no_weight_decay()
    assert model.eval()(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def test_one_batch_is_learned() -> None:
    model = small(dropout=0.0, solver={"name": "anderson", "max_steps": 10})
    x, y = torch.randn(8, 1, 8, 8), torch.arange(8) % 4
    assert left(lambda: nn.functional.cross_entropy(model(x), y), model, 0.3) < 0.3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": [6, 6], "groups": 4}, "do not divide into 4 groups"),
        ({"channels": [], "head_channels": []}, "at least one resolution"),
        ({"head_channels": [2]}, "one number for each resolution"),
        ({"dropout": 1.0}, "below 1"),
        ({"downsample": -1}, "downsample of at least 0"),
        ({"global_pool": "mean"}, "global_pool must be"),
        ({"global_pool": ""}, "num_classes=0"),
    ],
)
def test_configurations_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small(**options)


@pytest.mark.parametrize(
    ("shape", "sentence"),
    [
        ((2, 3, 8, 8), r"Expected images of shape \(B, 1, H, W\); got \(2, 3, 8, 8\)"),
        ((1, 8, 8), "Expected images of shape"),
        ((2, 1, 9, 8), "divide by 2; got 9x8. Pad or resize them to 10x8"),
    ],
)
def test_images_that_do_not_fit(shape: tuple[int, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small()(torch.zeros(shape))


def test_images_of_whole_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got torch.uint8. Convert them as in training: images.float\(\) / 255"):
        small()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))


@pytest.mark.parametrize("name", ["test_concave", "test_monotone"])
def test_nan_is_named_by_all_image_models_at_equilibrium(name: str) -> None:
    model = create_model(name)
    x = torch.randn(3, model.in_chans, 8, 8)
    x[2, 0, 1, 1] = float("nan")
    with pytest.raises(ValueError, match=r"Images \[2\] of this batch of 3 .* NaN"):
        model(x)


def test_nan_is_named_and_spoils_nothing() -> None:
    model = small()
    x = torch.randn(3, 1, 8, 8)
    x[1, 0, 2, 2] = float("nan")
    with pytest.raises(ValueError, match=r"Images \[1\] of this batch of 3 .* NaN"):
        model(x)
    assert all(v.isfinite().all() for v in model.state_dict().values())


def test_bytes_kept_for_the_backward_pass_do_not_grow_with_the_iterations() -> None:
    never = {"rtol": 1e-30, "atol": 1e-30}
    image = torch.randn(1, 1, 8, 8)

    def held(solver: str, adjoint: str, steps: int) -> int:
        model = small(solver={"name": solver, "max_steps": steps, **never}, adjoint=adjoint)
        return held_bytes(lambda: model(image).sum())

    implicit = [held("broyden", "implicit", k) for k in (5, 20, 80)]
    assert max(implicit) <= 1.05 * min(implicit)
    assert held("picard", "unroll", 20) > 3 * held("picard", "unroll", 5)
