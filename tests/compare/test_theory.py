"""The theory's experiments: what must come out at any size, on small settings."""

from __future__ import annotations

import json

import pytest
import torch

from zoo.compare.theory import gradients, linear, lipschitz, memory, scale
from zoo.compare.theory.annuli import digits, points
from zoo.compare.theory.report import STATED, run_theory
from zoo.reporting.counters import peak_bytes

SMALL = scale.Scale(depths=(4, 8, 16), width=16, batch=4, tolerances=(1e-2, 1e-4, 1e-6), repeats=1, steps=2, seeds=1)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("theory")
    return run_theory(folder, scale=SMALL), folder


def test_memory_grows_with_depth_only_where_every_step_is_kept():
    found = memory.measure(SMALL)
    ways = found["ways"]
    growing = {k for k, v in ways.items() if v["exponent"] > 0.5}
    assert growing == {"explicit, L layers", "DEQ, unrolled", "ODE, unrolled", "ODE, checkpoint"}
    assert ways["explicit, L layers"]["exponent"] == pytest.approx(1, abs=0.02)
    for label in ("DEQ, implicit", "DEQ, phantom", "DEQ, jfb", "ODE, backsolve"):
        assert ways[label]["exponent"] == pytest.approx(0, abs=0.02)
    for label in ("explicit, L layers", "DEQ, Picard", "ODE, rk4"):
        assert found["forward"][label]["exponent"] == pytest.approx(0, abs=0.02), label


def test_held_bytes_are_exact():
    w, x = torch.randn(8, 8, requires_grad=True), torch.randn(4, 8)
    assert memory.held_bytes(lambda: torch.tanh(x @ w)) == 4 * 8 * 4  # tanh keeps its result; x and w were there before
    assert memory.held_bytes(lambda: (x @ w).sum()) == 4
    with torch.no_grad():
        assert memory.held_bytes(lambda: torch.tanh(torch.tanh(x @ w))) == 4 * 8 * 4


def test_peak_bytes_are_exact():
    x, one = torch.zeros(4, 8), 4 * 8 * 4
    with torch.no_grad():
        assert peak_bytes(lambda: torch.tanh(x)) == one  # x was there before
        assert peak_bytes(lambda: torch.tanh(torch.tanh(x))) == 2 * one  # a result beside what it is made from
        assert peak_bytes(lambda: torch.tanh(torch.tanh(torch.tanh(x)))) == 2 * one


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


def test_convergence_keeps_banachs_bound():
    """L comes of the Jacobian alone, so that this could fail; and where W is symmetric it all but does."""
    rows = lipschitz.rates(SMALL)
    for row in rows:
        assert row["rate"] <= row["measured"] + 1e-6 and row["measured"] <= row["constant"] + 1e-6
        assert all(e <= row["measured"] ** k * (1 + 1e-6) + 1e-8 for k, e in enumerate(row["error"]))
    share = {row["kind"]: [r["rate"] / r["measured"] for r in rows if r["kind"] == row["kind"]] for row in rows}
    assert min(share["linear, symmetric W"]) > 0.97  # where every sample is as slow as the bound, in the end
    assert min(share["tanh, symmetric W"]) > max(share["tanh, random W"])


def test_the_constant_is_the_jacobians():
    w, x = lipschitz.weight(5, 0.9, symmetric=False), torch.zeros(1, 5, dtype=torch.float64)
    at = lipschitz.constant_in_ball(w, x, x, x, linear=False)  # a ball of one point, the origin, where tanh' = 1
    assert at == pytest.approx(0.9)
    far = torch.full_like(x, 3.0)
    jacobian = torch.autograd.functional.jacobian(lambda z: torch.tanh(z @ w.T)[0], far)[:, 0]
    assert lipschitz.constant_in_ball(w, x, far, far, linear=False) == pytest.approx(
        float(torch.linalg.matrix_norm(jacobian, 2))
    )


@pytest.mark.slow
def test_spectral_normalisation_holds_the_norm_in_training():
    run = lipschitz.trained(scale.Scale(width=16, batch=4, steps=120), lipschitz.BOUND)
    assert all(0.9 * lipschitz.BOUND < row["norm"] < 1.01 * lipschitz.BOUND for row in run)


@pytest.mark.slow
def test_everything_is_written_and_the_table_links_to_its_figures(written):
    results, folder = written
    saved = json.loads((folder / "theory.json").read_text())
    assert saved["table"]["rows"] == results["table"]["rows"]
    page, text = (folder / "theory.html").read_text(), (folder / "theory.md").read_text()
    for row in results["table"]["rows"]:
        for cell in row[1:]:
            _, _, anchor = cell.partition(" [#")
            assert anchor or cell.startswith(STATED), cell  # measured, or true by definition
            if anchor:
                assert f'id="{anchor[:-1]}"' in page and (folder / "figures" / f"{anchor[:-1]}.png").is_file()
    assert "http" not in page.replace("http://www.w3.org", "")  # nothing is fetched from elsewhere
    assert "| explicit, L layers | Neural ODE | DEQ |" in text


def test_the_annuli_are_apart():
    x, y = points(100, 0)
    radius = x.norm(dim=1)
    assert radius[y == 1].max() <= 0.5 and radius[y == 0].min() >= 1.0
    assert digits(torch.tensor([[0.0, 0.55, 1.0]])) == ["059"]
