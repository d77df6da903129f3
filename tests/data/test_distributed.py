"""Two processes, as Lightning starts them: equal steps in training, and every test sample counted once."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

SCRIPT = """
import json, sys
import lightning as L
import torch
from zoo.data.vision import Digits

class Counter(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.sizes = torch.nn.Linear(64, 10), []

    def training_step(self, batch, batch_idx):
        self.sizes.append(len(batch[1]))
        return torch.nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def test_step(self, batch, batch_idx):
        self.log("count", float(len(batch[1])), reduce_fx="sum", sync_dist=True, on_epoch=True, batch_size=1)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, **quiet)
model, data = Counter(), Digits(batch_size=100)
trainer.fit(model, datamodule=data)
(metrics,) = trainer.test(model, datamodule=data, verbose=False)
with open(f"{sys.argv[1]}/{trainer.global_rank}.json", "w") as f:
    json.dump({"sizes": model.sizes, "count": metrics["count"]}, f)
torch.distributed.destroy_process_group()  # or gloo's threads may abort the exit
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_share_the_batches(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {k: v for k, v in os.environ.items() if k not in {"MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"}}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=150, env=env, cwd=os.getcwd())
    assert done.returncode == 0, done.stderr[-2000:]
    ranks = [json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1)]
    assert [r["sizes"] for r in ranks] == [[100] * 6] * 2
    assert [r["count"] for r in ranks] == [359, 359]
