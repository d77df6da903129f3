"""The command line: names, flags in any order, errors of one line, configuration that reads itself back."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml

from zoo import fit
from zoo._compat import parser_error
from zoo.training.build import build_run
from zoo.training.options import Options
from zoo.training.request import resolve

HEAVY = {  # what a run imports beside the standard library, but for yaml
    *("torch", "torchvision", "torchmetrics", "torchdiffeq", "lightning", "timm", "jsonargparse", "sklearn", "scipy"),
    *("numpy", "safetensors", "huggingface_hub", "rich", "matplotlib", "tensorboard", "PIL"),
}


def line(argv, capsys, code=2):
    """The one line that a command line which cannot run prints."""
    assert fit.main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("zoo.fit: error: ")
    return lines[0].removeprefix("zoo.fit: error: ")


def resolved(*argv):
    return Options(resolve(list(argv))).config()


def test_help_lists_everything_at_once_without_torch():
    """At once, as nothing is imported that takes its time."""
    code = "import sys, zoo.fit as f; f.main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert HEAVY.isdisjoint(done.stderr.split()) and "zoo" in done.stderr.split()
    for name in ("mdeq_tiny (= mdeq)", "digits", "fashion_mnist", "broyden", "implicit", "--resume"):
        assert name in done.stdout
    assert "test_mdeq" not in done.stdout


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "mdeqq"], "No model named 'mdeqq'. Did you mean 'mdeq'"),
        (["--model", "mdeq", "--data", "cifar"], "No data set named 'cifar'. Did you mean 'cifar10' or 'cifar100'?"),
        (["--model", "mdeq", "--solver", "brodyen"], "No solver named 'brodyen'. Did you mean 'broyden'?"),
        (["--model", "mdeq", "--adjoint", "implict"], "No adjoint named 'implict'. Did you mean 'implicit'"),
        (["--modle", "mdeq"], "No option named '--modle'. Did you mean '--model'"),
        (["--model", "mdeq", "--lr", "1"], "No option named '--lr'. Did you mean '--optim.lr'?"),
        (["--model", "mdeq", "--epochs", "1"], "--trainer.max_epochs"),
        (["--model", "mdeq", "--solvr.rtol", "1"], "No option named '--solvr.rtol'. Did you mean '--solver.rtol'"),
        (["--model", "mdeq", "--solver.rtol"], "--solver.rtol needs a value"),
        (["--model", "mdeq", "--data", "--seed", "1"], "--data needs a value"),
        (["--model", "mdeq", "digits"], "unexpected argument 'digits'"),
        (["--model", "mdeq", "--seed", "one"], "--seed takes a whole number; got 'one'"),
        (["--data", "digits"], "--model NAME is missing"),
        (["--model", "mdeq", "-c", "nowhere.yaml"], "cannot read nowhere.yaml"),
        (["--resume", "nowhere"], "cannot resume: nowhere does not exist"),
        (["--model", "mdeq", "--out", "/dev/null/run"], "cannot write the run to /dev/null/run"),
    ],
)
def test_what_can_be_told_without_torch(argv, said, capsys):
    assert said in line(argv, capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--solver.rtoll=1"], "No option of solver 'broyden' named '--solver.rtoll'. Did you mean '--solver.rtol'"),
        (["--solver.f_max_itr=3"], "No option of solver 'broyden' named '--solver.f_max_itr'."),
        (["--model.dropuot=0"], "Did you mean '--model.dropout'"),
        (["--trainer.max_epoch=3"], "Did you mean '--trainer.max_epochs'"),
        (["--solver.rtol=abc"], "--solver.rtol: expected float; got 'abc'"),
        (["--trainer.max_epochs=x"], "--trainer.max_epochs: expected int or null; got 'x'"),
        (["--optim.schedule=cosin"], "--optim.schedule: expected one of 'cosine', 'linear', 'constant', 'onecycle'"),
        (["--data.batch_size=1.5"], "--data.batch_size: expected int; got '1.5'"),
    ],
)
def test_what_the_classes_refuse(argv, said, capsys):
    assert said in line(["--model", "test_mdeq", *argv], capsys)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--solver.rtol=-1"], "rtol must not be negative, or NaN; got -1.0"),
        (["--optim.lr=0"], "optim.lr must be above 0"),
        (["--task.jacobian_weight=-1"], "task.jacobian_weight must not be negative"),
        (["--data.batch_size=0"], "batch_size"),
        (["--optim.name=adamm"], "No optimizer named 'adamm'. Did you mean 'adam'"),
        (["--model.in_chans=3"], "--model.in_chans 3 does not fit digits, which has 1"),
        (["--model.num_classes=3"], "--model.num_classes 3 does not fit digits, which has 10"),
    ],
)
def test_what_is_out_of_range_is_said_before_anything_is_written(argv, said, capsys, tmp_path):
    out = tmp_path / "run"
    assert said in line(["--model", "test_mdeq", "--data", "digits", "--out", str(out), *argv], capsys)
    assert not out.exists()


def test_a_folder_with_a_run_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("model: test_mdeq\n")
    assert "holds a run already; continue it with --resume" in line(["--model", "mdeq", "--out", str(tmp_path)], capsys)


def test_data_that_is_not_there_is_one_sentence(tmp_path, capsys):
    argv = ["--model", "test_mdeq", "--data", "mnist", "--data.root", str(tmp_path / "empty"), "--data.download=false"]
    assert fit.main([*argv, "--out", str(tmp_path / "run"), "--trainer.accelerator=cpu"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("zoo.fit: error: ")
    assert "empty" in error


def test_flags_may_stand_in_any_order():
    flags = [["--model", "test_mdeq"], ["--solver.window=4"], ["--solver", "anderson"], ["--optim.lr", "0.5"]]
    first = resolved(*[w for pair in flags for w in pair])
    assert first == resolved(*[w for pair in reversed(flags) for w in pair])
    assert first["solver"]["name"] == "anderson"
    assert first["solver"]["window"] == 4


def test_precedence_is_recipe_then_files_then_flags(tmp_path):
    for name, lr, wd in (("a", 0.1, 0.2), ("b", 0.3, None)):
        text = {"model": "test_mdeq", "optim": {"lr": lr, **({"weight_decay": wd} if wd else {})}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(text))
    files = ["-c", str(tmp_path / "a.yaml"), "-c", str(tmp_path / "b.yaml")]
    assert resolved(*files)["optim"]["lr"] == 0.3
    recipe = Options(resolve(["--model", "mdeq_segmentation_small"])).section("optim")
    assert recipe["name"] == "sgd"  # a recipe's optimizer is an option, unlike the name of a model
    assert resolved(*files)["optim"]["weight_decay"] == 0.2
    assert resolved(*files, "--optim.lr", "0.4")["optim"]["lr"] == 0.4


def test_another_solver_keeps_the_tolerances_and_drops_the_rest(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text(yaml.safe_dump({"model": "test_mdeq", "solver": {"name": "anderson", "rtol": 0.5, "window": 3}}))
    solver = resolved("-c", str(file), "--solver", "picard")["solver"]
    assert (solver["name"], solver["rtol"]) == ("picard", 0.5)
    assert "window" not in solver


def test_the_linear_solver_inside_the_adjoint_is_chosen_and_tuned():
    spec = resolved("--model", "test_mdeq", "--adjoint.solver.rtol=0.5", "--adjoint.solver", "bicgstab")["adjoint"]
    assert (spec["name"], spec["solver"]["name"], spec["solver"]["rtol"]) == ("implicit", "bicgstab", 0.5)
    assert "solver" not in resolved("--model", "test_mdeq", "--adjoint", "phantom")["adjoint"]


def test_printed_configuration_reads_itself_back(tmp_path, capsys):
    argv = ["--model", "test_mdeq", "--optim.lr", "0.5", "--trainer.max_epochs=3", "--seed", "7", "--print_config"]
    assert fit.main(argv) == 0
    printed = capsys.readouterr().out
    (tmp_path / "c.yaml").write_text(printed)
    assert fit.main(["-c", str(tmp_path / "c.yaml"), "--print_config"]) == 0
    assert capsys.readouterr().out == printed
    assert yaml.safe_load(printed)["seed"] == 7


def test_another_data_set_drops_what_the_first_decided(tmp_path):
    saved = {
        "model": {"name": "test_mdeq", "in_chans": 1, "num_classes": 10},
        "data": {"name": "digits", "batch_size": 9},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(saved))
    request = resolve(["-c", str(tmp_path / "c.yaml"), "--data", "cifar10"])
    task, data, derived = build_run(Options(request), 0)
    assert derived["in_chans"] == 3
    assert data.batch_size != 9
    assert task.model.in_chans == 3


def test_help_of_a_model_fits_two_screens(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # the narrowest that is usual
    assert fit.main(["--model", "test_mdeq", "--help"]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) <= 80
    for flag in ("--model.dropout", "--data.batch_size", "--solver.rtol", "--optim.lr", "--task.jacobian_weight"):
        assert flag in text
    assert "--trainer.profiler" not in text
    assert fit.main(["--model", "test_mdeq", "--help-all"]) == 0
    assert "--trainer.profiler" in capsys.readouterr().out


@pytest.mark.parametrize("columns", ["60", "100"])
def test_no_line_of_help_is_wider_than_the_terminal(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    for argv in (["--help"], ["--model", "mdeq", "--help"], ["--model", "mdeq", "--help-all"]):
        assert fit.main(argv) == 0
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= int(columns)
    assert "cnf_flow_matching (= flow_matching)the" not in fit.help_text()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "mdeq", "--data", "folder"], "digits, fashion_mnist, image_folder, imagenet, mnist"),
        (["--optim.learning_rate", "1", "--model", "mdeq"], "Did you mean '--optim.lr'?"),
        (["--model", "mdeq", "--solver.max_iter", "1"], "Did you mean '--solver.max_steps'?"),
        (["--model", "mdeq", "--data.workers", "1"], "Did you mean '--data.num_workers'?"),
        (["--data", "digits"], "the models are: "),
    ],
)
def test_hints_name_what_fits(argv, said, capsys):
    text = line(argv, capsys)
    assert said in text
    assert "test_" not in text and "wikitext2" not in text and text.count("'digits' or 'digits'") == 0


def test_a_model_of_timm_is_understood_and_built():
    options = Options(resolve(["--model", "timm:resnet10t", "--data", "digits"]))
    task, _, _ = build_run(options, 0)
    assert type(task.model).__name__ == "Timm" and options.config()["model"]["name"] == "timm:resnet10t"


def test_yaml_does_not_import_strangers(tmp_path, capsys, monkeypatch):
    (tmp_path / "stranger.py").write_text("raise SystemError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"model": "test_mdeq", "trainer": {"callbacks": [{"class_path": "stranger.X"}]}})
    )
    assert fit.main(["-c", str(tmp_path / "c.yaml"), "--print_config"]) == 2
    assert "stranger" not in sys.modules
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_package_that_was_allowed_may_be_named(tmp_path, monkeypatch):
    (tmp_path / "friend.py").write_text("from lightning import Callback\n\n\nclass X(Callback):\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "c.yaml").write_text(
        yaml.safe_dump({"model": "test_mdeq", "trainer": {"callbacks": [{"class_path": "friend.X"}]}})
    )
    request = resolve(["-c", str(tmp_path / "c.yaml"), "--allow-import", "friend"])
    assert request.allow_import == ("friend",)
    (made,) = Options(request).trainer(tmp_path)["callbacks"]
    assert type(made).__name__ == "X"


def test_one_line_of_many():
    text = "Parser key \"a.b\":\n  Does not validate\n  Subtypes: [<class 'int'>, <class 'NoneType'>]\n  Given value: x"
    assert str(parser_error(text)) == "--a.b: expected int or null; got 'x'"
