"""The order of batches: a function of seed, epoch and batch; the same after a resume, with workers, over ranks."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo.data.loader import ResumableLoader, other_step
from zoo.data.vision import Digits


def plain(x, random):
    return x


def loader(n=50, **options):
    options = {"batch_size": 8, "shuffle": True, **options}
    return ResumableLoader(torch.arange(n), torch.arange(n), plain, **options)


def rows(batches):
    return [y.tolist() for _, y in batches]


def test_each_pass_is_a_new_order_that_seed_and_epoch_give():
    a, b = loader(seed=3), loader(seed=3)
    first, second = rows(a), rows(a)
    assert first != second
    b.set_epoch(1)
    assert rows(b) == second
    assert rows(loader(seed=4)) != first


def test_global_random_state_does_not_matter():
    torch.manual_seed(0)
    first = rows(loader())
    torch.manual_seed(1)
    torch.rand(3)
    assert rows(loader()) == first


def test_training_batches_are_of_one_size_and_evaluation_sees_every_sample_once():
    train, test = rows(loader()), rows(loader(shuffle=False))
    assert [len(b) for b in train] == [8] * 6
    assert len({i for b in train for i in b}) == 48
    assert [i for b in test for i in b] == list(range(50))
    assert max(map(len, test)) <= 8


def test_fewer_samples_than_a_batch_still_make_one():
    assert [len(b) for b in rows(loader(n=5))] == [5]


@given(n=st.integers(1, 90), ranks=st.integers(1, 5), size=st.integers(1, 16), shuffle=st.booleans())
def test_ranks_share_a_pass_without_repeating_and_in_equal_steps(n, ranks, size, shuffle):
    if n < ranks:
        with pytest.raises(ValueError, match="cannot be shared"):
            len(loader(n, ranks=lambda: (0, ranks)))
        return
    shares = [rows(loader(n, batch_size=size, shuffle=shuffle, ranks=lambda r=r: (r, ranks))) for r in range(ranks)]
    assert len({len(s) for s in shares}) == 1
    assert all(0 < len(b) <= size + (ranks > 1) for s in shares for b in s)
    seen = [i for s in shares for b in s for i in b]
    assert len(seen) == len(set(seen))
    if not shuffle:
        assert sorted(seen) == list(range(n))


def test_a_pass_that_starts_in_the_middle_is_the_rest_of_the_whole_one():
    whole = loader()
    whole.set_epoch(7)
    assert rows(loader(where=lambda: (7, 4))) == rows(whole)[4:]


def test_nothing_is_decided_before_the_first_batch():
    """Lightning makes the iterator of a resumed run before it has restored the epoch."""
    at = [0, 0]
    iterator = iter(loader(where=lambda: tuple(at)))
    at[:] = [5, 3]
    whole = loader()
    whole.set_epoch(5)
    assert rows(iterator) == rows(whole)[3:]


@pytest.mark.slow
def test_workers_give_the_same_batches():
    options = {"batch_size": 32, "augment": True, "seed": 2}
    here, there = Digits(**options).train_dataloader(), Digits(num_workers=2, **options).train_dataloader()
    for _ in range(2):
        for (xa, ya), (xb, yb) in zip(here, there, strict=True):
            assert torch.equal(xa, xb) and torch.equal(ya, yb)


def test_resuming_with_another_batch_size_is_said():
    state = loader().state_dict()
    loader().load_state_dict(state)
    with pytest.warns(UserWarning, match="batch_size=8, now it is 16"):
        loader(batch_size=16).load_state_dict(state)


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ([64, 2, 1], [64, 1, 1], "--trainer.accumulate_grad_batches 2 keeps it"),
        ([32, 4, 2], [64, 1, 1], "--trainer.accumulate_grad_batches 4 keeps it"),
        ([64, 3, 1], [64, 2, 1], "choose a --data.batch_size that, times 2, divides 192"),
        ([64, 2, 1], [32, 2, 2], ""),
        (None, [64, 1, 1], ""),
    ],
)
def test_the_option_that_keeps_the_samples_of_a_step_is_named(was, now, said):
    text = other_step(was, now)
    assert said in text and bool(said) == bool(text)


class Recorder(L.LightningModule):
    """Learns something, so that a checkpoint has weights, and writes down what it was given."""

    def __init__(self, stop_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.seen, self.stop_at = torch.nn.Linear(64, 10), [], stop_at

    def training_step(self, batch, batch_idx):
        x, y = batch
        if self.stop_at is not None and len(self.seen) == self.stop_at:
            raise RuntimeError("interrupted")
        self.seen.append((self.current_epoch, batch_idx, round(x.double().sum().item(), 6), y.tolist()))
        return torch.nn.functional.cross_entropy(self.layer(x.flatten(1)), y)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def trainer(path, *callbacks, **options):
    return L.Trainer(
        accelerator="cpu",
        devices=1,
        default_root_dir=path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        callbacks=list(callbacks),
        **{"max_epochs": 3, **options},
    )


def data(**options):
    return Digits(batch_size=256, augment=True, **options)  # 5 batches an epoch


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model = Recorder()
    trainer(tmp_path_factory.mktemp("whole")).fit(model, datamodule=data())
    return model


def same_weights(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("when", [{"every_n_epochs": 1}, {"every_n_train_steps": 5}, {"every_n_train_steps": 7}])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(tmp_path, uninterrupted, when, workers):
    keep = L.pytorch.callbacks.ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **when)
    trainer(tmp_path, keep, max_epochs=2).fit(Recorder(), datamodule=data())
    for file in sorted(tmp_path.glob("*.ckpt")):
        step = int(file.stem.partition("=")[2])
        resumed = Recorder()
        trainer(tmp_path).fit(resumed, datamodule=data(num_workers=workers), ckpt_path=file)
        assert resumed.seen == uninterrupted.seen[step:], file.name
        assert same_weights(resumed, uninterrupted)


def test_a_run_that_died_within_an_epoch_goes_on_with_the_batch_it_was_in(tmp_path, uninterrupted):
    keep = L.pytorch.callbacks.OnExceptionCheckpoint(tmp_path)
    with pytest.raises(RuntimeError, match="interrupted"):
        trainer(tmp_path, keep).fit(Recorder(stop_at=8), datamodule=data())
    resumed = Recorder()
    trainer(tmp_path).fit(resumed, datamodule=data(), ckpt_path=tmp_path / "on_exception.ckpt")
    assert resumed.seen == uninterrupted.seen[8:]
    assert same_weights(resumed, uninterrupted)


def test_no_validation_split_is_no_validation(tmp_path):
    model = Recorder()
    trainer(tmp_path, max_epochs=1).fit(model, datamodule=data(val_fraction=0))
    assert len(model.seen) == 5


def test_the_loader_serves_plain_pytorch_after_a_fit(tmp_path):
    module = data()
    trainer(tmp_path, max_epochs=1).fit(Recorder(), datamodule=module)
    assert len(list(module.train_dataloader())) == 5
