"""Small studies, cells of which can be held in the middle, and what came out of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmerank.__main__ import main
from mmerank.runs.parts import read_whole
from tests.conftest import GOLDEN

ROOT = Path(__file__).parents[2]
TINY = [str(GOLDEN / "llava_tiny/hf_model"), str(GOLDEN / "minigpt_v2_tiny/minigpt_v2.yaml")]
JOBS: list[Any] = ["align", {"perturb": {"transform": "rotate:90", "limit": 4, "models": TINY[:1]}}]
LIMIT_S = 1200  # of anything that is waited for: far above what it takes
# Run by every Python that a study starts: parts are written at once, and a cell that a file names waits, after so
# many parts, until that file is gone.
_HOLD = """
import os, sys, time
from pathlib import Path
there = Path(os.environ["MMERANK_TEST_HOLD"])
command = " ".join(sys.orig_argv)
if "mmerank.jobs.where.process" in command:
    from mmerank.engine import collect
    collect.PART_SECONDS = -1.0
    add, added = collect._Parts.add, []
    def held(self, records):
        add(self, records)
        added.append(None)
        hold = there / "hold"
        name = command.split("--out ")[1].split()[0].rsplit("/", 1)[1]
        if len(added) == 3 and hold.exists() and hold.read_text() in name:
            (there / "held").write_text(f"{os.getpid()} {os.getppid()} {name}")
            while hold.exists():
                time.sleep(0.05)
    collect._Parts.add = held
"""


@dataclass
class Study:
    """A study file in a folder, and the command on it."""

    folder: Path
    content: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file.write_text(yaml.safe_dump(self.content, sort_keys=False))
        (self.folder / "sitecustomize.py").write_text(_HOLD)

    @property
    def file(self) -> Path:
        return self.folder / "s.yaml"

    def starts(self, on: str, *more: str) -> subprocess.Popen[str]:
        """The command, which goes on."""
        paths = [self.folder, ROOT, ROOT / "adapters"]
        own = {"MMERANK_TEST_HOLD": str(self.folder), "PYTHONPATH": os.pathsep.join(map(str, paths))}
        return subprocess.Popen(
            [sys.executable, "-m", "mmerank", "study", str(self.file), "--on", on, "--json", "-", *more],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **own, **self.environment},
            cwd=self.folder,
        )

    def ends(self, begun: subprocess.Popen[str], status: int = 0) -> list[dict[str, Any]]:
        """What it says of its cells in the end."""
        said, errors = begun.communicate(timeout=LIMIT_S)
        assert begun.returncode == status and said.startswith("{"), errors + said
        cells: list[dict[str, Any]] = json.loads(said)["cells"]
        return cells

    def runs(self, on: str, status: int = 0) -> list[dict[str, Any]]:
        return self.ends(self.starts(on), status)

    def hold(self, name: str) -> None:
        """Have a cell wait in the middle, with some parts written."""
        (self.folder / "held").unlink(missing_ok=True)
        (self.folder / "hold").write_text(name)

    def held(self, begun: subprocess.Popen[str]) -> tuple[int, int, str]:
        """Wait until it does: its process, the one that started it, and its name."""
        until(lambda: (self.folder / "held").exists() or begun.poll() is not None)
        assert begun.poll() is None, begun.communicate()
        process, parent, name = (self.folder / "held").read_text().split()
        return int(process), int(parent), name

    def let_go(self) -> None:
        (self.folder / "hold").unlink()

    def parts(self, name: str) -> set[str]:
        return {path.name for path in (self.folder / "s" / name / "records").glob("*.parquet")}

    def is_as_alone(self) -> bool:
        """Whether all of its cells are done, and each is to the last bit what its command gives in this process."""
        found = results(self.folder / "s")
        asked = sorted((self.folder / "s/cells").glob("*.yaml"))
        for file in asked:
            with pytest.raises(SystemExit) as ended:
                out = self.folder / "alone" / file.stem
                job = yaml.safe_load(file.read_text())["command"]
                main([job, "--config", str(file), "--out", str(out), "--json", str(self.folder / "alone.json")])
            assert ended.value.code in (0, None)
        return len(found) == len(asked) > 0 and found == results(self.folder / "alone")


def results(folder: Path) -> dict[str, Any]:
    """Of each run in a folder: its summary, and its records with all their bits."""
    return {
        summary.parent.name: (
            json.loads(summary.read_text()),
            sorted(repr(row) for row in read_whole(summary.parent).to_pylist()),
        )
        for summary in folder.glob("*/summary.json")
    }


def study_of(folder: Path, environment: dict[str, str] | None = None, **more: Any) -> Study:
    """One cell, unless more is said: the tiny LLaVA on the demo data."""
    content = {"models": TINY[:1], "data": "demo", "limit": 6, "device": "cpu", "jobs": ["align"], **more}
    return Study(folder, content, environment or {})


def grid(folder: Path, environment: dict[str, str] | None = None, **more: Any) -> Study:
    """Four models on two data sets by two jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    samples = json.loads((GOLDEN / "samples.json").read_text())
    turns = (("human", "instruction"), ("gpt", "response"))
    pairs = [
        {
            "id": str(sample["id"]),
            "image": sample["image"],
            "conversations": [{"from": who, "value": sample[what]} for who, what in turns],
        }
        for sample in samples
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    return study_of(
        folder,
        environment,
        models=[*TINY, "demo-llava", "demo-minigpt-v2"],
        data=["demo", f"llava:{folder}/pairs.json?images={GOLDEN}/images"],
        jobs=["align", {"perturb": {"transform": "rotate:90"}}],
        **more,
    )


def until(true: Callable[[], Any]) -> None:
    """Wait for something that will be."""
    end = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < end, "never"
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(process: int) -> None:
    os.kill(process, signal.SIGKILL)
    until(lambda: not alive(process))
