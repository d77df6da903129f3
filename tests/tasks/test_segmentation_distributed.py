"""Two processes: mIoU is that of the whole set, and the stability kit trains the same weights on every rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import json, sys
import torch
import zoo
import zoo.data.shapes as shapes
from lightning import Trainer
from zoo.callbacks.per_step_seed import PerStepSeed
from zoo.tasks.segmentation import Segmentation
from zoo.tasks.regularization import StabilityConfig

made = shapes.scenes
shapes.scenes = lambda n, seed: made(n // 40, seed)
folder, devices = sys.argv[1], int(sys.argv[2])
quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
strategy = "ddp" if devices > 1 else "auto"
torch.manual_seed(0)
model = zoo.create_model("test_mdeq_segmentation", num_classes=5)
data = shapes.Shapes(batch_size=6, val_fraction=0.0)
trainer = Trainer(accelerator="cpu", devices=devices, strategy=strategy, max_epochs=1, max_steps=2,
                  callbacks=[PerStepSeed(0)], **quiet)
if devices > 1:
    kit = StabilityConfig(jacobian_weight=0.1, random_budget=4, correction_weight=0.5, correction_steps=2)
    trainer.fit(Segmentation(model, stability=kit), datamodule=data)
    if trainer.global_rank == 0:
        torch.save(model.state_dict(), f"{folder}/model.pt")
    trainer.strategy.barrier()
    bits = float(sum(p.detach().double().sum() for p in model.parameters()))
else:
    model.load_state_dict(torch.load(f"{folder}/model.pt"))
    bits = 0.0
model.configure_implicit({"name": "anderson", "rtol": 1e-5, "max_steps": 60})
model.load_state_dict(torch.load(f"{folder}/model.pt"))  # running statistics are each rank's own
(metrics,) = trainer.test(Segmentation(model), datamodule=data, verbose=False)
with open(f"{folder}/{devices}_{trainer.global_rank}.json", "w") as f:
    json.dump({"bits": bits, "miou": metrics["test/miou"], "loss": metrics["test/loss"]}, f)
if devices > 1:
    torch.distributed.destroy_process_group()  # or gloo's threads may abort the exit
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_measure_what_one_does(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {k: v for k, v in os.environ.items() if k not in {"MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"}}
    for devices in ("2", "1"):
        command = [sys.executable, str(script), str(tmp_path), devices]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, cwd=os.getcwd())
        assert done.returncode == 0, done.stderr[-2000:]
    first, second, alone = (json.loads((tmp_path / f"{n}.json").read_text()) for n in ("2_0", "2_1", "1_0"))
    assert first == second
    assert first["miou"] == pytest.approx(alone["miou"], abs=1e-3)
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-3)
