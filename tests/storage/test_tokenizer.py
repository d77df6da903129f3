"""Tokenizers: there and back, the unknown, plain data, and the package that byte pairs need."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.storage.tokenizer import Characters, Words, learn, tokenizer

PLAY = "ROMEO:\nHe jests at scars, that never felt a wound.\n"


@given(st.text(min_size=1, max_size=200))
def test_characters_there_and_back(text):
    made = learn(text, "characters")
    numbers = made.encode(text)
    assert made.decode(numbers.tolist()) == text
    assert numbers.dtype == np.int32 and numbers.max() < made.vocab_size - 1  # the last is the unknown


def test_what_the_training_part_lacks_is_unknown():
    made = learn("abc", "characters")
    assert made.encode("abcd\U0001f600c").tolist() == [0, 1, 2, 3, 3, 2]
    assert made.vocab_size == 4 and made.unknown == 3
    assert made.strange("cadé") == ["d", "é"]


def test_words_are_numbered_by_frequency_and_lines_end():
    made = learn("b a b\n\nc b a\n", "words")
    assert made.words == ("<eos>", "b", "a", "c", "<unk>")
    assert made.encode("a z\n\nb").tolist() == [2, 4, 0, 0, 1]
    assert made.decode([2, 4, 0, 0, 1]) == "a <unk>\n\nb"


def test_the_published_sign_for_the_unknown_is_not_made_twice():
    made = learn("the <unk> of the\n", "words")
    assert made.words == ("<eos>", "the", "<unk>", "of")


def test_rare_words_become_the_unknown():
    made = learn("a a b\n", "words", min_count=2)
    assert made.words == ("<eos>", "a", "<unk>")
    assert made.encode("a b").tolist() == [1, 2]


@pytest.mark.parametrize("level", ["characters", "words"])
def test_plain_data_makes_the_same_tokenizer(level):
    made = learn(PLAY, level)
    again = tokenizer(json.loads(json.dumps(made.as_dict())))
    assert again.encode(PLAY).tolist() == made.encode(PLAY).tolist()
    assert again.vocab_size == made.vocab_size


def test_byte_pairs_there_and_back():
    pytest.importorskip("tokenizers")
    made = learn(PLAY * 20, "bpe", vocab_size=300)
    text = "Wherefore art thou, Roméo?\n 東京"
    assert made.decode(made.encode(text).tolist()) == text
    assert made.vocab_size <= 300
    assert len(made.encode(PLAY)) < len(PLAY) / 1.5
    again = tokenizer(json.loads(json.dumps(made.as_dict())))
    assert again.encode(text).tolist() == made.encode(text).tolist()


def test_byte_pairs_without_their_package_are_refused_in_words(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match=r"pip install 'implicit-zoo\[text\]'"):
        learn(PLAY, "bpe")


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "level"),
        ({"level": "charakters"}, "characters"),
        ({"level": "characters"}, "needs 'alphabet'"),
        ({"level": "words", "words": "a b"}, "<unk> and <eos>"),
        ({"level": "characters", "alphabet": "aa"}, "there once"),
    ],
)
def test_broken_descriptions_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        tokenizer(given)


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="min_count must be at least 1"):
        learn(PLAY, "words", min_count=0)
    with pytest.raises(ValueError, match="more symbols than the 256 bytes"):
        learn(PLAY, "bpe", vocab_size=256)
    with pytest.raises(ValueError, match="each of length one"):
        Characters(["ab"])
    with pytest.raises(ValueError, match="each there once"):
        Words(["<eos>", "<unk>", "a", "a"])


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"level": []},
        {"level": "characters"},
        {"level": "characters", "alphabet": 5},
        {"level": "characters", "alphabet": ""},
        {"level": "characters", "alphabet": ["a", 1]},
        {"level": "characters", "alphabet": ["ab"]},
        {"level": "characters", "alphabet": {"a": 1}},
        {"level": "words", "words": [1, 2]},
        {"level": "words", "words": "a b"},
        {"level": "words", "words": None},
        {"level": "bpe", "json": "junk"},
        {"level": "bpe", "json": "{}"},
        {"level": "bpe", "json": ["x"]},
        {"level": "bpe", 1: 2},
    ],
)
def test_what_is_no_tokenizer_is_one_sentence(given):
    if given.get("level") == "bpe":
        pytest.importorskip("tokenizers")
    with pytest.raises(ValueError) as caught:
        tokenizer(given)
    assert "\n" not in str(caught.value)
