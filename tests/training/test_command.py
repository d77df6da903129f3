"""The commands: one grammar, mistyped options corrected, help without a word, and none of it needs torch."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

import zoo
from zoo import __main__ as front
from zoo.training.command import CommandParser, command
from zoo.training.errors import UsageError

MODULES = [module for module, _ in front.COMMANDS.values()]


@pytest.mark.parametrize("module", MODULES)
def test_a_command_without_a_word_shows_its_help(module, capsys):
    assert import_module(module).main([]) == 0
    out = capsys.readouterr().out
    assert "--out" in out or "--model" in out


@pytest.mark.parametrize("module", MODULES)
def test_every_command_tells_the_version(module, capsys):
    try:
        assert import_module(module).main(["--version"]) == 0
    except SystemExit as end:  # as argparse has it
        assert not end.code
    assert capsys.readouterr().out == f"zoo {zoo.__version__}\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["fit", "--modle", "mdeq"], "Did you mean '--model'"),
        (["evaluate", "--modle", "mdeq"], "Did you mean '--model'"),
        (["export", "--modle=mdeq"], "Did you mean '--model'"),
        (["convert", "x.pkl", "--otu", "y"], "Did you mean '--out'"),
        (["sample", "--lenght", "3"], "Did you mean '--length'"),
        (["compare", "--modles", "mdeq"], "Did you mean '--models'"),
        (["sample", "--model", "a", "--prompt", "b", "--seed", "x"], "--seed: invalid int value: 'x'"),
        (["sample", "--prompt", "b"], "the following arguments are required: --model"),
        (["sample", "--model"], "--model: expected one argument"),
        (["evaluate", "mdeq_tiny.digits"], "unexpected argument 'mdeq_tiny.digits'"),
        (["fti"], "Did you mean 'fit'"),
    ],
)
def test_a_mistyped_word_is_corrected_in_one_line(words, said, capsys):
    assert front.main(words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and "Traceback" not in error


def test_old_spellings_do_and_are_not_shown(capsys):
    for words in (["export", "--ckpt", "nope", "--to", "x"], ["convert", "nope.pkl", "--to", "x"]):
        assert front.main(words) == 1
        assert capsys.readouterr().err.count(" does not exist; give ") == 1
    for name in ("export", "convert"):
        assert front.main([name, "--help"]) == 0
        out = capsys.readouterr().out
        assert "--out" in out and "--to " not in out and "--ckpt" not in out


def test_the_front_door(capsys):
    assert front.main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in front.COMMANDS)
    assert front.main(["--version"]) == 0
    assert front.main(["evaluate", "--version"]) == 0
    assert capsys.readouterr().out.split() == ["zoo", zoo.__version__] * 2
    code = "import sys, zoo.__main__ as m; m.main(['evaluate']); m.main(['sample']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([sys.executable, "-m", "zoo", "fit", "--help"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--print_config" in done.stdout


def test_sections_and_exit_codes(capsys):
    parser = CommandParser("zoo.some", "Some.", aliases={"--old": "--new"}, sections=("optim",))
    parser.add_argument("--new", nargs="+", default=[])
    given = parser.read(["--old", "a", "b", "--optim.lr", "0.1", "--optim.name=sgd"])
    assert given.new == ["a", "b"] and given.sections == {"optim": {"lr": "0.1", "name": "sgd"}}
    with pytest.raises(UsageError, match="needs a value"):
        parser.read(["--optim.lr"])

    def ends(error):
        def work(given):
            raise error

        return command(parser, work, ["--new", "a"])

    codes = [ends(e) for e in (UsageError("a"), ValueError("b"), OSError("c"), KeyboardInterrupt())]
    assert codes == [2, 1, 1, 130]
    with pytest.raises(ZeroDivisionError):  # a fault of our own keeps its traceback
        ends(ZeroDivisionError())
    assert command(parser, lambda given: 7, ["--new", "a"]) == 7
    assert "zoo.some: interrupted" in capsys.readouterr().err
