"""The workflows: what they run is pinned, and what builds a release has run nothing that is not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / ".github" / "workflows"
WORKFLOWS = sorted(FOLDER.glob("*.yml"))


def jobs(name: str) -> dict:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))["jobs"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda p: p.stem)
def test_actions_are_pinned_by_commit(path):
    used = re.findall(r"uses: (\S+)", path.read_text(encoding="utf-8"))
    assert used and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", u) for u in used)


def test_the_job_that_builds_a_release_installs_by_hash_only():
    release = jobs("release.yml")
    runs = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in release.items()}
    assert ".ci/run" in runs["check"] and ".ci/run" not in runs["build"]
    installs = [line for line in runs["build"].splitlines() if "pip install" in line]
    assert installs and all("--require-hashes" in line for line in installs)
    assert release["build"]["needs"] == "check" and release["publish"]["needs"] == "build"
    assert "pip install" not in runs["publish"]


@pytest.mark.skipif(shutil.which("bash") is None, reason="the step is a bash script")
@pytest.mark.parametrize("tag", ["v{}", "{}", "v{}0"])
def test_a_release_stops_where_the_tag_is_not_the_version(tag):
    import zoo

    step = next(s for s in jobs("release.yml")["check"]["steps"] if s.get("name", "").startswith("The tag"))
    env = {**os.environ, "GITHUB_REF_NAME": tag.format(zoo.__version__)}
    done = subprocess.run(["bash", "-e", "-c", step["run"]], cwd=ROOT, env=env, capture_output=True, text=True)
    assert (done.returncode == 0) == (tag == "v{}"), done.stderr
    assert done.returncode == 0 or f"Tag v{zoo.__version__}" in done.stderr


def test_every_declared_python_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    assert jobs("ci.yml")["versions"]["strategy"]["matrix"]["python"] == declared
    assert project["requires-python"] == f">={declared[0]}"
