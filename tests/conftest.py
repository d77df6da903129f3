"""What every test shares: no network, one random state for each test, a thread or two, deterministic hypothesis."""

from __future__ import annotations

import atexit
import gc
import importlib.util
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
if "ZOO_CACHE" not in os.environ:  # what tests generate is not for the user's own cache
    os.environ["ZOO_CACHE"] = tempfile.mkdtemp(prefix="zoo-cache-")
    atexit.register(shutil.rmtree, os.environ["ZOO_CACHE"], ignore_errors=True)
ROOT = str(Path(__file__).resolve().parents[1])
if importlib.util.find_spec("zoo") is None:  # the installed package is tested where there is one, else the checkout
    sys.path.insert(0, ROOT)
if (spec := importlib.util.find_spec("zoo")) and (spec.origin or "").startswith(ROOT):  # so do processes of the tests
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])

import hypothesis  # noqa: E402
import torch  # noqa: E402

SEED = int(os.environ.get("ZOO_TEST_SEED", "0"))  # another number: the same tests of other random numbers
torch.set_num_threads(1)  # the tensors are small: more threads would only wait for one another
hypothesis.settings.register_profile("zoo", derandomize=True, deadline=None, max_examples=15, database=None)
hypothesis.settings.load_profile("zoo")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what the imports have made out of the garbage collector's sight: it stays, and there is much of it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh_state(request: pytest.FixtureRequest) -> Iterator[None]:
    """Seed by the test's own name, so that its numbers depend neither on the order nor on the selection of tests."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()) + SEED)
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
