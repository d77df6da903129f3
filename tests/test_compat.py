"""The private touches of other packages still find what they touch; a failure says what an upgrade broke."""

from __future__ import annotations

import pytest

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


def test_torchdiffeq_lists_its_methods_where_they_are_read():
    odeint = pytest.importorskip("torchdiffeq._impl.odeint", reason="torchdiffeq is optional")
    found = zoo._compat.torchdiffeq_methods()
    assert found == list(odeint.SOLVERS), "torchdiffeq's table of solvers has moved: mend torchdiffeq_methods"
    assert zoo._compat.torchdiffeq_callbacks("dopri5") >= {"callback_step", "callback_accept_step"}
    assert "callback_accept_step" not in zoo._compat.torchdiffeq_callbacks("rk4")


def test_torchdiffeq_says_why_it_failed_where_that_is_read():
    import torch

    torchdiffeq = pytest.importorskip("torchdiffeq")
    cases = {
        "max_steps": (lambda t, y: y, {"max_num_steps": 1}),
        "stalled": (lambda t, y: torch.where(t > 0.5, torch.inf, y), {}),
    }
    for failure, (f, options) in cases.items():
        with pytest.raises(AssertionError) as raised:
            torchdiffeq.odeint(f, torch.ones(1), torch.tensor([0.0, 5.0]), rtol=1e-8, options=options)
        assert zoo._compat.torchdiffeq_failure(raised.value) == failure, "torchdiffeq words its failures anew"
    assert zoo._compat.torchdiffeq_failure(AssertionError("non-finite values in state `y`: 1")) == "nonfinite"


def test_torch_func_says_that_it_refuses_saved_tensor_hooks():
    import torch

    with pytest.raises(RuntimeError) as raised, torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: x):
        torch.func.grad(lambda x: x.square())(torch.ones(()))
    assert zoo._compat.refuses_saved_tensor_hooks(raised.value), "torch words this refusal anew"
