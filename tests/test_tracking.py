"""Results in an experiment tracker: every number, under a name, at its step."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

import mmerank.trackers
from mmerank import Results, align, diff, load_data, perturb
from mmerank.errors import UsageError
from tests.adapters.cases import LLAVA
from tests.adapters.text_cases import OPT
from tests.test_cli import failure
from tests.test_cli import run as command
from tests.test_diff_erank import texts


class Kept(GeneralTracker):  # type: ignore[misc]
    """Stands where a tracker of accelerate stands, and keeps what it is given."""

    name = "wandb"
    requires_logging_directory = False
    made: list[Kept]

    def __init__(self, run_name: str, **settings: Any):
        super().__init__()
        self.run_name, self.settings = run_name, settings
        self.logged: list[tuple[int | None, dict[str, float]]] = []
        self.said: dict[str, Any] = {}
        self.state = "made"
        type(self).made.append(self)

    @property
    def tracker(self) -> Any:
        return self.logged

    def start(self) -> None:
        assert PartialState().num_processes == 1
        self.state = "started"

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        assert self.state == "started" and all(isinstance(of, (str, int, float)) for of in values.values())
        self.said = values

    def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.state = "finished"


@pytest.fixture(autouse=True)
def trackers(monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B is installed, in a manner of speaking; no training went before in this process."""
    AcceleratorState._reset_state(True)
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", Kept)
    monkeypatch.setattr(mmerank.trackers, "find_spec", lambda name: name == "wandb" or None)
    Kept.made = []


@pytest.fixture(scope="module")
def data(golden_pairs: Path, golden: Path) -> Any:
    return load_data(f"llava:{golden_pairs}?images={golden}/images")


def test_alignment(data: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As a launcher sets them: accelerate would wait for the other one.
    launched = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    result = replace(align(LLAVA.adapter, data), name="ours")
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    result.track("wandb", project="mine")
    (kept,) = Kept.made
    assert kept.run_name == "mine" and kept.settings["name"].startswith("align ours ") and kept.state == "finished"
    ((step, numbers),) = kept.logged
    assert step is None and numbers["n"] == 3 and numbers["erank5"] == result.erank5
    assert (numbers["erank5/low"], numbers["erank5/high"]) == result.intervals["erank5"]
    assert kept.said["convention.image_layout"] == "model" and kept.said["model"] == result.model
    assert not PartialState._shared_state  # a training that follows makes its own
    monkeypatch.setenv("RANK", "1")
    result.track("wandb")
    assert len(Kept.made) == 1


def test_transforms_and_layers(data: Any) -> None:
    result = perturb(LLAVA.adapter, data, ["rotate:90"])
    result.track(kept := Kept("own"))
    numbers = kept.logged[0][1]
    assert numbers["rotate:90/erank1"] == result.transforms[0].result.erank1
    assert numbers["erank1"] == result.base.erank1
    found = diff(OPT.adapter, texts(3), layers="first")
    found.track(kept := Kept("own"))
    numbers = kept.logged[0][1]
    assert numbers["diff_erank"] == found.diff_erank
    assert numbers[f"{found.points[0].point}/diff_erank"] == found.points[0].diff_erank


def test_a_training_is_one_run(data: Any) -> None:
    result = align(LLAVA.adapter, data)
    names = ("opt/checkpoint-20", "opt/checkpoint-100", "other")
    several = Results([replace(result, model=name, records=_of(result, name)) for name in names])
    several.track("wandb")
    assert [[step for step, _ in kept.logged] for kept in Kept.made] == [[20, 100], [None]]
    with pytest.raises(UsageError, match="tracks one model, or the checkpoints of one training; got 2"):
        several.track(Kept("own"))


def _of(result: Any, name: str) -> Any:
    return tuple(replace(record, model=name) for record in result.records)


def test_of_a_command(tmp_path: Path) -> None:
    asked = ("align", "demo-llava", "--data", "demo", "--limit", "2", "--json", str(tmp_path / "found.json"))
    command(*asked, "--track", "wandb")
    (found,) = json.loads((tmp_path / "found.json").read_text())["results"]
    assert Kept.made[0].logged[0][1]["erank5"] == found["erank5"]
    assert "no tracker 'wand'; did you mean wandb?" in failure(*asked, "--track", "wand")[1]
    assert "tracker trackio: not installed; pip install trackio" in failure(*asked, "--track", "trackio")[1]
