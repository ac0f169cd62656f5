"""What a study will take, before anything is loaded: downloads, memory, disk, and time."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mmerank.downloads import Download, download
from mmerank.errors import MmerankError, first_line
from mmerank.inputs.example import check_usable
from mmerank.inputs.load import load_data
from mmerank.inputs.questions import load_questions
from mmerank.inputs.remote import is_address
from mmerank.inputs.text_sets import SETS
from mmerank.jobs.cells import CELLS, Cell, Standing, read_cell
from mmerank.jobs.fit import Memory, does_not_fit, memory_of
from mmerank.models.located import at_revision, is_yaml
from mmerank.models.sizes import Weights, files_taken, weights_of
from mmerank.runs.settings import SUMMARY

# The rule for a model that no cell has timed yet, on one large GPU: 2 FLOP for each parameter and position, of a pair
# and of its text alone, and one spectrum in float64 for each of five clouds of rows. It holds within a factor of 3.
POSITIONS = {"align": 1150, "perturb": 1150, "score": 1100, "generate": 1300, "diff": 450}
FLOPS = {8: 5e12, 4: 15e12, 2: 100e12}  # per second, sustained, by bytes of a number
SPECTRUM_S, SPECTRA = 0.05, {"align": 5, "perturb": 5, "generate": 2, "diff": 2}
BESIDE_WEIGHTS = 2e9  # activations of a batch, and what CUDA keeps for itself
EXAMPLE_BYTES = 40_000  # of records: five spectra of some hundred rows, compressed
ALL_LAYERS = 10  # times as much, with every layer
_HUB = re.compile(r"(?:\w+:)?hub:([\w.-]+/[\w.-]+)")
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class CellAhead:
    """What is left to do of a cell.

    Attributes:
        name: Of its run folder.
        examples: How many it will take; None where that is not known.
        seconds: How long the measuring of them takes; None where that is not known.
        by: `measured` (a finished cell of the same model and job), `rule`, or nothing.
        disk: Bytes that its run folder will have.
        problem: Why it will fail: its model is not there, or its data cannot be read or used.
    """

    name: str
    examples: int | None
    seconds: float | None
    by: str
    disk: int | None
    problem: str = ""


@dataclass(frozen=True)
class ModelAhead:
    """What a model will take.

    Attributes:
        model: MODEL argument.
        parameters: How many; None where that is not known.
        memory: Bytes of its weights, and 2 GB on a GPU; the most that any of its cells needs.
        too_large: Why it does not fit in the device's memory; its cells will be skipped.
        download: Of the hub; None where it is not from there.
    """

    model: str
    parameters: int | None
    memory: float | None
    too_large: str
    download: Download | None


@dataclass(frozen=True)
class DataAhead:
    """What a data set will take.

    Attributes:
        data: DATA argument.
        examples: How many it has; None where that is not known.
        problem: Why it cannot be read or used, of one of the jobs that ask for it.
        download: Of the hub, the whole repository, of which a part may be enough; None where it is not from there.
    """

    data: str
    examples: int | None
    problem: str
    download: Download | None


@dataclass(frozen=True)
class Ahead:
    """What a study will take.

    Attributes:
        cells: What is left of it, by the names of run folders.
        models: Each once.
        data: Each once.
        free: Bytes that the disk of the study's folder has left.
        free_cache: Those of the disk that downloads go to; None where nothing is downloaded.
    """

    cells: Mapping[str, CellAhead]
    models: tuple[ModelAhead, ...]
    data: tuple[DataAhead, ...]
    free: int
    free_cache: int | None

    @property
    def disk(self) -> int:
        """Bytes of run folders, as far as they are known."""
        return sum(cell.disk or 0 for cell in self.cells.values())

    @property
    def downloads(self) -> int:
        """Bytes, as far as they are known, each checkpoint once."""
        found = [*(model.download for model in self.models), *(data.download for data in self.data)]
        return sum(of.missing or 0 for of in found if of is not None)

    @property
    def full(self) -> list[str]:
        """What will not fit on a disk."""
        said = []
        if self.disk > self.free:
            said.append(f"run folders need about {self.disk / 1e9:.3g} GB, and {self.free / 1e9:.3g} GB are free")
        if self.free_cache is not None and self.downloads > self.free_cache:
            said.append(
                f"downloads need {self.downloads / 1e9:.3g} GB, and {self.free_cache / 1e9:.3g} GB are free where "
                "the hub's cache lies (HF_HOME)"
            )
        return said

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "cells": {name: asdict(cell) for name, cell in self.cells.items()},
            "models": [asdict(model) for model in self.models],
            "data": [asdict(data) for data in self.data],
            "disk": self.disk,
            "free": self.free,
            "downloads": self.downloads,
            "free_cache": self.free_cache,
            "full": self.full,
        }


def ahead(
    found: Sequence[Standing], folder: Path, *, elsewhere: bool = False, missing: Mapping[Cell, str] = {}
) -> Ahead:
    """What is left to do of a study, and what that will take.

    Args:
        found: All of its cells.
        folder: Of the study.
        elsewhere: Whether cells run on other machines, whose memory is not known here and which are taken to have
            GPUs.
        missing: Why cells are known to fail.

    Returns:
        Downloads, memory, disk and time; None in them where something is not known.
    """
    left = [of.cell for of in found if of.state != "done"]
    hub = _Hub()
    sizes = {model: weights_of(model, ask=hub.answers(model)) for model in {cell.model: None for cell in left}}
    models = tuple(_model(model, left, sizes[model], hub, elsewhere) for model in sizes)
    sets: dict[_Read, DataAhead] = {}
    for cell in left:
        read = _Read.of(cell)
        if read not in sets:
            sets[read] = _data(read, hub)
    paces = _paces(folder)
    cells = {}
    for cell in left:
        data = sets[_Read.of(cell)]
        own = _cell(cell, data, sizes[cell.model], paces, elsewhere)
        cells[cell.name] = replace(own, problem=missing.get(cell, data.problem))
    each_once = {of.data: of for of in reversed(sets.values())}
    return Ahead(cells, models, tuple(reversed(each_once.values())), _free(folder), hub.free())


class _Hub:
    """The hub, which is asked of each repository once, and of no other after it gave no answer."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Download] = {}

    def download(self, name: str, of: str = "model") -> Download:
        if (name, of) not in self._known:
            wanted = files_taken if of == "model" else list
            repository, revision = at_revision(name)
            ask = not any(known.silent for known in self._known.values())
            self._known[name, of] = download(str(repository), revision, wanted, of=of, ask=ask)
        return self._known[name, of]

    def answers(self, model: str) -> bool:
        return _is_on_hub(model) and self.download(model).missing is not None

    def free(self) -> int | None:
        from huggingface_hub import constants

        return _free(Path(constants.HF_HUB_CACHE)) if any(of.missing for of in self._known.values()) else None


def _is_on_hub(model: str) -> bool:
    name = str(at_revision(model)[0])
    return not Path(name).exists() and not is_yaml(model) and _HUB_ID.fullmatch(name) is not None


def _model(model: str, left: Sequence[Cell], weights: Weights | None, hub: _Hub, elsewhere: bool) -> ModelAhead:
    own = [cell for cell in left if cell.model == model]
    there = hub.download(model) if _is_on_hub(model) else None
    if weights is None:
        return ModelAhead(model, None, None, "", there)
    memory, too_large = 0.0, ""
    for cell in own:
        device = None if elsewhere else _memory(cell.options.get("device"))
        on_gpu = elsewhere or (device is not None and device.device != "cpu")
        copies = 2 if cell.job == "diff" else 1  # an untrained twin beside it; where both do not fit they take turns
        loaded = weights.in_memory(cell.options.get("dtype"), cell.options.get("load-in"))
        memory = max(memory, copies * loaded + BESIDE_WEIGHTS * on_gpu)
        too_large = too_large or does_not_fit(weights, cell.options, device)
    return ModelAhead(model, weights.parameters, memory, too_large, there)


def _memory(device: str | None) -> Memory | None:
    try:
        return memory_of(device)
    except MmerankError:  # no such device here: its cells say so when they run
        return None


@dataclass(frozen=True)
class _Read:
    """Data, and how a job reads them: as questions, by which columns, and whether it needs pictures."""

    data: str
    questions: bool
    pictures: bool
    columns: tuple[tuple[str, str], ...]

    @staticmethod
    def of(cell: Cell) -> _Read:
        options = cell.options
        columns = [(key, str(options[key])) for key in ("image", "response", "instruction", "id") if key in options]
        texts = cell.job == "diff" or bool(options.get("text-only"))
        return _Read(cell.data, cell.job == "score", not texts, tuple(columns))


def _data(read: _Read, hub: _Hub) -> DataAhead:
    data = read.data
    remote = _HUB.match(data)
    repository = remote[1] if remote else SETS[data].repository if data in SETS else None
    if repository is not None:
        return DataAhead(data, None, "", hub.download(repository, "dataset"))
    if is_address(data.partition(":")[2]) or data.startswith("lm-eval:"):
        return DataAhead(data, None, "", None)
    try:
        columns: dict[str, Any] = dict(read.columns)
        found = load_questions(data) if read.questions else load_data(data, **columns)
        check_usable(found, pictures=read.pictures)
        return DataAhead(data, len(found), "", None)
    except (MmerankError, TypeError, OSError) as error:
        return DataAhead(data, None, first_line(error), None)


@dataclass(frozen=True)
class _Pace:
    """A finished cell, and what each of its examples took."""

    model: str
    job: str
    options: Mapping[str, Any]
    seconds: float | None
    disk: float

    def unlike(self, cell: Cell) -> int:
        """In how many options it differs, beside the number of examples."""
        names = {*self.options, *cell.options} - {"limit", "seed"}
        return sum(self.options.get(name) != cell.options.get(name) for name in names)


def _paces(folder: Path) -> list[_Pace]:
    """Of all finished cells in the folder, also of those that are no longer in the file."""
    found = []
    for file in sorted((folder / CELLS).glob("*.yaml")):
        run, asked = folder / file.stem, read_cell(file)
        if asked and (n := _measured(run)):
            disk = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
            seconds = _seconds(file.with_suffix(".pace"))
            each = None if seconds is None else seconds / n
            found.append(_Pace(asked["model"], asked["job"], asked["options"], each, disk / n))
    return found


def _measured(run: Path) -> int:
    """On how many examples a finished cell stands."""
    try:
        summary = json.loads((run / SUMMARY).read_text(encoding="utf-8"))
        results = [summary["base"]] if "base" in summary else summary["results"]
        return max(int(result["n"]) for result in results)
    except (OSError, ValueError, TypeError, KeyError):
        return 0


def _seconds(file: Path) -> float | None:
    """How long a cell measured, in one attempt or several; None where a part of it is not known, as after a kill."""
    took: dict[str, list[float]] = {}
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            said = json.loads(line)
            of = took.setdefault(str(said["title"]), [0.0, 0.0, 0.0])
            took[said["title"]] = [of[0] + said["samples"], of[1] + said["seconds"], float(said["total"] or 0)]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    whole = [seconds * max(total / samples, 1) for samples, seconds, total in took.values() if samples]
    return sum(whole) if whole else None


def _cell(cell: Cell, data: DataAhead, weights: Weights | None, paces: Sequence[_Pace], elsewhere: bool) -> CellAhead:
    limit = cell.options.get("limit")
    known = [int(n) for n in (limit, data.examples) if n is not None]
    n = min(known) if known else None
    if n is None:
        return CellAhead(cell.name, None, None, "", None)
    like = sorted((pace for pace in paces if pace.job == cell.job), key=lambda pace: pace.unlike(cell))
    own = next((pace for pace in like if pace.model == cell.model and pace.seconds is not None), None)
    times = 1 + (_changes(cell.options.get("transform")) if cell.job == "perturb" else 0)
    layers = ALL_LAYERS if cell.options.get("layers") == "all" else 1
    disk = round(n * (like[0].disk if like else EXAMPLE_BYTES * times * layers))
    if own is not None and own.seconds is not None:
        return CellAhead(cell.name, n, n * own.seconds, "measured", disk)
    ruled = _by_rule(cell, weights, elsewhere)
    seconds = None if ruled is None else n * times * ruled
    return CellAhead(cell.name, n, seconds, "" if seconds is None else "rule", disk)


def _by_rule(cell: Cell, weights: Weights | None, elsewhere: bool) -> float | None:
    """Seconds of an example on one large GPU; None of a CPU, which there is no rule for."""
    memory = None if elsewhere else _memory(cell.options.get("device"))
    on_gpu = elsewhere or (memory is not None and memory.device != "cpu")
    if weights is None or not on_gpu or cell.job not in POSITIONS:
        return None
    a_number = weights.in_memory(cell.options.get("dtype")) / max(weights.parameters, 1)
    rate = FLOPS[min((2, 4, 8), key=lambda size: abs(size - a_number))]
    return seconds_by_rule(weights.parameters, POSITIONS[cell.job], rate, SPECTRA.get(cell.job, 0))


def seconds_by_rule(parameters: float, positions: float, rate: float, spectra: int) -> float:
    """Seconds of an example by the rule above.

    Args:
        parameters: Of the model.
        positions: That its LLM reads for an example, over all passes.
        rate: FLOP a second.
        spectra: That are computed of it.

    Returns:
        Seconds.
    """
    return 2 * parameters * positions / rate + spectra * SPECTRUM_S


def _changes(transforms: Any) -> int:
    """How many transforms an option names, sweeps taken apart."""
    named = transforms if isinstance(transforms, list) else [] if transforms is None else [transforms]
    return sum(str(one).count(",") + 1 for one in named)


def _free(folder: Path) -> int:
    there = folder.resolve()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free
