"""Every experiment parses against the real signatures, and every kept result says what is needed to judge it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from zoo.hub import cards
from zoo.training.options import Options
from zoo.training.request import resolve

FOLDER = Path(__file__).resolve().parents[1] / "experiments"
EXPERIMENTS = sorted(FOLDER.glob("*.yaml"))
RESULTS = sorted((FOLDER / "results").glob("*.json"))


def seeds(part):
    """Whatever the result, or a part of it, calls its seed or its seeds."""
    if isinstance(part, dict):
        for key, value in part.items():
            if key in ("seed", "seeds"):
                yield from value if isinstance(value, list) else [value]
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from seeds(inner)


def test_there_are_experiments():
    assert EXPERIMENTS


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_an_experiment_is_a_complete_configuration(path):
    options = Options(resolve(["-c", str(path)]))
    config = options.config()
    card = cards.card(config["model"]["name"])
    assert path.stem == f"{card.name}_{config['data']['name']}"
    assert config["data"]["name"] in card.data


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_a_result_names_seed_commit_and_hardware(path):
    text = json.dumps(json.loads(path.read_text()))
    assert re.search(r'"commit": "[0-9a-f]{7,40}(\+changes)?"', text), "without a commit nobody can repeat it"
    assert '"hardware"' in text and '"torch"' in text
    found = list(seeds(json.loads(text)))
    assert found and all(type(s) is int for s in found)
    assert "NaN" not in text
