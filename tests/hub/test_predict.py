"""Asking a classifier about pictures: several, a folder, broken files, unfinished solves, and models that are none."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

import zoo
from zoo.hub import cards
from zoo.hub.predict import Prediction
from zoo.hub.trained import set_trained_config
from zoo.storage.model_folder import Config

MODEL = "mdeq_tiny.digits"


@pytest.fixture(scope="module")
def pictures():
    from zoo.data import DATA

    x, y = DATA["digits"]().split("test")
    return x[:20], [str(int(t)) for t in y[:20]]


@pytest.fixture
def folder(pictures, tmp_path):
    x, _ = pictures
    (tmp_path / "more").mkdir()
    for i, picture in enumerate(x[:5, 0]):
        file = tmp_path / ("more" if i > 2 else "") / f"{i}.png"
        Image.fromarray((picture.numpy() / 16 * 255).round().astype("uint8")).save(file)
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_a_folder_is_answered_in_the_order_of_its_names(folder, pictures):
    answers = zoo.predict(MODEL, folder)
    assert [Path(a.source).name for a in answers] == ["0.png", "1.png", "2.png", "3.png", "4.png"]
    assert sum(a.label == y for a, y in zip(answers, pictures[1], strict=False)) >= 4
    assert zoo.predict(MODEL, str(folder)) == answers
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no pictures; their names end in .bmp"):
        zoo.predict(MODEL, folder / "empty")


def test_batches_do_not_decide_the_answers(pictures):
    model = zoo.load(MODEL, solver={"name": "broyden", "rtol": 1e-6, "max_steps": 60})
    one, many = (zoo.predict(model, pictures[0], batch_size=b) for b in (3, 64))
    assert [a.label for a in one] == [a.label for a in many] and len(one) == 20
    assert max(abs(a.probability - b.probability) for a, b in zip(one, many, strict=True)) < 1e-3


def test_a_file_that_cannot_be_read_costs_its_own_answer(folder):
    (folder / "1.png").write_bytes(b"no picture")
    with pytest.raises((OSError, ValueError), match=r"picture 1.*1\.png.*on_error='keep'"):
        zoo.predict(MODEL, folder)
    answers = zoo.predict(MODEL, folder, on_error="keep", batch_size=2)
    assert [bool(a.error) for a in answers] == [False, True, False, False, False]
    assert "1.png" in answers[1].error and str(answers[1]).startswith("not read: picture 1") and not answers[1].label
    mixed = zoo.predict(MODEL, [torch.zeros(8, 8), torch.full((8, 8), 7.0), "nowhere.png"], on_error="keep")
    assert [bool(a.error) for a in mixed] == [False, True, True] and "Pixels must lie" in mixed[1].error
    with pytest.raises((OSError, ValueError), match="none.png"):
        zoo.predict(MODEL, folder / "none.png")
    with pytest.raises(ValueError, match="on_error is 'raise' or 'keep'; got 'ignore'"):
        zoo.predict(MODEL, folder, on_error="ignore")


def test_an_unfinished_solve_is_warned_of_and_told_of_each_picture(pictures):
    model = zoo.load(MODEL, solver={"name": "anderson", "rtol": 1e-9, "max_steps": 1})
    with pytest.warns(UserWarning, match=r"did not converge on 20 of 20 pictures \(0, 1, 2, \.\.\.\)"):
        answers = zoo.predict(model, pictures[0])
    assert not any(a.converged for a in answers) and "(not converged)" in str(answers[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(a.converged for a in zoo.predict(MODEL, pictures[0]))


def test_an_answer_reads_well():
    answer = Prediction("3", 0.98765432, (("3", 0.98765432), ("8", 0.01)))
    assert repr(answer) == "Prediction(label='3', probability=0.9877, converged=True)"
    assert str(answer) == "3 98.8%, 8 1.0%"


def test_a_model_that_answers_no_single_samples_says_what_it_does():
    for name, kind in (("hamiltonian_plain.two_body", "motion"), ("gcn_small.chains", "node classification")):
        model = zoo.create_model("test_cnn")
        set_trained_config(model, Config(name=name, model={}, weights={"sha256": "0"}))
        with pytest.raises(ValueError, match=f"{name} is a model for {kind}, not one that is asked about single"):
            zoo.predict(model, torch.zeros(8, 8))


def test_names_that_do_not_fit_the_classes_are_refused():
    model = zoo.load(MODEL)
    saved = model.pretrained
    wrong = {**saved.preprocessing, "classes": ["a", "b"]}
    set_trained_config(model, Config(name=saved.name, model={}, weights={}, preprocessing=wrong))
    with pytest.raises(ValueError, match="has 10 classes, its configuration names 2"):
        zoo.predict(model, torch.zeros(8, 8))
    assert cards.card(saved.name).name == "mdeq_tiny"
