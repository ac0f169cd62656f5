"""Some rungs as checkpoints, with their truth as scores: what a study takes and a report holds numbers against."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from mmerank.durable import whole
from mmerank.inputs.demo import MODELS
from scripts.ladder.rungs import Rung
from scripts.ladder.training import Student

SCORES = "scores.csv"
BENCHMARK = "caption accuracy"
_SHARED = ("tokenizer*", "processor_config.json")


def can_be_kept(rung: Rung) -> bool:
    """Whether its layout is that of a published family: LLaVA with a connector of its own kind."""
    return rung.shape == "llava" and rung.connector in ("own", "frozen")


def keep(student: Student, folder: Path) -> None:
    """A checkpoint of a LLaVA, in the layout of its published ones.

    Args:
        student: The model.
        folder: Is made; what is in it of these names is written anew.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cast("Any", student.adapter.model).save_pretrained(folder)
    for file in (found for of in _SHARED for found in MODELS["demo-llava"].glob(of)):
        shutil.copy(file, folder / file.name)


def write_scores(accuracies: Mapping[str, float], count: int, folder: Path) -> None:
    """What `mmerank report --scores` takes.

    Args:
        accuracies: By MODEL argument, shares.
        count: Pictures behind each.
        folder: Where `SCORES` is written.
    """
    rows = [f"{model},{BENCHMARK},{value:.6f},{count},fraction\n" for model, value in accuracies.items()]
    with whole(folder / SCORES) as unfinished:
        unfinished.write_text("".join(["model,benchmark,value,n,unit\n", *rows]))
