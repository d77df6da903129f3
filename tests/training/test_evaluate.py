"""Measuring trained models again: the shipped numbers hold, and what does not hold is said."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pytest
from trained import run as train

import zoo
from zoo import evaluate as door
from zoo.hub import cards
from zoo.registry import UnknownName
from zoo.storage.model_folder import WeightsError
from zoo.training.evaluate import evaluate

DIGITS = [n for n in cards.list_models(pretrained=True) if n.endswith(".digits")]

# what the recipes reach with cells whose convergence, or whose steady state, is guaranteed; all others reach 98 %
FLOORS = {"concave_small": 0.85, "monotone_small": 0.94, "steady_small": 0.95}


@pytest.mark.parametrize(
    "name", [n if n == "mdeq_tiny.digits" else pytest.param(n, marks=pytest.mark.slow) for n in DIGITS]
)
def test_the_number_of_a_shipped_model_holds(name):
    row = evaluate(name)
    assert row["holds"] is True, row
    assert row["card"] == cards.card(name).measured["digits"]["accuracy"]
    assert row["samples"] == 359
    assert row["test"].get("converged", 1.0) == 1.0  # an explicit model solves nothing
    assert row["source"].endswith(".yaml")
    assert row["measured"] >= FLOORS.get(name.partition(".")[0], 0.98)


def test_batches_do_not_decide_the_number():
    one, many = (evaluate("mdeq_tiny.digits", batch_size=b)["measured"] for b in (17, 359))
    assert one == many


def test_a_folder_is_compared_with_its_own_number():
    row = evaluate(str(cards.HERE / "weights" / "mdeq_tiny.digits"))
    assert (row["holds"], row["source"]) == (True, "config.json")


def test_a_run_is_compared_with_its_own_test(tmp_path):
    row = evaluate(str(train(tmp_path / "run")))
    assert (row["holds"], row["name"]) == (True, "test_mdeq.digits")


def test_part_of_the_data_or_other_data_are_compared_with_nothing():
    row = evaluate("mdeq_tiny.digits", limit=2, batch_size=20)
    assert (row["holds"], row["card"], row["samples"]) == (None, None, 40)


def test_data_that_do_not_fit_are_refused():
    with pytest.raises(WeightsError, match="The model has in_chans 1, cifar10 has 3"):
        evaluate("mdeq_tiny.digits", data="cifar10")
    with pytest.raises(UnknownName, match="Did you mean 'digits'"):
        evaluate("mdeq_tiny.digits", data="digit")


def test_a_depth_bounds_every_solve(capsys):
    rows = [evaluate("mdeq_tiny.digits", depth=depth, limit=2) for depth in (1, 3, 40)]
    assert [row["depth"] for row in rows] == [1, 3, 40] and all(row["holds"] is None for row in rows)
    assert [row["test"]["nfe_forward_max"] for row in rows[:2]] == [2, 4]  # every returned iterate was measured
    assert rows[2]["test"]["converged"] == 1 > rows[0]["test"]["converged"]
    assert 0 <= rows[2]["test"]["answered_at_99"] <= 1
    assert door.main(["--model", "mdeq_tiny.digits", "--limit", "1", "--depth", "2", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "depth" in lines[0] and "99 % sure" in lines[0] and len(lines) == 3


@pytest.mark.parametrize(
    ("name", "depth", "said"),
    [
        ("resnet_tiny.digits", 3, "ResNet solves no fixed points"),
        ("mdeq_tiny.digits", 0, "max_steps must be at least 1; got 0"),
    ],
)
def test_a_depth_that_no_solve_has_is_refused(name, depth, said):
    with pytest.raises(ValueError, match=said):
        evaluate(name, depth=depth)


def test_starts_are_refused_where_a_solve_takes_none():
    with pytest.raises(ValueError, match="MDEQ begins every solve at one place, so it takes no starts"):
        evaluate("mdeq_tiny.digits", starts=8)
    with pytest.raises(ValueError, match="at least 1; got 0"):
        evaluate("mdeq_tiny.digits", starts=0)
    assert evaluate("mdeq_tiny.digits", starts=1, limit=1)["starts"] == 1


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory):
    """The run of a reasoner that has hardly begun to learn."""
    short = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "limit_test_batches": 1}
    return zoo.train(
        "test_reasoner",
        "sudoku4",
        solver={"name": "picard", "max_steps": 4},
        trainer={**short, "accelerator": "cpu", "devices": 1, "enable_progress_bar": False},
        out=tmp_path_factory.mktemp("reasoner") / "run",
    ).folder


def test_a_reasoner_is_measured_by_depth_and_starts(reasoner, capsys):
    door_arguments = ["--model", str(reasoner), "--depth", "1", "3", "--starts", "1", "2", "--solver", "broyden"]
    assert door.main([*door_arguments, "--limit", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5 and "depth" in lines[0] and "starts" in lines[0] and "solved" in lines[1]
    one, two = (evaluate(str(reasoner), depth=3, starts=k, limit=1, batch_size=16)["test"] for k in (1, 2))
    assert two["nfe_forward"] > one["nfe_forward"] and two["residual"] <= one["residual"]
    with pytest.raises(ValueError, match="sudoku4 is made, not read from files"):
        evaluate(str(reasoner), root="data")


def test_a_wrong_number_fails(monkeypatch, capsys):
    card = cards.card("mdeq_tiny")
    wrong = {"digits": {**card.measured["digits"], "accuracy": 0.5}}
    monkeypatch.setitem(cards._cards, "mdeq_tiny", dataclasses.replace(card, measured=wrong))
    assert door.main(["--model", "mdeq_tiny.digits"]) == 1
    said = capsys.readouterr()
    assert "NO" in said.out
    assert "mdeq_tiny.digits: the accuracy is 0.98" in said.err
    assert "says 0.5000 +- 0.0028" in said.err


def test_the_table_and_the_report(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cards, "list_models", lambda pattern="*", pretrained=False: DIGITS)
    assert door.main(["--all", "--json", str(tmp_path / "report.json")]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in DIGITS)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["name"] for row in report["rows"]] == DIGITS
    assert report["environment"]["versions"]["torch"]
    assert door.main(["--model", DIGITS[0], "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["holds"] is True


def test_one_that_cannot_be_measured_costs_one_row(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(cards, "list_models", lambda pattern="*", pretrained=False: [str(tmp_path), DIGITS[0]])
    assert door.main(["--all", "--json", str(tmp_path / "report.json")]) == 1
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert "is no model folder" in rows[0]["error"]
    assert rows[1]["holds"] is True
    shown = capsys.readouterr()
    assert "failed" in shown.out and shown.err.count(str(tmp_path)) == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--limit", "1"], "say which: --model NAME, or --all"),
        (["--model", "mdeq_tiny", "--all"], "say which"),
        (["--model", "mdeq_tini.digits"], "Did you mean 'mdeq_tiny'"),
        (["--model", "test_mdeq"], "'test_mdeq' has no trained weights. Those that have: "),
        (["--model", "mdeq_tiny.digit"], "Did you mean 'digits'"),
        (["--model", "mdeq_tiny.digits", "--data", "mnits"], "Did you mean 'mnist'"),
        (["--model", "mdeq_tiny.digits", "--solver", "brojden"], "Did you mean 'broyden'"),
    ],
)
def test_a_wrong_command_is_one_sentence(argv, said, capsys):
    assert door.main(argv) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("module", ["zoo.evaluate", "zoo.export"])
def test_help_needs_no_torch(module):
    code = f"import sys, {module} as m; m.parser().format_help(); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
