"""Texts as data sets: what ships with Python, published layouts as small files, and what cannot be read."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from zoo.data import DATA
from zoo.data.corpora import without_gutenberg
from zoo.data.files import DataError
from zoo.data.text import cut
from zoo.storage.tokenizer import tokenizer

TEXTS = [e.name for e in DATA.entries(kind="language")]


@pytest.fixture
def play(tmp_path):
    file = tmp_path / "play.txt"
    file.write_text("".join(f"line {i} of the play\n" for i in range(200)), encoding="utf-8")
    return file


def test_the_text_that_ships_with_python():
    data = DATA["python_docs"]()
    assert 80 < data.vocab_size < 130 and data.level == "characters"
    assert data.sizes["train"] > 300_000 and min(data.sizes.values()) > 15_000
    assert data.fingerprint() == DATA["python_docs"]().fingerprint()
    paragraphs = [p.strip() for p in data.whole().split("\n\n") if p.strip()]
    assert len(set(paragraphs)) == len(paragraphs), "no paragraph is met twice"
    tokens, targets, number = next(iter(data.train_dataloader()))
    assert tokens.shape == targets.shape == (32, 128) and number == 0 and tokens.dtype == torch.int64


def test_three_parts_in_order_cut_at_the_ends_of_lines(play):
    data = DATA["text"](path=str(play), val_fraction=0.1, test_fraction=0.2)
    parts = [data.tokenizer.decode(data.split(p).tolist()) for p in ("train", "val", "test")]
    assert "".join(parts) == play.read_text()
    assert all(p.endswith("\n") for p in parts)
    assert [round(len(p) / 4290, 1) for p in parts] == [0.7, 0.1, 0.2]


def test_the_vocabulary_is_of_the_training_part(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("ab\n" * 100 + "xy\n" * 10)
    data = DATA["text"](path="a.txt", root=str(tmp_path))
    assert data.vocab_size == 4  # newline, a, b, and the unknown
    assert set(data.split("test").tolist()) == {0, 3}


def test_plain_data_makes_the_tokenizer_again(play):
    data = DATA["text"](path=str(play), level="words")
    again = tokenizer(json.loads(json.dumps(data.preprocessing))["tokenizer"])
    assert torch.equal(
        torch.from_numpy(again.encode(play.read_text()))[: len(data.split("train"))], data.split("train")
    )


def test_a_published_layout_of_words(tmp_path):
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for part, text in {"train": " = A = \n \n the <unk> cat \n", "valid": " the dog \n", "test": " a cat \n"}.items():
        (folder / f"wiki.{part}.tokens").write_text(text)
    data = DATA["wikitext2"](root=str(tmp_path))
    assert data.sizes == {"train": 9 - 1, "val": 3 - 1, "test": 3 - 1}  # lines end with a token of their own
    assert data.vocab_size == 6 and data.tokenizer.decode(data.split("val").tolist()) == "the <unk>\n"


def test_penn_treebank_by_characters(tmp_path):
    (tmp_path / "penn").mkdir()
    for part in ("train", "valid", "test"):
        (tmp_path / "penn" / f"{part}.txt").write_text(" no it was n't black monday \n")
    assert DATA["ptb"](root=str(tmp_path), level="characters").sizes["val"] == len(" no it was n't black monday \n") - 1
    assert DATA["ptb"](root=str(tmp_path)).sizes["val"] == 6


def test_gutenbergs_header_and_footer_are_left_out():
    text = (
        "T\n*** START OF THIS PROJECT GUTENBERG EBOOK T ***\n\nOne.\n\nTwo.\n\nEnd of the Project Gutenberg EBook\n***"
    )
    assert without_gutenberg(text) == "One.\n\nTwo.\n"
    assert without_gutenberg("One.\n") == "One.\n"


@pytest.mark.parametrize("name", [n for n in TEXTS if n not in ("python_docs", "text")])
def test_a_missing_file_is_named_with_the_way_out(name, tmp_path):
    with pytest.raises(DataError, match=r"was not found; looked for .*ZOO_DATA"):
        DATA[name](root=str(tmp_path)).setup()


def test_bad_texts_are_refused(tmp_path):
    empty, blank, latin = tmp_path / "empty.txt", tmp_path / "blank.txt", tmp_path / "latin.txt"
    empty.write_text(""), blank.write_text(" \n" * 50), latin.write_bytes("é\n".encode("latin1") * 50)
    with pytest.raises(DataError, match=r"empty.txt is empty. Put a text in UTF-8 there, or name another file"):
        DATA["text"](path=str(empty)).setup()
    with pytest.raises(DataError, match="train part of the text is empty"):
        DATA["text"](path=str(blank)).setup()
    with pytest.raises(DataError, match="no text in UTF-8: byte 0 is 0xe9.*iconv"):
        DATA["text"](path=str(latin)).setup()
    with pytest.raises(DataError, match="was not found"):
        DATA["text"](path=str(tmp_path / "none.txt")).setup()
    with pytest.raises(ValueError, match="--data.path PATH"):
        DATA["text"]()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"length": 0}, "length must be at least 1"),
        ({"level": "letters"}, "No level named 'letters'"),
        ({"order": "shuffled"}, "No order named"),
        ({"val_fraction": 0.0}, "must be above 0"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "something to train on"),
        ({"seed": -1}, "seed must not be negative"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DATA["python_docs"](**options)


def test_byte_pairs_without_their_package_are_refused(monkeypatch, play):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match="needs the package tokenizers"):
        DATA["text"](path=str(play), level="bpe").setup()


def test_byte_pairs(play):
    pytest.importorskip("tokenizers")
    data = DATA["text"](path=str(play), level="bpe", bpe_size=300)
    assert data.vocab_size <= 300
    text = data.tokenizer.decode(data.split("train").tolist())
    assert text.endswith("play\n") and play.read_text().startswith(text)
    assert len(data.split("train")) < len(text) / 2


def test_a_cut_far_from_the_end_of_a_line_falls_where_it_is():
    assert cut("x" * 5000, 0.1, 0.1) == ("x" * 4000, "x" * 500, "x" * 500)


class Network:
    """Stands for torchvision's download: it has some files, or none."""

    def __init__(self, **content: bytes) -> None:
        self.content, self.urls = content, []

    def __call__(self, url, root, filename, md5):
        self.urls.append(url)
        name = filename.replace(".", "_").replace("-", "_")
        if name not in self.content:
            raise OSError("Name or service not known")
        if hashlib.md5(self.content[name]).hexdigest() != md5:
            raise RuntimeError("File not found or corrupted.")
        (Path(root) / filename).write_bytes(self.content[name])


PUBLISHED = [name for name in TEXTS if DATA[name].sources]


def test_the_texts_at_stable_addresses_are_downloaded():
    assert PUBLISHED == ["ptb", "tiny_shakespeare", "wikitext103", "wikitext2"]
    for name in PUBLISHED:
        for source in DATA[name].sources:
            assert source.url.startswith("https://") and len(source.md5) == 32
            assert source.url.endswith(source.file.rpartition("/")[2])


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_text_without_a_network_says_where_it_comes_from(name, tmp_path, monkeypatch):
    network = Network()
    monkeypatch.setattr("torchvision.datasets.utils.download_url", network)
    data = DATA[name](root=str(tmp_path))
    url = data.sources[0].url
    for ask in (data.prepare_data, lambda: data.vocab_size):
        with pytest.raises(DataError, match=f"The download of {url} failed.*not known.*--data.root"):
            ask()
    assert set(network.urls) == {url}
    quiet = DATA[name](root=str(tmp_path), download=False)
    with pytest.raises(DataError, match=f"download=false.; {url} has it"):
        quiet.setup()
    assert set(network.urls) == {url} and not list(tmp_path.rglob("*.*"))


def test_the_novel_that_is_not_downloaded_says_the_command(tmp_path):
    with pytest.raises(
        DataError, match=r"curl --create-dirs -Lo \S+2600-0.txt https://www.gutenberg.org/\S+2600-0.txt"
    ):
        DATA["war_and_peace"](root=str(tmp_path)).setup()


def test_a_text_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    play = b"First Citizen:\nBefore we proceed any further, hear me speak.\n" * 40
    network = Network(input_txt=play)
    monkeypatch.setattr("torchvision.datasets.utils.download_url", network)
    kind = DATA["tiny_shakespeare"]
    with pytest.raises(DataError, match="corrupted"):
        kind(root=str(tmp_path)).prepare_data()
    assert not list(tmp_path.rglob("*.txt")), "another text is not kept"
    source = kind.sources[0]._replace(md5=hashlib.md5(play).hexdigest())
    monkeypatch.setattr(kind, "sources", (source,))
    data = kind(root=str(tmp_path))
    assert data.vocab_size > 20 and (tmp_path / "tinyshakespeare/input.txt").read_bytes() == play
    before = len(network.urls)
    kind(root=str(tmp_path)).prepare_data()
    assert len(network.urls) == before


def test_a_benchmark_is_read_out_of_its_archive(tmp_path, monkeypatch):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for part in ("train", "valid", "test"):
            archive.writestr(f"wikitext-2/wiki.{part}.tokens", f" = {part} = \n a b <unk> \n" * 9)
    kind = DATA["wikitext2"]
    source = kind.sources[0]._replace(md5=hashlib.md5(file.getvalue()).hexdigest())
    monkeypatch.setattr(kind, "sources", (source,))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", Network(wikitext_2_v1_zip=file.getvalue()))
    data = kind(root=str(tmp_path))
    assert data.vocab_size == 6 and data.read().val.startswith(" = valid = \n")  # = train a b <unk> <eos>
    archive = tmp_path / "wikitext-2/wikitext-2-v1.zip"
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(DataError, match="archive is broken"):
        kind(root=str(tmp_path)).setup()
    for part in ("train", "valid", "test"):  # files go before the archive
        (tmp_path / f"wikitext-2/wiki.{part}.tokens").write_text(f"{part} x\n" * 9)
    assert kind(root=str(tmp_path)).read().train.startswith("train x")
