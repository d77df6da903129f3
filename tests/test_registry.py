"""Names to things: lazy, never overwritten, and a wrong name is answered by the nearest."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

import pytest

from zoo.registry import Entry, Registry, UnknownName, check_options, option_names, unknown


@dataclass(frozen=True, kw_only=True)
class Thing:
    """A thing with options. And a second sentence."""

    rtol: float = 1e-3
    max_steps: int = 30


@pytest.fixture
def things():
    registry = Registry(
        "thing",
        Entry("decimal", "decimal:Decimal", "a number", "exact"),
        Entry("fraction", "fractions:Fraction", "a ratio", "exact"),
        Entry("broken", "no_such_module:Nothing", "cannot be imported", "lost"),
    )
    registry.register("thing", kind="made")(Thing)
    return registry


def test_a_name_is_imported_when_it_is_first_asked_for(things):
    assert things["decimal"] is Decimal
    assert things["fraction"] is Fraction
    assert "broken" in things
    with pytest.raises(ModuleNotFoundError):
        things["broken"]


def test_names_are_listed_by_pattern_and_kind(things):
    assert things.names() == ["broken", "decimal", "fraction", "thing"]
    assert things.names("*c*", kind="exact") == ["decimal", "fraction"]
    assert things.names("DEC*") == []
    assert [e.summary for e in things.entries("decimal")] == ["a number"]


def test_registering_takes_the_first_line_and_never_overwrites(things):
    (entry,) = things.entries("thing")
    assert entry.summary == "A thing with options. And a second sentence."
    assert entry.path.endswith(":Thing")
    with pytest.raises(ValueError, match="'decimal' is taken by decimal:Decimal"):
        things.register("decimal")(Thing)


def test_build_takes_a_name_a_mapping_or_an_instance(things):
    assert things.build("thing") == Thing()
    assert things.build({"name": "thing", "rtol": 1e-5}) == Thing(rtol=1e-5)
    made = Thing(max_steps=2)
    assert things.build(made) is made


def test_defaults_fill_what_a_spec_leaves_open(things):
    assert things.build({"name": "thing", "rtol": 1.0}, rtol=2.0, max_steps=4) == Thing(rtol=1.0, max_steps=4)
    made = Thing()
    assert things.build(made, rtol=2.0) is made


def test_wrong_names_and_options_are_answered_by_the_nearest(things):
    with pytest.raises(UnknownName, match="No thing named 'decimel'. Did you mean 'decimal'"):
        things["decimel"]
    with pytest.raises(UnknownName, match="No option of thing 'thing' named 'max_step'. Did you mean 'max_steps'"):
        things.build({"name": "thing", "max_step": 3})
    with pytest.raises(UnknownName, match="needs a 'name'"):
        things.build({"rtol": 3})


def test_the_message_is_a_sentence_and_no_repr():
    assert str(UnknownName("It's a sentence.")) == "It's a sentence."
    assert unknown("thing", "zzz", []) == "No thing named 'zzz'. Known: none."


def test_options_are_those_of_the_signature():
    def factory(a, *, b=1, **rest):
        return a, b, rest

    assert option_names(factory) == ("a", "b")
    check_options("option", factory, {"a": 1, "b": 2})
    with pytest.raises(UnknownName):
        check_options("option", factory, {"c": 2})
