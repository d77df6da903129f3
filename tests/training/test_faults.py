"""What breaks long runs: a killed process, a full disk, a rank that dies, a loader's worker that crashes, a restart."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning import Callback

from zoo import fit
from zoo.callbacks.checkpointing import Interrupted
from zoo.data.loader import ResumableLoader
from zoo.training import run
from zoo.training.failures import torchrun_restarts
from zoo.training.metrics_log import read_metrics
from zoo.training.request import resolve
from zoo.training.run import run_training
from zoo.training.train import train

QUICK = {
    "trainer": {
        "max_epochs": 2, "limit_train_batches": 4, "limit_val_batches": 1, "limit_test_batches": 1,
        "log_every_n_steps": 1, "accelerator": "cpu", "devices": 1,
    },
    "optim": {"lr": 0.01},
    "solver": {"name": "picard", "max_steps": 3},
    "adjoint": "phantom",
}  # fmt: skip
ENDED = 7  # exit code of a forked run that reported its failure


class At(Callback):
    """Do something before a certain step, or within the validation behind it."""

    def __init__(self, step, act, validating=False):
        self.step, self.act, self.validating = step, act, validating

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step and not self.validating:
            self.act()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, loader=0):
        if trainer.global_step == self.step and self.validating:
            self.act()


def quick(out, step=-1, act=None, validating=False):
    made = run.make_trainer
    try:
        run.make_trainer = lambda *args: _with(made(*args), At(step, act, validating))
        return train("test_mdeq", "digits", out=out, **QUICK)
    finally:
        run.make_trainer = made


def _with(trainer, callback):
    trainer.callbacks.insert(0, callback)
    return trainer


def table(folder):
    """The rows of ``metrics.csv``, without the time that they took."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder / "metrics.csv")]


def forked(target, *arguments):
    """The exit code of a function in a process of its own: a fork, so that nothing is imported again."""

    def call():
        torch.set_num_threads(1)
        try:
            target(*arguments)
        except (OSError, RuntimeError) as error:
            print(error, file=sys.stderr)
            os._exit(ENDED)

    process = multiprocessing.get_context("fork").Process(target=call)
    process.start()
    process.join(120)
    return process.exitcode


def weights(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def resume(folder):
    run_training(resolve(["--resume", str(folder)]))


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A short run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    quick(folder)
    return folder


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_weights(straight, tmp_path):
    out = tmp_path / "run"
    assert forked(quick, out, 6, lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    resume(out)
    assert same(weights(out), weights(straight)) and table(out) == table(straight)


@pytest.mark.parametrize("step", [pytest.param(4, marks=pytest.mark.slow), 8])  # of the first epoch, and of the last
def test_a_validation_that_is_stopped_loses_no_epoch(straight, tmp_path, step):
    out = tmp_path / "run"

    def stop():  # as a second Ctrl-C does
        raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        quick(out, step, stop, validating=True)
    last = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == step
    resume(out)
    assert same(weights(out), weights(straight))
    of = [[r["val/loss"] for r in read_metrics(f / "metrics.csv") if "val/loss" in r] for f in (out, straight)]
    assert of[0] == of[1] and len(of[0]) == 2
    assert table(out) == table(straight)  # the means of the epoch too
    best = [json.loads((f / "results.json").read_text()) for f in (out, straight)]
    assert best[0]["best"] == best[1]["best"] and best[0]["test"] == best[1]["test"]
    again = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    kept = torch.load(straight / "checkpoints" / "last.ckpt", weights_only=True)["loops"]["fit_loop"]
    assert again["epoch_progress"] == kept["epoch_progress"]


def test_a_full_disk_keeps_the_checkpoint_before_it(straight, tmp_path):
    out = tmp_path / "run"

    def fill():  # from now on no file of this process may grow beyond 4 KB, as on a disk that is full
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    assert forked(quick, out, 6, fill) == ENDED
    kept = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 4
    assert all(r["step"] < 8 for r in read_metrics(out / "metrics.csv"))  # whole rows, or none
    resume(out)
    assert same(weights(out), weights(straight))


@pytest.mark.slow
def test_a_restart_by_the_same_command_begins_or_goes_on(straight, tmp_path):
    out = tmp_path / "run"
    flags = [f"--trainer.{k}={v}" for k, v in QUICK["trainer"].items()]
    command = ["--model", "test_mdeq", "--out", str(out), "--optim.lr=0.01", "--solver=picard", "--solver.max_steps=3"]
    command += ["--adjoint", "phantom", "--resume", "auto", *flags]
    request = resolve(command)
    assert request.resume is None
    forked(quick, out, 6, lambda: os.kill(os.getpid(), signal.SIGKILL))
    request = resolve(command)
    assert request.resume == out / "checkpoints" / "last.ckpt"
    run_training(request)
    assert same(weights(out), weights(straight))
    with pytest.raises(fit.UsageError, match="--out"):
        resolve(["--model", "test_mdeq", "--resume", "auto"])


def test_two_runs_do_not_share_a_folder(tmp_path, capsys):
    code = []

    def second():  # while the first one trains
        code.append(fit.main(["--model", "test_cnn", "--resume", "auto", "--out", str(tmp_path / "run")]))

    quick(tmp_path / "run", 1, second)
    assert code == [2] and "another run is writing to" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "results.json").read_text())["model"] == "test_mdeq"
    assert not (tmp_path / "run" / ".lock").exists()


class Crashing:
    def __call__(self, *arguments):
        os._exit(3)


@pytest.mark.slow
def test_a_crashed_worker_is_named(tmp_path, capsys, monkeypatch):
    made = ResumableLoader.__init__

    def crash(self, x, y, transform, **options):
        made(self, x, y, Crashing(), **options)

    monkeypatch.setattr(ResumableLoader, "__init__", crash)
    argv = ["--model", "test_mdeq", "--out", str(tmp_path / "run"), "--data.num_workers", "1"]
    assert fit.main([*argv, "--trainer.accelerator", "cpu"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("zoo.fit: error:") and "--data.num_workers 0" in said


def test_the_profile_names_the_phases_of_a_solve(tmp_path):
    flags = [f"--trainer.{k}={v}" for k, v in {**QUICK["trainer"], "max_epochs": 3}.items()]
    assert (
        fit.main(["--model", "test_mdeq", "--out", str(tmp_path / "run"), "--profile", *flags, "--task.warmup_steps=0"])
        == 0
    )
    names = {e.get("name") for e in json.loads((tmp_path / "run" / "profile.json").read_text())["traceEvents"]}
    assert {"zoo: solve by Broyden", "zoo: evaluation", "zoo: backward solve by GMRES", "zoo: product"} <= names
    assert "zoo: evaluation" in (tmp_path / "run" / "profile.txt").read_text()


# ------------------------------------------------------------------------------------- several processes, as launched


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
COMMAND = ["-m", "zoo.fit", "--model", "test_mdeq", "--task.warmup_steps", "0", "--trainer.max_epochs", "3",
           "--trainer.limit_train_batches", "6", "--trainer.limit_val_batches", "1", "--trainer.limit_test_batches",
           "2", "--trainer.accelerator", "cpu", "--trainer.devices", "2", "--data.batch_size", "16"]  # fmt: skip


def environment():
    lost = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR", "ZOO_RUN_FOLDER"}
    return {**{k: v for k, v in os.environ.items() if k not in lost}, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_trains_on_two_processes(tmp_path, strategy):
    command = [*LAUNCH, *COMMAND, "--trainer.strategy", strategy, "--resume", "auto", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["status"] == "finished" and results["steps"] == 18
    assert results["test"]["nfe_forward_max"] >= results["test"]["nfe_forward"] > 0
    more = [*command, "--trainer.max_epochs", "4"]  # after a restart the same command goes on
    done = subprocess.run(more, capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 24


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_run_and_leaves_a_checkpoint(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, *COMMAND, "--trainer.max_epochs", "200", "--trainer.strategy", "ddp", "--out", str(out)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    try:
        until = time.monotonic() + 200
        while not (out / "checkpoints" / "last.ckpt").exists():
            assert run.poll() is None and time.monotonic() < until, run.communicate()[0]
            time.sleep(0.1)
        for child in children(run.pid):
            os.kill(child, signal.SIGKILL)
        said, _ = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode != 0
    # Lightning looks for dead children every five seconds, and then kills this process too: it may be the first
    assert run.returncode == -signal.SIGKILL or "a process of the run ended" in said.lower(), said[-2000:]
    assert torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] >= 6


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all(tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, *COMMAND, "--trainer.max_epochs", "200", "--trainer.strategy", "ddp", "--out", str(out)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment())
    try:
        until = time.monotonic() + 150
        while not (out / "checkpoints" / "last.ckpt").exists():
            assert run.poll() is None and time.monotonic() < until, run.communicate()[0]
            time.sleep(0.05)
        os.kill(max(children(run.pid)), signal.SIGTERM)  # most likely within a collective
        said, _ = run.communicate(timeout=100)
    finally:
        run.kill()
    assert run.returncode == 128 + signal.SIGINT and "continue with" in said, said[-2000:]
    assert json.loads((out / "results.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_torchrun_starts_a_killed_worker_again_and_the_run_goes_on(tmp_path):
    rest = ["--trainer.max_epochs", "12", "--trainer.strategy", "ddp", "--resume", "auto", "--out"]
    out, whole = tmp_path / "run", tmp_path / "whole"
    command = [*LAUNCH, "--max-restarts", "1", *COMMAND, *rest, str(out)]
    env = environment() | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # or the second attempt meets the first's store
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    try:
        until = time.monotonic() + 200
        while not (out / "checkpoints" / "last.ckpt").exists():
            assert run.poll() is None and time.monotonic() < until, run.communicate()[0]
            time.sleep(0.05)
        os.kill(max(children(run.pid)), signal.SIGKILL)
        said, _ = run.communicate(timeout=240)
    finally:
        run.kill()
    assert run.returncode == 0 and "The run continues from" in said, said[-3000:]
    assert "SHARE_RDZV" not in said
    results = json.loads((out / "results.json").read_text())
    assert results["status"] == "finished" and results["steps"] == 72
    done = subprocess.run([*LAUNCH, *COMMAND, *rest, str(whole)], capture_output=True, timeout=240, env=environment())
    assert done.returncode == 0
    assert same(weights(out), weights(whole))  # the same global batches, in the same order


def test_restarts_that_may_hang_are_said_beforehand(monkeypatch):
    for name in ("TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_MAX_RESTARTS"):
        monkeypatch.delenv(name, raising=False)
    assert not torchrun_restarts()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert not torchrun_restarts()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1" in torchrun_restarts()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    assert not torchrun_restarts()


def children(pid):
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except (OSError, ValueError, IndexError):
            continue
    return found
