"""Texts of the user's own: folders, parts, columns, bytes, and tokenizers from JSON."""

from __future__ import annotations

import json

import pytest

from zoo.data import DATA
from zoo.data.files import DataError
from zoo.storage.tokenizer import Bytes, tokenizer
from zoo.training.train import train

QUICK = {"max_epochs": 1, "limit_train_batches": 2, "limit_val_batches": 1, "limit_test_batches": 1,
         "accelerator": "cpu", "enable_progress_bar": False}  # fmt: skip


def text(path, **options):
    return DATA["text"](path=str(path), **options)


def test_the_files_of_a_folder_are_joined_in_order(tmp_path):
    (tmp_path / "b.txt").write_text("beta\n" * 300)
    (tmp_path / "a.txt").write_text("alpha\n" * 300)
    (tmp_path / ".hidden.txt").write_text("x" * 99)
    data = text(tmp_path)
    words = data.tokenizer.decode(data.split("train")[:6].tolist())
    assert words == "alpha\n" and data.vocab_size == 9  # a b e h l p t \n unknown


def test_a_folder_may_hold_the_parts(tmp_path):
    for part, letter in (("train", "a"), ("valid", "b"), ("test", "a")):
        (tmp_path / f"{part}.txt").write_text(f"{letter} a\n" * 50)
    data = text(tmp_path)
    assert data.sizes == {"train": 199, "val": 199, "test": 199}
    with pytest.raises(ValueError, match="val_fraction=0.2 does nothing here"):
        text(tmp_path, val_fraction=0.2).setup()


def test_a_column_of_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(
        pyarrow.table({"body": ["one two", "three"] * 99, "n": list(range(198))}), tmp_path / "t.parquet"
    )
    data = text(tmp_path / "t.parquet", column="body", level="words")
    assert data.tokenizer.decode(data.split("train")[:4].tolist()) == "one two\nthree"
    for column in ("text", "n"):
        with pytest.raises(DataError, match=rf"no column of texts named '{column}'; it has body, n"):
            text(tmp_path / "t.parquet", column=column).setup()
    with pytest.raises(ValueError, match="column='body' does nothing here"):
        text(tmp_path / "t.txt", column="body")


def test_bytes_write_every_text(tmp_path):
    (tmp_path / "t.txt").write_text("Grüße, 世界\n" * 90, encoding="utf-8")
    data = text(tmp_path / "t.txt", level="bytes")
    assert data.vocab_size == 256 and data.tokenizer.decode(data.split("train")[:16].tolist()) == "Grüße, 世界\n"
    assert isinstance(tokenizer(data.tokenizer.as_dict()), Bytes)


def test_any_tokenizer_in_json(tmp_path):
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "to": 1, "be": 2}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "words.json"))
    (tmp_path / "t.txt").write_text("to be or to be\n" * 60)
    data = text(tmp_path / "t.txt", vocabulary=str(tmp_path / "words.json"))
    assert data.vocab_size == 3 and data.split("train")[:5].tolist() == [1, 2, 0, 1, 2]
    (tmp_path / "bad.json").write_text(json.dumps({"version": "1.0"}))
    for name, said in (("bad.json", "is no tokenizer"), ("none.json", "was not found")):
        with pytest.raises(DataError, match=said):
            text(tmp_path / "t.txt", vocabulary=str(tmp_path / name)).setup()


def test_places_that_are_none(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no .txt files"):
        text(tmp_path / "empty").setup()
    with pytest.raises(DataError, match="nowhere was not found"):
        text(tmp_path / "nowhere").setup()


def test_a_language_model_trains_on_bytes_of_a_folder(tmp_path):
    (tmp_path / "a.txt").write_text("the quick brown fox\n" * 200)
    data = {"name": "text", "path": tmp_path, "level": "bytes", "length": 8, "batch_size": 4, "eval_batch_size": 2}
    run = train("test_deq_transformer", data, out=tmp_path / "run", trainer=QUICK)
    assert run["status"] == "finished"
