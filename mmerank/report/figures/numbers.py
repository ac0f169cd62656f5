"""Figures of finished runs; each is drawn where its numbers were measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.analysis.metrics.token_curve import token_curve
from mmerank.analysis.perturbation import differences_frame
from mmerank.analysis.sample import Floats
from mmerank.eranks import ERANKS, FINAL
from mmerank.report.figures.changes import changes
from mmerank.report.figures.doses import doses, sweeps
from mmerank.report.figures.flow import flow_drawing
from mmerank.report.figures.generation import growths
from mmerank.report.figures.inside import has_updates, updates_by_block
from mmerank.report.figures.layers import has_layers, has_vision_layers, layer_curves
from mmerank.report.figures.main import STAGES, points
from mmerank.report.figures.panels import Drawing
from mmerank.report.figures.pruning import against_erank, losses
from mmerank.report.figures.sizes import against_size, sized
from mmerank.report.figures.style import bare, log_axes, look, shortened, shortened_apart, stage
from mmerank.report.figures.training import training, trajectories
from mmerank.report.names import data_names, model_names

# Smaller eigenvalues are rounding.
_LEAST = 1e-9
_PARTS = {"reduction_by_count": "by fewer\nrows", "reduction_by_geometry": "by the\nconnector itself"}
_FLOWS = 6  # of more models the figures that have them side by side say the same


def drawings(runs: Sequence[Finished], numbers: pd.DataFrame) -> Iterator[Drawing]:
    """Every figure that the runs have numbers for.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.

    Yields:
        Figures.
    """
    data = _called_data(runs)
    trained = trajectories(runs)
    passed = {key for of in trained for key in of.between}
    shown = [(run, model) for run in runs for model in run.frames if (run.name, model) not in passed]
    pairs = [(run, model) for run, model in shown if run.kind.of_pairs]
    texts = [(run, model) for run, model in shown if run.job == "diff"]
    encoders = [(run, model) for run, model in shown if run.job == "encode"]
    written = [(run, model) for run, model in shown if run.job == "generate"]
    yield from _of_pairs(pairs, numbers, data)
    if (of_sizes := sized(numbers)) is not None:
        yield against_size(of_sizes, data)
    for i, of in enumerate(trained):
        yield training(of, numbers, f"training-{i + 1}")
    for some, name, of_what in (
        (pairs, "layers", "of the LLM, of all rows of the pair, of its image rows and of its text rows"),
        (texts, "layers-texts", "of the LLM, untrained and trained"),
    ):
        if found := [(run, model) for run, model in some if has_layers(run, model)]:
            if some is pairs and any(run.match_tokens for run, _ in found):
                of_what += ", and of equally many drawn at random"
            yield layer_curves(found, _called(found, data), name, of_what)
    if found := [(run, model) for run, model in pairs if has_vision_layers(run, model)]:
        of_what = "of the vision encoder, of the picture's rows that go on to the connector"
        if any(run.match_tokens for run, _ in found):
            of_what += ", and of equally many drawn at random"
        yield layer_curves(found, _called(found, data), "layers-vision", of_what, of_vision=True)
    for some, name in ((pairs, "inside"), (texts, "inside-texts")):
        found = [(run, model) for run, model in some if has_updates(run, model)]
        for i, one in enumerate(found):  # six panels each, of which a page has room for one model's
            yield updates_by_block([one], _called(found, data), name if len(found) == 1 else f"{name}-{i + 1}")
    if encoders:
        of_what = "of encoders, of a picture's patches and a text's tokens"
        yield layer_curves(encoders, _called(encoders, data), "layers-encoders", of_what)
    if written:
        yield growths(written, _called(written, data))
    pruned = [(run, model) for run, model in shown if run.job == "prune-study"]
    for i, (run, model) in enumerate(pruned):
        title = f"{_called(pruned, data)[run.name, model]} on {data[run.data]}, n = {run.n(model)}"
        yield losses(run, model, f"pruning-{i + 1}", title)
        if (drawn := against_erank(run, model, f"pruning-eranks-{i + 1}", title)) is not None:
            yield drawn
    for found, name in ((_once(pairs, numbers), "spectra"), (texts, "spectra-texts")):
        if found:
            yield from spectra(found, _called(found, data), name)


def _of_pairs(
    pairs: Sequence[tuple[Finished, str]],
    numbers: pd.DataFrame,
    data: dict[str, str],
) -> Iterator[Drawing]:
    if not pairs:
        return
    once = _once(pairs, numbers)
    within = _called(once, data, within=True)
    base = numbers[numbers["transform"] == "none"].set_index(["run", "model"])
    base = base.loc[[(run.name, model) for run, model in once]].reset_index()
    matched = base[base["quantity"].str.startswith(MATCHED) & base["value"].notna()]
    caption = "Image Reduction Ratio and Image-Text Alignment, with 95 % intervals over examples"
    if len(matched):
        caption += "; of all rows, and of equally many drawn at random, which alone can be held against each other"
    yield by_model("ratios", f"{caption}.", base, _ratios(matched), within, data, label="ratio")
    caption = "Data-set eRank at each stage, with 95 % intervals over examples"
    yield by_model("eranks", f"{caption}.", base, STAGES, within, data, label="eRank")
    for k in matched["rows"].unique():
        drawn = matched[matched["rows"] == k]
        drawn = drawn.assign(quantity=drawn["quantity"].str.removeprefix(MATCHED))
        name = "eranks-matched" if matched["rows"].nunique() == 1 else f"eranks-matched-{k}"
        told = {key: f"{called_so}, {k} rows each" for key, called_so in data.items()}
        of_rows = f"{caption}, each on {k} rows drawn at random."
        yield by_model(name, of_rows, drawn, STAGES, within, told, label="eRank")
    parted = base[base["quantity"].isin(_PARTS) & base["value"].notna()]
    if len(parted):
        caption = (
            "The Image Reduction Ratio and its two parts, with 95 % intervals over examples: what fewer rows take of "
            "eRank1, and what the connector does beyond that (below 0: it spreads rows)."
        )
        here = pd.concat([base[base["quantity"] == "image_reduction_ratio"], parted])
        here = here[here["model"].isin(parted["model"]) & here["run"].isin(parted["run"])]
        ticks = {"image_reduction_ratio": LABELS["image_reduction_ratio"].replace(" ", "\n"), **_PARTS}
        yield by_model("reduction", caption, here, ticks, within, data, label="share of eRank1")
    for i, (run, model) in enumerate(once if len(once) <= _FLOWS else ()):
        title = f"{within[run.name, model]} on {data[run.data]}"
        rows = base[(base["run"] == run.name) & (base["model"] == model)]
        which = "" if run.match_tokens is None else ", of all rows"
        yield flow_drawing(f"flow-{i + 1}", f"Flow of eRank through {title}{which}.", rows, title)
    changed = [(run, model) for run, model in pairs if run.tests.get("alignment", {}).get(model) and run.transforms]
    if changed:
        yield changes(changed, _called(changed, data))
    swept = [(run, model) for run, model in pairs if sweeps(run.transforms)]
    within = _called(swept, data, within=True)
    for i, (run, model) in enumerate(swept):
        title = f"{within[run.name, model]} on {data[run.data]}"
        differences = differences_frame(run.tests["alignment"][model])
        yield doses(f"doses-{i + 1}", differences, sweeps(run.transforms), title, run.n(model))
    if curved := [(run, model) for run, model in pairs if run.convention.get("token_curve")]:
        called = _called(curved, data)
        caption = "eRank of random subsets against their number of rows; dotted: the largest possible value."
        each = {called[run.name, model]: partial(draw_token_curve, run=run, model=model) for run, model in curved}
        yield Drawing("token-curve", caption, each, label="eRank")


def _ratios(matched: pd.DataFrame) -> dict[str, str]:
    """What stands below each ratio, and below that of equally many rows where there are such."""
    on = matched["rows"].unique()
    told = f"{on[0]} rows" if len(on) == 1 else "equal rows"
    found: dict[str, str] = {}
    for name in ("image_reduction_ratio", "image_text_alignment"):
        head = LABELS[name].replace(" ", "\n")
        found |= {name: f"{head}\nall rows", MATCHED + name: f"{head}\n{told}"} if len(on) else {name: head}
    return found


def by_model(
    name: str,
    caption: str,
    base: pd.DataFrame,
    ticks: Mapping[str, str],
    called: Mapping[tuple[str, str], str],
    data: Mapping[str, str],
    label: str,
) -> Drawing:
    """Numbers of each model beside each other, a panel per data set.

    Args:
        name: Of the figure.
        caption: Its.
        base: Numbers of untouched examples.
        ticks: What stands below each quantity that is shown.
        called: Name by run and model.
        data: Name by DATA argument.
        label: Of the y axes; eRanks begin at 0.

    Returns:
        The figure.
    """
    models = list(dict.fromkeys(base["model"]))

    def draw(axes: Axes, rows: pd.DataFrame) -> None:
        here = list(dict.fromkeys(zip(rows["run"], rows["model"], strict=True)))
        series = {called[key]: rows[(rows["run"] == key[0]) & (rows["model"] == key[1])] for key in here}
        # A model has one colour everywhere; several runs of it, on the same data, a marker each.
        earlier = [[model for _, model in here[:i]].count(model) for i, (_, model) in enumerate(here)]
        looks = [
            look(models.index(model)) | {"marker": look(models.index(model) + more)["marker"]}
            for (_, model), more in zip(here, earlier, strict=True)
        ]
        points(axes, series, ticks, looks=looks)
        if label == "eRank":
            axes.set_ylim(bottom=0)
        elif (rows.loc[rows["quantity"].isin(ticks), "low"] < 0).any():
            axes.axhline(0, color="0.6", linewidth=0.8, zorder=0)
        axes.set_ylabel(label)

    each = {data[str(of)]: partial(draw, rows=rows) for of, rows in base.groupby("data", sort=False)}
    return Drawing(name, caption, each, columns=2, size=(4.6, 2.7))


def draw_token_curve(axes: Axes, run: Finished, model: str) -> None:
    """A curve of eRank against the number of rows for each stage.

    Args:
        axes: Where to.
        run: One with a curve.
        model: Of it.
    """
    convention = run.convention
    curve = token_curve(
        run.of(model),
        tokens=convention["token_curve"],
        repeats=convention["match_repeats"],
        aggregate=convention["aggregate"],
    )
    for i, label in enumerate(ERANKS):
        places = [(x, y) for x, y in zip(curve["tokens"], curve[label], strict=True) if y is not None]
        if places:
            axes.plot(*zip(*places, strict=True), label=stage(label), **look(i))
    rows = np.array(curve["tokens"], dtype=float)
    axes.plot(rows, rows - 1, color="0.5", linewidth=1, linestyle=(0, (1, 2)), label="n - 1")
    log_axes(axes, "both", base=2)
    axes.set_xticks(rows, [f"{row:.0f}" for row in rows])
    axes.set_xlabel("rows n")
    bare(axes)


def spectra(
    found: Sequence[tuple[Finished, str]], called: Mapping[tuple[str, str], str], name: str
) -> Iterator[Drawing]:
    """How the eigenvalues decay: a panel per model, and where there are several, a panel per stage.

    Args:
        found: Runs and their models.
        called: Name by run and model.
        name: Of the figure; of the second one with `-together` behind it.

    Yields:
        One or two figures.
    """
    by_name = {called[run.name, model]: _spectra_of(run, model) for run, model in found}
    caption = "Mean spectrum over examples (an example with fewer eigenvalues counts as 0 beyond them)"
    each = {of: partial(_draw_spectra, lines=lines) for of, lines in by_name.items()}
    yield Drawing(name, f"{caption}.", each, label="mean eigenvalue")
    if len(by_name) > 1:
        stages = dict.fromkeys(label for lines in by_name.values() for label in lines)
        together = {label: {of: lines[label] for of, lines in by_name.items() if label in lines} for label in stages}
        each = {label: partial(_draw_spectra, lines=lines) for label, lines in together.items()}
        yield Drawing(f"{name}-together", f"{caption}, of several models on one axis.", each, label="mean eigenvalue")


def _draw_spectra(axes: Axes, lines: Mapping[str, Floats]) -> None:
    for i, (label, mean) in enumerate(lines.items()):
        shown = mean > _LEAST
        axes.plot(np.arange(1, len(mean) + 1)[shown], mean[shown], label=label, **look(i) | {"marker": "none"})
    log_axes(axes, "both")
    axes.set_xlabel("rank of the eigenvalue")
    bare(axes)


def _spectra_of(run: Finished, model: str) -> dict[str, Floats]:
    found = run.mean_spectra
    if run.job != "diff":
        each = {stage(label): found.get((model, *where)) for label, where in ERANKS.items()}
        return {label: mean for label, mean in each.items() if mean is not None}
    twins = [name for name in run.frames[model]["model"].unique() if name.startswith(TWIN)]
    by_twin = [found[name, FINAL, "text"] for name in twins if (name, FINAL, "text") in found]
    longest = max(map(len, by_twin), default=0)
    untrained = [np.mean([np.pad(of, (0, longest - len(of))) for of in by_twin], axis=0)] if by_twin else []
    return {**dict(zip(["untrained"], untrained, strict=False)), "trained": found[model, FINAL, "text"]}


def _once(pairs: Sequence[tuple[Finished, str]], numbers: pd.DataFrame) -> list[tuple[Finished, str]]:
    """Without a run whose untouched examples gave the numbers of another one, as `perturb` beside `align`."""
    base = numbers[numbers["transform"] == "none"].set_index(["run", "model"])
    found: dict[tuple[object, ...], tuple[Finished, str]] = {}
    for run, model in pairs:
        rows = base.loc[[(run.name, model)]]
        here = rows[rows["quantity"].str.removeprefix(MATCHED).isin(ERANKS)].fillna(-1)
        found.setdefault((run.data, model, *here["value"], *here["n"], *here["rows"]), (run, model))
    return list(found.values())


def _called(
    found: Sequence[tuple[Finished, str]], data: dict[str, str], *, within: bool = False
) -> dict[tuple[str, str], str]:
    """A name for each model of a run; where several have it (or within one data set), with what parts them."""
    named = model_names(list({run.name: run for run, _ in found}.values()))
    alike: dict[tuple[str, str], list[Finished]] = {}
    for run, model in found:
        alike.setdefault((named[run.name, model], run.data if within else ""), []).append(run)
    forms: list[Callable[[Finished], str]] = [
        lambda run: data[run.data],
        lambda run: run.job,
        lambda run: f"{data[run.data]}, {run.job}",
        lambda run: shortened(run.name),
    ]
    short = shortened_apart(named.values())
    called = {}
    for run, model in found:
        name = named[run.name, model]
        runs = alike[name, run.data if within else ""]
        form = next((of for of in forms if len(set(map(of, runs))) == len(runs)), forms[-1])
        called[run.name, model] = short[name] + (f" ({form(run)})" if len(runs) > 1 else "")
    return called


def _called_data(runs: Sequence[Finished]) -> dict[str, str]:
    names = data_names(run.data for run in runs)
    short = shortened_apart(names.values())
    return {data: short[name] for data, name in names.items()}
