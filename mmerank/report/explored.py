"""What is found of one example, as HTML for the page on which it is explored: flow, maps, spectra and layers."""

from __future__ import annotations

import base64
import io
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from mmerank.analysis.metrics.alignment import ALIGNMENT, DECIMALS, LABELS
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.layers import ROWS, layer_names
from mmerank.analysis.metrics.vision_layers import ALL
from mmerank.analysis.results.alignment import AlignmentResult
from mmerank.analysis.sample import Floats
from mmerank.eranks import ERANKS, by_label, update_at
from mmerank.report.figures.explored import layers_of_one, spectra_of_one
from mmerank.report.figures.flow import TITLES
from mmerank.report.figures.style import stage, styled, svg
from mmerank.report.maps import AtEnd
from mmerank.report.render.html import environment
from mmerank.runs.record import Record

_SHOWN_PX = 360
# matplotlib's settings are global, and several people may look.
_drawing = threading.Lock()


@dataclass(frozen=True)
class Side:
    """One model's numbers of an example.

    Attributes:
        name: Of the model, as it is shown.
        result: Of this example alone.
        before: The same before its picture was changed; None where it is not.
    """

    name: str
    result: AlignmentResult
    before: AlignmentResult | None = None


@dataclass(frozen=True)
class _Stage:
    """A number as it is shown, with its bar in percent of the longest; a ratio has none."""

    label: str
    where: str
    rows: str
    value: str
    was: str
    bar: float
    bar_was: float


def explored_html(sides: Sequence[Side], mapped: AtEnd | None, within: str) -> str:
    """Models side by side: numbers first, then where the rank lies, then spectra and layers.

    Args:
        sides: At least one.
        mapped: Where the rank lies in each model; None where patches were not asked for.
        within: Where on the page it stands, so that ids are not those of another place.

    Returns:
        HTML; whatever comes from data is escaped.
    """
    numbers = [
        getattr(of, label) for side in sides for of in (side.result, side.before or side.result) for label in ERANKS
    ]
    longest = max((number for number in numbers if math.isfinite(number)), default=1.0)
    views = []
    for i, side in enumerate(sides):
        before = side.before
        points, curves = _layers(side.result)
        with _drawing, styled():
            spectra = spectra_of_one(_spectra(side.result), _spectra(before) if before else None)
            layers = layers_of_one(points, curves, _layers(before)[1] if before else None, of="LLM")
            figures = [_svg(spectra, f"{within}-spectra-{i}"), _svg(layers, f"{within}-layers-{i}")]
        stages = [_stage(side, label, longest) for label in ALIGNMENT]
        views.append(
            {
                "name": side.name,
                "stages": [stage for stage in stages if stage.label in TITLES],
                "ratios": [stage for stage in stages if stage.label not in TITLES],
                "undefined": side.result.undefined,
                "figures": [drawn for drawn in figures if drawn],
                "changed": side.before is not None,
            }
        )
    heads = {label: LABELS[label] for label in ALIGNMENT}
    shown = mapped if mapped and mapped.models else None
    return environment().get_template("explored.html").render(sides=views, mapped=shown, heads=heads, within=within)


def _spectra(result: AlignmentResult) -> dict[str, Floats]:
    """Of the five measurements of one example."""
    return {
        stage(label): np.asarray(record.spectrum, np.float64)
        for label, records in by_label(result.records).items()
        for record in records
        if len(record.spectrum)
    }


def _layers(result: AlignmentResult) -> tuple[list[str], dict[str, Floats]]:
    """Layers of vision encoder and LLM, and curves of the picture's rows there, and of the pair's here, by role."""
    encoder, llm = result.vision_layers or [], result.layers or []
    curves = {f"{name} rows": _curve([*[{}] * len(encoder), *llm], name) for name in ROWS}
    if encoder:
        curves["vision encoder"] = _curve([*encoder, *[{}] * len(llm)], ALL)
    return [str(at["point"]) for at in (*encoder, *llm)], curves


def _curve(layers: Sequence[Mapping[str, Any]], name: str) -> Floats:
    return np.array([np.nan if at.get(name) is None else at[name] for at in layers])


@dataclass(frozen=True)
class Alone:
    """One model's numbers of an example that is no pair of a model with an LLM.

    Attributes:
        name: Of the model, as it is shown.
        numbers: What they are called, and as they are shown.
        records: Of the example, those of untrained twins among them, spectra too.
        before: The same before a change; none where there is none.
        written: What the model wrote; empty where it wrote nothing.
    """

    name: str
    numbers: Sequence[tuple[str, str]]
    records: Sequence[Record]
    before: Sequence[Record] = ()
    written: str = ""


def alone_html(sides: Sequence[Alone], within: str) -> str:
    """Models side by side: numbers, what was written, spectra at the last layer, and layers.

    Args:
        sides: At least one.
        within: As for `explored_html`.

    Returns:
        HTML; whatever comes from data is escaped.
    """
    views = []
    for i, side in enumerate(sides):
        now, before = (list(filter(_drawn, records)) for records in (side.records, side.before))
        points, curves = _by_layer(now)
        with _drawing, styled():
            drawn = spectra_of_one(_last_spectra(now), _last_spectra(before))
            layers = layers_of_one(points, curves, _by_layer(before)[1], of="model")
            figures = [_svg(drawn, f"{within}-spectra-{i}"), _svg(layers, f"{within}-layers-{i}")]
        views.append({"side": side, "figures": [figure for figure in figures if figure]})
    return environment().get_template("explored.html").render(alone=views)


def _drawn(record: Record) -> bool:
    """Whether it is of all rows at a place of the model: not of what a block adds, nor of rows that were kept."""
    return update_at(record.point) is None and "@" not in record.input


def _called(record: Record) -> str:
    """What a record is of, of several that an example has at a layer."""
    return f"{record.input}, untrained" if record.model.startswith(TWIN) else record.input


def _last_spectra(records: Sequence[Record]) -> dict[str, Floats]:
    """Of each input the spectrum at the last layer that has one; of several twins that of the first."""
    found: dict[str, tuple[str, Floats]] = {}
    for record in records:
        if len(record.spectrum) and found.get(_called(record), (record.model, None))[0] == record.model:
            found[_called(record)] = (record.model, np.asarray(record.spectrum, np.float64))
    return {label: values for label, (_, values) in found.items()}


def _by_layer(records: Sequence[Record]) -> tuple[list[str], dict[str, Floats]]:
    """Layers, and the eRank at each; of several twins their mean."""
    points = list(dict.fromkeys(record.point for record in records))
    if not layer_names(pd.Series(points, dtype=str)):
        return [], {}
    found: dict[str, dict[str, list[float]]] = {}
    for record in records:
        found.setdefault(_called(record), {}).setdefault(record.point, []).append(math.exp(record.entropy))
    return points, {
        label: np.array([np.mean(at[point]) if point in at else np.nan for point in points])
        for label, at in found.items()
    }


def _stage(side: Side, label: str, longest: float) -> _Stage:
    value = getattr(side.result, label)
    was = getattr(side.before, label) if side.before is not None else math.nan
    rows = side.result.mean_tokens(label) if label in ERANKS else math.nan
    return _Stage(
        label,
        TITLES.get(label, ""),
        f"{rows:.0f} rows" if math.isfinite(rows) else "",
        f"{value:.{DECIMALS[label]}f}" if math.isfinite(value) else "undefined",
        f"{was:.{DECIMALS[label]}f}" if math.isfinite(was) else "",
        100 * value / longest if math.isfinite(value) else 0,
        100 * was / longest if math.isfinite(was) else -1,
    )


def _svg(figure: Figure | None, name: str) -> str:
    return "" if figure is None else svg(figure, name)


def picture_html(picture: Image.Image, told: str) -> str:
    """A picture, small.

    Args:
        picture: RGB.
        told: Below it.

    Returns:
        HTML.
    """
    small = picture.copy()
    small.thumbnail((_SHOWN_PX * 2, _SHOWN_PX * 2))
    out = io.BytesIO()
    small.save(out, "PNG" if max(small.size) <= _SHOWN_PX else "JPEG")
    kind = "png" if max(small.size) <= _SHOWN_PX else "jpeg"
    url = f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"
    return _macro("picture", url, told)


def heading_html(told: str) -> str:
    """The head of the page, with a sentence on what it is."""
    return _macro("heading", told)


def message_html(told: str) -> str:
    """What went wrong, to be shown where numbers would stand."""
    return _macro("message", told)


def _macro(name: str, *arguments: str) -> str:
    module: Any = environment().get_template("explored.html").module
    return str(getattr(module, name)(*arguments))


def explored_css() -> str:
    """The look of all of this, which is the report's within the page's own colours."""
    page = files("mmerank.report")
    report = page.joinpath("page/report.css").read_text()
    return f".explored {{ {report} }}\n{page.joinpath('page/explored.css').read_text()}"
