"""Every example's numbers, with its text and picture where the data can still be found."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.embedded import UNTRAINED
from mmerank.analysis.metrics.known import main_sample
from mmerank.analysis.metrics.matched_cosine import METRIC as MATCHED_COSINE
from mmerank.eranks import ERANKS
from mmerank.errors import MmerankError, printable
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import open_picture
from mmerank.runs.jobs import CHANGE

_OF_TEXTS = ("erank_untrained", "erank_trained", "diff_erank", "loss_untrained", "loss_trained", "reduced_loss")
EXTREMES = 4
LONGEST_TEXT = 300  # characters, of ids too
_THUMBNAIL_PX, _MAPPED_PX = 240, 480


@dataclass(frozen=True)
class Shown:
    """One example among the most or the least.

    Attributes:
        id: Of the example, as a page shows it.
        value: What it is ranked by, mean over models and transforms.
        text: What the model read, cut; empty where it was not found.
        picture: As a data URL; empty where there is none, or it was not found.
        alone: Its numbers: model, transform, and values by quantity.
    """

    id: str
    value: float
    text: str
    picture: str
    alone: tuple[tuple[str, str, dict[str, float]], ...]


def by_example(run: Finished) -> pd.DataFrame:
    """A row per model, transform and example.

    Args:
        run: Any.

    Returns:
        `id`, `model`, `tokens` (behind eRank5, or of the text; of encoders, the patches at the last layer), the
        quantities of the example alone, and of a perturbation `transform` and `mean_entropy_change`.
    """
    tables = [
        _alone(run, model, str(transform), frame)
        for model, records in run.frames.items()
        for transform, frame in records.groupby("transform", sort=False)
        if set(frame["input"]) != {"pair"}  # null draws
    ]
    table = pd.concat(tables, ignore_index=True)
    if not run.perturbed:
        return table.drop(columns="transform")
    base = table[table["transform"] == "none"].set_index(["model", "id"])
    pairs = pd.MultiIndex.from_frame(table[["model", "id"]])
    labels = [name for name in (("erank_image", "erank_text") if run.of_encoders else ERANKS) if name in table]
    moved = [np.abs(np.log(table[label]) - np.log(base.loc[pairs, label].to_numpy())) for label in labels]
    table[CHANGE] = np.where(table["transform"] == "none", math.nan, np.mean(moved, axis=0))
    return table


def extremes(run: Finished, table: pd.DataFrame, found: Mapping[str, Example]) -> tuple[list[Shown], list[Shown]]:
    """The examples with the highest and the lowest of what their job ranks by.

    Args:
        run: Any.
        table: From `by_example`.
        found: Examples by id.

    Returns:
        Highest first, and lowest first; no example in both.
    """
    ranked = table.groupby("id")[run.kind.ranked_by].mean().dropna().sort_values(ascending=False, kind="stable")
    count = min(EXTREMES, len(ranked) // 2)

    def shown(names: Sequence[str]) -> list[Shown]:
        return [
            Shown(
                id_shown(name),
                float(ranked[name]),
                text_of(found.get(name)),
                picture_of(found.get(name), _THUMBNAIL_PX, "RGB")[0],
                _rows(table, name),
            )
            for name in names
        ]

    return shown(list(ranked.index[:count])), shown(list(ranked.index[::-1][:count]))


def text_of(example: Example | None) -> str:
    """What the model read, cut to a length that a table bears; empty for nothing."""
    if example is None:
        return ""
    return cut(example.text)


def cut(text: str) -> str:
    """Text of a length that a page bears."""
    return text if len(text) <= LONGEST_TEXT else f"{text[: LONGEST_TEXT - 1]}…"


def id_shown(name: str) -> str:
    """An id as a page shows it: on one line, control characters made visible, cut."""
    return cut(printable(name[: LONGEST_TEXT + 1]))


def _alone(run: Finished, model: str, transform: str, frame: pd.DataFrame) -> pd.DataFrame:
    if run.of_encoders:
        return _encoded(run, model, transform, frame)
    point = "final" if run.job == "diff" else ""
    chosen = main_sample(frame, aggregate=run.convention["aggregate"], **({"point": point} if point else {}))
    with np.errstate(invalid="ignore", divide="ignore"):  # a text without a loss
        values = pd.DataFrame(chosen.of_means(chosen.columns), columns=list(chosen.quantities))
    if point:
        counted = frame[(frame["model"] == model) & (frame["point"] == point)]
        values = values[[name for name in _OF_TEXTS if name in values]]
    else:
        counted = frame[frame["input"] == run.kind.counted]
    values = values.drop(columns="response_tokens", errors="ignore")  # beside their rows
    tokens = counted.drop_duplicates("example").set_index("example")["n"]
    values.insert(0, "tokens", tokens.loc[list(chosen.examples)].to_numpy())
    for i, (name, column) in enumerate({"id": list(chosen.examples), "model": model, "transform": transform}.items()):
        values.insert(i, name, column)
    return values


def _encoded(run: Finished, model: str, transform: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Each example of encoders: eRank at the last layer of each side, and the cosine of picture and text."""
    at_end = frame[frame["embedding"].notna()]
    values: dict[str, pd.Series[Any]] = {}
    twins = [of for of in frame["model"].unique() if of != model]
    for name, end in zip([model, *twins], ("", UNTRAINED), strict=False):
        for side, rows in at_end[at_end["model"] == name].groupby("input"):
            values[f"erank_{side}{end}"] = rows.set_index("example")["erank"]
            if name == model and side == "image":
                values = {"tokens": rows.set_index("example")["n"], **values}
    table = pd.DataFrame(values).dropna()
    for _, cosines in MATCHED_COSINE.samples(frame, run.convention["aggregate"]):
        of_each = pd.DataFrame(cosines.columns, index=list(cosines.examples), columns=list(cosines.quantities))
        table = table.join(of_each)
    table = table.rename_axis("id").reset_index()
    table.insert(1, "model", model)
    table.insert(2, "transform", transform)
    return table


def _rows(table: pd.DataFrame, name: str) -> tuple[tuple[str, str, dict[str, float]], ...]:
    rows = table[table["id"] == name]
    quantities = [column for column in map(str, rows.columns) if column not in ("id", "model", "transform")]
    return tuple(
        (row["model"], row.get("transform", ""), {quantity: float(row[quantity]) for quantity in quantities})
        for _, row in rows.iterrows()
    )


def picture_of(example: Example | None, most: int = _MAPPED_PX, mode: str = "L") -> tuple[str, tuple[int, int]]:
    """A small copy of an example's picture, of several side by side.

    Args:
        example: None where it was not found.
        most: Pixels of the longer side of each.
        mode: `RGB`, or `L` for grey, on which colours of a map can be told.

    Returns:
        As a data URL, empty where there is none, and its width and height, alike where it is not known.
    """
    if example is None or example.image is None:
        return "", (1, 1)
    try:
        pictures = [open_picture(of) for of in example.pictures]
    except (MmerankError, OSError):
        return "", (1, 1)
    whole = pictures[0].size
    for each in pictures:
        each.thumbnail((most, most))
    picture = _side_by_side(pictures)
    out = io.BytesIO()
    picture.convert(mode).save(out, "JPEG", quality=80)
    url = f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
    return url, whole if len(pictures) == 1 else picture.size


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    if len(pictures) == 1:
        return pictures[0]
    row = Image.new("RGB", (sum(of.width for of in pictures), max(of.height for of in pictures)), "white")
    for i, picture in enumerate(pictures):
        row.paste(picture, (sum(of.width for of in pictures[:i]), 0))
    return row
