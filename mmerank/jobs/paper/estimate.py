"""What a study needs, before anything is loaded: models, data, memory, time, and what must be fetched by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from mmerank.errors import in_short
from mmerank.jobs.ahead import BESIDE_WEIGHTS, FLOPS, seconds_by_rule
from mmerank.jobs.fit import GB
from mmerank.jobs.paper.studies import OPENELM_TOKENIZER, OPT_1_3B, ROTATIONS, Job, parameters
from mmerank.models.sizes import weights_of

BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
# Parameters that no name tells.
COUNTS = {"LLaVA-1.5": 7.06e9, "MiniGPT-v2": 7.8e9}
# Image tokens that the LLM reads.
IMAGE_TOKENS = {"LLaVA-1.5": 576, "MiniGPT-v2": 256}
# Number of examples, and tokens of a text, roughly.
SIZES = {
    "dolly-15k": (4467, 250),
    "wikipedia": (10_000, 700),
    "openwebtext2": (10_000, 900),
    "hh-rlhf": (8552, 250),
    "openbookqa": (500, 20),
    "piqa": (1838, 30),
    "detail_23k": (23_240, 150),
    "cc_sbu_align": (3439, 80),
}
# Passes of the trained model and its untrained twins with dropout off and on.
TEXT_PASSES = 3
# Conventions that a sweep measures, at most.
SWEPT = 11

BY_HAND = {
    "MiniGPT-v2": (
        "three files, and a YAML file that names them (see README): Llama-2-7b-chat-hf (the hub, after its licence "
        "is accepted), eva_vit_g.pth and checkpoint_stage3.pth (links in the MiniGPT-4 code)"
    ),
    "detail_23k": (
        "detail_23k.json of the data set liuhaotian/LLaVA-Instruct-150K on the hub, and COCO's train2017.zip "
        '(18 GB); --data-from FILE with `detail_23k: "llava:detail_23k.json?images=train2017"`'
    ),
    "cc_sbu_align": (
        "the archive that dataset/README_2_STAGE.md of the MiniGPT-4 code links to; --data-from FILE with "
        "`cc_sbu_align: minigpt:cc_sbu_align`"
    ),
    OPENELM_TOKENIZER: "its licence must be accepted on the hub; or --tokenizer with a copy of Llama-2's tokenizer",
    OPT_1_3B: (
        "the stages `fully trained` and `overfitting` are not published: scripts/continue_training.py makes such "
        "checkpoints and writes the file for --models-from"
    ),
}


@dataclass(frozen=True)
class Need:
    """What one model of a study needs.

    Attributes:
        name: Family and size.
        model: MODEL argument; empty where it must be fetched by hand.
        parameters: Their number; None if unknown.
        gpu_gb: GPU memory; of a language model, with its untrained twin. Where both do not fit, they take turns and
            half is enough.
        hours: On one large GPU, for all data sets; None where sizes are unknown.
    """

    name: str
    model: str
    parameters: float | None
    gpu_gb: float | None
    hours: float | None


@dataclass(frozen=True)
class Needs:
    """What a study needs.

    Attributes:
        models: One by one.
        data: Name, DATA argument, number of examples or None.
        by_hand: What to fetch, in words.
    """

    models: tuple[Need, ...]
    data: tuple[tuple[str, str, int | None], ...]
    by_hand: tuple[tuple[str, str], ...]

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it."""
        return {
            "models": [asdict(need) for need in self.models],
            "data": [dict(zip(("name", "data", "examples"), row, strict=True)) for row in self.data],
            "by_hand": [{"name": name, "what": what} for name, what in self.by_hand],
        }


def needs(jobs: list[Job], *, dtype: str | None = None, sweep: bool = False) -> Needs:
    """What some jobs need, from names and from the heads of local files alone.

    Args:
        jobs: From `planned`.
        dtype: As asked for.
        sweep: Whether the conventions are swept.

    Returns:
        Models, data, and what must be fetched by hand.
    """
    models = [_need(job, size, model, dtype, sweep) for job in jobs for size, model in job.models.items()]
    data = {
        name: (name, argument, _examples(name, argument, job)) for job in jobs for name, argument in job.data.items()
    }
    return Needs(tuple(models), tuple(data.values()), tuple(dict(_by_hand(jobs)).items()))


def _by_hand(jobs: list[Job]) -> Iterator[tuple[str, str]]:
    for job in jobs:
        missing = [size for size, model in job.models.items() if not model]
        missing += [name for name, data in job.data.items() if name == data and name in BY_HAND]
        missing += [job.tokenizer] if job.tokenizer == OPENELM_TOKENIZER else []
        missing += [OPT_1_3B] if job.part.family == OPT_1_3B and len(job.models) == 1 else []
        yield from ((name, BY_HAND[name]) for name in missing)


def _examples(name: str, argument: str, job: Job) -> int | None:
    # A local file may hold any number.
    known = SIZES[name][0] if argument == name or not _stands_for_itself(argument) else None
    asked = [known or limit if limit is None else min(limit, known or limit) for limit in job.limits]
    return max((n for n in asked if n), default=None)


def _stands_for_itself(argument: str) -> bool:
    return argument.partition(":")[0] in ("text", "hub", "llava", "minigpt", "demo")


def _need(job: Job, size: str, model: str, dtype: str | None, sweep: bool) -> Need:
    name = size if job.part.multimodal else f"{job.part.family} {size}"
    # Of another checkpoint the size is not that of its column.
    count = _published(job, size) if model == job.part.published().get(size) else _counted(model)
    width = BYTES.get(dtype or ("float16" if job.part.multimodal else "float32"), 4)
    if count is None:
        return Need(name, model, None, None, None)
    together = 1 if job.part.multimodal else 2
    seconds = 0.0
    for data, argument in job.data.items():
        examples = _examples(data, argument, job)
        if examples is None:
            return Need(name, model, count, (together * count * width + BESIDE_WEIGHTS) / GB, None)
        text = SIZES[data][1]
        if job.part.multimodal:
            # One pass of image and text together, one of the text alone; five spectra.
            image, times = IMAGE_TOKENS[size] + text, 1 + len(ROTATIONS) * (job.part.table == 3)
            tokens, spectra = times * image + text, 5 * times
            tokens, spectra = (n * (SWEPT if sweep else 1) for n in (tokens, spectra))
        else:
            points = 1 + len(job.part.layers.split(",")) * bool(job.part.layers)
            examples = sum(min(limit or examples, examples) for limit in job.limits)
            tokens, spectra = TEXT_PASSES * text, TEXT_PASSES * points
        seconds += examples * seconds_by_rule(count, tokens, FLOPS[width], spectra)
    return Need(name, model, count, (together * count * width + BESIDE_WEIGHTS) / GB, seconds / 3600)


def _published(job: Job, size: str) -> float | None:
    if job.part.multimodal:
        return COUNTS.get(size)
    return parameters("1.3B" if job.part.family == OPT_1_3B else size)


def _counted(model: str) -> float | None:
    found = weights_of(model)
    return None if found is None else float(found.parameters)


def needs_tables(name: str, found: Needs) -> list[Table]:
    """Models and data in tables.

    Args:
        name: Of the study.
        found: What it needs.

    Returns:
        Tables for a rich console.
    """
    models = Table(title=f"{name} needs these models", title_justify="left")
    for heading in ("model", "MODEL", "parameters", "GPU memory", "time"):
        models.add_column(heading, justify="left" if "odel" in heading.lower() else "right", overflow="fold")
    for need in found.models:
        size = "?" if need.parameters is None else in_short(need.parameters)
        memory = "?" if need.gpu_gb is None else f"{need.gpu_gb:.0f} GB"
        hours = (
            "?" if need.hours is None else f"{need.hours:.1f} h" if need.hours >= 1 else f"{60 * need.hours:.0f} min"
        )
        models.add_row(need.name, Text(need.model or "by hand"), size, memory, hours)
    data = Table(title="and these data", title_justify="left")
    for heading in ("data set", "DATA", "examples"):
        data.add_column(heading, justify="right" if heading == "examples" else "left", overflow="fold")
    for set_, argument, examples in found.data:
        where = "by hand" if argument == set_ and set_ in BY_HAND else argument
        data.add_row(set_, Text(where), "?" if examples is None else f"{examples:,}")
    return [models, data]


def needs_notes(found: Needs) -> list[str]:
    """What stands below the tables.

    Args:
        found: What a study needs.

    Returns:
        Lines.
    """
    lines = [
        "Memory: weights and 2 GB; of a language model with its untrained twin (where both do not fit, they take "
        "turns and half is enough).",
        "Time: on one large GPU, within a factor of 3 or so: forward passes, and 0.05 s for each spectrum.",
    ]
    lines += [f"By hand, {name}: {what}." for name, what in found.by_hand]
    hub = [need.model for need in found.models if need.model and not Path(need.model).exists()]
    if hub:
        lines.append(
            f"From the hub, when it runs: {', '.join(dict.fromkeys(hub))}; and data sets by their names above."
        )
    return lines
