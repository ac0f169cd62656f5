"""Figures of finished runs; each is drawn where its numbers were measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.analysis.metrics.matched import MATCHED
from mmerank.analysis.metrics.token_curve import token_curve
from mmerank.analysis.perturbation import differences_frame
from mmerank.analysis.sample import Floats
from mmerank.eranks import ERANKS, FINAL
from mmerank.report.figures.doses import dose_response, sweeps
from mmerank.report.figures.flow import flow
from mmerank.report.figures.generation import growths
from mmerank.report.figures.inside import has_updates, updates_by_block
from mmerank.report.figures.layers import has_layers, layer_curves
from mmerank.report.figures.main import STAGES, points
from mmerank.report.figures.pruning import against_erank, losses
from mmerank.report.figures.sizes import against_size, sized
from mmerank.report.figures.style import bare, legend, log_axes, look, panels, shortened, stage, styled
from mmerank.report.figures.training import training, trajectories
from mmerank.report.names import data_names, model_names

# Smaller eigenvalues are rounding.
_LEAST = 1e-9


def figures(runs: Sequence[Finished], numbers: pd.DataFrame) -> Iterator[tuple[str, str, Figure]]:
    """Every figure that the runs have numbers for.

    Args:
        runs: At least one.
        numbers: From `mmerank.report.numbers.all_numbers`.

    Yields:
        File name without ending, caption, figure.
    """
    data = _called_data(runs)
    trained = trajectories(runs)
    passed = {key for of in trained for key in of.between}
    shown = [(run, model) for run in runs for model in run.frames if (run.name, model) not in passed]
    pairs = [(run, model) for run, model in shown if run.kind.of_pairs]
    texts = [(run, model) for run, model in shown if run.job == "diff"]
    encoders = [(run, model) for run, model in shown if run.job == "encode"]
    written = [(run, model) for run, model in shown if run.job == "generate"]
    with styled():
        yield from _of_pairs(pairs, numbers, data)
        if (of_sizes := sized(numbers)) is not None:
            caption = (
                "Diff-eRank and reduced loss against the size that names state, with 95 % intervals; grey: the paper."
            )
            yield "size", caption, against_size(of_sizes, data)
        for i, of in enumerate(trained):
            caption = f"Training of {shortened(of.name)}: each checkpoint's numbers, with 95 % intervals."
            if between := len(of.between):
                caption += f" The {between} between the first and the last are in no other figure."
            yield f"training-{i + 1}", caption, training(of, numbers)
        for found, name, of_what in (
            (pairs, "layers", "of all rows of the pair, of its image rows and of its text rows"),
            (texts, "layers-texts", "untrained and trained"),
        ):
            if found := [(run, model) for run, model in found if has_layers(run, model)]:
                caption = f"eRank by layer of the LLM, {of_what}, with 95 % intervals."
                yield name, caption, layer_curves(found, _called(found, data))
        for found, name in ((pairs, "inside"), (texts, "inside-texts")):
            if found := [(run, model) for run, model in found if has_updates(run, model)]:
                caption = (
                    "What attention and MLP of each block add to the residual stream, with 95 % intervals: eRank, "
                    "share in the span of what it is added to, and overlap of their spans; dotted: by chance."
                )
                yield name, caption, updates_by_block(found, _called(found, data))
        if encoders:
            caption = "eRank by layer of encoders, of a picture's patches and a text's tokens, with 95 % intervals."
            yield "layers-encoders", caption, layer_curves(encoders, _called(encoders, data))
        if written:
            caption = (
                "Responses as they grow: eRank of their first rows, with 95 % intervals over the examples that have "
                "as many, and mean entropy of the logits of each token, both as far as half of the examples go."
            )
            yield "generation", caption, growths(written, _called(written, data))
        pruned = [(run, model) for run, model in shown if run.job == "prune-study"]
        for i, (run, model) in enumerate(pruned):
            title = f"{_called(pruned, data)[run.name, model]} on {data[run.data]}, n = {run.n(model)}"
            caption = (
                "Change in the loss of the response when rows of the picture are left out, and eRank of the kept "
                f"rows behind the connector and at the LLM, with 95 % intervals: {title}."
            )
            yield f"pruning-{i + 1}", caption, losses(run, model)
            if (drawn := against_erank(run, model)) is not None:
                caption = (
                    "Loss under attention less that under diversity, each picture a point, against its eRank, with "
                    f"the slope, its 95 % interval and the p of its permutation test: {title}. Above 0 diversity "
                    "loses less."
                )
                yield f"pruning-eranks-{i + 1}", caption, drawn
        for found, name in ((_once(pairs, numbers), "spectra"), (texts, "spectra-texts")):
            if found:
                caption = "Mean spectrum over examples (an example with fewer eigenvalues counts as 0 beyond them)."
                yield name, caption, spectra(found, _called(found, data))


def _of_pairs(
    pairs: Sequence[tuple[Finished, str]],
    numbers: pd.DataFrame,
    data: dict[str, str],
) -> Iterator[tuple[str, str, Figure]]:
    if not pairs:
        return
    once = _once(pairs, numbers)
    within = _called(once, data, within=True)
    base = numbers[numbers["transform"] == "none"].set_index(["run", "model"])
    base = base.loc[[(run.name, model) for run, model in once]].reset_index()
    caption = "Data-set eRank at each stage, with 95 % intervals over examples"
    yield "eranks", f"{caption}.", eranks(base, within, data)
    matched = base[base["quantity"].str.startswith(MATCHED) & base["value"].notna()]
    for k in matched["rows"].unique():
        drawn = matched[matched["rows"] == k]
        drawn = drawn.assign(quantity=drawn["quantity"].str.removeprefix(MATCHED))
        name = "eranks-matched" if matched["rows"].nunique() == 1 else f"eranks-matched-{k}"
        told = {key: f"{called_so}, {k} rows each" for key, called_so in data.items()}
        yield name, f"{caption}, each on {k} rows drawn at random.", eranks(drawn, within, told)
    for i, (run, model) in enumerate(once):
        title = f"{within[run.name, model]} on {data[run.data]}"
        rows = base[(base["run"] == run.name) & (base["model"] == model)]
        which = "" if run.match_tokens is None else ", of all rows"
        yield f"flow-{i + 1}", f"Flow of eRank through {title}{which}.", flow(rows, title)
    swept = [(run, model) for run, model in pairs if sweeps(run.transforms)]
    within = _called(swept, data, within=True)
    for i, (run, model) in enumerate(swept):
        found = sweeps(run.transforms)
        title = f"{within[run.name, model]} on {data[run.data]}"
        caption = f"What each strength of a transform changes, with 95 % intervals: {title}, n = {run.n(model)}."
        yield f"doses-{i + 1}", caption, dose_response(differences_frame(run.tests["alignment"][model]), found, title)
    if curved := [(run, model) for run, model in pairs if run.convention.get("token_curve")]:
        caption = "eRank of random subsets against their number of rows; dotted: the largest possible value."
        yield "token-curve", caption, token_curves(curved, _called(curved, data))


def eranks(base: pd.DataFrame, called: dict[tuple[str, str], str], data: dict[str, str]) -> Figure:
    """eRank1 to eRank5 of each model, a panel per data set.

    Args:
        base: Numbers of untouched examples.
        called: Name by run and model.
        data: Name by DATA argument.

    Returns:
        The figure.
    """
    figure, grid = panels(base["data"].nunique(), columns=2, size=(4.6, 2.7))
    models = list(dict.fromkeys(base["model"]))
    for axes, (of_data, rows) in zip(grid, base.groupby("data", sort=False), strict=True):
        here = list(dict.fromkeys(zip(rows["run"], rows["model"], strict=True)))
        series = {called[key]: rows[(rows["run"] == key[0]) & (rows["model"] == key[1])] for key in here}
        # A model has one colour everywhere; several runs of it, on the same data, a marker each.
        earlier = [[model for _, model in here[:i]].count(model) for i, (_, model) in enumerate(here)]
        looks = [
            look(models.index(model)) | {"marker": look(models.index(model) + more)["marker"]}
            for (_, model), more in zip(here, earlier, strict=True)
        ]
        points(axes, series, STAGES, looks=looks)
        axes.set_ylim(bottom=0)
        axes.set_ylabel("eRank")
        axes.set_title(data[str(of_data)])
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
                axes.plot(*zip(*points, strict=True), label=stage(label), **look(i))
        rows = np.array(curve["tokens"], dtype=float)
        axes.plot(rows, rows - 1, color="0.5", linewidth=1, linestyle=(0, (1, 2)), label="n - 1")
        log_axes(axes, "both", base=2)
        axes.set_xticks(rows, [f"{row:.0f}" for row in rows])
        axes.set_title(called[run.name, model])
        axes.set_xlabel("rows n")
        bare(axes)
    figure.supylabel("eRank")
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
        for i, (label, mean) in enumerate(_spectra_of(run, model).items()):
            shown = mean > _LEAST
            style = look(i) | {"marker": "none"}
            axes.plot(np.arange(1, len(mean) + 1)[shown], mean[shown], label=label, **style)
        log_axes(axes, "both")
        axes.set_title(called[run.name, model])
        axes.set_xlabel("rank of the eigenvalue")
        bare(axes)
    figure.supylabel("mean eigenvalue")
    legend(figure, grid)
    return figure


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
    called = {}
    for run, model in found:
        name = named[run.name, model]
        runs = alike[name, run.data if within else ""]
        form = next((of for of in forms if len(set(map(of, runs))) == len(runs)), forms[-1])
        called[run.name, model] = shortened(name) + (f" ({form(run)})" if len(runs) > 1 else "")
    return called


def _called_data(runs: Sequence[Finished]) -> dict[str, str]:
    return {data: shortened(name) for data, name in data_names(run.data for run in runs).items()}
