from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from scipy import stats

import mmerank
from mmerank.analysis.statistics.null import null_test
from mmerank.formulas.on_ladder import on_ladder
from mmerank.formulas.table import METRICS
from mmerank.inputs.demo import scenes
from mmerank.jobs.demo.captions import caption_scores
from scripts import alignment_ladder
from scripts.ladder import (
    analysis,
    attempts,
    composite,
    following,
    keeping,
    measuring,
    page,
    records,
    training,
    truth,
)
from scripts.ladder.rungs import Budget, Rung, ladder
from tests.test_cli import run

ROOT = Path(__file__).parents[1]
SMALL = Budget(connector=1, joint=1, batch=4, scenes=12, truth=4, pairs=12)


def test_the_ladder_has_both_shapes_and_every_kind_of_rung_once() -> None:
    rungs = list(ladder())
    assert len({rung.name for rung in rungs}) == len(rungs) >= 24
    for shape in ("llava", "minigpt-v2"):
        here = [rung for rung in rungs if rung.shape == shape]
        assert {rung.wrong for rung in here} == {0, 0.25, 0.5, 0.75, 1}
        assert {rung.tower for rung in here} == {"frozen", "tuned", "random"}
        assert len({rung.steps for rung in here}) >= 6 and {rung.seed for rung in here} == {0, 1}


def test_a_share_of_the_captions_is_another_pictures() -> None:
    given = [scenes.scene("train", i) for i in range(40)]
    for share in (0.0, 0.25, 1.0):
        told = training.captioned(given, share, seed=3)
        assert sum(a is not b for a, b in zip(given, told, strict=True)) == round(40 * share)
        assert sorted(scene.name for scene in told) == [scene.name for scene in given]


def test_steps_are_the_connectors_first() -> None:
    budget = Budget(connector=80, joint=120)
    for share, connector, joint in ((0, 0, 0), (0.05, 10, 0), (0.4, 80, 0), (0.5, 80, 20), (1, 80, 120)):
        rung = Rung("llava", steps=share)
        assert (rung.connector_steps(budget), rung.joint_steps(budget)) == (connector, joint)


@pytest.mark.parametrize("rung", [Rung("llava", connector="linear"), Rung("minigpt-v2", connector="two layers")])
def test_a_student_reads_what_its_connector_reads_and_its_loss_is_that_of_the_captions_module(rung: Rung) -> None:
    student = training.Student(rung)
    given = [scenes.scene("held-out", i) for i in range(4)]
    with torch.inference_mode():
        pixels = torch.stack([student.adapter.pixels(s.picture(), "model") for s in given])
        rows = student.connector(student.rows(pixels))
    read = truth.connector_rows(student, given)
    torch.testing.assert_close(rows, read)
    scores = caption_scores(student.adapter, given, lm=student.lm)
    assert truth.caption_losses(student, given, read).mean() == pytest.approx(scores.loss, rel=1e-5)
    others = torch.roll(read, -1, dims=0)
    assert truth.caption_losses(student, given, others).mean() == pytest.approx(scores.loss_mismatched, rel=1e-5)


def test_wrong_captions_to_choose_from_are_as_long_as_the_right_one() -> None:
    given = [scenes.scene("held-out", i) for i in range(64)]
    for i, each in enumerate(truth.alternatives(given)):
        assert each[0] == i and len(set(each)) == truth.CHOICES
        assert {len(given[j].things) for j in each} == {len(given[i].things)}


def test_rungs_are_trained_once_and_leave_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "ASKED", ("erank_diff_erank", "cos_of_means"))
    monkeypatch.setattr(measuring, "UNDER_TRANSFORMS", ("erank_diff_erank",))
    arguments = ["ladder", "--out", str(tmp_path / "records"), "train", "--cache", str(tmp_path / "cache")]
    arguments += ["--only", "llava_steps-0.0", "--first", "2", "--budget", json.dumps(vars(SMALL))]
    monkeypatch.setattr("sys.argv", arguments)
    alignment_ladder.main()
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")}
    assert len(list((tmp_path / "records").glob("*/rung.json"))) == 3  # two rungs, and the twin that they share
    alignment_ladder.main()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.*")} == files

    there = records.load(tmp_path / "records")
    own, other = there.own, there.mismatched
    assert len(own) == 2 and own.notna().to_numpy().any()
    # The place of eRank1 by its two ways into the records, and what mismatching cannot and can move.
    erank = "erank_diff_erank", "vision", "image", "all"
    assert own[erank].to_numpy() == pytest.approx(own["erank1", "", "", "all"].to_numpy())
    assert (there.gap[erank] == 0).all() and (there.gap["erank5", "", "", "all"] != 0).all()
    assert other[erank].to_numpy() == pytest.approx(own[erank].to_numpy())
    assert there.under("noise:160")[erank].to_numpy() != pytest.approx(own[erank].to_numpy())


def made(values: np.ndarray, truth_: np.ndarray, shapes: list[str]) -> records.Records:
    """Records of models whose numbers are given: (n, q)."""
    n, q = values.shape
    names = [f"m{i}" for i in range(n)]
    columns = pd.MultiIndex.from_tuples([(f"x{i}", "llm", "pair", "all") for i in range(q)], names=records.NUMBER)
    columns = columns.append(pd.MultiIndex.from_tuples([(measuring.MARGIN, "", "", "all")], names=records.NUMBER))
    known = pd.DataFrame({"shape": shapes, "step": [f"{s}{i}" for i, s in enumerate(shapes)], "axis": "wrong"}, names)
    known["seed"], known[truth.TRUTH] = 0, truth_
    for i, name in enumerate(("loss_text", *analysis.OTHER_TRUTHS)):
        known[name] = np.random.default_rng(i).normal(size=n)
    full = np.column_stack([values, truth_])
    conditions = ["own", measuring.MISMATCHED, *measuring.TRANSFORMS]
    frames = {c: pd.DataFrame(full * (0.9**i), names, columns) for i, c in enumerate(conditions)}
    wide = pd.concat(frames).swaplevel().rename_axis(["model", "condition"])
    nulls = pd.DataFrame(0.01, index=names, columns=columns[:1])
    twins = pd.DataFrame(
        -9.0, pd.MultiIndex.from_tuples([(s, "t") for s in set(shapes)], names=["shape", "twin"]), columns
    )
    return records.Records(known, wide, nulls, twins)


def test_the_table_agrees_with_scipy() -> None:
    rng = np.random.default_rng(5)
    shapes = ["llava"] * 9 + ["minigpt-v2"] * 8
    known = rng.random(17)
    values = np.column_stack([known + 0.2 * rng.normal(size=17), rng.normal(size=17), -(known**3)])
    there = made(values, known, shapes)
    found = analysis.by_number(analysis.table(there))
    assert {row["n"] for row in found.values()} == {17}
    halves = [slice(0, 9), slice(9, 17)]
    for i in range(3):
        row = found[f"x{i}", "llm", "pair", "all"]
        each = [stats.spearmanr(values[half, i], known[half]) for half in halves]
        assert row["rho"] == pytest.approx(np.mean([r.statistic for r in each]))
        assert row["rho_llava"] == pytest.approx(each[0].statistic)
        beside = there.models["loss_text"].to_numpy()
        parts = []
        for half in halves:  # partial correlation as that of residuals, of ranks
            ranked = [stats.rankdata(of[half]) for of in (values[:, i], known, beside)]
            design = np.column_stack([np.ones(len(ranked[2])), ranked[2]])
            left = [of - design @ np.linalg.lstsq(design, of, rcond=None)[0] for of in ranked[:2]]
            parts.append(np.corrcoef(*left)[0, 1])
        assert row["partial_text"] == pytest.approx(np.mean(parts))
        assert row["low"] <= row["rho"] + 1e-9 and row["least"] <= row["rho"] <= row["most"]
    falls = found["x2", "llm", "pair", "all"]
    assert falls["rho"] == pytest.approx(-1) and falls["p"] == pytest.approx(2 / 10_000) and falls["q"] < 0.01
    assert found["x1", "llm", "pair", "all"]["q"] > 0.05


def test_p_is_that_of_all_permutations_where_they_can_be_counted() -> None:
    rng = np.random.default_rng(1)
    known = rng.random(6)
    values = (known + 0.5 * rng.random(6))[:, None]
    orders = [known, *map(np.array, permutations(known))]
    observed, *rho = (stats.spearmanr(order, values[:, 0]).statistic for order in orders)
    tails = [np.mean(np.array(rho) >= observed - 1e-9), np.mean(np.array(rho) <= observed + 1e-9)]
    assert following.followed([(values, known)]).p[0] == pytest.approx(2 * min(tails), abs=0.02)


def test_what_aligned_models_do_follows_the_direction_of_rho() -> None:
    known = np.linspace(0.1, 0.9, 10)
    found = analysis.by_number(analysis.table(made(np.column_stack([known, -known]), known, ["llava"] * 10)))
    up, down = (found[name, "llm", "pair", "all"] for name in ("x0", "x1"))
    # Everything shrinks with rising strength: a number that goes up with the truth is in order, and so is its mirror.
    assert up["order_noise"] == down["order_noise"] == 1
    assert up["beats_twin"] == 1 and down["beats_twin"] == 0  # the twin is at -9
    assert up["null_share"] == 1 and np.isnan(down["null_share"])
    aligned = known[known >= analysis.ALIGNED]
    assert up["mismatch_p"] == pytest.approx(stats.wilcoxon(0.1 * aligned).pvalue)


def test_a_composite_is_chosen_on_one_shape_and_fails_on_the_other() -> None:
    rng = np.random.default_rng(0)
    shapes = ["llava"] * 10 + ["minigpt-v2"] * 10
    known = rng.random(20)
    only_here = np.where(np.arange(20) < 10, known, -known)
    of = composite.held_out(made(only_here[:, None], known, shapes))
    assert of is not None and of.numbers == ((("x0", "llm", "pair", "all"), 1),)
    assert of.chosen == pytest.approx(1) and of.tested == pytest.approx(-1) and of.p == pytest.approx(1)


def test_page_readme_and_list_of_metrics_are_what_the_records_say() -> None:
    there = records.load(ROOT / alignment_ladder.RECORDS)
    found = analysis.table(there)
    assert (ROOT / page.PAGE).read_text() == page.page(there, found), "python -m scripts.alignment_ladder page"
    assert page.readme(there, found) in " ".join((ROOT / "README.md").read_text().split())
    assert on_ladder() == page.summary(found)
    assert set(METRICS) - set(on_ladder()) == set(measuring.LEFT_OUT)


def bench(values: np.ndarray, known: np.ndarray, shapes: list[str], axes: list[str] | None = None) -> attempts.Bench:
    there = made(values, known, shapes)
    there.models["axis"] = axes or ["wrong", "steps", "full"] * (len(known) // 3) + ["parts"] * (len(known) % 3)
    there.models["steps"] = 1.0
    return attempts.Bench(there, analysis.table(there))


def test_attempts_find_what_is_wrong_with_a_number() -> None:
    rng = np.random.default_rng(3)
    shapes = ["llava"] * 12 + ["minigpt-v2"] * 12
    known = rng.random(24)
    axes = ["wrong"] * 5 + ["steps"] * 5 + ["full", "parts"]
    side = np.tile(np.isin(axes, ["steps", "full"]), 2)
    # As the truth; as it only where lengths differ; and only by the side that a step stands on.
    known[side] += 1
    values = np.column_stack([known, np.where(side, known, rng.random(24)), np.where(side, 1.0, 0.0) + known % 1e-6])
    of = bench(values, known, shapes, axes * 2)
    names = [(f"x{i}", "llm", "pair", "all") for i in range(3)]
    without = attempts.without_axes(of)
    assert without["wrong"]["rho"][names[0]] == pytest.approx(1)
    assert without["steps"]["rho"][names[0]] == pytest.approx(1)
    left = np.tile(np.array(axes) != "steps", 2)
    expected = [stats.spearmanr(values[half & left, 1], known[half & left]).statistic for half in halves(24)]
    assert without["steps"]["rho"][names[1]] == pytest.approx(np.mean(expected))
    within = attempts.within_axes(of)
    assert within[names[0]] < 0.01 and of.found["q"][names[2]] < 0.01 < 0.05 < within[names[2]]


def halves(n: int) -> list[np.ndarray]:
    return [np.arange(n) < n // 2, np.arange(n) >= n // 2]


def test_a_seed_alone_and_clusters_are_of_their_models() -> None:
    rng = np.random.default_rng(7)
    shapes = ["llava"] * 8 + ["minigpt-v2"] * 8
    known, values = rng.random(16), rng.random((16, 2))
    of = bench(values, known, shapes)
    of.records.models["seed"] = [0, 1] * 8
    of.records.models["step"] = [f"{shape}{i // 2}" for i, shape in enumerate(shapes)]
    name = ("x0", "llm", "pair", "all")
    each = {}
    for seed in (0, 1):
        own = np.arange(16) % 2 == seed
        each[seed] = [stats.spearmanr(values[half & own, 0], known[half & own]).statistic for half in halves(16)]
        assert attempts.of_seeds(of)[seed][name] == pytest.approx(np.mean(each[seed]))
    four = np.array([*each[0], *each[1]])
    found = attempts.of_clusters(of).T[name]
    expected = stats.t.interval(0.95, 3, loc=four.mean(), scale=stats.sem(four))
    assert (found["low"], found["high"]) == pytest.approx(expected)


def test_a_number_survives_that_is_the_truth_and_moves_with_mismatched_pairs() -> None:
    rng = np.random.default_rng(4)
    known = np.tile(rng.random(15), 4)
    shapes = (["llava"] * 15 + ["minigpt-v2"] * 15) * 2
    values = np.column_stack([known, rng.random(60), known])
    there = made(values, known, shapes)
    models = there.models
    models["axis"] = (["wrong"] * 5 + ["steps"] * 5 + ["parts"] * 4 + ["full"]) * 4
    models["seed"], models["steps"] = [0] * 30 + [1] * 30, 1.0
    models["step"] = [f"{shape}{i % 15}" for i, shape in enumerate(shapes)]
    names = [(f"x{i}", "llm", "pair", "all") for i in range(3)]
    under = there.values.index.get_level_values("condition")
    last = there.values[names[2]].to_numpy().copy()  # which mismatched pairs leave as it is
    last[under == measuring.MISMATCHED] = last[under == "own"]
    there.values[names[2]] = last
    of = attempts.Bench(there, analysis.table(there))
    follow = analysis.followers(of.found)
    assert set(follow) >= {names[0], names[2]} and names[1] not in follow
    assert list(attempts.survivors(of, follow)) == names[:1]


def test_p_of_sorted_draws_is_that_of_the_null_test() -> None:
    rng = np.random.default_rng(2)
    null = rng.normal(size=(199, 5)).round(1)
    value = rng.normal(size=5).round(1)
    expected = [null_test(float(v), of.tolist()).p for v, of in zip(value, null.T, strict=True)]
    assert attempts.p_values(value[None], np.sort(null, axis=0))[0] == pytest.approx(expected)


def test_a_shuffled_truth_is_seldom_followed() -> None:
    rng = np.random.default_rng(11)
    known = rng.random(20)
    values = np.column_stack([known, rng.random((20, 30))])
    of = bench(values, known, ["llava"] * 10 + ["minigpt-v2"] * 10, (["wrong"] * 5 + ["steps"] * 4 + ["full"]) * 2)
    found = attempts.chance(of)
    assert found.followers.shape == (attempts.SHUFFLES,) and (found.followers > 0).mean() < 0.1
    assert 0 < found.alone < found.largest < 1


def test_a_checkpoint_of_a_rung_is_the_model(tmp_path: Path) -> None:
    rungs = [Rung("llava"), Rung("llava", connector="frozen"), Rung("llava", connector="linear"), Rung("minigpt-v2")]
    assert [keeping.can_be_kept(rung) for rung in rungs] == [True, True, False, False]
    student = training.Student(rungs[0])
    keeping.keep(student, tmp_path / "kept")
    kept = mmerank.load(tmp_path / "kept", device="cpu")
    theirs = kept.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in student.adapter.model.state_dict().items())
    pairs = [scenes.scene("held-out", i).example() for i in range(2)]
    ours, found = mmerank.align(student.adapter, pairs), mmerank.align(kept, pairs)
    assert [r.entropy for r in ours.records] == pytest.approx([r.entropy for r in found.records], abs=1e-9)


@pytest.mark.long
def test_the_study_takes_the_rungs_that_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of its models, hardly trained, from the checkpoints to the page."""
    monkeypatch.chdir(tmp_path)
    file = ROOT / "studies" / "alignment-ladder.yaml"
    stated = yaml.safe_load(file.read_text())
    assert stated["models"] == [f"runs/ladder/{name}" for name in alignment_ladder.STUDIED]
    done = run("study", str(file), "--dry-run")
    assert done.returncode == 0 and "12" in done.stdout, done.stderr
    names = ["llava_steps-0_seed-0", "llava_full_seed-0"]
    arguments = ["ladder", "checkpoints", "runs/ladder", "--rungs", *names, "--cache", "cache"]
    monkeypatch.setattr("sys.argv", [*arguments, "--budget", json.dumps({**vars(SMALL), "truth": 2})])
    alignment_ladder.main()
    small = {**stated, "models": [f"runs/ladder/{name}" for name in names], "limit": 5, "jobs": ["align"]}
    small |= {"metrics": "stable_rank,match_margin", "match-tokens": 16}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    done = run("study", "small.yaml")
    assert done.returncode == 0, done.stderr
    done = run("report", "small", "--scores", "runs/ladder/scores.csv", "--out", "page")
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(tmp_path / "page" / "numbers.csv")
    assert (found["quantity"] == "match_margin/llm/pair").sum() == 2
    assert "caption accuracy" in (tmp_path / "page" / "report.html").read_text()
