"""From a training run to a folder that can be published."""

from __future__ import annotations

import csv
import json
import re
import shlex

import huggingface_hub
import pytest
import torch
import yaml
from safetensors.torch import load_file
from trained import run as train

import zoo
from zoo import export as door
from zoo.hub import cards
from zoo.storage import model_folder
from zoo.storage.model_folder import WeightsError
from zoo.training.export import HERE, _curve, _leaves, command, export, push, source_of, write_results
from zoo.training.options import Options
from zoo.training.request import resolve


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory):
    return export(trained, tmp_path_factory.mktemp("made") / "test_mdeq.digits")


def test_the_folder_holds_the_runs_best_weights_and_facts(trained, made):
    assert sorted(p.name for p in made.place.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    results = json.loads((trained / "results.json").read_text())
    saved = model_folder.read(made.place)
    assert saved == made.config
    assert saved.name == "test_mdeq.digits"
    assert saved.metrics["accuracy"] == pytest.approx(results["test"]["accuracy"], abs=1e-6)
    assert (saved.metrics["metric"], saved.metrics["samples"]) == ("accuracy", 359)
    assert saved.training["seed"] == results["seed"]
    assert saved.training["recipe"]["trainer"]["max_epochs"] == 1
    assert "root" not in saved.training["recipe"]["data"]
    assert saved.licence == cards.card("test_mdeq").licence
    assert saved.versions["torch"]
    x = torch.randn(3, 1, 8, 8)
    assert torch.equal(zoo.load(made.place)(x), zoo.load(trained)(x))


def test_the_model_card_is_one_that_hubs_read(made):
    text = (made.place / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "apache-2.0"
    result = front["model-index"][0]["results"][0]
    assert result["metrics"][0] == {"type": "accuracy", "value": round(made.config.metrics["accuracy"], 5)}
    assert f"python -m zoo.evaluate --model {shlex.quote(str(made.place.resolve()))}" in body
    assert cards.card("test_mdeq").paper["url"] in body


def code_of(text: str) -> str:
    return re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]


@pytest.mark.parametrize("name", ["made", 'a folder it\'s named "oddly"'])
def test_the_model_card_loads_these_weights_from_anywhere(trained, tmp_path, monkeypatch, name):
    """Not those of the shipped model of the same name."""
    monkeypatch.chdir(tmp_path)
    export(trained, name)  # a relative place
    text = (tmp_path / name / "README.md").read_text()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    scope: dict = {}
    exec(code_of(text).replace('print(zoo.predict(model, "picture.png"))', ""), scope)
    stored = load_file(tmp_path / name / "model.safetensors")
    assert stored and all(torch.equal(stored[k], v) for k, v in scope["model"].state_dict().items())
    line = next(x for x in text.splitlines() if x.startswith("python -m zoo.evaluate"))
    assert shlex.split(line)[-1] == str(tmp_path / name)


def test_the_cards_of_shipped_weights_name_what_ships():
    for name in cards.list_models(pretrained=True):
        text = (cards.HERE / "weights" / name / "README.md").read_text()
        assert f'zoo.load("{name}")' in text and f"zoo.evaluate --model {name}\n" in text
        assert source_of(cards.HERE / "weights" / name, model_folder.read(cards.HERE / "weights" / name)) == name


def test_the_lines_for_the_card_are_a_card(made, tmp_path):
    lines = yaml.safe_load(made.entry)
    measured = lines["measured"]["test_mdeq"]["digits"]
    assert measured["accuracy"] == round(made.config.metrics["accuracy"], 5)
    assert measured["tolerance"] == 0.0028  # one of 359
    weights = lines["weights"]["test_mdeq"]["digits"]
    assert weights == {"file": "test_mdeq.digits/model.safetensors", "sha256": made.config.weights["sha256"]}


def test_the_results_hold_the_curve(made, tmp_path, trained):
    file = write_results(made, tmp_path / "results")
    assert file.name == "test_mdeq_digits.json"
    results = json.loads(file.read_text())
    assert results["weights"]["sha256"] == made.config.weights["sha256"]
    assert len(results["curve"]["val/accuracy"]) == results["epochs"] == 1
    assert results["data_sha256"]


def test_two_exports_are_the_same_bytes(trained, made, tmp_path):
    again = export(trained / "checkpoints" / "best.ckpt", tmp_path / "again")
    for name in ("model.safetensors", "config.json"):
        assert (again.place / name).read_bytes() == (made.place / name).read_bytes()
    one, two = ((m.place / "README.md").read_text().replace(str(m.place), "") for m in (again, made))
    assert one == two


def test_float16_halves_the_file_and_keeps_the_number(trained, made, tmp_path):
    half = export(trained, tmp_path / "half", half=True)
    assert half.config.weights["dtype"] == "float16"
    assert half.config.weights["bytes"] < 0.7 * made.config.weights["bytes"]
    assert abs(half.config.metrics["accuracy"] - made.config.metrics["accuracy"]) <= half.config.metrics["tolerance"]
    loaded = zoo.load(half.place)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}


def test_a_number_that_does_not_hold_is_not_published(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("zoo.training.export.measure", lambda *a, **k: ({"accuracy": 0.999}, 0.0, 359, "accuracy"))
    with pytest.raises(
        WeightsError, match="is 0.9990 stored as float16; its results.json says .* Export without --half"
    ):
        export(trained, tmp_path / "no", half=True)
    assert not (tmp_path / "no").exists()


def test_what_cannot_be_exported_says_so(made, trained, tmp_path):
    with pytest.raises(WeightsError, match="is a model folder already"):
        export(made.place, tmp_path / "a")
    with pytest.raises(WeightsError, match="holds 'mdeq_tiny.digits', not 'test_mdeq.digits'"):
        state = zoo.create_model("test_mdeq").state_dict()
        model_folder.write(cards.HERE / "weights" / "mdeq_tiny.digits", made.config, state)
    with pytest.raises(WeightsError, match="NaN or infinity as float16"):
        model_folder.write(tmp_path / "b", made.config, {"w": torch.full((2,), 1e6)}, half=True)
    assert not (tmp_path / "b").exists()
    with pytest.raises(WeightsError, match="is a file; choose a folder"):
        (tmp_path / "c").touch()
        model_folder.write(tmp_path / "c", made.config, {})


def test_pushing_hands_over_three_files(made, monkeypatch):
    said = []

    class Api:
        def create_repo(self, name, **options):
            said.append(("create", name, options))

        def create_commit(self, **options):
            said.append(("commit", options["repo_id"], options["operations"]))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    before = (made.place / "README.md").read_bytes()
    assert push(made.place, "someone/mdeq", private=True) == "hf-hub:someone/mdeq"
    assert said[0] == ("create", "someone/mdeq", {"private": True, "exist_ok": True})
    _, repository, operations = said[1]
    assert repository == "someone/mdeq"
    contents = {o.path_in_repo: o.path_or_fileobj for o in operations}
    assert sorted(contents) == ["README.md", "config.json", "model.safetensors"]
    text = contents["README.md"].decode()
    assert 'zoo.load("hf-hub:someone/mdeq")' in text and "zoo.evaluate --model hf-hub:someone/mdeq\n" in text
    assert str(made.place) not in text and (made.place / "README.md").read_bytes() == before


def test_a_push_without_a_network_says_what_to_do(made):
    with pytest.raises(WeightsError, match="was not pushed to someone/mdeq: .*hf auth login"):
        push(made.place, "someone/mdeq")  # the tests are offline


def test_the_command(trained, tmp_path, capsys):
    place = tmp_path / "x"
    assert door.main(["--model", str(trained), "--out", str(place), "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "test_mdeq.digits: test accuracy" in out
    assert yaml.safe_load(out[out.index("measured:") :])["weights"]["test_mdeq"]["digits"]["sha256"]
    assert door.main(["--ckpt", str(tmp_path / "none"), "--to", str(place)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("zoo.export: error: ")
    assert error.count("\n") == 1


def test_the_shipped_results_are_those_of_the_shipped_weights():
    """Numbers of cards come from results that a run wrote, with the hash of the weights that lie here."""
    results = cards.HERE.parent / "experiments" / "results"
    if not results.is_dir():
        pytest.skip("an installed package has no experiments")
    for name in cards.list_models(pretrained=True):
        card, data = cards.card(name), name.partition(".")[2]
        measured = card.measured[data]
        run = json.loads((results / measured["results"]).read_text())
        assert run["weights"]["sha256"] == card.weights[data]["sha256"], name
        metric = model_folder.read(cards.HERE / "weights" / name).metrics["metric"]
        assert run["measured"][metric] == pytest.approx(measured[metric], abs=1e-5), name
        assert run["status"] == "finished"
        assert card.licence


@pytest.mark.parametrize("name", cards.list_models(pretrained=True))
def test_the_command_of_a_folder_makes_its_recipe(name):
    place = cards.HERE / "weights" / name
    line = next(x for x in (place / "README.md").read_text().splitlines() if x.startswith("python -m zoo.fit"))
    saved = model_folder.read(place)
    assert line == command(saved)
    options = Options(resolve(shlex.split(line)[3:]))
    made = {**_leaves(options.values), "solver.name": options.names.get("solver")}
    then = {**saved.training["recipe"], "solver": saved.solver, "adjoint": saved.adjoint}
    for key, value in _leaves(then).items():
        if key in made and key.removeprefix("trainer.") not in HERE:
            assert made[key] == value, key


def test_the_curve_reads_what_a_run_writes(tmp_path):
    file = tmp_path / "metrics.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows([["step", "train/loss", "val/accuracy"], [1, 2.0, ""], [2, 1.0, 0.5], [4, "", 0.75]])
    assert _curve(file) == {"step": [2, 4], "val/accuracy": [0.5, 0.75]}
    assert _curve(tmp_path / "none.csv") == {}
