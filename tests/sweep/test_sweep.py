"""Sweeps: what is searched, what is refused before anything trains, pruning, resuming, and the report."""

from __future__ import annotations

import csv
import json

import pytest

from zoo.registry import UnknownName
from zoo.sweep.command import main
from zoo.sweep.search import Dimension, dimension, dimensions
from zoo.training.errors import UsageError

SHORT = ["--trainer.max_epochs", "2", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1",
         "--trainer.limit_test_batches", "1"]  # fmt: skip


def test_the_words_of_a_search():
    assert dimension("optim.lr=log:1e-4:1e-2") == Dimension("optim.lr", "log", 1e-4, 1e-2)
    assert dimension("--model.channels=int:8:64").example == "8"
    assert dimension("solver.name=anderson,broyden").values == ("anderson", "broyden")


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("optim.lr", "a search is KEY=log"),
        ("lr=1,2", "a search is KEY=log"),
        ("optim.lr=1e-3", "has one value; say --optim.lr 1e-3"),
        ("optim.lr=1,,2", "values by commas, each once"),
        ("optim.lr=1,1", "values by commas, each once"),
        ("optim.lr=log:0:1", "LOW must be above 0"),
        ("optim.lr=log:1:x", "two numbers"),
        ("optim.lr=float:2:1", "LOW must be below HIGH"),
        ("model.channels=int:1.5:3", "and whole"),
    ],
)
def test_a_word_that_is_no_search_says_what_is(word, why):
    with pytest.raises(UsageError, match=why.replace(".", r"\.")):
        dimension(word)


def test_an_option_is_searched_once():
    with pytest.raises(UsageError, match="optim.lr is searched twice"):
        dimensions(["optim.lr=1,2", "optim.lr=log:1:2"])
    with pytest.raises(UsageError, match="say what to search"):
        dimensions([])
    with pytest.raises(UnknownName):
        raise UnknownName("")


def test_what_cannot_run_is_refused_before_anything_trains(tmp_path, capsys):
    pytest.importorskip("optuna")
    start = ["--model", "test_mdeq", "--data", "digits", "--out", str(tmp_path / "s"), "--search"]
    assert main([*start, "optim.lrr=1e-3,1e-2"]) == 2 and "Did you mean 'optim.lr'" in capsys.readouterr().err
    assert main([*start, "solver.name=anderson,dopri5"]) == 2 and "solver.name=dopri5" in capsys.readouterr().err
    assert main([*start, "optim.lr=1,2", "--trials", "0"]) == 2
    assert main(["--model", "test_mdq", "--search", "optim.lr=1,2"]) == 2
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_a_sweep_is_kept_goes_on_and_is_reported(tmp_path, capsys):
    optuna = pytest.importorskip("optuna")
    words = ["--model", "test_mdeq", "--data", "digits", "--out", str(tmp_path), *SHORT]
    words += ["--search", "optim.lr=log:1e-4:1e-1", "solver.name=anderson,picard"]
    assert main([*words, "--trials", "2"]) == 0
    assert main([*words, "--trials", "4"]) == 0
    told = capsys.readouterr().out
    assert "python -m zoo.fit --model test_mdeq" in told and "--solver" in told
    study = optuna.load_study(study_name="test_mdeq_digits", storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert len(study.trials) == 4 and {t.number for t in study.trials} == {0, 1, 2, 3}
    rows = list(csv.DictReader((tmp_path / "trials.csv").open()))
    assert len(rows) == 4 and all((tmp_path / "trials" / f"{int(r['number']):04}").is_dir() for r in rows)
    best = json.loads((tmp_path / "best.json").read_text())
    values = [float(r["value"]) for r in rows if r["state"] == "complete"]
    assert best["value"] == pytest.approx(max(values), rel=1e-4) and best["direction"] == "maximize"
    assert (tmp_path / "parallel.png").stat().st_size > 5000


@pytest.mark.slow
def test_a_trial_that_is_behind_is_pruned(tmp_path):
    optuna = pytest.importorskip("optuna")
    from zoo.sweep.study import Sweep, check, open_study, run

    fixed = {
        "trainer.max_epochs": "4",
        **{k.removeprefix("--"): v for k, v in zip(SHORT[2::2], SHORT[3::2], strict=True)},
    }
    space = [Dimension("optim.lr", "choice", values=("0.003", "1e-12"))]
    sweep = Sweep("test_mdeq", "digits", space, tmp_path, "pruned", fixed=fixed)
    study = open_study(sweep, check(sweep)[1])
    for _ in range(5):  # trials before it, which were all right at once
        steps = {1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0}
        params, distributions = (
            {"optim.lr": "0.003"},
            {"optim.lr": optuna.distributions.CategoricalDistribution(["0.003", "1e-12"])},
        )
        study.add_trial(
            optuna.trial.create_trial(value=1.0, params=params, distributions=distributions, intermediate_values=steps)
        )
    said = []
    run(sweep, trials=6, say=said.append)
    count = int(said[-1].partition("pruned after ")[2].split()[0])
    assert 1 <= count < 4
