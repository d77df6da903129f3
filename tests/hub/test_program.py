"""Programs of trained models: equal to the model, with any batch, and honest about convergence."""

from __future__ import annotations

import json

import pytest
import torch

import zoo
from zoo import export as door
from zoo.hub import cards
from zoo.hub.program import export_program, write_program

PICTURES = [n for n in cards.list_models(pretrained=True) if n.endswith(".digits")]
TEXTS = [n for n in cards.list_models(pretrained=True) if n.endswith("tiny_shakespeare")]


def test_a_program_is_read_without_zoo_and_answers_as_the_model(tmp_path, capsys):
    words = ["--model", "odenet_mnist.digits", "--format", "torch", "--steps", "2", "--out", str(tmp_path)]
    assert door.main(words) == 0
    assert "difference" in capsys.readouterr().out
    record = json.loads((tmp_path / "program.json").read_text())
    assert record["solver"] == [{"name": "ClassicRK4", "steps": 2}] and record["difference"] <= 1e-5
    assert record["preprocessing"]["mean"] and min(record["milliseconds_of_one_answer"].values()) > 0
    run = torch.export.load(tmp_path / "model.pt2").module()
    model = zoo.load("odenet_mnist.digits", solver={"name": "rk4", "steps": 2})
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        answer, residual, converged = run(x)
        torch.testing.assert_close(answer, model(x), rtol=0, atol=1e-5)
    assert converged.all() and residual.isnan().all()
    assert door.main([*words, "--push", "a/b"]) == 2


def test_a_program_says_which_samples_have_not_converged():
    made = export_program("concave_small.digits", steps=1)
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, residual, converged = made.program.module()(x)
        model = zoo.load("concave_small.digits", solver={"name": "picard", "max_steps": 1})
        model(x)
    assert not converged.any() and (residual > 1e-3).all()
    torch.testing.assert_close(residual.double(), model.last.stats.residual, rtol=1e-4, atol=0)


def test_what_cannot_be_exported_says_why():
    with pytest.raises(RuntimeError, match="solver='anderson'"):
        export_program("mdeq_tiny.digits", solver="broyden", steps=1)
    with pytest.raises(ValueError, match="loaded with its weights"):
        export_program(zoo.create_model("test_mdeq"))
    with pytest.raises(ValueError, match="loaded with its weights and its preprocessing"):
        export_program("cnf_flow_matching.two_moons")
    with pytest.raises(ValueError, match="Did you mean 'onnx'"):
        write_program("mdeq_tiny.digits", "nowhere", "onx")
    assert door.main(["--model", "mdeq_tiny.digits", "--format", "torch", "--solver", "andersen"]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", [*PICTURES, *TEXTS])
def test_every_model_of_pictures_or_language_has_a_program(name):
    export_program(name, steps=4, length=8)  # it raises where the answers differ by more than 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", ["odenet_mnist.digits", "concave_small.digits", "lstm_small.tiny_shakespeare"])
def test_onnx_answers_as_the_model(name, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    file, record = write_program(name, tmp_path, "onnx", steps=2, length=8)
    assert file.stat().st_size > 0 and record["difference"] <= 1e-5
