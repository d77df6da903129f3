"""The vision models and their weights in timm's registry: ``import zoo.timm``, then ``zoo_<name>`` is a timm model.

    import timm, zoo.timm
    timm.create_model("zoo_mdeq_tiny.digits", pretrained=True, num_classes=3)
    timm.list_models("zoo_*")

So timm's own factory and scripts take them; its ``num_classes``, ``in_chans``, ``drop_rate`` and ``features_only`` mean
what they mean there, and any argument of the model's class, ``solver`` and ``adjoint`` may be given too. The features
of a multiscale equilibrium are its state at every resolution.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._features import FeatureInfo
from torch import Tensor, nn

from zoo.deq.mdeq import Multiscale
from zoo.hub import cards
from zoo.hub.configure import configure
from zoo.hub.factory import create_model
from zoo.registry import option_names
from zoo.storage import model_folder

PREFIX = "zoo_"
TASK = "zoo.tasks.classification:Classification"
IGNORED = ("drop_path_rate", "scriptable", "exportable", "no_jit", "img_size")  # timm's scripts give them to any model


class Features(nn.Module):
    """What ``features_only=True`` gives: the maps (B, C_i, H_i, W_i) of a model's ``feature_info``.

    A module inside a solve runs many times, on ever fewer samples; so the state at the equilibrium is taken for those.

    Args:
        model: the model; it loses its classifier.
        out_indices: which maps; negative ones count from the last; None: all.
    """

    def __init__(self, model: nn.Module, out_indices: Sequence[int] | None = None, **_: Any) -> None:
        super().__init__()
        info = getattr(model, "feature_info", None)
        if not info:
            raise ValueError(f"{type(model).__name__} has no feature maps to choose from; leave features_only out.")
        wanted = (
            range(len(info)) if out_indices is None else [out_indices] if isinstance(out_indices, int) else out_indices
        )
        if any(not -len(info) <= i < len(info) for i in wanted):
            raise ValueError(f"out_indices {tuple(wanted)}: {type(model).__name__} has {len(info)} feature maps.")
        self.indices = tuple(i % len(info) for i in wanted)
        model.reset_classifier(0)  # type: ignore[operator]
        self.body = model
        self.feature_info = FeatureInfo(info, self.indices)

    def forward(self, images: Tensor) -> list[Tensor]:
        if isinstance(self.body, Multiscale):
            maps: dict[int, Tensor] = dict(enumerate(self.body.equilibrium(images)))
            return [maps[i] for i in self.indices]
        maps = {}
        names = self.feature_info.module_name()
        hooks = [
            self.body.get_submodule(name).register_forward_hook(
                lambda module, given, out, i=i: maps.__setitem__(i, out)  # type: ignore[misc]
            )
            for i, name in zip(self.indices, names, strict=True)
        ]
        try:
            self.body.forward_features(images)  # type: ignore[operator]
        finally:
            for hook in hooks:
                hook.remove()
        return [maps[i] for i in self.indices]


def _configurations(card: cards.ModelCard) -> dict[str, dict[str, Any]]:
    """Timm's configuration for each set of weights of a card, or one without weights."""
    common = {
        "first_conv": card.load().first_conv,
        "classifier": "classifier",
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "license": card.licence.lower() or None,
        "paper_name": card.paper.get("title"),
        "origin_url": card.paper.get("url"),
    }
    out = {}
    for tag, entry in card.weights.items():
        if "file" not in entry:  # on a hub: nothing is fetched by an import
            continue
        place, _ = cards.weights_of(card, tag)
        saved = json.loads((place / model_folder.CONFIG).read_text(encoding="utf-8"))
        pictures, model = saved["preprocessing"], saved["model"]
        out[f"{PREFIX}{card.name}.{tag}"] = {
            **common,
            "file": str(place / model_folder.WEIGHTS),
            "input_size": (len(pictures["mean"]), pictures["size"], pictures["size"]),
            "mean": tuple(pictures["mean"]),
            "std": tuple(pictures["std"]),
            "num_classes": model["num_classes"],
            "label_names": tuple(pictures["classes"]),
        }
    if not out:
        channels = card.model.get("in_chans", 3 if "cifar10" in card.data[:1] else 1)
        size = 32 if channels == 3 else 28
        plain = {"input_size": (channels, size, size), "mean": (0.5,) * channels, "std": (0.5,) * channels}
        out[f"{PREFIX}{card.name}"] = {**common, **plain, "num_classes": card.model.get("num_classes", 10)}
    return out


def _entrypoint(card: cards.ModelCard) -> Callable[..., nn.Module]:
    """The function that timm calls to make a model of a card."""

    def make(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        cache_dir: Any = None,
        pretrained_model_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> nn.Module:
        tag = pretrained_cfg if isinstance(pretrained_cfg, str) else (pretrained_cfg or {}).get("tag")
        tag = tag or next(iter(card.weights), "")
        outside = isinstance(pretrained_cfg, dict) or bool(pretrained_cfg_overlay)  # a source that no card speaks for
        saved = None
        if tag in card.weights:
            place, sha256 = cards.weights_of(card, tag)
            saved = model_folder.read(place)
            if pretrained and not outside:
                model_folder.read_weights(place, saved, sha256)  # refused here where its hash is wrong
        features = {"feature_cls": Features, "out_indices": kwargs.pop("out_indices", None)}

        def build(**arguments: Any) -> nn.Module:
            known = option_names(card.load())
            drop = arguments.pop("drop_rate", None)
            if drop is not None and "dropout" in known:
                arguments.setdefault("dropout", drop)
            arguments = {k: v for k, v in arguments.items() if k not in IGNORED}
            if saved is None:
                return create_model(card.name, **arguments)
            specs = {k: arguments.pop(k, None) for k in ("solver", "adjoint")}
            model = create_model(card.name, **{**saved.model, **arguments})
            configure(model, {"solver": saved.solver, "adjoint": saved.adjoint})
            configure(model, {}, **specs)
            return model

        return build_model_with_cfg(
            build,
            f"{PREFIX}{card.name}",
            pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            cache_dir=cache_dir,
            pretrained_model_args=pretrained_model_args,
            feature_cfg=features,
            **kwargs,
        )

    make.__name__ = make.__qualname__ = f"{PREFIX}{card.name}"
    make.__module__ = __name__
    make.__doc__ = card.summary
    return make


def register() -> list[str]:
    """Put every vision model of the cards into timm's registry, those of other packages too; returns their names."""
    own = [c for c in cards.all_cards().values() if c.family != "timm"]  # that card makes timm's own models
    vision = [c for c in own if c.task == TASK and not c.name.startswith("test_")]
    for card in vision:
        default_cfgs.update(generate_default_cfgs(_configurations(card)))
        entrypoint = _entrypoint(card)
        setattr(sys.modules[__name__], entrypoint.__name__, entrypoint)
        register_model(entrypoint)
    return [f"{PREFIX}{c.name}" for c in vision]


default_cfgs: dict[str, Any] = {}  # where timm looks for them
names = register()
__all__ = ["Features", "names", "register", *names]
