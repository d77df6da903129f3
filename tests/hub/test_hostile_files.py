"""Model folders and checkpoints that ask for too much, or say what no class takes: one sentence, at once."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import torch

import zoo
from zoo.hub import cards
from zoo.hub.sizes import TooLarge, limited
from zoo.hub.trained import set_trained_config, trained_config
from zoo.hub.values import check_spec, check_values, fits
from zoo.registry import UnknownName
from zoo.solvers import SOLVERS
from zoo.storage import model_folder
from zoo.storage.model_folder import WeightsError
from zoo.training.evaluate import evaluate

MDEQ = {"model": {"name": "mdeq_tiny"}, "data": {"name": "digits"}}
RUN = Path(__file__).parent / "old" / "run"


@pytest.fixture
def place(tmp_path):
    return Path(shutil.copytree(cards.HERE / "weights" / "mdeq_tiny.digits", tmp_path / "mine"))


def change(place, **sections):
    """Overlay sections of a folder's configuration."""
    raw = json.loads((place / model_folder.CONFIG).read_text())
    for key, value in sections.items():
        raw[key] = {**raw[key], **value} if isinstance(value, dict) and isinstance(raw[key], dict) else value
    (place / model_folder.CONFIG).write_text(json.dumps(raw))


def nested(depth):
    spec = {"name": "gmres"}
    for _ in range(depth):
        spec = {"name": "newton", "linear_solver": spec}
    return spec


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"model": {"channels": [8] * 100_000}}, "more than .* parts|do not fit|cannot be built"),
        ({"model": {"channels": [8] * 60, "head_channels": [8] * 60}}, "more than .* parts|do not fit|cannot be built"),
        ({"model": {"downsample": 10**7}}, "more than .* parts|cannot be built"),
        ({"model": {"channels": [8, 8.5]}}, "channels must be .*; got"),
        ({"model": {"channels": "many"}}, "channels must be"),
        ({"model": {"groups": True}}, "groups must be int; got True"),
        ({"solver": {"name": "anderson", "window": 10**9}}, "window of 'anderson' must be at most 1,000"),
        ({"solver": {"name": "anderson", "max_steps": 18.5}}, "max_steps must be int; got 18.5"),
        ({"solver": {"name": "anderson", "max_steps": 10**12}}, "max_steps of 'anderson' must be at most 1,000,000"),
        ({"solver": {"name": "learned", "weights": "/etc/hostname"}}, "weights of 'learned' names a file"),
        ({"solver": {"name": "learned", "weights": "../up.safetensors"}}, "weights of 'learned' names a file"),
        ({"solver": {"name": "learned", "network": "x"}}, "network must be"),
        ({"solver": {"name": ["anderson"]}}, "a solver needs a 'name'"),
        ({"solver": nested(900)}, "lie inside one another|cannot be built"),
        ({"adjoint": {"name": "implicit", "solver": {"name": "gmres", "window": 10**9}}}, "window of 'gmres' must be"),
        ({"adjoint": {"name": "implicit", "solver": 3}}, "solver of 'implicit' must be a solver; got 3"),
    ],
)
def test_a_configuration_that_asks_for_too_much_is_one_sentence_at_once(place, sections, said):
    if "solver" in sections:
        raw = json.loads((place / model_folder.CONFIG).read_text())
        (place / model_folder.CONFIG).write_text(json.dumps({**raw, "solver": {}}))
    change(place, **sections)
    begun = time.process_time()
    with pytest.raises(WeightsError, match=said) as error:
        zoo.load(place)
    assert time.process_time() - begun < 10  # about a second; without the bounds minutes, or for ever
    assert str(place) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 700


@pytest.mark.parametrize(
    "training",
    [
        {"recipe": []},
        {"recipe": None},
        {"recipe": {"data": "digits"}},
        {"recipe": {"data": {"val_fraction": "x"}}},
        {"recipe": {"data": {"augment": 3}}},
    ],
)
def test_a_recipe_that_is_none_is_said(place, training):
    change(place, training=training)
    with pytest.raises(WeightsError, match="training.recipe|cannot be made as it was in training"):
        evaluate(str(place), limit=1)


def test_a_recipe_starts_no_workers(place):
    change(place, training={"recipe": {"data": {"num_workers": 1_000_000, "batch_size": 8}}})
    assert evaluate(str(place), limit=1)["samples"] == 256


@pytest.mark.parametrize("metrics", [{"accuracy": "high"}, {"tolerance": [1]}, {"tolerance": None}])
def test_a_promise_that_is_no_number_is_said_or_none(place, metrics):
    change(place, metrics=metrics)
    if metrics.get("tolerance", 0) is None:
        assert evaluate(str(place))["holds"] is None
    else:
        with pytest.raises(WeightsError, match="must be a number; got"):
            evaluate(str(place))


def test_a_model_that_computes_when_it_is_made_is_bounded_too(tmp_path):
    source = zoo.create_model("test_hyper_cnn")
    arguments = dict(cards.card("test_hyper_cnn").model)
    saved = model_folder.Config(name="test_hyper_cnn.digits", model=arguments, weights={})
    model_folder.write(tmp_path / "a", saved, source.state_dict())
    state = zoo.load(tmp_path / "a").state_dict()
    assert all(torch.equal(v, state[k]) for k, v in source.state_dict().items())
    name = next(k for k, v in arguments.items() if isinstance(v, int) and not isinstance(v, bool))
    change(tmp_path / "a", model={name: 10**9})
    with pytest.raises(WeightsError):
        zoo.load(tmp_path / "a")


# -------------------------------------------------------------------------------------------------------- checkpoints


def test_a_checkpoint_that_was_moved_knows_its_model(tmp_path):
    for name in ("moved.ckpt", "deep/er/last.ckpt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(RUN / "checkpoints" / "best.ckpt", tmp_path / name)
        model = zoo.load(tmp_path / name)
        assert all(torch.equal(v, model.state_dict()[k]) for k, v in zoo.load(RUN).state_dict().items())
        assert trained_config(model).metrics == {}  # the numbers lie in the run
        assert zoo.predict(model, torch.zeros(8, 8)).label in "0123456789"


def test_a_checkpoint_in_its_own_folder_is_a_relative_path(monkeypatch):
    monkeypatch.chdir(RUN / "checkpoints")
    assert trained_config(zoo.load("best.ckpt")).metrics["accuracy"] > 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"state_dict": {}}, "does not say how its model was made"),
        ({"state_dict": {}, "hyper_parameters": {"lr": 0.1}}, "does not say how its model was made"),
        ({"state_dict": {}, "hyper_parameters": {"config": {"model": 3}}}, "does not say how its model was made"),
        ({"state_dict": {}, "hyper_parameters": {"config": MDEQ}}, "do not fit the model|cannot be built"),
        ({"state_dict": []}, "holds more than names and tensors"),
        ({"state_dict": {1: torch.zeros(1)}}, "holds more than names and tensors"),
        ({"state_dict": {"model.x": None}}, "holds more than names and tensors"),
        ({"weights": 1}, "has no 'state_dict'"),
    ],
)
def test_another_checkpoint_is_one_sentence(tmp_path, content, said):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(WeightsError, match=said):
        zoo.load(tmp_path / "other.ckpt")


def test_an_empty_checkpoint_is_one_sentence(tmp_path):
    (tmp_path / "empty.ckpt").touch()
    with pytest.raises(WeightsError, match="is no whole checkpoint"):
        zoo.load(tmp_path / "empty.ckpt")


# ------------------------------------------------------------------------------------------------------------- values


def test_plain_values_against_annotations():
    assert fits((1, 2), tuple[int, int]) and not fits([1, 2, 3], tuple[int, int]) and not fits([1, 2.0], list[int])
    assert fits({"a": 1}, dict) and not fits([1], dict) and not fits(True, int) and not fits(True, float)
    check_values("option", zoo.fixed_point, {"throw": True})
    with pytest.raises(UnknownName, match="Did you mean 'throw'"):
        check_values("option", zoo.fixed_point, {"trow": True})
    check_spec(SOLVERS, {"name": "newton", "linear_solver": "gmres"})
    check_spec(SOLVERS, {})
    with pytest.raises(ValueError, match="more than 3 deep"):
        check_spec(SOLVERS, nested(3))


def test_the_bound_of_parts_is_this_threads_and_ends_with_its_scope():
    with pytest.raises(TooLarge), limited(3):
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    assert len(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))) == 2


def test_a_copy_of_a_model_keeps_its_record():
    import copy

    model = zoo.load("mdeq_tiny.digits")
    assert trained_config(copy.deepcopy(model)) == trained_config(model) == model.pretrained
    other = zoo.create_model("test_cnn")
    assert trained_config(other) is None
    set_trained_config(other, model.pretrained)
    assert trained_config(other).name == "mdeq_tiny.digits"
