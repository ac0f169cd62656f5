"""Time and peak memory of runs of more and more texts, and of reading back a run of the size of detail_23k.

    python -m benchmarks.memory 100 1000 10000

Texts of about 10 tokens through a tiny OPT of the tests, so that what grows is what mmerank keeps.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any


def texts(count: int) -> None:
    """Trained model and twin on `count` texts, with a run folder."""
    from mmerank import Example, diff
    from tests.adapters.text_cases import OPT

    adapter = OPT.adapter
    with tempfile.TemporaryDirectory() as scratch:
        began, before = time.monotonic(), peak()
        diff(
            adapter, [Example(f"{i}", None, "", f"a text of number {i}") for i in range(count)], out=scratch + "/run"
        )
        print(f"{count} texts: {time.monotonic() - began:.1f} s, {peak() - before:.0f} MB above {before:.0f} MB")


def detail_23k() -> None:
    """23,000 examples with five records each, spectra as long as LLaVA-1.5's."""
    import numpy as np

    from mmerank.runs.parts import read_records, write_part
    from mmerank.runs.record import Record
    from mmerank.runs.settings import record_fingerprint

    points = {("vision", "image"): 576, ("connector", "image"): 576, ("llm", "image"): 577, ("llm", "text"): 150,
              ("llm", "pair"): 727}  # fmt: skip
    draw = np.random.default_rng(0)

    def numbers(n: int) -> tuple[float, float, float, int, str, Any]:
        spectrum = -np.sort(-(draw.random(n) ** 8))
        spectrum /= spectrum.sum()
        entropy = -float((spectrum * np.log(np.maximum(spectrum, 1e-300))).sum())
        kept = spectrum.astype(np.float32)
        return entropy, 1 / float((spectrum**2).sum()), float(spectrum[0]), 0, record_fingerprint({}, {}), kept

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "records").mkdir()
        (folder / "run.json").write_text(json.dumps({"job": "align", "convention": {}, "models": {"model": {}}}))
        for part in range(23):
            rows = [
                Record("model", f"{part}-{i}", point, fed, "none", n, 4096, *numbers(n))
                for i in range(1000)
                for (point, fed), n in points.items()
            ]
            write_part(folder / "records" / f"{part:06d}.parquet", rows)
        size = sum(part.stat().st_size for part in (folder / "records").iterdir())
        began, before = time.monotonic(), peak()
        found = read_records(folder)
        print(
            f"{len(found)} records, {size / 1e6:.0f} MB on the disk: read in {time.monotonic() - began:.1f} s, "
            f"{peak() - before:.0f} MB above {before:.0f} MB"
        )


def peak() -> float:
    """Most memory this process has had, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        texts(int(sys.argv[2])) if sys.argv[2] != "detail_23k" else detail_23k()
    else:
        for case in (*sys.argv[1:], "detail_23k"):
            subprocess.run([sys.executable, "-m", "benchmarks.memory", "--one", case], check=True)
