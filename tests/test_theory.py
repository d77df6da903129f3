"""The theory's experiments: what must come out at any size, on small settings."""

from __future__ import annotations

import json

import pytest
import torch

from zoo import theory
from zoo.theory import gradients, linear, memory
from zoo.theory.annuli import digits, points

SMALL = theory.Scale(depths=(4, 8, 16), width=16, batch=4, tolerances=(1e-2, 1e-4, 1e-6), repeats=1, steps=2, seeds=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theory")
    return theory.run(folder, scale=SMALL), folder


def test_memory_grows_with_depth_only_where_every_step_is_kept():
    ways = memory.measure(SMALL)["ways"]
    growing = {k for k, v in ways.items() if v["exponent"] > 0.5}
    assert growing == {"explicit, L layers", "DEQ, unrolled", "ODE, unrolled", "ODE, checkpoint"}
    assert ways["explicit, L layers"]["exponent"] == pytest.approx(1, abs=0.02)
    for label in ("DEQ, implicit", "DEQ, phantom", "DEQ, jfb", "ODE, backsolve"):
        assert ways[label]["exponent"] == pytest.approx(0, abs=0.02)


def test_held_bytes_are_exact():
    w, x = torch.randn(8, 8, requires_grad=True), torch.randn(4, 8)
    assert memory.held_bytes(lambda: torch.tanh(x @ w)) == 4 * 8 * 4  # tanh keeps its result; x and w were there before
    assert memory.held_bytes(lambda: (x @ w).sum()) == 4
    with torch.no_grad():
        assert memory.held_bytes(lambda: torch.tanh(torch.tanh(x @ w))) == 4 * 8 * 4


def test_exponent_of_powers():
    x = [1.0, 2.0, 4.0, 8.0]
    assert memory.exponent(x, [3 * v**2 for v in x]) == pytest.approx(2)
    assert memory.exponent(x, [5.0] * 4) == 0


def test_gradients_become_exact_or_keep_their_bias():
    m = gradients.measure(SMALL)
    for kind, name in (("fixed_point", "implicit"), ("fixed_point", "unroll"), ("ode", "unroll"), ("ode", "backsolve")):
        errors = [row["error"] for row in m[kind][name]]
        assert errors[-1] < 1e-4 and errors[-1] < 1e-2 * errors[0], (kind, name)
    assert m["fixed_point"]["jfb"][-1]["error"] > 1e-2
    assert m["fixed_point"]["jfb"][-1]["cosine"] > 0.5  # a direction of descent all the same


def test_the_linear_model_is_its_closed_form():
    m = linear.measure(SMALL)
    for row in m["rows"]:
        if row["kind"] == "rho(W) > 1" and row["solver"] == "picard":
            assert row["converged"] == 0 and "error_W" not in row
            continue
        assert row["converged"] == 1, row
        assert max(row[f"error_{k}"] for k in ("z", "W", "U", "b", "x")) < 1e-8, row
    assert "I - W" in m["text"]


def test_convergence_keeps_banachs_bound(written):
    results, _ = written
    for row in results["lipschitz"]["rates"]:
        assert row["rate"] <= row["measured"] + 1e-9 and row["measured"] <= row["constant"] + 1e-6
        assert all(e <= row["measured"] ** k * (1 + 1e-6) + 1e-9 for k, e in enumerate(row["error"]))


def test_everything_is_written_and_the_table_links_to_its_figures(written):
    results, folder = written
    saved = json.loads((folder / "theory.json").read_text())
    assert saved["table"]["rows"] == results["table"]["rows"]
    page, text = (folder / "theory.html").read_text(), (folder / "theory.md").read_text()
    for row in results["table"]["rows"]:
        for cell in row[1:]:
            _, _, anchor = cell.partition(" [#")
            assert cell
            if anchor:
                assert f'id="{anchor[:-1]}"' in page and (folder / "figures" / f"{anchor[:-1]}.png").is_file()
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
    assert "| explicit, L layers | Neural ODE | DEQ |" in text


def test_the_annuli_are_apart():
    x, y = points(100, 0)
    radius = x.norm(dim=1)
    assert radius[y == 1].max() <= 0.5 and radius[y == 0].min() >= 1.0
    assert digits(torch.tensor([[0.0, 0.55, 1.0]])) == ["059"]
