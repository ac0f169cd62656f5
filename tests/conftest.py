"""What all tests share: golden data, tiny models, and no network."""

from __future__ import annotations

import atexit
import gc
import json
import math
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

# Nothing is read from the user's caches, or needs a home folder that can be written.
_CACHES = tempfile.mkdtemp(prefix="mmerank-tests-")
atexit.register(shutil.rmtree, _CACHES, ignore_errors=True)
for _name in ("HF_HOME", "MMERANK_CACHE"):
    os.environ[_name] = str(Path(_CACHES, _name))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Before torch is imported: some tests fork, and a fork of a process that has OpenMP threads waits for them for ever.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell starts background jobs with Ctrl-C ignored, and so would be what the tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Property tests know no clock either: a loaded machine is slower than any limit.
settings.register_profile("mmerank", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("mmerank")

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).parents[2] / "shared"
# What only ends a process that would never end: no test tells a loaded machine from an idle one.
LONGEST_S = 1200
# What `sitecustomize` of a Python says whose disks have no locks, as some shared ones do.
NO_LOCKS = """
import errno, fcntl, os
def refused(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
fcntl.flock = refused
"""


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what is imported by now: it was a fifth of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def parts_by_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One part for a run: by the clock, a slow machine would write more."""
    monkeypatch.setattr("mmerank.engine.collect.PART_SECONDS", math.inf)


@pytest.fixture(scope="session")
def golden() -> Path:
    return GOLDEN


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real pictures and bad inputs, which are not part of the project."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip("needs the shared test data beside the checkout")
    return folder


@pytest.fixture(scope="session")
def llava_tiny() -> Any:
    from mmerank import load

    return load(GOLDEN / "llava_tiny" / "hf_model", device="cpu")


@pytest.fixture(scope="session")
def matrices() -> dict[str, NDArray[Any]]:
    with np.load(GOLDEN / "erank_matrices.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def golden_pairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The three golden samples as a LLaVA manifest."""
    manifest = tmp_path_factory.mktemp("pairs") / "pairs.json"
    samples = json.loads((GOLDEN / "samples.json").read_text())
    records = [
        {
            "id": str(sample["id"]),
            "image": sample["image"],
            "conversations": [
                {"from": "human", "value": f"<image>\n{sample['instruction']}"},
                {"from": "gpt", "value": sample["response"]},
            ],
        }
        for sample in samples
    ]
    manifest.write_text(json.dumps(records))
    yield manifest
