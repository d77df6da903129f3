"""The language task: exact likelihoods, a memory that is carried, saved and resumed, and what it refuses."""

from __future__ import annotations

import math

import lightning as L
import pytest
import torch
from torch import nn

from zoo.baselines.lstm import LSTM
from zoo.callbacks.checkpointing import BestAndLastCheckpoint, Interrupted
from zoo.callbacks.per_step_seed import PerStepSeed
from zoo.data import DATA
from zoo.layers.language import LanguageHead, check_tokens
from zoo.tasks.language import LanguageModel
from zoo.tasks.optim import Optim


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "play.txt"
    file.write_text("".join(f"{i * i} is {i} times {i}\n" for i in range(60)))

    def make(**options):
        options = {"batch_size": 3, "length": 16, "eval_batch_size": 2, **options}
        return DATA["text"](path=str(file), val_fraction=0.1, test_fraction=0.1, **options)

    return make


def lstm(data, **options) -> LSTM:
    torch.manual_seed(0)
    return LSTM(data.vocab_size, 12, **options)


def trainer(**options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return L.Trainer(accelerator="cpu", devices=1, **{**quiet, "enable_checkpointing": False, **options})


class Unigram(LanguageHead, nn.Module):
    """Says the same chances always, so that every likelihood is known."""

    def __init__(self, logits):
        super().__init__()
        self.vocab_size = len(logits)
        self.logits = nn.Parameter(torch.tensor(logits))

    def forward(self, tokens, memory=None):
        return self.logits.expand(*tokens.shape, -1), memory


def test_the_mean_over_tokens_is_exact_with_an_uneven_tail(data):
    texts = data()
    chances = torch.rand(texts.vocab_size, generator=torch.Generator().manual_seed(0))
    chances /= chances.sum()
    expected = -float(chances[texts.split("test")[1:].long()].double().log().mean())
    found = trainer().test(LanguageModel(Unigram(chances.log().tolist())), datamodule=texts, verbose=False)[0]
    assert found["test/nll"] == pytest.approx(expected, rel=1e-5)
    assert found["test/loss"] == pytest.approx(expected, rel=1e-5)
    assert found["test/perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert found["test/bits_per_character"] == pytest.approx(expected / math.log(2), rel=1e-5)


def test_words_have_no_bits_a_character(data):
    texts = data(level="words")
    model = Unigram([0.0] * texts.vocab_size)
    found = trainer().test(LanguageModel(model), datamodule=texts, verbose=False)[0]
    assert "test/bits_per_character" not in found
    assert found["test/perplexity"] == pytest.approx(texts.vocab_size, rel=1e-5)


@pytest.mark.parametrize("length", [5, 16, 1000])
def test_the_measure_does_not_depend_on_how_the_text_is_cut(data, length):
    """With a memory that holds all that was read, segments of any length give what one pass over the text gives."""
    texts = data(eval_batch_size=1)
    model = lstm(texts).eval()
    tokens = texts.split("val").long()[None]
    expected = float(model.loss(tokens[:, :-1], tokens[:, 1:])[0].detach().mean())
    cut = data(eval_batch_size=1, length=length)
    found = trainer().validate(LanguageModel(model), datamodule=cut, verbose=False)[0]
    assert found["val/nll"] == pytest.approx(expected, rel=1e-5)
    if length < 1000:
        without = trainer().validate(LanguageModel(model, carry=False), datamodule=cut, verbose=False)[0]
        assert without["val/nll"] != pytest.approx(expected, rel=1e-5)


def test_the_memory_is_given_to_the_segment_that_follows_and_begins_anew_with_a_pass(data):
    texts = data()
    given = []

    class Counting(Unigram):
        def forward(self, tokens, memory=None):
            given.append(None if memory is None else int(memory[0]))
            logits, _ = super().forward(tokens)
            return logits, (torch.tensor(0 if memory is None else int(memory[0]) + 1),)

    task = LanguageModel(Counting([0.0] * texts.vocab_size))
    trainer(max_epochs=2, limit_val_batches=3, limit_train_batches=4).fit(task, datamodule=texts)
    train, val = [None, 0, 1, 2], [None, 0, 1]
    assert given == [*train, *val, *train, *val]


def fit(data, folder, stop=None, resume=None, **options):
    """Train two epochs; ``stop``: interrupted behind that step, as by a signal."""
    texts = data()
    task = LanguageModel(lstm(texts, dropout=0.2), Optim(lr=1e-2), **options)
    keeper = BestAndLastCheckpoint(folder, task.monitor, task.maximise)

    class Stop(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == stop:
                keeper.stop(15)

    run = trainer(max_epochs=2, callbacks=[PerStepSeed(0), Stop(), keeper], enable_checkpointing=True)
    try:
        run.fit(task, datamodule=texts, ckpt_path=resume, weights_only=True)
    except Interrupted:
        assert stop is not None
    return task


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that nothing interrupts."""
    return fit(data, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("stop", [pytest.param(2, marks=pytest.mark.slow), 25])
def test_a_run_that_is_resumed_within_an_epoch_is_exact(data, whole, tmp_path, stop):
    assert whole.trainer.num_training_batches < 25 < whole.trainer.global_step
    fit(data, tmp_path / "parts", stop=stop)
    saved = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)
    assert saved["memory"]["ranks"] == 1 and saved["preprocessing"]["kind"] == "text"
    resumed = fit(data, tmp_path / "parts", resume=tmp_path / "parts" / "last.ckpt")
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b), name


def test_without_the_saved_memory_it_would_not_be(data, whole, tmp_path):
    fit(data, tmp_path / "parts", stop=2)
    file = tmp_path / "parts" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    del saved["memory"]
    torch.save(saved, file)
    resumed = fit(data, tmp_path / "parts", resume=file)
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_another_number_of_processes_starts_anew_with_a_warning(data, tmp_path):
    fit(data, tmp_path, stop=2)
    file = tmp_path / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    saved["memory"]["ranks"] = 4
    torch.save(saved, file)
    with pytest.warns(UserWarning, match="had 4 processes, now there are 1"):
        fit(data, tmp_path, resume=file)


def test_a_model_with_too_few_symbols_is_refused_before_training(data):
    texts = data()
    task = LanguageModel(LSTM(texts.vocab_size - 1, 8))
    with pytest.raises(ValueError, match=f"at least vocab_size={texts.vocab_size}"):
        trainer(max_steps=1).fit(task, datamodule=texts)


def test_a_batch_can_be_cut_and_answered(data):
    texts = data()
    task = LanguageModel(lstm(texts))
    batch = next(iter(texts.train_dataloader()))
    assert task.rows(batch) == 3
    small = task.cut(batch, 2)
    assert task.answer(small).shape == (2, 16, texts.vocab_size)
    assert task.score(small, "val").size == 32


@pytest.mark.parametrize(
    "tokens, message",
    [
        (torch.tensor([[0, 7]]), "run from 0 to 7, but the vocabulary has 7 symbols.*vocab_size=8"),
        (torch.tensor([[-1, 3]]), "run from -1 to 3.*replace negative numbers"),
        (torch.tensor([[-1, -1]]), "^(?!.*vocab_size=0)"),
        (torch.ones(2, 3, dtype=torch.bool), r"got \(2, 3\) of torch.bool. Encode the text"),
        (torch.zeros(2, 3), r"whole token numbers \(B, T\), of int64; got \(2, 3\) of torch.float32"),
        (torch.zeros(3, dtype=torch.long), r"got \(3,\)"),
    ],
)
def test_numbers_out_of_the_vocabulary_are_refused(tokens, message):
    with pytest.raises(ValueError, match=message):
        check_tokens(tokens, 7)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
def test_tokens_and_targets_may_be_whole_numbers_of_any_type(dtype):
    torch.manual_seed(0)
    model, tokens = LSTM(7, 8), torch.arange(12).view(2, 6) % 7
    torch.testing.assert_close(model.loss(tokens.to(dtype), tokens.to(dtype))[0], model.loss(tokens, tokens)[0])
