"""The playground's numbers are zoo's, and in a browser its sliders move its figures."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SCRIPT = """
const S = require('./solvers.js'), D = require('./data.js');
console.log(JSON.stringify(D.traces.map((k) => {
  const A = D.plane.Q.map((row) => row.map((v) => v * k.rate));
  const inner = (z) => S.add(S.times(A, z), D.plane.b);
  const f = (z) => (k.bent ? inner(z).map(Math.tanh) : inner(z));
  const options = {solver: k.solver, window: k.window, tolerance: 0, most: k.residuals.length};
  return S.iterate(f, D.plane.start, options).residuals;
})));
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The folder of the page, with the data that a build exports."""
    folder = tmp_path_factory.mktemp("site") / "playground"
    shutil.copytree(DOCS / "_extra" / "playground", folder)
    spec = importlib.util.spec_from_file_location("playground", DOCS / "_ext" / "playground.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(folder / "data.js")
    return folder


def test_what_the_page_reads_is_beside_it(page):
    named = re.findall(r'(?:src|href)="([\w.]+)"', (page / "index.html").read_text(encoding="utf-8"))
    assert set(named) >= {"data.js", "solvers.js", "app.js"} and all((page / n).is_file() for n in named)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_its_solvers_go_the_way_of_ours(page):
    (page / "run.js").write_text(SCRIPT)
    done = subprocess.run(["node", "run.js"], cwd=page, capture_output=True, text=True, check=True, timeout=60)
    data = json.loads((page / "data.js").read_text().partition("= ")[2].partition(";\n")[0])
    for kept, found in zip(data["traces"], json.loads(done.stdout), strict=True):
        for ours, theirs in zip(kept["residuals"], found, strict=True):
            assert math.isclose(ours, theirs, rel_tol=1e-4, abs_tol=1e-9), kept["solver"]


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(page, scheme):
    """No error on the console; each slider changes a figure; nothing is wider than a phone; the dark is dark."""
    sync_api = pytest.importorskip("playwright.sync_api")
    found = os.environ.get("ZOO_CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}, or its path in ZOO_CHROMIUM")
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=found, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 375, "height": 800}, color_scheme=scheme)
        errors: list[str] = []
        tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
        tab.on("pageerror", lambda e: errors.append(str(e)))
        tab.goto((page / "index.html").as_uri())
        for slider, value, figure in (
            ("rate", "0.5", "residuals"),
            ("window", "5", "residuals"),
            ("rate", "1.3", "gradient"),
            ("radius", "0.4", "linear"),
            ("unrolled", "30", "truncated"),
        ):
            before = tab.inner_html(f"#{figure}")
            tab.eval_on_selector(f"#{slider}", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')) }", value)
            assert tab.inner_html(f"#{figure}") != before, slider
        for name in ("picard", "broyden", "newton"):
            before = tab.inner_html("#iterates")
            tab.select_option("#solver", name)
            assert tab.inner_html("#iterates") != before, name
        assert "differ by at most" in tab.inner_text("#checked")
        assert tab.evaluate("document.documentElement.scrollWidth") <= 375
        paper = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == (scheme == "dark")
        tab.screenshot(path=page.parent / f"{scheme}.png", full_page=True)
        browser.close()
    assert not errors
