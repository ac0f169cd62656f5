"""What is started for these tests ends with them, also where they are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.places.studies import LIMIT_S


@pytest.fixture(scope="module")
def nothing_left() -> Iterator[None]:
    """Mark what is started from now on, and kill it in the end."""
    if not Path("/proc/self/environ").is_file():
        pytest.skip("needs /proc, to end what it starts")
    mark = f"MMERANK_TEST_PLACE={uuid.uuid4().hex}"
    name, value = mark.split("=")
    reaper = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("reaper.py")), mark],
        stdin=subprocess.PIPE,
        start_new_session=True,  # what kills this group must not kill it
    )
    assert reaper.stdin is not None
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]
        reaper.stdin.close()
        reaper.wait(LIMIT_S)
