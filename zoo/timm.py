"""The vision models and their weights in timm's registry: ``import zoo.timm``, then ``zoo_<name>`` is a timm model.

    import timm, zoo.timm
    timm.create_model("zoo_mdeq_tiny.digits", pretrained=True, num_classes=3)
    timm.list_models("zoo_*")

So timm's own factory and scripts take them; its ``num_classes``, ``in_chans``, ``drop_rate``, ``global_pool`` and
``features_only`` mean what they mean there, and any argument of the model's class, ``solver`` and ``adjoint`` may be
given too. The features of an equilibrium are its states once it is solved: modules inside a solve run many times, on
ever fewer samples, so that they come from ``forward_intermediates`` (timm's ``feature_cls="getter"``).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, model_entrypoint, register_model
from torch import nn

from zoo.hub import cards
from zoo.hub.configure import configure
from zoo.hub.factory import create_model
from zoo.layers.head import ImageClassifier
from zoo.registry import option_names
from zoo.storage import model_folder

PREFIX = "zoo_"
TASK = "zoo.tasks.classification:Classification"
IMAGENET = 1000  # classes, by which a card's model for ImageNet is known
IGNORED = ("drop_path_rate", "scriptable", "exportable", "no_jit", "img_size")  # timm's scripts give them to any model


def _configurations(card: cards.ModelCard) -> dict[str, dict[str, Any] | PretrainedCfg]:
    """Return timm's configuration for each set of weights of a card, or one without weights."""
    kind = card.load()
    defaults = {k: p.default for k, p in inspect.signature(kind).parameters.items()}
    common = {
        "first_conv": kind.first_conv,
        "classifier": "classifier",
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "license": card.licence.lower() or None,
        "paper_name": card.paper.get("title"),
        "origin_url": card.paper.get("url"),
    }
    out: dict[str, dict[str, Any] | PretrainedCfg] = {}
    for tag, entry in card.weights.items():
        if "file" not in entry:  # on a hub: nothing is fetched by an import
            continue
        place, _ = cards.weights_of(card, tag)
        saved = json.loads((place / model_folder.CONFIG).read_text(encoding="utf-8"))
        pictures, model = saved["preprocessing"], saved["model"]
        side = kind.map_size(pictures["size"], {**defaults, **card.model, **model})
        out[f"{PREFIX}{card.name}.{tag}"] = {
            **common,
            "pool_size": (side, side),
            "file": str(place / model_folder.WEIGHTS),
            "input_size": (len(pictures["mean"]), pictures["size"], pictures["size"]),
            "mean": tuple(pictures["mean"]),
            "std": tuple(pictures["std"]),
            "num_classes": model["num_classes"],
            "label_names": tuple(pictures["classes"]),
        }
    if not out:
        options = {**defaults, **card.model}
        channels = card.model.get("in_chans", 3 if "cifar10" in card.data[:1] else 1)
        if options["num_classes"] == IMAGENET:
            size, mean, std, crop = 224, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, 0.875
        else:
            size, mean, std, crop = 32 if channels == 3 else 28, (0.5,) * channels, (0.5,) * channels, 1.0
        side = kind.map_size(size, options)
        out[f"{PREFIX}{card.name}"] = {
            **common,
            "input_size": (channels, size, size),
            "pool_size": (side, side),
            "crop_pct": crop,
            "mean": mean,
            "std": std,
            "num_classes": options["num_classes"],
        }
    return out


def _entrypoint(card: cards.ModelCard) -> Callable[..., nn.Module]:
    """Return the function that timm calls to make a model of a card."""

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
        if kwargs.pop("feature_cls", "getter") != "getter":
            raise ValueError(
                "The features of an implicit model come from forward_intermediates: leave feature_cls out, or give "
                "feature_cls='getter'."
            )
        features = {"feature_cls": "getter", "out_indices": kwargs.pop("out_indices", None)}

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
    """Put every vision model of the cards into timm's registry, those of other packages too; return their names."""
    own = [c for c in cards.all_cards().values() if c.family != "timm"]  # that card makes timm's own models
    named = [c for c in own if c.task == TASK and not c.name.startswith("test_")]
    vision = [c for c in named if issubclass(c.load(), ImageClassifier)]  # others classify rows of a table
    for card in vision:
        default_cfgs.update(generate_default_cfgs(_configurations(card)))
        entrypoint = _entrypoint(card)
        register_model(entrypoint)
    return [f"{PREFIX}{c.name}" for c in vision]


def __getattr__(name: str) -> Callable[..., nn.Module]:
    """Return the function that makes a model, as modules of timm have one for each."""
    if name not in names:
        raise AttributeError(f"module 'zoo.timm' has no attribute {name!r}.")
    return model_entrypoint(name)


default_cfgs: dict[str, Any] = {}  # where timm looks for them
names: list[str] = []
names += register()
__all__ = ["names", "register", *names]
