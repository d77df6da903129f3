"""Writing by a trained language model: from a run and a folder, with a memory, by seed, and what it refuses."""

from __future__ import annotations

import lightning as L
import pytest
import torch

import zoo
from zoo import sample
from zoo.data import DATA
from zoo.data.files import DataError
from zoo.hub.generate import choose, draw, read_prompt, tokenizer_of
from zoo.storage.tokenizer import Characters, learn
from zoo.tasks.language import LanguageModel
from zoo.training.export import export
from zoo.training.train import train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a few steps over a text of few symbols."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("abc abc cab.\n" * 100)
    train(
        "test_lstm",
        {"name": "text", "path": str(folder / "text.txt"), "batch_size": 4, "length": 32},
        out=folder / "out",
        optim={"lr": 0.03},
        trainer={"max_epochs": 2, "enable_progress_bar": False},
    )
    return folder / "out"


def test_it_writes_the_symbols_it_was_trained_on(run):
    text = zoo.generate(run, "abc", length=40)
    assert text.startswith("abc") and len(text) == 43
    assert set(text) <= set("abc .\n")
    assert text == zoo.generate(run, "abc", length=40)
    assert text != zoo.generate(run, "abc", length=40, temperature=5.0, seed=1)


def test_an_exported_folder_writes_what_the_run_writes(run, tmp_path):
    made = export(run, tmp_path / "folder")
    assert made.config.preprocessing["tokenizer"] == {"level": "characters", "alphabet": "\n .abc"}
    assert zoo.generate(tmp_path / "folder", "ab", length=30) == zoo.generate(run, "ab", length=30)


def test_the_memory_stands_for_all_that_was_read(run):
    """Drawing symbol by symbol gives what reading everything again for each symbol gives."""
    model = zoo.load(run)
    start = read_prompt(tokenizer_of(model), "ab")

    class Forgetful(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, tokens, memory):
            assert memory is None
            return model(tokens)[0], None

    def first(module, n=12):
        drawn = draw(module, start, None, 1.0, 1.0, torch.Generator().manual_seed(3))
        return [next(drawn) for _ in range(n)]

    assert first(model) == first(Forgetful())


def test_the_share_that_is_drawn_from():
    random = torch.Generator().manual_seed(0)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()

    def drawn(**options):
        options = {"never": None, "temperature": 1.0, "top_p": 1.0, **options}
        return [choose(logits, random=random, **options) for _ in range(2000)]

    assert set(drawn(temperature=0.0)) == {0}
    assert set(drawn(top_p=0.5)) == {0}
    assert set(drawn(top_p=0.51)) == {0, 1}
    assert set(drawn()) == {0, 1, 2, 3}
    assert 0 not in drawn(never=0)
    share = sum(n == 0 for n in drawn()) / 2000
    assert abs(share - 0.5) < 0.05  # four standard deviations
    hot = sum(n == 0 for n in drawn(temperature=0.5)) / 2000
    assert abs(hot - 0.25 / 0.365) < 0.05


def test_prompts_that_cannot_be_read_are_said_in_words(run):
    with pytest.raises(ValueError, match="characters that the model was not trained on: 'X', 'é'.*It knows"):
        zoo.generate(run, "aXé")
    with pytest.raises(ValueError, match="prompt is empty"):
        zoo.generate(run, "")
    with pytest.raises(ValueError, match="words that the model was not trained on: 'dog'"):
        read_prompt(learn("the cat\n", "words"), "the dog")


@pytest.mark.parametrize("options", [{"length": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.5}])
def test_numbers_out_of_range_are_refused(run, options):
    with pytest.raises(ValueError, match="length must be at least 1"):
        zoo.generate(run, "a", **options)


def test_models_without_a_tokenizer_are_refused():
    with pytest.raises(ValueError, match="was not loaded with weights"):
        zoo.generate(zoo.create_model("test_lstm"), "a")
    with pytest.raises(ValueError, match="has no tokenizer"):
        zoo.generate("mdeq_tiny.digits", "a")


def test_a_language_model_does_not_look_at_pictures(run):
    with pytest.raises(ValueError, match="is a language model: let it write on from a text"):
        zoo.predict(run, torch.zeros(1, 8, 8))


def test_the_command(run, capsys):
    assert sample.main(["--model", str(run), "--prompt", r"abc\n", "--length", "20", "--top-p", "0.9"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("abc\n") and len(out) == 4 + 20 + 1
    assert sample.main(["--model", str(run), "--prompt", "xyz"]) == 1
    assert "not trained on: 'x', 'y', 'z'" in capsys.readouterr().err
    assert sample.main(["--model", str(run / "none"), "--prompt", "a"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(run):
    model = zoo.load(run)
    model.vocab_size = 3
    with pytest.raises(ValueError, match="do not belong together"):
        tokenizer_of(model)
    assert isinstance(tokenizer_of(zoo.load(run)), Characters)
    assert DATA["text"](path=str(run.parent / "text.txt")).tokenizer.as_dict() == tokenizer_of(zoo.load(run)).as_dict()


def test_numbers_of_another_text_are_not_measured(run, tmp_path):
    file = tmp_path / "other.txt"
    file.write_text("xyz xyz zyx.\n" * 100)  # as many symbols, other ones
    task = LanguageModel(zoo.load(run))
    quiet = {"logger": False, "enable_progress_bar": False, "accelerator": "cpu", "devices": 1}
    with pytest.raises(ValueError, match="not those that the model was trained with"):
        L.Trainer(**quiet).test(task, datamodule=DATA["text"](path=str(file)), verbose=False)
    L.Trainer(**quiet).test(task, datamodule=DATA["text"](path=str(run.parent / "text.txt")), verbose=False)


def test_the_readme_of_a_folder_says_how_to_let_it_write(run, tmp_path):
    export(run, tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "pipeline_tag: text-generation" in text and 'zoo.generate(model, "The ")' in text


def test_trained_weights_go_on_with_another_text_in_their_own_symbols(run, tmp_path):
    file = tmp_path / "other.txt"
    file.write_text("bac bac cbaz.\n" * 60)  # z is not known to the weights
    options = {
        "out": tmp_path / "out",
        "pretrained": run,
        "trainer": {"max_epochs": 1, "limit_train_batches": 1, "enable_progress_bar": False},
    }
    data = {"name": "text", "path": str(file), "batch_size": 2, "length": 16}
    with pytest.raises(
        ValueError, match=r"do not fit the model: .* is \(7, .* has \(8,"
    ):  # z would need a row of weights
        train("test_lstm", data, **options)
    train("test_lstm", {**data, "vocabulary": str(run)}, **options | {"out": tmp_path / "again"})
    assert tokenizer_of(zoo.load(tmp_path / "again")).as_dict() == tokenizer_of(zoo.load(run)).as_dict()
    file.write_text("xyz xyz zyx.\n" * 60)  # as many symbols, but other ones
    with pytest.raises(ValueError, match="--data.vocabulary"):
        train("test_lstm", data, **options | {"out": tmp_path / "other"})


def test_a_vocabulary_that_is_none_is_refused(run, tmp_path):
    data = DATA["text"](path=str(run.parent / "text.txt"), vocabulary=str(tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        data.setup()
