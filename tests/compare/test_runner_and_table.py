"""Comparisons: exact counts, rows that survive crashes, tables that say why a cell is blank."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import io
import json
import math
import os
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn

import zoo
from zoo.compare import bench, command, runner, worker
from zoo.compare import rows as kept
from zoo.compare.jobs import Job, budget_options, jobs_of
from zoo.compare.report import write_report
from zoo.compare.runner import _remove_empty, run_all
from zoo.compare.table import DRAWN, _short, cells, notes, spell, summarize, to_csv
from zoo.implicit import ImplicitMixin
from zoo.registry import UnknownName
from zoo.reporting.counters import Flops, evaluations, held_bytes
from zoo.training.errors import UsageError


class Layer(ImplicitMixin, nn.Module):
    """``z = tanh(W z + x)``, or the same as a field."""

    def __init__(self, n, solver, adjoint):
        super().__init__()
        self.w = nn.Linear(n, n)
        self.problem_types = ("fixed_point", "ode")
        self.configure_implicit(solver, adjoint)

    def forward(self, x):
        return self.solve(lambda z, x: torch.tanh(0.3 * self.w(z) + x), torch.zeros_like(x), args=(x,))


class Flow(Layer):
    def forward(self, x):
        return self.integrate(lambda t, y: torch.tanh(self.w(y)), x, (0.0, 1.0))[-1]


def test_flops_of_known_layers_are_exact():
    linear, conv = nn.Linear(5, 7), nn.Conv2d(3, 4, 3, padding=1)
    with Flops() as counter:
        linear(torch.randn(2, 5))
    assert counter.total == 2 * 2 * 5 * 7
    with Flops() as counter:
        conv(torch.randn(2, 3, 6, 6))
    assert counter.total == 2 * (2 * 6 * 6) * (3 * 3 * 3) * 4
    x = torch.randn(2, 5, requires_grad=True)
    with Flops() as counter:
        linear(x).sum().backward()
    assert counter.total == 3 * (2 * 2 * 5 * 7)  # the backward pass: to the input, and to the weight


def test_flops_of_implicit_backward_passes():
    x, once = torch.randn(3, 6), 2 * 3 * 6 * 6
    adjoint = {"name": "implicit", "solver": {"name": "neumann", "max_steps": 4, "rtol": 1e-30, "atol": 1e-30}}
    model = Layer(6, {"name": "picard", "max_steps": 5, "rtol": 1e-30, "atol": 1e-30}, adjoint)
    with Flops() as counter, evaluations(counter) as seen:
        out = model(x)
    assert counter.total == model.last.stats.nfe * once == seen.flops
    assert seen.flops / seen.samples == 2 * 6 * 6
    with Flops() as counter:
        out.sum().backward()
    products = model.last.stats.backward[-1].nfe
    assert products == 4 and counter.total == (products + 2) * once  # the map once more, and one for the weight


@pytest.mark.parametrize("model", [Layer(6, "anderson", "implicit"), Flow(6, {"name": "rk4", "steps": 3}, "unroll")])
def test_evaluations_are_counted_by_the_sample(model):
    with Flops() as counter, evaluations(counter) as seen, torch.no_grad():
        model(torch.randn(3, 6))
    assert seen.flops / seen.samples == 2 * 6 * 6
    if isinstance(model, Flow):
        assert seen.samples == 3 * model.last.stats.nfe
    before = seen.samples
    model(torch.randn(3, 6))  # outside of the scope nothing is watched
    assert seen.samples == before


def test_held_bytes_do_not_count_what_solvers_keep_for_later():
    model = Layer(6, {"name": "anderson", "max_steps": 3, "rtol": 1e-30, "atol": 1e-30}, "implicit")
    few = held_bytes(lambda: model(torch.zeros(3, 6)))
    model.configure_implicit({"name": "anderson", "max_steps": 30, "rtol": 1e-30, "atol": 1e-30})
    assert held_bytes(lambda: model(torch.zeros(3, 6))) <= few + 30 * 3 * 8  # the trace of the residuals


@pytest.mark.parametrize(
    "text, options",
    [
        ("60s", {"max_epochs": -1, "max_time": "00:00:01:00"}),
        ("90 min", {"max_epochs": -1, "max_time": "00:01:30:00"}),
        ("3 epochs", {"max_epochs": 3}),
        (5, {"max_epochs": 5}),
    ],
)
def test_budgets(text, options):
    assert budget_options(text) == options


@pytest.mark.parametrize("text", ["fast", "0", "-3s", "1.5x"])
def test_no_budget(text):
    with pytest.raises(UsageError, match="60s"):
        budget_options(text)


def test_jobs_go_seed_by_seed_and_a_name_that_is_none_is_an_error():
    jobs = jobs_of(["resnet_tiny", "timm:resnet18"], "digits", [0, 1], None, ["picard"], ["jfb"], {})
    assert [j.seed for j in jobs] == [0, 0, 1, 1]
    assert jobs[0].solver is None  # an explicit model has none to be replaced
    assert jobs[1].sections()["model"] == {"name": "timm:resnet18"} and jobs[1].batch_size == 64
    assert jobs_of(["timm:resnet18"], None, [0], None, [], [], {})[0].data == "digits"
    none: list = []
    for models, data, solvers, adjoints, options, said in (
        (["mdeq_tinny"], "digits", none, none, {}, "Did you mean 'mdeq_tiny'"),
        (["resnet_tiny", "mdeq_tinny"], "digits", none, none, {}, "Did you mean 'mdeq_tiny'"),
        (["mdeq_tiny.cifar"], "digits", none, none, {}, "No weights of 'mdeq_tiny' named 'cifar'"),
        (["mdeq_tiny"], "digit", none, none, {}, "Did you mean 'digits'"),
        (["mdeq_tiny", "lstm_small"], "digits", none, none, {}, "lstm_small is for language; digits is for classif"),
        (["mdeq_tiny"], "digits", ["picrad"], none, {}, "Did you mean 'picard'"),
        (["mdeq_tiny"], "digits", none, ["jbf"], {}, "Did you mean 'jfb'"),
        (["mdeq_tiny"], "digits", none, none, {"optimm": {}}, "Did you mean 'optim'"),
        ([], "digits", none, none, {}, "name at least one model"),
    ):
        with pytest.raises((UnknownName, UsageError), match=said):
            jobs_of(models, data, [0], None, solvers, adjoints, options)


@pytest.mark.slow
def test_what_cannot_be_built_is_found_before_anything_trains(tmp_path):
    """By building each job once in a process of its own; the rows of before stay as they are."""
    (tmp_path / kept.ROWS).write_text(json.dumps(finished(Job("resnet_tiny", "digits"))) + "\n")
    before = (tmp_path / kept.ROWS).read_text()
    wrong = (
        (Job("test_odenet", "digits", 0, "picard"), "poses ODEs"),
        (Job("test_mdeq", "digits", options={"trainer": {"max_epoch": "1"}}), "Did you mean '--trainer.max_epochs'"),
        (Job("test_mdeq", "digits", options={"optim": {"lr": "fast"}}), "optim.lr"),
        (Job("timm:resnet18x", "digits"), "No timm model named 'resnet18x'"),
    )
    for job, said in wrong:
        problem = worker.problem(job)
        assert said in problem and "\n" not in problem
    assert worker.problem(Job("test_mdeq", "digits")) == worker.problem(Job("timm:test_convnext", "digits")) == ""
    jobs = [Job("test_cnn", "digits"), *(job for job, _ in wrong), Job("test_cnn", "digits", 1)]
    with pytest.raises(UsageError, match=r"^test_odenet picard: .*poses ODEs.* \(and 3 more that cannot run\)"):
        run_all(jobs, tmp_path)
    assert (tmp_path / kept.ROWS).read_text() == before and not (tmp_path / "runs").exists()
    with pytest.raises(UsageError, match="and 3 more"):
        run_all(jobs, tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


def test_a_refused_comparison_takes_nothing_of_others_along(tmp_path):
    """What another process has put into a folder that this one made, in the meantime."""
    folder, beside = tmp_path / "runs" / "folder", tmp_path / "runs" / "beside"
    (folder / "logs").mkdir(parents=True)
    (folder / kept.ROWS).touch()
    beside.mkdir()
    _remove_empty(folder, [folder, tmp_path / "runs"])
    assert beside.exists() and not folder.exists()


def test_solvers_and_adjoints_side_by_side():
    jobs = jobs_of(["mdeq_tiny"], "digits", [0], "1 epochs", ["anderson", "picard"], ["implicit", "jfb"], {})
    assert [(j.solver, j.adjoint) for j in jobs] == [
        ("anderson", "implicit"), ("anderson", "jfb"), ("picard", "implicit"), ("picard", "jfb"),
    ]  # fmt: skip
    assert len({j.key for j in jobs}) == 4


def test_one_model_is_not_named_in_every_column():
    jobs = jobs_of(["mdeq_tiny"], "digits", [0], None, ["anderson", "picard"], [], {})
    head, _, _ = cells(summarize([finished(j) for j in jobs]))
    assert head == ["", "anderson", "picard"]


@pytest.fixture(autouse=True)
def unchecked(request, monkeypatch):
    """Most tests ask for jobs that are never run: they need not be built beforehand."""
    if "before_anything_trains" not in request.node.name:
        monkeypatch.setattr(runner, "check", lambda jobs, folder: None)


def finished(job, score=0.9):
    values = {"score": score, "seconds": 3.0, "parameters": 10}
    return {**kept.failure(job, ""), "status": "finished", "metric": "accuracy", "values": values,
            "reasons": {"nfe_forward": "an explicit model solves nothing"}}  # fmt: skip


def test_a_comparison_resumes_and_tries_again_what_failed(tmp_path, monkeypatch):
    jobs = jobs_of(["resnet_tiny", "timm:resnet18"], "digits", [0, 1], None, [], [], {})
    ran = []

    def first(job, *rest):
        ran.append(job.label)
        return kept.failure(job, "boom") if job.model == "resnet_tiny" and job.seed == 0 else finished(job)

    monkeypatch.setattr(runner, "run_one", first)
    rows = run_all(jobs, tmp_path, say=lambda line: None)
    assert len(ran) == 4 and [r["status"] for r in rows] == ["failed", "finished", "finished", "finished"]
    with (tmp_path / "rows.jsonl").open("a") as stream:
        stream.write('{"key": "cut o')  # the disk was full

    monkeypatch.setattr(runner, "run_one", lambda job, *rest: ran.append(job.label) or finished(job, 0.8))
    rows = run_all(jobs, tmp_path, say=lambda line: None)
    assert ran[4:] == ["resnet_tiny, seed 0"] and all(r["status"] == "finished" for r in rows)
    rows = run_all(jobs, tmp_path, say=lambda line: None)  # the row behind the cut one is there
    assert len(ran) == 5 and [r["values"]["score"] for r in rows] == [0.8, 0.9, 0.9, 0.9]


def test_halved_batches_are_the_same_work(tmp_path, monkeypatch):
    job, sizes = Job("resnet_tiny", "digits"), []

    def small(job, *rest):
        sizes.append(job.batch_size)
        return finished(job) if sizes[-1] <= 16 else kept.failure(job, "full", "out of memory")

    monkeypatch.setattr(runner, "_process", small)
    for _ in range(2):
        (row,) = run_all([job], tmp_path, say=lambda line: None)
    assert sizes == [64, 32, 16] and row["key"] == job.key
    assert row["note"] == "out of memory with batches of 64; out of memory with batches of 32; measured with 16"


def test_a_full_disk_costs_one_row(tmp_path, monkeypatch):
    jobs = jobs_of(["resnet_tiny", "mdeq_tiny"], "digits", [0], None, [], [], {})
    (tmp_path / "logs").touch()  # no log can be made
    rows = run_all(jobs, tmp_path, say=lambda line: None)
    assert len(rows) == 2 and all("make room" in r["error"] and r["status"] == "failed" for r in rows)
    (tmp_path / "logs").unlink()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(subprocess, "Popen", full)
    rows = run_all(jobs, tmp_path, say=lambda line: None)
    assert all("No space left" in r["error"] for r in rows)


def test_what_a_model_was_trained_with(tmp_path):
    config = {"optim": {"name": "adamw", "lr": 3e-3}, "data": {"batch_size": 64},
              "trainer": {"max_epochs": -1, "max_time": "00:00:15:00"}}  # fmt: skip
    assert spell(kept.recipe(config)) == "adamw, lr 0.003, batches of 64, 15 min"
    assert spell(kept.recipe({"trainer": {"max_epochs": 1, "max_steps": -1}})) == "1 epoch" and not kept.recipe({})
    row = finished(Job("timm:resnet18", "digits"))
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")  # as rows were written that had no recipe
    assert kept.read_rows(tmp_path)[row["key"]]["recipe"] == {}
    run = kept.run_folder(tmp_path, row["model"], row["key"]) / "20260101-000000"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(json.dumps(config))
    assert kept.read_rows(tmp_path)[row["key"]]["recipe"]["lr"] == 3e-3


@pytest.mark.parametrize("body, said", [("echo oh no; exit 3", "exit code 3: oh no"), ("kill -9 $$", "out of memory")])
def test_a_crash_costs_one_row(tmp_path, monkeypatch, body, said):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (row,) = run_all([Job("resnet_tiny", "digits")], tmp_path / "out", say=lambda line: None)
    assert row["status"] != "finished" and said in row["error"] and not row["values"]
    if "kill" in body:
        assert "batches of 64; out of memory with batches of 32" in row["note"] and "measured" not in row["note"]
        assert row["key"] == Job("resnet_tiny", "digits").key


def test_a_run_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\nexec sleep 20\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (row,) = run_all([Job("resnet_tiny", "digits")], tmp_path / "out", timeout=0.3, say=lambda line: None)
    assert "--timeout" in row["error"]


def test_rows_over_seeds_and_blank_cells(tmp_path):
    a, b = Job("resnet_tiny", "digits", 0), Job("resnet_tiny", "digits", 1)
    runs = [
        measured(a, 0.9, "AMD", "a" * 40),
        measured(b, 0.8, "Intel", "b" * 40 + "+changes"),
        kept.failure(Job("mdeq_tiny", "digits"), "boom"),
    ]
    rows = summarize(runs)
    assert rows[0]["values"]["score"] == pytest.approx(0.85) and rows[0]["std"]["score"] == pytest.approx(0.0707, 1e-2)
    assert (rows[0]["seeds"], rows[1]["status"], rows[1]["error"]) == ([0, 1], "failed", "boom")
    head, text, why = cells(rows)
    assert head == ["", "resnet_tiny", "mdeq_tiny"]
    table = {line[0]: line[1:] for line in text}
    assert table["test accuracy"] == ["0.85 +- 0.071", ""] and table["NFE forward"] == ["", ""]
    said = notes(rows, why)
    assert "mdeq_tiny, seed 0: boom" in said and "resnet_tiny, blank: an explicit model solves nothing" in said
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert lines[0]["hardware"] == "AMD, 1 thread / Intel, 1 thread" and lines[0]["recipe"] == "adamw, lr 0.1, 5 epochs"
    assert lines[0]["commit"] == f"{'a' * 12} / {'b' * 12}+changes" and lines[1]["commit"] == ""
    assert table["recipe"] == ["adamw, lr 0.1, 5 epochs", ""] and rows[0]["recipes"][0]["max_epochs"] == 5
    assert lines[1]["score"] == "" and lines[0]["parameters"] == "10" and "explicit" in lines[0]["missing"]
    files = write_report(rows, tmp_path, "compare")
    assert all(f.is_file() for f in files) and (tmp_path / "figures" / "compare_pareto.png").is_file()
    page = (tmp_path / "compare.html").read_text()
    assert "resnet_tiny: AMD, 1 thread; torch 2; commit" in page and "Intel, 1 thread" in page
    assert 'title="an explicit model solves nothing"' in page and "data:image/svg+xml" in page
    assert json.loads((tmp_path / "compare.json").read_text())["rows"][1]["values"] == {}


def measured(job, score, cpu, commit):
    environment = {"time": "2026", "hardware": {"cpu": cpu, "threads": 1, "gpus": []}, "versions": {"torch": "2"},
                   "commit": commit}  # fmt: skip
    recipe = {"optimiser": "adamw", "lr": 0.1, "max_epochs": 5}
    return {**finished(job, score), "environment": environment, "recipe": recipe}


def test_loaded_weights_have_no_spread():
    runs = [finished(Job("mdeq_tiny.digits", "digits", seed)) for seed in (0, 1)]
    for run in runs:
        run["reasons"] = {"seconds": kept.LOADED}
        del run["values"]["seconds"]
    (row,) = summarize(runs)
    assert row["std"] == {} and row["seeds"] == [0, 1] and row["values"]["score"] == 0.9


@pytest.mark.parametrize(
    "model, solver", [pytest.param("test_mdeq", "anderson", marks=pytest.mark.slow), ("test_resnet_twin", None)]
)
def test_a_row_from_end_to_end(tmp_path, monkeypatch, model, solver):

    monkeypatch.setattr(bench, "SECONDS", 0.0)
    monkeypatch.setattr(bench, "LEAST", 1)
    quick = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1}
    quick |= {"accelerator": "cpu", "devices": 1, "log_every_n_steps": 1}
    options = {"trainer": quick, "data": {"batch_size": 8}}
    if solver:
        options["task"] = {"warmup_steps": 0}
    seen = []
    whole = bench.Bench.restore
    monkeypatch.setattr(bench.Bench, "restore", lambda self: whole(self) or seen.append(self))
    row = worker.work(Job(model, "digits", 0, solver, None, options), tmp_path)
    for name, buffer in seen[-1].model.named_buffers():  # running statistics are those of the training
        torch.testing.assert_close(buffer, seen[-1]._buffers[name], rtol=0, atol=0)
    assert row["status"] == "finished" and row["metric"] == "accuracy"
    missing = {"peak_bytes"} if solver else {"peak_bytes", "nfe_forward", "nfe_forward_p95", "nfe_backward",
                                             "nfe_backward_p95", "converged", "residual"}  # fmt: skip
    missing |= set() if solver else set(DRAWN)
    assert set(row["reasons"]) - {"gradient"} == missing - {"gradient"}, row["reasons"]
    assert ("gradient" in row["reasons"]) != ("gradient" in row["curves"])  # measured, or said why not
    assert row["recipe"]["batch_size"] == 8 and row["recipe"]["max_epochs"] == 1 and row["recipe"]["lr"] > 0
    assert all(v > 0 for k, v in row["values"].items() if k not in ("score", "converged"))
    if solver:
        assert row["values"]["flops_forward"] > row["values"]["flops_evaluation"]
        assert row["curves"]["residuals"] and row["curves"]["anytime"]["budget"] and row["curves"]["nfe"]["nfe"]
        assert [way["adjoint"] for way in row["curves"]["growth"]["ways"]] == ["implicit", "unroll"]


@pytest.mark.slow
def test_from_python_a_report_is_written_and_what_was_there_stays_in_it(monkeypatch, tmp_path):
    assert "seeds" in inspect.signature(zoo.compare_models).parameters  # an editor sees the arguments
    monkeypatch.setattr(runner, "run_one", lambda job, *rest: finished(job))
    rows = zoo.compare_models(["resnet_tiny"], "digits", seeds=[0, 1], out=tmp_path, say=None)
    assert [r["model"] for r in rows] == ["resnet_tiny"] and rows[0]["seeds"] == [0, 1]
    rows = zoo.compare_models("wrn_40_1", "digits", out=tmp_path, say=None)
    assert [r["model"] for r in rows] == ["wrn_40_1"]
    zoo.compare_models("cnn", "mnist", out=tmp_path, say=None)  # other data: a report of their own
    zoo.compare_models("wrn_40_1", "digits", out=tmp_path, options={"optim": {"lr": 0.1}}, say=None)
    report = json.loads((tmp_path / "compare.json").read_text())
    assert [r["label"] for r in report["rows"]] == ["resnet_tiny", "wrn_40_1", "wrn_40_1, lr 0.1"]
    assert [r["seeds"] for r in report["rows"]] == [[0, 1], [0], [0]]
    assert "resnet_tiny" in (tmp_path / "compare.md").read_text()
    lines = list(csv.DictReader((tmp_path / "compare.csv").open()))
    assert [line["options"] for line in lines] == ["{}", "{}", '{"optim": {"lr": 0.1}}']


def test_the_command_line(tmp_path, capsys, monkeypatch):
    done = subprocess.run([sys.executable, "-m", "zoo.compare", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "timm:NAME" in done.stdout
    asked = []
    monkeypatch.setattr(runner, "run_one", lambda job, *rest: asked.append(job) or finished(job))
    words = ["--models", "resnet_tiny", "--data", "digits", "--budget", "3", "epochs", "--out", str(tmp_path)]
    assert command.main([*words, "--optim-options", "lr=0.1"]) == 0
    assert "resnet_tiny" in capsys.readouterr().out and (tmp_path / "compare.csv").is_file()
    assert command.main([*words, "--optim.lr", "0.1"]) == 0  # the same work in today's spelling
    assert len(asked) == 1 and asked[0].options["optim"] == {"lr": "0.1"} and "before" in capsys.readouterr().out
    assert command.main(["--seeds", "1"]) == 2 and "--models" in capsys.readouterr().err
    assert command.main(["--models", "resnet_tinny", "--out", str(tmp_path / "no")]) == 2
    assert "Did you mean 'resnet_tiny'" in capsys.readouterr().err and not (tmp_path / "no").exists()
    assert command.main(["--models", "resnet_tiny", "--budget", "soon", "--out", str(tmp_path)]) == 2
    (tmp_path / "file").touch()
    assert command.main(["--models", "resnet_tiny", "--out", str(tmp_path / "file" / "x")]) == 2


def test_numbers_are_written_as_people_read_them():
    for value, digits, text in (
        (11172810, 12, "11,172,810"), (158458, 12, "158,458"), (1e6, 3, "1,000,000"), (999, 3, "999"),
        (1234.5, 3, "1,234"), (0.98423, 4, "0.9842"), (2.1e-5, 2, "2.1e-05"), (0, 3, "0"), (3e20, 12, "3.00e+20"),
    ):  # fmt: skip
        assert _short(value, digits) == text


SLOW = """
import signal, sys, time
def stop(signum, frame):
    print("saved", flush=True)
    sys.exit(1)
signal.signal(signal.SIGINT, stop)
print("epoch 1", flush=True)
time.sleep(60)
"""


def test_ctrl_c_lets_the_running_process_save_and_is_passed_on(tmp_path, monkeypatch):
    program = tmp_path / "python"
    (tmp_path / "slow.py").write_text(SLOW)
    program.write_text(f"#!/bin/sh\nexec {sys.executable} {tmp_path / 'slow.py'}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.setattr(runner, "EVERY", 0.0)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # workers of pytest-xdist ignore it
    lines = []

    def say(line):
        lines.append(line)
        if line.endswith("epoch 1"):  # it is running: now somebody presses Ctrl-C
            os.kill(os.getpid(), signal.SIGINT)

    try:
        with pytest.raises(KeyboardInterrupt):
            run_all([Job("resnet_tiny", "digits")], tmp_path / "out", say=say)
    finally:
        signal.signal(signal.SIGINT, before)
    assert "stopping after this step" in lines[-1]
    (log,) = (tmp_path / "out" / "logs").glob("*.log")
    assert log.read_text().splitlines() == ["epoch 1", "saved"]
    assert kept.read_rows(tmp_path / "out") == {}  # no result, so that the next call goes on with it


def test_a_training_that_was_stopped_goes_on_and_one_that_finished_is_only_measured(tmp_path, monkeypatch):
    quick = {"limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1, "accelerator": "cpu"}
    job = Job("test_cnn", "digits", options={"trainer": {**quick, "max_epochs": 3}, "data": {"batch_size": 8}})
    calls = []
    whole = worker.run_training

    def stopped(request):
        calls.append(request.resume)
        if len(calls) > 1:
            return whole(request)
        trainer = {**request.config["trainer"], "max_epochs": 2}  # as if Ctrl-C came after the second epoch
        done = whole(dataclasses.replace(request, config={**request.config, "trainer": trainer}))
        results = json.loads((done.folder / "results.json").read_text())
        (done.folder / "results.json").write_text(json.dumps({**results, "status": "interrupted"}))
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "run_training", stopped)
    with pytest.raises(KeyboardInterrupt):
        worker.trained(job, tmp_path)
    run, results = worker.trained(job, tmp_path)
    assert calls[0] is None and calls[1] == run / "checkpoints" / "last.ckpt"
    assert (results["status"], results["epochs"], results["steps"]) == ("finished", 3, 6)
    again, same = worker.trained(job, tmp_path)
    assert len(calls) == 2 and again == run and same["test"] == results["test"]


def scored(model, seconds, values, seed=0, maximise=True):
    row = {"key": f"{model}{seed}", "model": model, "data": "digits", "seed": seed, "solver": None, "adjoint": None}
    curves = {"score": {"seconds": seconds, "value": values}}
    return {**row, "status": "finished", "error": "", "metric": "accuracy", "maximise": maximise, "values": {},
            "reasons": {}, "curves": curves}  # fmt: skip


def test_the_time_to_the_level_that_every_run_reached():
    rows = summarize([
        scored("fast", [1, 2, 3], [0.5, 0.9, 0.95]), scored("fast", [1, 2, 3], [0.85, 0.9, 0.95], seed=1),
        scored("slow", [10, 20, 30], [0.1, 0.8, 0.7]),
    ])  # fmt: skip
    assert rows[0]["level"] == 0.8
    assert rows[0]["values"]["seconds_to_level"] == 1.5 and rows[1]["values"]["seconds_to_level"] == 20
    falling = [scored("a", [1, 2], [3.0, 1.0], maximise=False), scored("b", [1, 2], [2.5, 2.0], maximise=False)]
    rows = summarize(falling)
    assert rows[0]["level"] == 2.0 and [r["values"]["seconds_to_level"] for r in rows] == [2, 2]


def test_a_validation_that_is_no_number_costs_its_own_cell(tmp_path):
    rows = summarize([
        scored("well", [1, 2, 3], [0.5, 0.8, 0.9]), scored("late", [1, 2, 3], [math.nan, None, 0.7]),
        scored("never", [1, 2], [math.nan, None]),
    ])  # fmt: skip
    assert rows[0]["level"] == 0.7 and [r["values"].get("seconds_to_level") for r in rows] == [2, 3, None]
    assert rows[2]["reasons"]["seconds_to_level"] == "its validation was never a finite number"
    assert all(f.is_file() for f in write_report(rows, tmp_path, "compare"))
    assert summarize([scored("never", [1], [None])])[0]["level"] is None
    row = scored("infinite", [1], [0.5])
    row["values"] = {"score": None, "residual": math.inf}
    assert summarize([row])[0]["reasons"]["residual"] == "not a finite number"


def test_the_time_to_a_level_that_is_asked_for():
    runs = [scored("fast", [1, 2, 3], [0.5, 0.9, 0.95]), scored("slow", [10, 20], [0.1, 0.8])]
    rows = summarize(runs, 0.9)
    assert rows[0]["values"]["seconds_to_asked"] == 2 and rows[0]["values"]["seconds_to_level"] == 2
    assert rows[1]["reasons"]["seconds_to_asked"] == "its validation came to 0.8 at best, not to 0.9"
    lines = {line[0]: line[1:] for line in cells(rows)[1]}
    assert lines["to accuracy 0.9 (s)"] == ["2", ""]
    assert not any("0.9 (s)" in line[0] for line in cells(summarize(runs))[1])
