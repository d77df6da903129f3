"""Two processes: every token is counted once, and a run that is resumed within an epoch has each one's memory back."""

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
from zoo.baselines.lstm import LSTM
from zoo.callbacks.checkpointing import Interrupted, BestAndLastCheckpoint
from zoo.data import DATA
from zoo.tasks.language import LanguageModel

folder = sys.argv[1]

def fit(name, stop=None, resume=None):
    data = DATA["text"](path=f"{folder}/text.txt", batch_size=2, length=16, eval_batch_size=1,
                        val_fraction=0.1, test_fraction=0.1)
    torch.manual_seed(0)
    task = LanguageModel(LSTM(data.vocab_size, 8))
    keeper = BestAndLastCheckpoint(f"{folder}/{name}", task.monitor, task.maximise)

    class Stop(L.Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if trainer.global_step == stop:
                keeper.stop(15)

    trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, callbacks=[Stop(), keeper],
                        logger=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0)
    try:
        trainer.fit(task, datamodule=data, ckpt_path=resume, weights_only=True)
    except Interrupted:
        return task, trainer, data
    return task, trainer, data

whole, trainer, data = fit("whole")
fit("parts", stop=3)
saved = torch.load(f"{folder}/parts/last.ckpt", weights_only=True)["memory"]["segments"]
part = saved[max(saved)][0][0]  # h of the only cell: ranks, streams, width
resumed, trainer, data = fit("parts", resume=f"{folder}/parts/last.ckpt")
same = all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters()))
with torch.no_grad():
    for p in resumed.model.parameters():
        p.zero_()
    resumed.model.output.bias.copy_(torch.arange(data.vocab_size) / 10)
(found,) = trainer.validate(resumed, datamodule=data, verbose=False)
chances = (torch.arange(data.vocab_size) / 10).double().log_softmax(0)
expected = -float(chances[data.split("val")[1:].long()].mean())
with open(f"{folder}/{trainer.global_rank}.json", "w") as f:
    json.dump({"same": same, "shape": list(part.shape), "differ": not torch.equal(part[0], part[1]),
               "nll": found["val/nll"], "expected": expected}, f)
torch.distributed.destroy_process_group()  # or gloo's threads may abort the exit
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_share_the_streams_and_resume_their_own(tmp_path):
    (tmp_path / "text.txt").write_text("".join(f"{i * i} is {i} times {i}\n" for i in range(50)))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    env = {k: v for k, v in os.environ.items() if k not in {"MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE"}}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=env, cwd=os.getcwd())
    assert done.returncode == 0, done.stderr[-2000:]
    for rank in (0, 1):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["same"], "resumed equals uninterrupted, bit by bit"
        assert found["shape"] == [2, 2, 8] and found["differ"]
        assert found["nll"] == pytest.approx(found["expected"], rel=1e-5)
