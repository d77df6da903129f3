"""ODE-Net: an image classifier whose residual blocks are one ordinary differential equation.

    y(0) = stem(x),    dy/dt = f(t, y),    logits = W pool(relu(GN y(1)))

``f`` is two 3x3 convolutions that know the time, with group normalization (`zoo.node.fields.ConvField`). Three
extensions are options of the same model: *augmented* channels that start at 0 and give the trajectories room to pass
one another, a *second-order* or *heavy-ball* equation for position and velocity, and several *stages*, each an ODE on
a map half as large as the one before, which make it an ODE-ResNet.

Reference: Chen et al., "Neural Ordinary Differential Equations", 2018, https://arxiv.org/abs/1806.07366;
Dupont, Doucet and Teh, "Augmented Neural ODEs", 2019, https://arxiv.org/abs/1904.01681;
Xia et al., "Heavy Ball Neural Ordinary Differential Equations", 2021, https://arxiv.org/abs/2110.04840

What differs from the paper: one image too small for its two halvings can do with fewer (``downsample``), and gradients
cross the solver's own steps (unroll) instead of a second ODE; ``adjoint="backsolve"`` is the paper's.

Shape letters: ``B`` images, ``C, H, W`` channels and size of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.implicit import DelegatesImplicit, ImplicitMixin
from zoo.layers.head import ImageClassifier, check_images
from zoo.node.fields import ConvField, SecondOrder, Time, norm
from zoo.registry import unknown

Dynamics = Literal["first", "second", "heavy_ball"]
DYNAMICS = ("first", "second", "heavy_ball")


class ODEBlock(ImplicitMixin, nn.Module):
    """``y(0) -> y(1)`` along a field: the layer that takes the place of a stack of residual blocks.

    Args:
        field: a module ``f(t, y)`` of y's shape.
        end: the time at which the state is read; it starts at 0.
        augment: channels of zeros put beside the input, which the field carries along.
        velocity: whether the state is position and velocity; the velocity starts at 0 and is left out of the output.
    """

    problem_types: ClassVar[tuple[str, ...]] = ("ode",)

    def __init__(self, field: nn.Module, end: float = 1.0, augment: int = 0, velocity: bool = False) -> None:
        super().__init__()
        if not end > 0 or augment < 0:
            raise ValueError(f"An ODE block needs end above 0 and augment of at least 0; got {end} and {augment}.")
        self.field, self.end, self.augment, self.velocity = field, end, augment, velocity
        self.configure_implicit({"name": "dopri5", "rtol": 1e-3, "atol": 1e-3, "max_steps": 1000}, "unroll")

    def forward(self, x: Tensor) -> Tensor:
        """The state at the end, (B, C + augment, ...), of an input (B, C, ...)."""
        y = torch.cat([x, x.new_zeros(x.shape[0], self.augment, *x.shape[2:])], 1) if self.augment else x
        if self.velocity:
            y = torch.cat([y, torch.zeros_like(y)], 1)
        y = self.integrate(self.field, y, (0.0, self.end))[-1]
        return y.chunk(2, 1)[0] if self.velocity else y

    def extra_repr(self) -> str:
        return f"end={self.end}, augment={self.augment}, velocity={self.velocity}"


class ODENet(DelegatesImplicit, ImageClassifier):
    """ODE-Net image classifier, with timm's conventions for a vision model.

    The defaults are the published configuration for MNIST: 208,266 parameters.

    Args:
        num_classes: of the classifier; 0 leaves it out.
        in_chans: channels of the images.
        channels: of each stage's map, without the augmented ones; one number is the ODE-Net, more an ODE-ResNet whose
            every further stage halves the map.
        hidden: channels between the two convolutions of a field, as a multiple of those of its state.
        downsample: how often the stem halves the image before the first ODE.
        padding: of the stem's first convolution; 1 keeps the border of small images, where it counts.
        groups: of group normalization, at most.
        time: how the fields know the time: ``plain``, ``concat``, ``concat_squash`` or ``hyper``.
        augment: channels of zeros added to the state of each stage; 0 for the plain ODE-Net, 5 or 10 for ANODE.
        dynamics: ``first`` order; ``second``: the field is an acceleration; ``heavy_ball``: and damped, as learned.
        end: the time at which each ODE ends. Longer is more expressive and costs more evaluations.
        act: activation in the fields and the stem; a smooth one suits solvers of high order.
        dropout: probability of dropping pooled features in front of the classifier.
        global_pool: ``avg`` or ``max``; or empty for none, with ``num_classes=0``.

    Raises:
        ValueError: sizes that do not fit one another.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_chans: int = 1,
        channels: Sequence[int] = (64,),
        hidden: float = 1.0,
        downsample: int = 2,
        padding: int = 0,
        groups: int = 32,
        time: Time = "concat",
        augment: int = 0,
        dynamics: Dynamics = "first",
        end: float = 1.0,
        act: str = "relu",
        dropout: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1 or in_chans < 1 or min(downsample, padding) < 0 or not 0 <= dropout < 1:
            raise ValueError(
                "An ODE-Net needs at least one stage of at least one channel, in_chans of at least 1, downsample and "
                f"padding of at least 0 and dropout in [0, 1); got channels={tuple(channels)}, in_chans={in_chans}, "
                f"downsample={downsample}, padding={padding}, dropout={dropout}."
            )
        if dynamics not in DYNAMICS:
            raise ValueError(unknown("dynamics", dynamics, DYNAMICS))
        self.in_chans, self.channels, self.head_dropout = in_chans, tuple(channels), dropout
        self.downsample, self.padding = downsample, padding
        self.stem = nn.Sequential(nn.Conv2d(in_chans, channels[0], 3, padding=padding))
        for _ in range(downsample):
            self.stem.append(halve(channels[0], channels[0], groups))
        self.blocks, self.down = nn.ModuleList(), nn.ModuleList()
        for i, c in enumerate(channels):
            if i:
                self.down.append(halve(channels[i - 1] + augment, c, groups))
            width = round(hidden * (c + augment))
            if width < 1:
                raise ValueError(
                    f"hidden must leave each field at least one channel between its convolutions; {hidden} of "
                    f"{c + augment} channels leaves none. Give a larger share; 1.0 keeps them all."
                )
            field: nn.Module = ConvField(c + augment, width, groups, time, act)
            if dynamics != "first":
                field = SecondOrder(field, damping=1.0 if dynamics == "heavy_ball" else 0.0)
            self.blocks.append(ODEBlock(field, end, augment, velocity=dynamics != "first"))
        self.num_features = channels[-1] + augment
        self.norm = norm(groups, self.num_features)
        self.feature_info = [
            {"num_chs": c + augment, "reduction": 2 ** (downsample + i), "module": f"blocks.{i}"}
            for i, c in enumerate(channels)
        ]
        self.reset_classifier(num_classes, global_pool)

    @staticmethod
    def map_size(size: int, options: Mapping[str, Any]) -> int:
        """Return the side of the last state: a 3x3 convolution, then 4x4 ones of stride 2, which round down."""
        side = size + 2 * options["padding"] - 2
        return side >> (options["downsample"] + len(options["channels"]) - 1)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Timm's grouping of parameters by depth: the stem, the stages, the rest."""
        return {"stem": r"^stem", "blocks": [(r"^(?:blocks|down)\.(\d+)", None)]}

    def forward_features(self, images: Tensor) -> Tensor:
        """The last state, normalized, (B, num_features, H, W), of images (B, in_chans, H, W).

        Raises:
            ValueError: other channels than ``in_chans``, or images too small for the halvings.
        """
        check_images(images, self.in_chans)
        halvings = self.downsample + len(self.channels) - 1
        if (min(images.shape[-2:]) + 2 * self.padding - 2) >> halvings < 1:
            raise ValueError(
                f"Images of {images.shape[-2]}x{images.shape[-1]} leave nothing after a 3x3 convolution and "
                f"{halvings} halvings; create the model with fewer (downsample, now {self.downsample})."
            )
        y = self.stem(images)
        for i, block in enumerate(self.blocks):
            y = block(self.down[i - 1](y) if i else y)
        return F.relu(self.norm(y))


def halve(c_in: int, c_out: int, groups: int) -> nn.Sequential:
    """Normalise, activate and halve a map: GN, relu, a 4x4 convolution of stride 2."""
    return nn.Sequential(norm(groups, c_in), nn.ReLU(), nn.Conv2d(c_in, c_out, 4, stride=2, padding=1))
