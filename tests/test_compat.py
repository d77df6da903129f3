"""The private touches of other packages still find what they touch; a failure says what an upgrade broke."""

from __future__ import annotations

import zoo._compat


def test_every_touch_says_what_it_was_tried_on():
    assert "Tried on:" in (zoo._compat.__doc__ or "")


def test_lightning_counts_epochs_and_batches_where_resuming_reads_them(tmp_path):
    import lightning as L
    import torch

    from zoo.data import DATA

    class Fit(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(2, 1), []

        def training_step(self, batch, index):
            self.seen.append(zoo._compat.fit_position(self.trainer))
            return self.layer(batch[0]).mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    model, data = Fit(), DATA["two_moons"](count=512)
    trainer = L.Trainer(
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(model, data.train_dataloader())
    upgrade = "Lightning moved its progress counters: mend fit_position in zoo/_compat.py, which resuming relies on"
    assert model.seen == [(0, 1), (0, 2), (1, 1), (1, 2)], upgrade
    assert zoo._compat.fit_position(trainer) is None, upgrade
    assert zoo._compat.sampler_ranks(trainer) == (0, 1), "mend sampler_ranks in zoo/_compat.py"
