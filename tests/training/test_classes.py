"""Options of the Trainer name classes of a list, with plain values, which write inside of the run folder."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest
import yaml

from zoo import fit
from zoo.training import classes
from zoo.training.errors import UsageError
from zoo.training.options import Options
from zoo.training.request import resolve

CALLBACKS, STRATEGIES = "lightning.pytorch.callbacks", "lightning.pytorch.strategies"


@pytest.fixture
def marker(tmp_path):
    """A file that a payload would write."""
    return tmp_path / "marker"


def popen(marker):
    return {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(marker)]}}


def payloads(marker, elsewhere):
    run = popen(marker)
    init = lambda path, **given: {"class_path": path, "init_args": given}  # noqa: E731
    return {
        "callback": {"trainer": {"callbacks": [run]}},
        "strategy": {"trainer": {"strategy": init(f"{STRATEGIES}.DDPStrategy", ddp_comm_state=run)}},
        "strategy by its short name": {"trainer": {"strategy": init("DDPStrategy", ddp_comm_state=run)}},
        "hook": {"trainer": {"strategy": init("DDPStrategy", ddp_comm_hook="os.system", ddp_comm_state="touch x")}},
        "lambda": {"trainer": {"callbacks": [init(f"{CALLBACKS}.LambdaCallback", on_fit_start="torch.load")]}},
        "lambda by its short name": {"trainer": {"callbacks": [init("LambdaCallback", setup="os.abort")]}},
        "average": {"trainer": {"callbacks": [init("StochasticWeightAveraging", swa_lrs=0.1, avg_fn="os.system")]}},
        "logger": {"trainer": {"logger": init("TensorBoardLogger", save_dir="x", dict_kwargs={"a": run})}},
        "logger's keyword": {"trainer": {"logger": init("TensorBoardLogger", save_dir="x", log_dir=str(elsewhere))}},
        "logger elsewhere": {"trainer": {"logger": init("CSVLogger", save_dir=str(elsewhere))}},
        "logger above": {"trainer": {"logger": [init("CSVLogger", save_dir=".", name="../../x")]}},
        "checkpoints elsewhere": {"trainer": {"callbacks": [init("ModelCheckpoint", dirpath=str(elsewhere))]}},
        "checkpoint above": {"trainer": {"callbacks": [init("ModelCheckpoint", filename="../../../x")]}},
        "checkpoint on error": {"trainer": {"callbacks": [init("OnExceptionCheckpoint", dirpath=str(elsewhere))]}},
        "profiler": {"trainer": {"profiler": init("SimpleProfiler", dirpath=str(elsewhere), filename="x")}},
        "pytorch profiler": {"trainer": {"profiler": init("PyTorchProfiler", dirpath=str(elsewhere), schedule=run)}},
        "plugin": {"trainer": {"plugins": [run]}},
        "accelerator": {"trainer": {"accelerator": run}},
        "root": {"trainer": {"default_root_dir": str(elsewhere)}},
        "model": {"model": {"name": "test_mdeq", "num_classes": run}},
        "optimizer": {"optim": {"name": run}},
        "solver's options": {
            "model": {"name": "test_odenet"},
            "solver": {"name": "torchdiffeq:rk4", "options": {"norm": run}},
        },
        "network": {"trainer": {"callbacks": [init("BackboneFinetuning", lambda_func="os.system")]}},
        "a file of a file": {"trainer": {"callbacks": str(elsewhere.with_suffix(".yaml"))}},
    }


NAMES = list(payloads(*[__import__("pathlib").Path("x")] * 2))
QUICK = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1",
         "--trainer.limit_test_batches=1", "--trainer.accelerator=cpu", "--trainer.devices=1"]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_and_nothing_is_written_elsewhere(name, tmp_path, marker, capsys):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.with_suffix(".yaml").write_text(yaml.safe_dump(popen(marker)))
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": "test_mdeq", **payloads(marker, elsewhere)[name]}))
    code = fit.main(["-c", str(tmp_path / "c.yaml"), "--out", str(tmp_path / "run"), *QUICK])
    lines = capsys.readouterr().err.strip().splitlines()
    assert code in (1, 2) and lines[-1].startswith("zoo.fit: error: "), lines
    assert "Traceback" not in "\n".join(lines)
    assert not marker.exists() and not elsewhere.exists()
    left = {p.name for p in tmp_path.iterdir()} - {"c.yaml", "elsewhere.yaml", "run"}
    assert left == set()


def test_the_list_names_classes_and_options_that_exist():
    """An upgrade of Lightning that renames one is found here."""
    import inspect

    for known in classes.CLASSES:
        if known.needs and not any(find_spec(n) for n in known.needs.split()):
            continue
        for path in known.paths:
            module, _, name = path.rpartition(".")
            found = getattr(import_module(module), name)
        takes = inspect.signature(found).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in takes.values()):
            assert set(known.options) <= set(takes), known.name


@pytest.mark.parametrize(
    ("argv", "kind", "folder"),
    [
        (["--trainer.logger", "csv"], "CSVLogger", "csv"),
        (["--trainer.logger", "tensorboard"], "TensorBoardLogger", "tensorboard_logs"),
        (["--trainer.logger", "CSVLogger"], "CSVLogger", "csv"),
        (["--trainer.logger", "CSVLogger", "--trainer.logger.name", "mine"], "CSVLogger", "mine"),
    ],
)
def test_loggers_have_short_names_and_write_into_the_run(argv, kind, folder, tmp_path):
    made = Options(resolve(["--model", "test_cnn", *argv])).trainer(tmp_path)["logger"]
    assert type(made).__name__ == kind and made.log_dir.rstrip("/") == str(tmp_path / folder)


def test_several_loggers_are_a_list(tmp_path):
    made = Options(resolve(["--model", "test_cnn", "--trainer.logger", "[csv, tensorboard]"])).trainer(tmp_path)
    assert [type(m).__name__ for m in made["logger"]] == ["CSVLogger", "TensorBoardLogger"]


@pytest.mark.parametrize("word", ["wandb", "WandbLogger", "lightning.pytorch.loggers.WandbLogger"])
def test_a_logger_whose_package_is_missing_names_it_and_leaves_no_folder(word, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(classes, "find_spec", lambda name: None if name == "wandb" else find_spec(name))
    out = tmp_path / "run"
    assert fit.main(["--model", "test_cnn", "--trainer.logger", word, "--out", str(out), *QUICK]) == 2
    assert "pip install wandb" in capsys.readouterr().err and not out.exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--trainer.callbacks", "my.Callback"], "my.Callback may be named with --allow-import my only"),
        (["--trainer.callbacks", "LambdaCallback"], "--allow-import lightning"),
        (["--trainer.logger", "csvv"], "--trainer.logger: expected Logger or"),
        (["--trainer.devices", "[0]", "--trainer.accelerator", "auto"], "this machine has no accelerator"),
        (["--data.num_workers", "1000000"], "--data.num_workers must be at most 1024; got 1000000"),
        (["--solver.window", "1000000000"], "--solver.window must be at most 10000"),
        (["--trainer.max_steps", "2.5"], "--trainer.max_steps: expected int; got '2.5'"),
        (["--trainer.max_steps", "-5"], "max_steps"),
        (["--trainer.devices", "0"], "devices"),
        (["--trainer.precision", "7"], "--trainer.precision: expected one of"),
    ],
)
def test_options_of_the_trainer_are_refused_in_a_sentence(argv, said, tmp_path, capsys):
    import torch

    if "[0]" in argv and torch.accelerator.is_available():
        pytest.skip("a machine that has the device")
    out = tmp_path / "run"
    assert fit.main(["--model", "test_mdeq", "--out", str(out), *argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0], lines
    assert not out.exists()


def test_an_allowed_package_may_do_as_it_likes(tmp_path):
    given = {"class_path": f"{CALLBACKS}.ModelCheckpoint", "init_args": {"dirpath": str(tmp_path / "elsewhere")}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"model": "test_cnn", "trainer": {"callbacks": [given]}}))
    with pytest.raises(UsageError, match="inside of the run folder only"):
        Options(resolve(["-c", str(tmp_path / "c.yaml")]))
    options = Options(resolve(["-c", str(tmp_path / "c.yaml"), "--allow-import", "lightning"]))
    (made,) = options.trainer(tmp_path / "run")["callbacks"]
    assert made.dirpath == str(tmp_path / "elsewhere")


def test_a_file_that_is_nested_too_deeply_is_refused(tmp_path, capsys):
    for text in ("a: " + "[" * 10**5 + "]" * 10**5, "{a: " * 10**4 + "1" + "}" * 10**4):
        (tmp_path / "c.yaml").write_text(f"model: test_cnn\ntrainer: {{x: {text[3:] if text[0] == 'a' else text}}}\n")
        assert fit.main(["-c", str(tmp_path / "c.yaml")]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seed: abc", "seed takes a whole number; got 'abc'"),
        ("seed: [1]", "seed takes a whole number; got [1]"),
        ("seed: null", "seed takes a whole number"),
        ("seed: 1.5", "seed takes a whole number"),
        ("seed: -1", "seed must be from 0 to"),
        ("out: [1]", "out takes the path of a folder; got [1]"),
        ("out: {a: 1}", "out takes the path of a folder"),
        ("compile: 3", "compile must be true or false"),
        ("model: [1]", "model must hold options; got [1]"),
        ("model: {name: [1]}", "model.name must be a name; got [1]"),
        ("solver: {name: {a: 1}}", "solver.name must be a name"),
        ("trainer: {1: 2}", "the options of trainer must have names; got 1"),
        ("optim: {name: [1]}", "optim.name must be a name"),
        ("data: {name: 3}", "data.name must be a name; got 3"),
    ],
)
def test_values_of_the_wrong_kind_are_one_sentence(text, said, tmp_path, capsys):
    model = "" if text.startswith("model") else "model: test_mdeq\n"
    (tmp_path / "c.yaml").write_text(f"{model}{text}\n")
    assert fit.main(["-c", str(tmp_path / "c.yaml")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and said in lines[0], lines


def test_a_programs_own_parsers_are_left_as_they_were():
    code = (
        "import jsonargparse as j\n"
        "from jsonargparse._common import parsing_settings\n"
        "was = dict(parsing_settings)\n"
        "from zoo.training.options import Options\n"
        "from zoo.training.request import resolve\n"
        "Options(resolve(['--model', 'test_cnn']))\n"
        "assert dict(parsing_settings) == was\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
