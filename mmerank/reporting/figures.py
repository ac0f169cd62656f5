"""Figures of finished runs; each is drawn where its numbers were measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.scale import LogScale
from matplotlib.ticker import FuncFormatter, NullFormatter

from mmerank.analysis.diff_erank import TWIN
from mmerank.analysis.samples import Floats
from mmerank.analysis.tokens import token_curve
from mmerank.eranks import ERANKS
from mmerank.records import Record
from mmerank.reporting.finished import Finished
from mmerank.reporting.flow import flow
from mmerank.reporting.printed import published_size
from mmerank.reporting.style import bare, legend, look, panels, styled
from mmerank.reporting.tables import model_names

# Smaller eigenvalues are rounding.
_LEAST = 1e-9
_WIDEST = 42  # characters of a name


def figures(runs: Sequence[Finished], numbers: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
    """Every figure that the runs have numbers for.

    Args:
        runs: At least one.
        numbers: From `mmerank.reporting.numbers.all_numbers`.

    Yields:
        File name without ending, caption, figure.
    """
    called = {key: _short(name) for key, name in model_names(runs).items()}
    measured = [run for run in runs if run.job != "diff"]
    texts = [run for run in runs if run.job == "diff"]
    base = numbers[(numbers["transform"] == "none") & (numbers["job"] != "diff")]
    # Of a model that was measured twice alike, once.
    base = base[~base.duplicated(["model", "data", "quantity", "value"])]
    with styled():
        if measured:
            yield "eranks", "Data-set eRank at each stage, with 95 % intervals over examples.", eranks(base, called)
            for i, (_, rows) in enumerate(base.groupby(["run", "model"], sort=False)):
                title = called[rows["run"].iloc[0], rows["model"].iloc[0]]
                caption = f"Flow of eRank through {title} on {_short(rows['data'].iloc[0])}."
                yield f"flow-{i + 1}", caption, flow(rows, f"{title} on {_short(rows['data'].iloc[0])}")
        found = [(run, model) for run in measured for model in run.frames if run.convention.get("token_curve")]
        if found:
            caption = "eRank of random subsets against their number of rows; dotted: the largest possible value."
            yield "token-curve", caption, token_curves(found, called)
        if texts:
            layered = [(run, model) for run in texts for model in run.frames if len(_points(run, model)) > 1]
            if layered:
                yield "layers", "eRank by layer, untrained and trained, with 95 % intervals.", layers(layered, called)
            if (sized := _sized(numbers)) is not None:
                caption = "Diff-eRank and reduced loss against size, with 95 % intervals; grey: the paper."
                yield "size", caption, against_size(sized)
        caption = "Mean spectrum over examples (an example with fewer eigenvalues counts as 0 beyond them)."
        pairs = list(dict.fromkeys(zip(base["run"], base["model"], strict=True)))
        of_pairs = [(run, model) for run in measured for model in run.frames if (run.name, model) in pairs]
        for name, of in (
            ("spectra", of_pairs),
            ("spectra-texts", [(run, model) for run in texts for model in run.frames]),
        ):
            if of:
                yield name, caption, spectra(of, called)


def eranks(base: pd.DataFrame, called: dict[tuple[str, str], str]) -> Figure:
    """eRank1 to eRank5 of each model, a panel per data set.

    Args:
        base: Numbers of untouched examples.
        called: Name by run and model.

    Returns:
        The figure.
    """
    figure, grid = panels(base["data"].nunique(), columns=2, size=(4.6, 2.7))
    order = list(dict.fromkeys(zip(base["run"], base["model"], strict=True)))
    for axes, (data, rows) in zip(grid, base.groupby("data", sort=False), strict=True):
        here = list(dict.fromkeys(zip(rows["run"], rows["model"], strict=True)))
        for i, key in enumerate(here):
            of = rows[(rows["run"] == key[0]) & (rows["model"] == key[1])].set_index("quantity").loc[list(ERANKS)]
            x = np.arange(len(ERANKS)) + (i - (len(here) - 1) / 2) * min(0.15, 0.7 / len(here))
            style = look(order.index(key)) | {"linestyle": "none"}
            axes.errorbar(x, of["value"], yerr=_distances(of), capsize=2.5, label=called[key], **style)
        axes.set_xticks(
            range(len(ERANKS)), [f"{k.replace('erank', 'eRank')}\n{p}\n{i}" for k, (p, i) in ERANKS.items()]
        )
        axes.set_ylim(bottom=0)
        axes.set_ylabel("eRank")
        axes.set_title(_short(str(data)))
        bare(axes)
    legend(figure, grid)
    return figure


def token_curves(found: Sequence[tuple[Finished, str]], called: dict[tuple[str, str], str]) -> Figure:
    """A curve of eRank against the number of rows for each stage, a panel per model.

    Args:
        found: Runs with a curve, and their models.
        called: Name by run and model.

    Returns:
        The figure.
    """
    figure, grid = panels(len(found))
    for axes, (run, model) in zip(grid, found, strict=True):
        convention = run.convention
        curve = token_curve(
            run.of(model),
            tokens=convention["token_curve"],
            repeats=convention["match_repeats"],
            aggregate=convention["aggregate"],
        )
        for i, label in enumerate(ERANKS):
            points = [(x, y) for x, y in zip(curve["tokens"], curve[label], strict=True) if y is not None]
            if points:
                axes.plot(*zip(*points, strict=True), label=_stage(label), **look(i))
        rows = np.array(curve["tokens"], dtype=float)
        axes.plot(rows, rows - 1, color="0.5", linewidth=1, linestyle=(0, (1, 2)), label="n - 1")
        _log(axes, "both", base=2)
        axes.set_xticks(rows, [f"{row:.0f}" for row in rows])
        axes.set_title(called[run.name, model])
        axes.set_xlabel("rows n")
        bare(axes)
    grid[0].set_ylabel("eRank")
    legend(figure, grid)
    return figure


def layers(found: Sequence[tuple[Finished, str]], called: dict[tuple[str, str], str]) -> Figure:
    """Curves of eRank by layer, a panel per model.

    Args:
        found: Runs of texts with more hook points than the last, and their models.
        called: Name by run and model.

    Returns:
        The figure.
    """
    figure, grid = panels(len(found))
    for axes, (run, model) in zip(grid, found, strict=True):
        rows = run.estimates[run.estimates["model"] == model]
        points = _points(run, model)
        for i, (quantity, label) in enumerate((("erank_untrained", "untrained"), ("erank_trained", "trained"))):
            of = rows[rows["quantity"] == quantity].set_index("point").loc[points]
            style = look(i)
            axes.plot(range(len(points)), of["value"], label=label, **style)
            axes.fill_between(range(len(points)), of["low"], of["high"], color=style["color"], alpha=0.2, linewidth=0)
        step = max(1, -(-len(points) // 8))
        shown = [*range(0, len(points) - 1 - step // 2, step), len(points) - 1]
        axes.set_xticks(shown, [points[i].removeprefix("layer ") for i in shown])
        axes.set_ylim(bottom=0)
        axes.set_xlabel("layer")
        axes.set_title(called[run.name, model])
        bare(axes)
    grid[0].set_ylabel("eRank")
    legend(figure, grid)
    return figure


def against_size(sized: pd.DataFrame) -> Figure:
    """Diff-eRank and reduced loss against the number of parameters, as in the paper's Figure 1.

    Args:
        sized: Numbers of published models, with `family` and `parameters`.

    Returns:
        The figure.
    """
    labels = {"diff_erank": "Diff-eRank", "reduced_loss": "reduced loss (nats)"}
    figure, grid = panels(2, columns=2)
    for axes, (quantity, label) in zip(grid, labels.items(), strict=True):
        here = sized[sized["quantity"] == quantity]
        for i, ((family, data, _), rows) in enumerate(here.groupby(["family", "data", "run"], sort=False)):
            of = rows.sort_values("parameters")
            axes.errorbar(
                of["parameters"],
                of["value"],
                yerr=_distances(of),
                capsize=2.5,
                label=f"{family}, {_short(str(data))}",
                **look(i),
            )
            if of["paper"].notna().any():
                style = look(i) | {"color": "0.55", "linewidth": 1}
                axes.plot(of["parameters"], of["paper"], label=f"{family}, {data} (paper)", **style)
        ticks = here.drop_duplicates("parameters").sort_values("parameters")
        _log(axes, "x")
        axes.set_xticks(ticks["parameters"], ticks["size"], rotation=45, ha="right", rotation_mode="anchor")
        axes.set_xlabel("parameters")
        axes.set_ylabel(label)
        bare(axes)
    legend(figure, grid)
    return figure


def spectra(found: Sequence[tuple[Finished, str]], called: dict[tuple[str, str], str]) -> Figure:
    """How the eigenvalues decay, a panel per model.

    Args:
        found: Runs and their models.
        called: Name by run and model.

    Returns:
        The figure.
    """
    figure, grid = panels(len(found))
    for axes, (run, model) in zip(grid, found, strict=True):
        for i, (label, records) in enumerate(_spectra_of(run, model).items()):
            mean = mean_spectrum(records)
            shown = mean > _LEAST
            style = look(i) | {"marker": "none"}
            axes.plot(np.arange(1, len(mean) + 1)[shown], mean[shown], label=label, **style)
        _log(axes, "both")
        axes.set_title(called[run.name, model])
        axes.set_xlabel("rank of the eigenvalue")
        bare(axes)
    grid[0].set_ylabel("mean eigenvalue")
    legend(figure, grid)
    return figure


def mean_spectrum(records: Sequence[Record]) -> Floats:
    """Mean over examples of the k-th largest eigenvalue.

    Args:
        records: Of one measurement; at least one.

    Returns:
        Sum 1, as long as the longest spectrum; float64.
    """
    total = np.zeros(max(len(record.spectrum) for record in records))
    for record in records:
        total[: len(record.spectrum)] += record.spectrum
    return np.asarray(total / len(records))


def _spectra_of(run: Finished, model: str) -> dict[str, list[Record]]:
    if run.job != "diff":
        records = run.of(model)
        return {_stage(label): [r for r in records if (r.point, r.input) == where] for label, where in ERANKS.items()}
    twins = {name for name in run.frames[model]["model"].unique() if name.startswith(TWIN)}
    final = [record for record in run.records if record.point == "final"]
    found = {
        "untrained": [record for record in final if record.model in twins],
        "trained": [record for record in final if record.model == model],
    }
    return {label: records for label, records in found.items() if records}


def _points(run: Finished, model: str) -> list[str]:
    """Hook points of a model of texts, from the first layer to the last."""
    points = list(run.estimates.loc[run.estimates["model"] == model, "point"].unique())
    return sorted(points, key=lambda point: int(digits) if (digits := point.rsplit(" ", 1)[-1]).isdigit() else 10**9)


def _sized(numbers: pd.DataFrame) -> pd.DataFrame | None:
    """Numbers of models of the paper's families, where there are two sizes of one."""
    here = numbers[(numbers["job"] == "diff") & (numbers["point"] == "final")]
    here = here[[published_size(model) is not None for model in here["model"]]]
    if here.empty:
        return None
    family, size = zip(*(published_size(model) or ("", "") for model in here["model"]), strict=True)
    here = here.assign(family=family, size=size)
    if here.groupby("family")["size"].nunique().max() < 2:
        return None
    return here.assign(parameters=[float(s[:-1]) * {"M": 1e6, "B": 1e9}[s[-1]] for s in here["size"]])


def _distances(of: pd.DataFrame) -> Floats:
    """From the value down to the lower limit, and up to the upper one; nothing where there are none."""
    below, above = of["value"] - of["low"], of["high"] - of["value"]
    return np.asarray(np.nan_to_num(np.clip(np.stack([below, above]).astype(float), 0, None)))


def _log(axes: Axes, which: str, base: int = 10) -> None:
    for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        if which in (name, "both"):
            axes.set(**{f"{name}scale": LogScale(axis, base=base)})
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())


def _stage(label: str) -> str:
    point, kind = ERANKS[label]
    return f"{label.replace('erank', 'eRank')} {point}/{kind}"


def _short(name: str) -> str:
    line = " ".join("".join(sign if sign.isprintable() else " " for sign in name).split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST // 2]}…{line[-_WIDEST // 2 + 1 :]}"
