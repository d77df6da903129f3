"""One contract for every family that is no image classifier: it trains, is measured, and is rebuilt from its run.

What its model must do is in `tests/test_models.py`.
"""

from __future__ import annotations

import json

import pytest
import torch
from torch.utils._pytree import tree_leaves

import zoo
from zoo.compare.bench import Bench
from zoo.hub import cards
from zoo.tasks.metrics import primary_metric
from zoo.training.build import build_run, load_run
from zoo.training.options import Options
from zoo.training.request import resolve
from zoo.training.summary import generated
from zoo.training.train import train

NAMES = [n for n in zoo.list_models("test_*") if ".classification:" not in cards.card(n).task]
QUICK = {"test_gcn", "test_hyper_fewshot", "test_implicit_field", "test_transformer"}  # the others are marked as slow
SHORT = {
    "max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu",
    "devices": 1, "log_every_n_steps": 1, "enable_progress_bar": False,
}  # fmt: skip


@pytest.fixture(scope="module", params=[n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def run(request, tmp_path_factory):
    """The results of two training steps on the card's default data, which need no download; and their folder."""
    folder = tmp_path_factory.mktemp(request.param) / "run"
    options = {}
    if cards.card(request.param).task.endswith("Continual"):  # an epoch at least for each of its five tasks in turn
        options = {"data": {"name": cards.card(request.param).data[0], "epochs_per_task": 1}}
    trainer = SHORT | ({"max_epochs": 5} if options else {})
    return request.param, train(request.param, out=folder, trainer=trainer, **options), folder


def built(name):
    options = Options(resolve(["--model", name]))
    return build_run(options, 0)[:2]


def test_a_run_ends_with_its_measure(run):
    name, results, folder = run
    shown = primary_metric(results)
    assert results["status"] == "finished" and shown.key in results["test"], (name, results["test"])
    assert results["data_sha256"] and results["parameters"] > 0
    assert (folder / "training.png").is_file() and json.loads((folder / "results.json").read_text())["seed"] == 0


def test_a_hypernetwork_says_what_it_saves(tmp_path, capsys):
    results = train("test_hyper_cnn", out=tmp_path / "run", trainer=SHORT)
    counted = json.loads((tmp_path / "run" / "results.json").read_text())["compression"]
    assert counted == results["compression"] and counted["sets"] == 1  # static: one kernel, whatever the batch
    assert counted["generators"] + counted["others"] == results["parameters"]
    assert f"{counted['generated']:,} weights generated" in capsys.readouterr().out


def test_a_hypernetwork_says_what_the_weights_of_a_batch_take(tmp_path, capsys):
    data = {"name": "digit_episodes", "batch_size": 5, "train_ways": 3}
    results = train("test_hyper_fewshot", data, out=tmp_path / "run", trainer=SHORT)
    counted = json.loads((tmp_path / "run" / "results.json").read_text())["compression"]
    assert counted == results["compression"] and counted["sets"] == 5  # a classifier for every task
    assert counted["bytes_a_batch"] == 5 * counted["bytes_a_set"] == 5 * 4 * (3 * (8 + 1) + 2 * 8)
    assert "5 sets or 860 bytes a batch" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "sets"), [("test_hyper_deq", 6), ("test_hyperlstm", 6 * 7), ("test_continual", 5)])
def test_the_sets_of_a_batch_are_the_data_sets_too(name, sets):
    values = ["--data.batch_size", "6", *(["--data.length", "7"] if name == "test_hyperlstm" else [])]
    options = Options(resolve(["--model", name, *values]))
    assert generated(*build_run(options, 0)[:2]).sets == sets


def test_nothing_is_said_to_be_generated_where_a_solve_finds_the_weights():
    assert generated(*built("test_imaml")) is None


def test_the_run_is_rebuilt_from_its_folder(run):
    _, _, folder = run
    task = load_run(folder, "last")
    saved = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    for key, value in task.state_dict().items():
        torch.testing.assert_close(value, saved[key], rtol=0, atol=0)


def test_it_can_be_measured(run):
    name, _, _ = run
    bench = Bench(*built(name))
    batch = bench.test[0]
    one = bench.task.cut(batch, 1)
    assert bench.task.rows(one) == 1 <= bench.task.rows(batch)
    bench.model.eval()
    with torch.no_grad():
        answers = [t for t in tree_leaves(bench.task.answer(one)) if isinstance(t, torch.Tensor)]
    assert answers and all(torch.isfinite(t).all() for t in answers if t.is_floating_point())
    assert bench.memory()["held_bytes"] > 0
    if bench.modules:
        found = bench.forward_solves()
        assert found["nfe_forward"] > 0 and 0 <= found["converged"] <= 1
