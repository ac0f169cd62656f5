"""What each table and figure of the paper is made of, and which models and data stand in for its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmerank.errors import UsageError, first_line
from mmerank.report.paper import tables as paper
from mmerank.yaml_files import yaml_file

OPT_1_3B = "OPT-1.3B"
MULTIMODAL = "multimodal"
# Hub ids of the multimodal models; MiniGPT-v2 was published as three files, which a YAML file names.
MLLMS = {"LLaVA-1.5": "llava-hf/llava-1.5-7b-hf", "MiniGPT-v2": ""}
# OpenELM's repositories carry no tokenizer, and say that it is this one's.
OPENELM_TOKENIZER = "meta-llama/Llama-2-7b-hf"
# The paper turns the pictures clockwise and does not say by how much.
ROTATIONS = ("rotate:90", "rotate:180", "rotate:270")


@dataclass(frozen=True)
class Part:
    """Models of one family on some data sets, for one table.

    Attributes:
        table: Its number.
        family: Of the models, as in `mmerank.report.paper.tables.FAMILIES`; or `multimodal`, or `OPT-1.3B` in its
            stages.
        data: Names of the data sets.
        layers: Of language models, further ones to look at.
        tasks: Of lm-eval, whose accuracy the table or figure shows.
    """

    table: int
    family: str
    data: tuple[str, ...]
    layers: str = ""
    tasks: tuple[str, ...] = ()

    @property
    def multimodal(self) -> bool:
        """Whether pictures are measured, and not texts alone."""
        return self.family == MULTIMODAL

    def published(self) -> dict[str, str]:
        """Size or name -> hub id of the models that can be had; empty where it is not on the hub."""
        if self.multimodal:
            return {name: model for name, model in MLLMS.items() if self.table == 2 or name == "LLaVA-1.5"}
        if self.family == OPT_1_3B:
            return {"initial": paper.FAMILIES["OPT"]["1.3B"]}
        models = paper.FAMILIES[self.family]
        return {"1.3B": models["1.3B"]} if self.table == 11 else dict(models)

    def known(self) -> tuple[str, ...]:
        """All that the table has a column for."""
        if self.family == OPT_1_3B:
            return tuple(stage for stage in paper.CONTINUAL_TRAINING if stage != "random init")
        return tuple(self.published()) if self.multimodal else tuple(paper.FAMILIES[self.family])


_TEXT_SETS = ("dolly-15k", "wikipedia", "openwebtext2", "hh-rlhf")
_BOTH = ("winogrande", "piqa")

STUDIES: Mapping[str, tuple[Part, ...]] = {
    "table1": (Part(1, "OPT", ("openbookqa", "piqa"), tasks=("openbookqa", "piqa")),),
    "table2": (Part(2, MULTIMODAL, ("detail_23k", "cc_sbu_align")),),
    "table3": (Part(3, MULTIMODAL, ("detail_23k",)),),
    "table4": (Part(4, "OPT", ("dolly-15k",), layers="first,middle"),),
    "table6": (Part(6, "OPT", _TEXT_SETS),),
    "table7": (Part(7, "OpenELM", ("dolly-15k",), tasks=_BOTH),),
    "table8": (Part(8, "Cerebras-GPT", ("dolly-15k",), tasks=_BOTH),),
    "table9": (Part(9, "OPT", ("dolly-15k",)),),
    "table10": (Part(10, OPT_1_3B, ("openbookqa",), tasks=("openbookqa",)),),
    "table11": (Part(11, "OPT", ("wikipedia",)),),
    "figure1": (Part(6, "OPT", _TEXT_SETS),),
    "figure3": (
        Part(6, "OPT", ("dolly-15k",), tasks=_BOTH),
        Part(7, "OpenELM", ("dolly-15k",), tasks=_BOTH),
        Part(8, "Cerebras-GPT", ("dolly-15k",), tasks=_BOTH),
    ),
    "figure4": (Part(9, "OPT", ("dolly-15k",)),),
}


@dataclass(frozen=True)
class Job:
    """A part with the models and data that are measured for it.

    Attributes:
        part: What of the paper it is.
        models: Size or name -> MODEL argument; empty where none is known.
        data: Name of a data set -> DATA argument.
        tasks: Of lm-eval, names or YAML files.
        tokenizer: For checkpoints that have none.
        asked: Number of examples asked for.
    """

    part: Part
    models: Mapping[str, str]
    data: Mapping[str, str]
    tasks: tuple[str, ...] = ()
    tokenizer: str | None = None
    asked: int | None = None

    @property
    def limits(self) -> list[int | None]:
        """Numbers of examples that each model is measured on; None for all."""
        if self.part.table != 11:
            return [self.asked]
        return [n for n in paper.SAMPLE_SIZE_DIFF_ERANK if n <= (self.asked or n)] or [self.asked]


def parameters(size: str) -> float:
    """Number of parameters that a size stands for.

    Args:
        size: `125M`, `1.3B`.

    Returns:
        The number.

    Example:
        >>> parameters("1.3B")
        1300000000.0
    """
    return float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]


def planned(
    name: str,
    *,
    models: Sequence[str] = (),
    models_from: Path | None = None,
    data: Sequence[str] = (),
    data_from: Path | None = None,
    accuracy: str = "",
    tokenizer: str | None = None,
    limit: int | None = None,
) -> list[Job]:
    """What is to be measured for a table or figure.

    Args:
        name: `table1` .. `figure4`.
        models: Only these sizes, or names of models.
        models_from: YAML, size or name -> MODEL, in place of the published checkpoints; where there are several
            families, family -> such a mapping. What it does not name is left out.
        data: DATA in place of each of the study's data sets, in their order.
        data_from: YAML, name of a data set -> DATA; what it does not name is left out.
        accuracy: Tasks joined by commas in place of the study's, or `none`.
        tokenizer: For checkpoints that have none.
        limit: Number of examples.

    Returns:
        At least one job, each with a model and a data set.

    Raises:
        UsageError: The study, a model, a data set or an accuracy is unknown.
    """
    if name == "figure2":
        raise UsageError(
            "figure2 has no numbers of its own: mmerank reproduce table2 --out DIR, then mmerank report on the run "
            "folders in DIR draws it with ours"
        )
    if name not in STUDIES:
        raise UsageError(f"nothing to reproduce by the name {name!r}; known: {', '.join(STUDIES)}")
    parts = STUDIES[name]
    if data and data_from is not None:
        raise UsageError("--data and --data-from say the same; give one of them")
    sets = list(dict.fromkeys(set_ for part in parts for set_ in part.data))
    if data and len(data) != len(sets):
        raise UsageError(f"{name} has the data sets {', '.join(sets)}; --data gives {len(data)}")
    chosen = dict(zip(sets, data, strict=True)) if data else {set_: set_ for set_ in sets}
    if data_from is not None:
        chosen = _mapping(data_from, "data set -> DATA")
        _check(name, "data set", chosen, sets, " of --data-from")
    by_family = _models(name, parts, models_from)
    tasks = [task.strip() for task in accuracy.split(",") if task.strip()]
    if tasks and tasks != ["none"] and not any(part.tasks for part in parts):
        raise UsageError(f"{name} has no accuracy")
    everything = {model for part in parts for model in by_family.get(part.family, {})}
    _check(name, "model", models, sorted(everything) if models_from else _known(parts), "")
    jobs = []
    for part in parts:
        found = by_family.get(part.family, {})
        kept = {size: model for size, model in found.items() if not models or size in models}
        used = {set_: chosen[set_] for set_ in part.data if set_ in chosen}
        if not kept or not used:
            continue
        usual = OPENELM_TOKENIZER if part.family == "OpenELM" and models_from is None else None
        jobs.append(Job(part, kept, used, _tasks(name, part, tasks), tokenizer or usual, limit))
    return jobs


def _tasks(name: str, part: Part, asked: list[str]) -> tuple[str, ...]:
    if asked == ["none"]:
        return ()
    if asked and part.table == 1 and len(asked) != len(part.tasks):
        raise UsageError(f"{name} has an accuracy for each of {', '.join(part.tasks)}; --accuracy gives {len(asked)}")
    return tuple(asked) or part.tasks


def _models(name: str, parts: Sequence[Part], models_from: Path | None) -> dict[str, dict[str, str]]:
    """Family -> size -> MODEL."""
    if models_from is None:
        return {part.family: part.published() for part in parts}
    content = _read(models_from)
    if len(parts) == 1:
        given = {parts[0].family: content.get(parts[0].family, content)}
    else:
        _check(name, "family", content, [part.family for part in parts], " of --models-from")
        given = content
    for part in parts:
        models = given.get(part.family, {})
        if not isinstance(models, dict) or not all(isinstance(model, str) for model in models.values()):
            raise UsageError(f"{models_from}: expected size or name -> MODEL for {part.family}")
        _check(name, "model", map(str, models), part.known(), " of --models-from")
    return given


def _known(parts: Sequence[Part]) -> list[str]:
    return list(dict.fromkeys(size for part in parts for size in part.known()))


def _check(name: str, what: str, asked: Iterable[str], known: Sequence[str], where: str) -> None:
    for one in asked:
        if one not in known:
            raise UsageError(f"{name} has no {what} {one!r}{where}; known: {', '.join(known)}")


def _mapping(path: Path, what: str) -> dict[str, str]:
    content = _read(path)
    if not all(isinstance(key, str) and isinstance(value, str) for key, value in content.items()):
        raise UsageError(f"{path}: expected {what}")
    return content


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml_file(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # what int(), float() and others raise comes through, and RecursionError
        raise UsageError(f"{path}: cannot be read as YAML ({first_line(error)})") from None
    if not isinstance(content, dict) or not content:
        raise UsageError(f"{path}: expected a mapping, as in `125M: facebook/opt-125m`")
    return content
