"""Converted checkpoints compute what the released code computes.

``released.npz`` holds facts of a run of the released code (github.com/locuslab/deq, commit 1fb7059), made outside of
this repository: the names and shapes of the state dicts of five small models, and what they answer after six plain
iterations. Their weights follow from their names alone, by `weights`, so that none is kept.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import zoo
from zoo.convert import main
from zoo.deq.released import NotReleased
from zoo.deq.released import convert as rename
from zoo.hub import cards
from zoo.hub.convert import PREPROCESSING, convert
from zoo.storage.model_folder import WeightsError
from zoo.storage.preprocessing import Preprocessing

FACTS = dict(np.load(Path(__file__).parent / "released.npz"))
SHAPES: dict[str, dict[str, list[int]]] = json.loads(zlib.decompress(FACTS["shapes"].tobytes()))
CASES = [case for case in SHAPES if f"{case}_output" in FACTS]  # of the published TINY there are shapes alone
OPTIONS: dict[str, dict[str, Any]] = {
    "classification_imagenet": {"downsample": 2},  # no tensor tells, and 125 classes are nobody's
    "language_prenorm": {"norm_first": True},
}
SIX = {"name": "picard", "max_steps": 6, "rtol": 1e-30, "atol": 1e-30}


def weights(case: str) -> dict[str, Tensor]:
    """The released state dict of a case: every tensor drawn by its name; tied ones by the first of their names."""
    state = {}
    for name, shape in SHAPES[case].items():
        if name == "images":
            continue
        first = re.sub(r"crit\.out_layers\.(\d+)\.weight", r"word_emb.emb_layers.\1.weight", name)
        first = re.sub(r"crit\.out_projs\.([1-9])\.weight", r"word_emb.emb_projs.\1.weight", first)
        u = np.random.Generator(np.random.PCG64(zlib.crc32(first.encode()))).random(tuple(shape))
        if name.endswith(("running_var", "weight_g")):
            value = 0.5 + u
        elif name.endswith("weight") and len(shape) == 1:
            value = 0.75 + 0.5 * u
        else:
            value = 0.6 * (u - 0.5)
        state[name] = torch.tensor(7) if name.endswith("num_batches_tracked") else torch.tensor(value).float()
    return state


def saved(tmp_path: Path, content: Any, name: str = "model.pth") -> Path:
    torch.save(content, tmp_path / name)
    return tmp_path / name


@pytest.mark.parametrize("case", CASES)
def test_the_answers_are_those_of_the_released_code(case: str, tmp_path: Path) -> None:
    state = weights(case)
    made = convert(saved(tmp_path, state), tmp_path / "to", **OPTIONS.get(case, {}))
    model = zoo.load(tmp_path / "to")
    model.configure_implicit(SIX, "unroll")
    want = torch.from_numpy(FACTS[f"{case}_output"])
    with torch.no_grad():
        if "images" in SHAPES[case]:
            shape = tuple(SHAPES[case]["images"])
            x = torch.from_numpy(np.random.Generator(np.random.PCG64(1)).random(shape).astype(np.float32)) - 0.5
            features = model.forward_features(x)
            got = model.head(features) if case.startswith("segmentation") else model.forward_head(features)
        else:  # two segments, the second with what is remembered of the first
            x = torch.from_numpy(FACTS[f"{case}_input"].astype(np.int64))
            model.eval_memory_length = 6
            first, memory = model.loss(x[:, :5], x[:, 1:6])
            second, _ = model.loss(x[:, 5:10], x[:, 6:11], memory)
            got = torch.cat([first, second], 1)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)
    assert want.std() > 0.1
    assert made.parameters == sum(p.numel() for p in model.parameters()) and not made.published


@pytest.mark.parametrize("case", CASES)
def test_sizes_come_from_the_tensors(case: str) -> None:
    arguments = rename(weights(case), **OPTIONS.get(case, {})).arguments
    wanted: dict[str, dict[str, Any]] = {
        "classification_cifar": {
            "channels": [8, 8], "head_channels": [2, 3], "final_channels": 12, "expansion": 2, "num_classes": 10,
            "downsample": 0, "post_gn_affine": False, "weight_norm": True,
        },
        "classification_imagenet": {"channels": [8, 8, 16, 16], "num_classes": 125, "post_gn_affine": True},
        "segmentation_cityscapes": {"channels": [8, 16], "num_classes": 5, "kernel": 1, "downsample": 2},
        "language_postnorm": {
            "vocab_size": 40, "width": 32, "heads": 4, "head_width": 8, "inner": 24, "cutoffs": [8, 16, 28],
            "division": 2, "tie_projections": True, "norm_first": False, "weight_norm": True,
        },
        "language_prenorm": {"norm_first": True},
    }  # fmt: skip
    assert wanted[case].items() <= arguments.items()


def test_what_wrappers_add_is_left_out() -> None:
    state = weights("classification_cifar")
    plain = rename(state).state
    for content in (
        {"state_dict": state, "epoch": 3},
        {f"module.{k}": v for k, v in state.items()},
        {"state_dict": {f"module.model.{k}": v for k, v in state.items()} | {"module.loss.weight": torch.ones(3)}},
    ):
        again = rename(content).state
        assert again.keys() == plain.keys() and all(torch.equal(again[k], plain[k]) for k in plain)


def test_projections_that_differ_are_kept_apart() -> None:
    state = weights("language_postnorm")
    state["crit.out_projs.2.weight"] = state["crit.out_projs.2.weight"] + 1
    found = rename(state)
    assert not found.arguments["tie_projections"]
    assert torch.equal(found.state["words.unproject.2"], state["crit.out_projs.2.weight"])


def test_published_sizes_are_recognized_with_their_preprocessing(tmp_path: Path) -> None:
    made = convert(saved(tmp_path, weights("tiny")), tmp_path / "to")
    assert made.published and made.config.name == "mdeq_tiny.cifar10" and made.config.preprocessing["size"] == 32
    assert made.parameters == 158_890
    assert made.config.solver == cards.card("mdeq_tiny").solver
    assert zoo.load(tmp_path / "to")(torch.randn(1, 3, 8, 8)).shape == (1, 10)


@pytest.mark.parametrize(
    ("case", "nearest", "name"),
    [
        ("classification_cifar", "mdeq_tiny", "mdeq"),
        ("classification_imagenet", "mdeq_large", "mdeq"),  # four resolutions, and 125 classes are nobody's
        ("segmentation_cityscapes", "mdeq_segmentation_tiny", "mdeq_segmentation"),
        ("language_postnorm", "deq_transformer_small", "deq_transformer"),
    ],
)
def test_other_sizes_are_named_by_the_family_and_solved_as_the_nearest_card(
    case: str, nearest: str, name: str, tmp_path: Path
) -> None:
    made = convert(saved(tmp_path, weights(case)), tmp_path / "to", **OPTIONS.get(case, {}))
    assert made.config.name == name and made.config.solver == cards.card(nearest).solver
    assert nearest in made.assumed["solver"]
    readme = (tmp_path / "to" / "README.md").read_text()
    assert readme.startswith(f"# {name}\n") and "of sizes that no card has" in readme and "published" not in readme
    assert made.config.licence == "MIT" and "(MIT licence)" in readme
    assert zoo.load(tmp_path / "to").pretrained.name == name


@pytest.mark.parametrize(
    ("case", "options", "sentence"),
    [
        ("language_postnorm", {"downsample": 1}, "downsample: for an MDEQ only, and this is a DEQ transformer"),
        ("language_postnorm", {"downsample": 0, "groups": 8}, "downsample and groups: for an MDEQ only"),
        ("classification_cifar", {"norm_first": True}, "norm_first: for a DEQ transformer only, and this is an MDEQ"),
        ("segmentation_cityscapes", {"memory_length": 4}, "memory_length: for a DEQ transformer only"),
    ],
)
def test_an_option_of_another_architecture_is_refused(case: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(NotReleased, match=sentence):
        rename(weights(case), **options)


def test_every_published_set_of_pictures_has_its_preprocessing() -> None:
    tags = {tag for c in cards.all_cards().values() if c.family in ("mdeq", "mdeq_segmentation") for tag in c.published}
    assert tags == set(PREPROCESSING) == {"cifar10", "imagenet", "cityscapes"}
    streets = Preprocessing.read(PREPROCESSING["cityscapes"])
    assert streets(torch.zeros(3, 8, 16)).shape == (1, 3, 1024, 2048)
    assert Preprocessing.read(streets.as_dict()) == streets
    with pytest.raises(ValueError, match="a whole number .* or height and width"):
        Preprocessing.read({**PREPROCESSING["cityscapes"], "size": [1, 2, 3]})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda s: {"fc.weight": torch.ones(2, 2)}, "no released DEQ transformer, MDEQ classifier"),
        (lambda s: s | {"extra.weight": torch.ones(2)}, "no tensor 'extra.weight'"),
        (lambda s: {k: v for k, v in s.items() if "branches" not in k}, "file is not whole"),
        (lambda s: {k: v for k, v in s.items() if k != "classifier.weight"}, "'classifier.weight' is missing"),
        (lambda s: {k: v for k, v in s.items() if k != "downsample.1.bias"}, "stem.1.bias is missing"),
        (lambda s: [1, 2], "A checkpoint holds named tensors"),
        (lambda s: {"state_dict": {}}, "A checkpoint holds named tensors"),
    ],
)
def test_another_architecture_is_refused_and_nothing_is_written(change: Any, sentence: str, tmp_path: Path) -> None:
    file = saved(tmp_path, change(weights("classification_cifar")))
    with pytest.raises(WeightsError, match=sentence):
        convert(file, tmp_path / "to")
    assert not (tmp_path / "to").exists()


def test_rows_that_are_not_tied_are_refused() -> None:
    state = weights("language_postnorm")
    state["crit.out_layers.1.weight"] = state["crit.out_layers.1.weight"] + 1
    with pytest.raises(NotReleased, match="differ"):
        rename(state)


@pytest.mark.parametrize("part", ["word_emb.emb_layers", "word_emb.emb_layers.1", "inject_conv.weight", "crit.cluster"])
def test_a_transformer_that_is_not_whole_is_refused(part: str, tmp_path: Path) -> None:
    state = {k: v for k, v in weights("language_postnorm").items() if not k.startswith(part)}
    with pytest.raises(WeightsError, match=r"not whole|missing"):
        convert(saved(tmp_path, state), tmp_path / "to")


def test_halvings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(NotReleased, match="no convolution stage0"):
        rename(weights("classification_cifar"), downsample=2)


class Run:
    """What a pickle must not be able to do."""

    def __reduce__(self) -> Any:
        return (print, ("run",))


def test_a_file_that_may_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, {"state_dict": Run()})
    assert main([str(file), "--to", str(tmp_path / "to")]) == 1
    seen = capsys.readouterr()
    assert "is refused" in seen.err and "run" not in seen.out.split()


def test_the_command_says_what_it_made_and_what_it_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = saved(tmp_path, weights("segmentation_cityscapes"))
    assert main([str(file), "--to", str(tmp_path / "to")]) == 0
    said = capsys.readouterr().out
    assert "of sizes that no card has" in said and "downsample is not in the file: 2" in said and "zoo.load" in said
    assert main([str(tmp_path / "none.pth"), "--to", str(tmp_path / "to")]) == 1
    assert "does not exist" in capsys.readouterr().err
