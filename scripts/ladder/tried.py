"""The attempts to break the page, as its prose says them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from scripts.ladder.analysis import SIGNIFICANT, by_number, followers
from scripts.ladder.attempts import (
    HALF,
    SHUFFLES,
    Bench,
    chance,
    drawn,
    given_length,
    of_clusters,
    of_seeds,
    p_values,
    shared_scenes,
    survivors,
    within_axes,
    without_axes,
)
from scripts.ladder.composite import CHOSEN_ON, TESTED_ON, best_of, held_out
from scripts.ladder.following import PERMUTATIONS, Floats, ranks, rhos
from scripts.ladder.measuring import MARGIN
from scripts.ladder.records import Number, Records
from scripts.ladder.rungs import Budget
from scripts.ladder.tables import interval, named, p_value, signed

ITA: Number = ("image_text_alignment", "", "", "all")
MATCH: Number = (MARGIN, "", "", "all")
SELECTIONS = 99


def tried(records: Records, found: pd.DataFrame) -> dict[str, str]:
    """What each attempt came to.

    Args:
        records: Of the ladder.
        found: Their table.

    Returns:
        By the name in the prose.
    """
    bench, follow = Bench(records, found), followers(found)
    return {
        **_leaks(bench, follow),
        **_seeds(bench, follow),
        **_sides(bench, follow),
        **_clusters(bench, follow),
        **_chance(bench, follow),
        **_shapes(bench, follow),
        **_composite(bench),
        **_survivors(bench, follow),
    }


def _count(of: Any) -> str:
    return str(int(np.asarray(of).sum()))


def _leaks(bench: Bench, follow: pd.Index[Any]) -> dict[str, str]:
    asked, trained = shared_scenes(Budget())
    places = follow.to_frame()
    beside = [
        (number, other)
        for number in map(tuple, follow)
        if number[3] == "all" and (other := (*number[:3], "matched")) in bench.found.index
    ]
    rows = by_number(bench.found)
    same = [
        np.sign(rows[other]["rho"]) == np.sign(rows[number]["rho"]) and rows[other]["q"] < SIGNIFICANT
        for number, other in beside
    ]
    return {
        "shared_asked": str(asked),
        "shared_trained": str(trained),
        "follow_vision": _count((places["point"] == "vision") & (places["input"] == "image")),
        "follow_text": _count(places["input"] == "text"),
        "equal_same": _count(same),
        "equal_asked": str(len(beside)),
    }


def _seeds(bench: Bench, follow: pd.Index[Any]) -> dict[str, str]:
    each = of_seeds(bench)
    models = bench.records.models
    one, other = list(each.values())[:2]
    return {
        "seeded_steps": str(int((models.groupby("step")["seed"].nunique() > 1).sum())),
        "seed_ita": " and ".join(signed(rho[ITA]) for rho in each.values()),
        "seed_margin": " and ".join(signed(rho[MATCH]) for rho in each.values()),
        "seed_kept": _count(np.all([bench.kept(rho, follow) for rho in each.values()], axis=0)),
        "seed_agreement": f"{stats.spearmanr(one, other).statistic:.2f}",
    }


def _sides(bench: Bench, follow: pd.Index[Any]) -> dict[str, str]:
    said: dict[str, str] = {}
    for axis, of in without_axes(bench).items():
        kept = bench.kept(of["rho"], follow)
        said |= {
            f"no_{axis}_ita": signed(of["rho"][ITA]),
            f"no_{axis}_ita_q": _is(of["q"][ITA]),
            f"no_{axis}_margin": signed(of["rho"][MATCH]),
            f"no_{axis}_kept": _count(kept),
            f"no_{axis}_sure": _count(kept & (of.loc[follow, "q"] < SIGNIFICANT)),
        }
    length, rows = given_length(bench), bench.found.loc[follow]
    return {
        **said,
        "length_ita": signed(length[ITA]),
        "length_margin": signed(length[MATCH]),
        "length_kept": _count(bench.kept(length, follow)),
        "length_half": _count(bench.kept(length, follow) & (length[follow].abs() > HALF)),
        "step_flips": _count(rows["least"] * rows["most"] < 0),
        "step_least": f"{rows[['least', 'most']].abs().min(axis=1).min():.2f}",
        "step_ita": interval(*bench.found.loc[ITA, ["least", "most"]]),
        "step_margin": interval(*bench.found.loc[MATCH, ["least", "most"]]),
    }


def _clusters(bench: Bench, follow: pd.Index[Any]) -> dict[str, str]:
    within, clusters = within_axes(bench), of_clusters(bench)
    return {
        "within_ita": _is(within[ITA]),
        "within_margin": _is(within[MATCH]),
        "within_kept": _count(within[follow] < SIGNIFICANT),
        "cluster_ita": interval(*clusters.loc[ITA, ["low", "high"]]),
        "cluster_margin": interval(*clusters.loc[MATCH, ["low", "high"]]),
        "cluster_kept": _count((clusters["low"] * clusters["high"] > 0)[follow]),
    }


def _chance(bench: Bench, follow: pd.Index[Any]) -> dict[str, str]:
    of, rho = chance(bench), bench.found["rho"].abs()
    stricter = pd.Series(stats.false_discovery_control(bench.found["p"], method="by"), bench.found.index)
    return {
        "alone": f"{of.alone:.2f}",
        "largest": f"{of.largest:.2f}",
        "largest_kept": _count(rho[follow] > of.largest),
        "shuffles": str(SHUFFLES),
        "shuffled_mean": f"{of.followers.mean():.1f}",
        "shuffled_any": str(int((of.followers > 0).sum())),
        "shuffled_most": f"{of.followers.max():.0f}",
        "by_kept": _count(stricter[follow] < SIGNIFICANT),
    }


def _shapes(bench: Bench, follow: pd.Index[Any]) -> dict[str, str]:
    found, place = bench.found, bench.found.index.tolist().index(ITA)
    alone: dict[str, str] = {}
    for name, shape in zip(("llava", "minigpt"), bench.shapes(), strict=True):
        rho = rhos(*shape)
        p = p_values(rho[None], np.sort(drawn([shape], PERMUTATIONS, 0).round(9), axis=0))[0]
        alone |= {f"shape_ita_{name}": signed(rho[place]), f"shape_ita_{name}_p": _is(p[place])}
    here, there = found[f"rho_{CHOSEN_ON}"], found[f"rho_{TESTED_ON}"]
    return {
        **alone,
        "pooled_flips": _count((found["pooled_rho"] * found["rho"] < 0)[follow]),
        "pooled_small": _count((found["pooled_rho"].abs() < found["rho"].abs() / 2)[follow]),
        "pooled_alone": _count((found["pooled_rho"].abs() > 0.5) & (here * there < 0)),
    }


def _composite(bench: Bench) -> dict[str, str]:
    numbers = bench.found.index.get_level_values("metric") != MARGIN
    (here, truth), (there, other) = ((ranks(values[:, numbers]), known) for values, known in bench.shapes())
    rng = np.random.default_rng(0)
    chosen = best_of(here, truth)[2]
    shuffled = [best_of(here, rng.permutation(truth))[2] for _ in range(SELECTIONS)]
    turned = held_out(bench.records, chosen_on=TESTED_ON, tested_on=CHOSEN_ON)
    assert turned is not None  # of both shapes there are enough steps
    return {
        "selections": str(SELECTIONS),
        "selected_median": f"{np.median(shuffled):.2f}",
        "selected_p": p_value((1 + sum(value >= chosen for value in shuffled)) / (1 + SELECTIONS)),
        "turned_chosen": f"{turned.chosen:.2f}",
        "turned_tested": f"{turned.tested:+.2f}",
        "single_tested": _single(here, truth, there, other),
        "single_turned": _single(there, other, here, truth),
    }


def _survivors(bench: Bench, follow: pd.Index[Any]) -> dict[str, str]:
    left, gap = survivors(bench, follow), bench.found.loc[follow]
    rows = by_number(bench.found)
    said = [f"{named(number)} ({signed(rows[number]['rho'])})" for number in left]
    return {
        "gap_kept": _count(gap["gap_q"] < SIGNIFICANT),
        "gap_none": _count(gap["gap_q"].isna()),
        "survivors": ", ".join(sorted(said)) or "none",
    }


def _single(here: Floats, truth: Floats, there: Floats, other: Floats) -> str:
    """The number that follows best on one shape: rho there, and on the other with that sign."""
    mine = rhos(here, truth)
    best = int(np.abs(mine).argmax())
    return f"{abs(mine[best]):.2f} and {np.sign(mine[best]) * rhos(there, other)[best]:+.2f}"


def _is(p: float) -> str:
    said = p_value(p)
    return said if said.startswith("<") else f"= {said}"
