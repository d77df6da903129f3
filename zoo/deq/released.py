"""From the checkpoints that the authors of DEQ and MDEQ released to the models of this package.

A table of names, no more: the released tensors keep their values. Sizes are read off the tensors' shapes. What no shape
tells (how often the stem halves the image, the number of groups, where a transformer normalizes) is taken from what was
published for such a model, and can be said: it is named in `Converted.assumed`.

    weight normalization   g, v of ``weight_g, weight_v``  ->  ``parametrizations.weight.original0, original1``
    transformer            convolutions of width 1         ->  linear maps; the clusters of the softmax in their order

Released code: https://github.com/locuslab/deq, commit 1fb7059 (MIT license). Its checkpoints hold a state dict, or a
mapping with one under ``state_dict``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
Rule = tuple[str, str]  # a pattern that matches a whole released name, and ours

MARKS = {  # a name that only this model has -> import path of ours
    "func.dec_attn.r_w_bias": "zoo.deq.transformer:DEQTransformerLM",
    "incre_modules.0.0.conv1.weight": "zoo.deq.mdeq:MDEQ",
    "last_layer.0.weight": "zoo.deq.segmentation:MDEQSegmentation",
}


class NotReleased(ValueError):
    """A checkpoint of another architecture than the released ones, or with a part that they do not have."""


@dataclass(frozen=True)
class Converted:
    """A released checkpoint as this package names it.

    Attributes:
        path: import path of the class.
        arguments: of that class, read off the shapes.
        state: its state dict.
        assumed: argument -> why it has its value, for those that no shape tells.
    """

    path: str
    arguments: dict[str, Any]
    state: dict[str, Tensor]
    assumed: dict[str, str] = field(default_factory=dict)


def convert(
    content: Any,
    *,
    downsample: int | None = None,
    groups: int | None = None,
    norm_first: bool = False,
    memory_length: int | None = None,
) -> Converted:
    """Rename a released checkpoint.

    Args:
        content: a state dict, or a mapping that holds one under ``state_dict``.
        downsample: of an MDEQ: how often its stem halves the image; None: as published for as many resolutions and
            classes.
        groups: of an MDEQ: of group normalization; None: 8, as in all published models.
        norm_first: of a transformer: whether it is the pre-norm one.
        memory_length: of a transformer: places of the past to remember; None: 300, as the published result has.

    Raises:
        NotReleased: another architecture, sizes that do not fit one another, or an option for another architecture.
    """
    state = _state(content)
    path = next((path for name, path in MARKS.items() if name in state), None)
    if path is None:
        few = ", ".join(sorted(state)[:4])
        raise NotReleased(
            f"This is no released DEQ transformer, MDEQ classifier or MDEQ segmentation model: of its {len(state)} "
            f"tensors the first are {few}. None of {', '.join(MARKS)} is among them."
        )
    decoder = path.endswith("DEQTransformerLM")
    foreign = {
        "downsample": downsample is not None and decoder,
        "groups": groups is not None and decoder,
        "norm_first": norm_first and not decoder,
        "memory_length": memory_length is not None and not decoder,
    }
    if said := [name for name, wrong in foreign.items() if wrong]:
        what, whose = ("a DEQ transformer", "an MDEQ") if decoder else ("an MDEQ", "a DEQ transformer")
        raise NotReleased(f"{' and '.join(said)}: for {whose} only, and this is {what}; leave it out.")
    if decoder:
        return _transformer(path, state, norm_first, memory_length)
    return _mdeq(path, state, downsample, groups)


def _state(content: Any) -> dict[str, Tensor]:
    """The state dict within a checkpoint, without the prefixes that wrappers leave and without their losses."""
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        what = type(content).__name__
        raise NotReleased(f"A checkpoint holds named tensors, by themselves or as 'state_dict'; got a {what}.")
    state = {str(k): v for k, v in content.items()}
    for prefix in ("module.", "model."):
        kept = {k: v for k, v in state.items() if not k.startswith(("loss.", "module.loss."))}
        if all(k.startswith(prefix) for k in kept):
            state = {k.removeprefix(prefix): v for k, v in kept.items()}
    return state


def _rename(state: State, rules: list[Rule], drop: str = r"(?!)") -> dict[str, Tensor]:
    """Every tensor under its new name; weight normalization's two halves last.

    Raises:
        NotReleased: a name that no rule knows.
    """
    out: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if re.fullmatch(drop, name):
            continue
        for pattern, ours in rules:
            if match := re.fullmatch(pattern, name):
                new = match.expand(ours)
                new = re.sub(r"weight_g$", "parametrizations.weight.original0", new)
                out[re.sub(r"weight_v$", "parametrizations.weight.original1", new)] = tensor
                break
        else:
            raise NotReleased(f"The released models have no tensor {name!r}, {tuple(tensor.shape)}.")
    return out


def _size(state: State, name: str, axis: int = 0) -> int:
    """A size of a tensor, weight-normalized or not.

    Raises:
        NotReleased: it is missing, or has too few axes.
    """
    tensor = next((state[n] for n in (name, f"{name}_v") if n in state), None)
    if tensor is None or tensor.dim() <= axis:
        raise NotReleased(f"The tensor {name!r} is missing, or has no axis {axis}: the file is not whole.")
    return tensor.shape[axis]


def _count(state: State, pattern: str) -> int:
    """One more than the largest number that the pattern's group matches in the names; 0 where it never does."""
    return 1 + max((int(m.group(1)) for k in state if (m := re.match(pattern, k))), default=-1)


def _mdeq(path: str, state: dict[str, Tensor], downsample: int | None, groups: int | None) -> Converted:
    n = _count(state, r"fullstage\.branches\.(\d+)\.")
    if n == 0:
        raise NotReleased("The tensors fullstage.branches.*, the residual blocks, are missing: the file is not whole.")
    block = "fullstage.branches.{}.blocks.0.conv1.weight"
    channels = [_size(state, block.format(i), 1) for i in range(n)]
    kernels = {_size(state, k.format(i), 3) for i in range(n) for k in (block, block.replace("conv1", "conv2"))}
    if _count(state, r"fullstage\.branches\.\d+\.blocks\.(\d+)\.") > 1 or kernels != {3}:
        raise NotReleased("Residual blocks of 3x3 kernels, one a resolution, were released; this model has others.")
    arguments: dict[str, Any] = {
        "in_chans": _size(state, "downsample.0.weight", 1),
        "channels": channels,
        "expansion": _size(state, block.format(0)) // channels[0],
        "groups": 8 if groups is None else groups,
        "weight_norm": f"{block.format(0)}_g" in state,
        "post_gn_affine": "fullstage.post_fuse_layers.0.gnorm.weight" in state,
        "dropout": 0.0,
    }
    if path.endswith("MDEQ"):
        arguments |= {
            "num_classes": _size(state, "classifier.weight"),
            "head_channels": [_size(state, f"incre_modules.{i}.0.conv1.weight") for i in range(n)],
            "final_channels": _size(state, "final_layer.0.weight"),
        }
    else:
        arguments |= {
            "num_classes": _size(state, "last_layer.3.weight"),
            "kernel": _size(state, "last_layer.3.weight", 2),
        }
    assumed = {}
    if groups is None:
        assumed["groups"] = "8, as in all published models"
    stem = max(2, _count(state, r"downsample\.DS(\d+)\.") - 1)
    if stem > 2:  # further convolutions, one a halving
        downsample = stem
    else:
        injected = "stage0.0.weight" in state
        if downsample is None:
            small = path.endswith("MDEQ") and arguments["num_classes"] <= 100
            downsample = 0 if small or not injected else 2
            if injected:  # two resolutions without it halve nothing
                why = "as published for small images" if small else "as published for ImageNet and Cityscapes"
                assumed["downsample"] = f"{downsample}, {why}"
        if (downsample > 0 or n > 2) != injected:
            raise NotReleased(
                f"downsample={downsample} with {n} resolutions does not fit: the file has "
                f"{'a' if injected else 'no'} convolution stage0 after the stem."
            )
    arguments["downsample"] = downsample
    deep: list[Rule] = []
    for k in range(3, stem + 1):
        deep += [(rf"downsample\.DS{k}\.(.*)", rf"stem.{3 * (k - 1)}.\1")]
        deep += [(rf"downsample\.DS{k}-BN\.(.*)", rf"stem.{3 * (k - 1) + 1}.\1")]
    rules: list[Rule] = [
        *deep,
        (r"downsample\.([0134])\.(.*)", r"stem.\1.\2"),
        (r"stage0\.0\.(.*)", rf"stem.{3 * stem}.\1"),
        (r"stage0\.1\.(.*)", rf"stem.{3 * stem + 1}.\1"),
        (r"fullstage\.branches\.(\d+)\.blocks\.0\.(conv[12])\.(.*)", r"cell.blocks.\1.\2.\3"),
        (r"fullstage\.branches\.(\d+)\.blocks\.0\.gn([123])\.(.*)", r"cell.blocks.\1.norm\2.\3"),
        (r"fullstage\.fuse_layers\.(\d+)\.(\d+)\.net\.conv\.(.*)", r"cell.fuse.\1.\2.0.\3"),
        (r"fullstage\.fuse_layers\.(\d+)\.(\d+)\.net\.gnorm\.(.*)", r"cell.fuse.\1.\2.1.\3"),
        *[
            (rf"fullstage\.fuse_layers\.(\d+)\.(\d+)\.net\.{k}\.{part}\.(.*)", rf"cell.fuse.\1.\2.{3 * k + i}.\3")
            for k in range(n)
            for i, part in enumerate(("conv", "gnorm"))
        ],
        (r"fullstage\.post_fuse_layers\.(\d+)\.conv\.(.*)", r"cell.post.\1.1.\2"),
        (r"fullstage\.post_fuse_layers\.(\d+)\.gnorm\.(.*)", r"cell.post.\1.2.\2"),
        *[
            (rf"incre_modules\.(\d+)\.0\.{part}{k}\.(.*)", rf"widen.\1.body.{3 * k - 3 + i}.\2")
            for k in (1, 2, 3)
            for i, part in enumerate(("conv", "bn"))
        ],
        (r"incre_modules\.(\d+)\.0\.downsample\.([01])\.(.*)", r"widen.\1.skip.\2.\3"),
        (r"downsamp_modules\.(\d+)\.([01])\.(.*)", r"down.\1.\2.\3"),
        (r"final_layer\.([01])\.(.*)", r"final.\1.\2"),
        (r"classifier\.(.*)", r"classifier.\1"),
        (r"last_layer\.([013])\.(.*)", r"head.\1.\2"),
    ]
    unused = r"fullstage\.post_fuse_layers\..*" if n == 1 else r"(?!)"  # one resolution fuses nothing
    return Converted(path, arguments, _rename(state, rules, unused), assumed)


def _transformer(path: str, state: dict[str, Tensor], norm_first: bool, memory_length: int | None) -> Converted:
    clusters = _count(state, r"word_emb\.emb_layers\.(\d+)\.")
    if clusters == 0:
        raise NotReleased("The tensors word_emb.emb_layers.*, the words' rows, are missing: the file is not whole.")
    heads, head_width = (_size(state, "func.dec_attn.r_w_bias", axis) for axis in (0, 1))
    for c in range(clusters):
        _size(state, f"word_emb.emb_layers.{c}.weight", 1)
    rows = [state[f"word_emb.emb_layers.{c}.weight"] for c in range(clusters)]
    width = _size(state, "inject_conv.weight", 1)
    if "crit.cluster_weight" in state and len(state["crit.cluster_weight"]) != clusters - 1:
        raise NotReleased(
            "This transformer cuts its vocabulary into clusters of equal width: where they end is not in the file. "
            "The released checkpoint divides the widths (div_val 4)."
        )
    ends = torch.tensor([len(r) for r in rows]).cumsum(0).tolist()
    widths = [r.shape[1] for r in rows]
    for c, r in enumerate(rows):
        if not torch.equal(state.get(f"crit.out_layers.{c}.weight", torch.empty(0)), r):
            raise NotReleased(
                f"crit.out_layers.{c}.weight and word_emb.emb_layers.{c}.weight differ: the released models score "
                "words by the rows that embed them, and so do ours."
            )
    projections = [
        (state.get(f"word_emb.emb_projs.{c}.weight"), state.get(f"crit.out_projs.{c}.weight")) for c in range(clusters)
    ]
    tied = all(a is not None and b is not None and torch.equal(a, b) for a, b in projections[1:])
    arguments: dict[str, Any] = {
        "vocab_size": ends[-1],
        "width": width,
        "heads": heads,
        "head_width": head_width,
        "inner": _size(state, "func.pos_ff.ff1_net.bias"),
        "embed_width": widths[0],
        "cutoffs": ends[:-1],
        "division": widths[0] // widths[1] if clusters > 1 and widths[1] else 4,
        "tie_projections": tied,
        "norm_first": norm_first,
        "weight_norm": "func.dec_attn.qkv_net.weight_g" in state,
        "memory_length": 300 if memory_length is None else memory_length,
    }
    rules: list[Rule] = [
        (r"word_emb\.emb_layers\.(\d+)\.weight", r"words.rows.\1"),
        (r"word_emb\.emb_projs\.(\d+)\.weight", r"words.project.\1"),
        (r"crit\.out_layers\.(\d+)\.bias", r"words.bias.\1"),
        (r"crit\.out_projs\.(\d+)\.weight", r"words.unproject.\1"),
        (r"crit\.cluster_weight", r"words.cluster"),
        (r"crit\.cluster_bias", r"words.cluster_bias"),
        (r"inject_conv\.(.*)", r"inject.\1"),
        (r"func\.dec_attn\.qkv_net\.(.*)", r"cell.attention.qkv.\1"),
        (r"func\.dec_attn\.r_net\.(.*)", r"cell.attention.position.\1"),
        (r"func\.dec_attn\.o_net\.(.*)", r"cell.attention.out.\1"),
        (r"func\.dec_attn\.r_w_bias", r"cell.attention.content_bias"),
        (r"func\.dec_attn\.r_r_bias", r"cell.attention.position_bias"),
        (r"func\.pos_ff\.ff1_net\.(.*)", r"cell.feedforward.widen.\1"),
        (r"func\.pos_ff\.ff2_net\.(.*)", r"cell.feedforward.narrow.\1"),
    ]
    drop = r"pos_emb\.inv_freq|crit\.out_layers\.\d+\.weight" + (r"|crit\.out_projs\.[1-9]\d*\.weight" if tied else "")
    out = _rename(state, rules, drop)
    for name, tensor in out.items():
        if tensor.dim() == 3:  # a convolution over one place
            out[name] = tensor[..., 0]
        elif name.startswith("words.cluster"):
            out[name] = tensor.flip(0)  # the released code counts the clusters from the end
    assumed = {"memory_length": "300, as in the published evaluation"} if memory_length is None else {}
    if not norm_first:
        assumed["norm_first"] = "False, as the released checkpoint; nothing in a file tells"
    return Converted(path, arguments, out, assumed)
