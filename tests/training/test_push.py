"""From a training run to the hub and back, over HTTP, against a stand-in of the hub on this machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hub_stand_in import TOKEN, Hub
from trained import run as train

import zoo
from zoo.storage import model_folder

# processes of their own: the hub's client reads its address when it is imported
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

LOAD = """
import sys, torch, zoo
model = zoo.load(sys.argv[1])
print(model.pretrained.name, float(model(torch.ones(1, 1, 8, 8)).sum()))
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    run = train(tmp_path_factory.mktemp("run") / "run")
    return run, zoo.load(run)


def python(words, hub, home, **more):
    env = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    return subprocess.run([sys.executable, *words], env=env, capture_output=True, text=True, timeout=280)


def test_a_model_is_pushed_and_loaded_again_by_its_address(exported, tmp_path):
    run, model = exported
    with Hub() as hub:
        words = [
            "-m",
            "zoo.export",
            "--model",
            str(run),
            "--out",
            str(tmp_path / "made"),
            "--push",
            "me/mine",
            "--private",
        ]
        done = python(words, hub, tmp_path / "one")
        assert done.returncode == 0 and "pushed          hf-hub:me/mine" in done.stdout, done.stderr
        files = hub.repositories["me/mine"]
        assert set(files) == {"README.md", "config.json", "model.safetensors"} and hub.private["me/mine"]
        assert files["model.safetensors"] == (tmp_path / "made" / "model.safetensors").read_bytes()
        assert b'zoo.load("hf-hub:me/mine")' in files["README.md"]
        assert model_folder.read(tmp_path / "made").weights["sha256"] in hub.objects  # as a large file

        done = python(["-c", LOAD, "hf-hub:me/mine"], hub, tmp_path / "two")
        assert done.returncode == 0, done.stderr
        name, total = done.stdout.split()
        with torch.no_grad():
            assert name == "test_mdeq.digits" and float(total) == pytest.approx(
                float(model(torch.ones(1, 1, 8, 8)).sum())
            )
        hub.seen.clear()
        again = python(["-c", LOAD, "hf-hub:me/mine"], hub, tmp_path / "two", HF_HUB_OFFLINE="1")
        assert again.stdout == done.stdout and not hub.seen  # from the cache

        files["model.safetensors"] = b"\0" + files["model.safetensors"][1:]
        damaged = python(["-c", LOAD, "hf-hub:me/mine"], hub, tmp_path / "three")
        assert damaged.returncode == 1 and "WeightsError" in damaged.stderr


def test_what_the_hub_refuses_is_one_sentence(exported, tmp_path):
    run, _ = exported
    with Hub() as hub:
        words = ["-m", "zoo.export", "--model", str(run), "--out", str(tmp_path / "made"), "--push", "me/mine"]
        done = python(words, hub, tmp_path / "one", HF_TOKEN="hf_wrong")
        assert done.returncode == 1 and "was not pushed to me/mine" in done.stderr and "hf auth login" in done.stderr
        assert (tmp_path / "made" / "model.safetensors").is_file()  # the folder is kept
        done = python(["-c", LOAD, "hf-hub:me/other"], hub, tmp_path / "one")
        assert done.returncode == 1 and "hf-hub:me/other is neither reachable nor in the cache" in done.stderr
