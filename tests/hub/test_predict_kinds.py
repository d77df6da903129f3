"""Asking models of every kind: masks, texts, densities, series; and what happens where a solve fails."""

from __future__ import annotations

import csv
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from zoo.hub.failures import FailedSolve, solved
from zoo.hub.predict import Continuation, Forecast, LogDensity, Segmented
from zoo.hub.trained import set_trained_config
from zoo.implicit import SolveRecord
from zoo.solvers.base import Result, Stats
from zoo.storage.model_folder import Config

TEXT = {"kind": "text", "tokenizer": {"level": "characters", "alphabet": "abc \n"}}


def named(model, name, **more):
    set_trained_config(model, Config(name=name, model={}, weights={"sha256": "0"}, **more))
    return model.eval()


def hard(max_steps=3):
    return zoo.load("mdeq_tiny.digits", solver={"name": "anderson", "rtol": 1e-4, "max_steps": max_steps})


def test_a_failed_sample_is_asked_again_by_more_steps_and_the_model_keeps_its_solver():
    model, x = hard(), torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"did not converge on 4 of 4 pictures .*residual up to .*fallback"):
        plain = zoo.predict(model, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = zoo.predict(model, x, on_failure="fallback")
    assert not any(a.converged for a in plain) and all(a.residual > 1e-4 and not a.solver for a in plain)
    assert all(a.converged and a.residual <= 1e-4 and a.solver == "anderson, 24 steps" for a in again)
    assert model.solver.max_steps == 3 and model.eval_solver is None
    reference = zoo.predict(hard(60), x)
    assert max(abs(a.probability - b.probability) for a, b in zip(again, reference, strict=True)) < 1e-3


def test_another_solver_is_tried_where_more_steps_do_not_help():
    model = zoo.load("mdeq_tiny.digits", solver={"name": "picard", "rtol": 1e-5, "max_steps": 1})
    answer = zoo.predict(model, torch.zeros(8, 8), on_failure="fallback")
    assert answer.converged and answer.solver.startswith(("broyden", "anderson")) and answer.residual <= 1e-5


def test_an_ode_that_runs_out_of_steps_is_given_more():
    model = zoo.load("odenet_mnist.digits", solver={"name": "dopri5", "rtol": 1e-4, "atol": 1e-4, "max_steps": 2})
    answer = zoo.predict(model, torch.zeros(8, 8), on_failure="fallback")
    assert answer.converged and answer.solver == "dopri5, 16 steps" and model.blocks[0].solver.max_steps == 2


def test_nothing_that_helps_leaves_the_best_and_says_so():
    model = zoo.load("mdeq_tiny.digits", solver={"name": "anderson", "rtol": 1e-30, "atol": 1e-30, "max_steps": 1})
    with pytest.warns(UserWarning, match="did not converge"):
        plain = zoo.predict(model, torch.zeros(8, 8))
    for module in model.modules():
        if hasattr(module, "throw"):
            module.throw = True  # what was asked of the model's own solves does not end the search
    answer = zoo.predict(model, torch.zeros(8, 8), on_failure="fallback")
    assert answer.residual < plain.residual and (answer.converged or answer.residual > 0)


def test_raise_keeps_the_answers_before_it():
    with pytest.raises(FailedSolve, match=r"did not converge on 1 of 1 pictures \(0\), residual up to") as caught:
        zoo.predict(hard(), torch.rand(2, 1, 8, 8), on_failure="raise", batch_size=1)
    assert caught.value.answers == []
    with pytest.raises(ValueError, match="Did you mean 'fallback'"):
        zoo.predict(hard(), torch.zeros(8, 8), on_failure="falback")


def test_records_of_a_part_or_of_the_whole_batch_are_counted_to_the_samples():
    def record(converged, residual):
        stats = Stats(1, torch.ones(1), torch.tensor(residual), torch.tensor(converged), torch.zeros(1, 1))
        return SolveRecord(Result.max_steps, stats)

    parts = record([True, True, True, False], [0.1, 0.2, 0.3, 0.4])  # two states a sample
    whole = record([True], [0.25])
    found = solved([parts, whole], 2)
    assert [s.converged for s in found] == [True, False]
    assert [s.residual for s in found] == pytest.approx([0.25, 0.4])
    assert [s.converged for s in solved([record([False], [1.0])], 3)] == [False] * 3
    assert solved([], 1)[0].converged and np.isnan(solved([], 1)[0].residual)


def test_a_mask_has_the_size_of_its_picture(tmp_path):
    model = named(zoo.create_model("test_mdeq_segmentation", num_classes=5), "mdeq_segmentation_tiny.shapes")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (19, 21, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (8, 30), dtype=np.uint8)).save(tmp_path / "b.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the weights are not trained
        found = zoo.predict(model, tmp_path, batch_size=2)
    assert [tuple(a.mask.shape) for a in found] == [(19, 21), (8, 30)] and isinstance(found[0], Segmented)
    assert sum(found[0].shares.values()) == pytest.approx(1) and 0 < found[0].confidence <= 1
    found[0].save(tmp_path / "mask.png")
    assert np.array_equal(np.array(Image.open(tmp_path / "mask.png")), found[0].mask.numpy())


def test_a_prompt_is_continued_as_generate_does_and_its_likelihood_told(tmp_path):
    model = zoo.load("lstm_small.tiny_shakespeare")
    answer = zoo.predict(model, "ROMEO", length=12)
    assert isinstance(answer, Continuation) and answer.prompt + answer.text == str(answer)
    assert str(answer) == zoo.generate(model, "ROMEO", length=12, temperature=0)
    assert answer.top[0][0] == answer.text[0] and answer.nats > 0
    file = tmp_path / "prompts.txt"
    file.write_text("ROMEO\n\nKing\\n\n")
    several = zoo.predict(model, file, length=12, batch_size=1)
    assert [a.prompt for a in several] == ["ROMEO", "King\n"] and several[0].text == answer.text
    assert several[1].source == f"{file}:3"
    kept = zoo.predict(model, ["ROMEO", "\u4e2d"], length=1, on_error="keep")
    assert not kept[0].error and "not trained on" in kept[1].error
    with pytest.raises(ValueError, match="no text in UTF-8"):
        file.write_bytes(b"\xff\xfe")
        zoo.predict(model, file)


def test_the_density_of_points_is_that_of_the_flow(tmp_path):
    model, points = zoo.load("cnf_flow_matching.two_moons"), np.array([[0.0, 0.5], [1.0, -0.5]])
    with torch.no_grad():
        expected = model(torch.tensor(points, dtype=torch.float32)).tolist()
    np.save(tmp_path / "p.npy", points)
    (tmp_path / "p.csv").write_text("x,y\n0.0,0.5\n1.0,-0.5\n")
    for given in (points, tmp_path / "p.npy", tmp_path / "p.csv"):
        found = zoo.predict(model, given)
        assert isinstance(found[0], LogDensity) and [a.log_prob for a in found] == pytest.approx(expected, abs=1e-5)
    (tmp_path / "p.csv").write_text("0.0,0.5\n1.0,oh\n")
    with pytest.raises(ValueError, match="line 2: 2 numbers are expected; got '1.0,oh'"):
        zoo.predict(model, tmp_path / "p.csv")
    with pytest.raises(ValueError, match=r"takes points \(N, 2\), at least one; got the shape \(1, 3\)"):
        zoo.predict(model, [[1.0, 2.0, 3.0]])


def test_series_are_asked_at_their_times_from_arrays_and_from_a_long_table(tmp_path):
    model = named(zoo.create_model("test_ode_rnn"), "ode_rnn.spirals")
    times = torch.linspace(0, 1, 4).repeat(2, 1)
    values = torch.randn(2, 4, model.features, generator=torch.Generator().manual_seed(0))
    query = torch.tensor([[1.1, 1.2], [1.3, 1.4]])
    found = zoo.predict(model, {"times": times, "values": values, "query": query})
    assert isinstance(found[1], Forecast) and found[1].values.shape == (2, model.features)
    assert found[1].times.tolist() == pytest.approx([1.3, 1.4])
    lines = [f"id,time,{','.join(f'c{d}' for d in range(model.features))}"]
    for i in range(2):
        lines += [f"s{i},{t:.9g},{','.join(f'{v:.9g}' for v in row)}" for t, row in zip(times[i], values[i])]  # noqa: B905
        lines += [f"s{i},{float(t):.9g}{',' * model.features}" for t in query[i]]
    (tmp_path / "s.csv").write_text("\n".join(lines))
    again = zoo.predict(model, tmp_path / "s.csv")
    assert again[1].source.endswith("s.csv:s1")
    torch.testing.assert_close(again[1].values, found[1].values, rtol=1e-4, atol=1e-5)
    (tmp_path / "s.csv").write_text("\n".join([*lines, "s1,2.0" + ",x" * model.features]))
    with pytest.raises(ValueError, match="line 14: an id, a time and"):
        zoo.predict(model, tmp_path / "s.csv")
    with pytest.raises(ValueError, match=r"mapping of times \(N, T\) and values"):
        zoo.predict(model, {"times": times})


def test_the_command_writes_a_table_that_hides_nothing(tmp_path, capsys):
    import zoo.predict as door

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(4):
        Image.fromarray(np.full((8, 8), 60 * i, np.uint8)).save(pictures / f"{i}.png")
    (pictures / "2.png").write_bytes(b"no picture")
    out = tmp_path / "o.csv"
    words = ["--model", "mdeq_tiny.digits", "--input", str(pictures), "--out", str(out), "--batch-size", "2"]
    assert door.main([*words, "--max-steps", "1"]) == 1
    told = capsys.readouterr().out
    assert "3 answered" in told and "3 NOT converged" in told and "1 not read" in told and "2.png" in told
    rows = list(csv.DictReader(out.open()))
    assert [r["converged"] for r in rows] == ["false", "false", "", "false"] and "2.png" in rows[2]["error"]
    assert list(rows[0])[:3] == ["source", "label", "confidence"] and float(rows[0]["residual"]) > 0
    assert door.main(words) == 2 and "exists; choose another --out" in capsys.readouterr().err
    (pictures / "2.png").unlink()
    assert door.main([*words, "--overwrite", "--max-steps", "1", "--on-failure", "fallback"]) == 0
    assert all(r["converged"] == "true" and "steps" in r["solver"] for r in csv.DictReader(out.open()))
    capsys.readouterr()
    assert door.main([*words, "--overwrite", "--max-steps", "1", "--on-failure", "raise"]) == 1
    assert "did not converge on 2 of 2" in capsys.readouterr().err
    assert door.main([*words[:2], "--input", "nowhere"]) == 1


def test_the_command_s_module_is_the_function_too():
    import zoo.predict as door

    assert callable(door) and door(zoo.load("mdeq_tiny.digits"), torch.zeros(8, 8)).converged
    with pytest.warns(UserWarning, match="did not converge") as caught:
        door(hard(1), torch.zeros(8, 8))
    assert caught[0].filename == __file__  # the caller is named, not the module
