from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from mmerank.analysis.metrics import mean_states as module
from mmerank.analysis.metrics.cka import cka_without_each
from mmerank.analysis.metrics.clip_score import clip_score
from mmerank.analysis.metrics.companions import companions
from mmerank.analysis.metrics.known import METRICS, metric
from mmerank.analysis.metrics.mutual_knn import knn_without_each
from mmerank.analysis.pairing import against_null
from mmerank.analysis.sample import PairSample
from mmerank.analysis.statistics.bootstrap import sample_intervals
from mmerank.eranks import ERANKS
from mmerank.formulas.similarity import linear_cka, mutual_knn, permuted_cka, permuted_knn
from mmerank.jobs.compare import compare
from mmerank.runs.record import Record, to_frame
from tests.test_records import record

Array = NDArray[np.float64]


def states(n: int = 12, d: int = 7, e: int = 5, shared: float = 0.5, seed: int = 0) -> tuple[Array, Array]:
    generator = np.random.default_rng(seed)
    x, y = generator.normal(size=(n, d)) + 3, generator.normal(size=(n, e)) - 2
    y[:, :3] += shared * x[:, :3]
    return x, y


def cka_by_hsic(x: Array, y: Array) -> float:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)), HSIC(K, L) = tr(K H L H) / (n - 1)^2."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n

    def hsic(k: Array, l: Array) -> float:  # noqa: E741
        return float(np.trace(k @ h @ l @ h) / (n - 1) ** 2)

    k, l = x @ x.T, y @ y.T  # noqa: E741
    return hsic(k, l) / math.sqrt(hsic(k, k) * hsic(l, l))


def knn_by_hand(x: Array, y: Array, k: int) -> float:
    shares = []
    for i in range(len(x)):
        near = []
        for z in (x, y):
            cosines = {
                j: float(z[i] @ z[j] / np.linalg.norm(z[i]) / np.linalg.norm(z[j])) for j in range(len(z)) if j != i
            }
            near.append(set(sorted(cosines, key=lambda j, c=cosines: -c[j])[:k]))  # type: ignore[misc]
        shares.append(len(near[0] & near[1]) / k)
    return float(np.mean(shares))


@pytest.mark.parametrize("seed", range(5))
def test_cka_is_the_ratio_of_hsics(seed: int) -> None:
    x, y = states(seed=seed)
    assert linear_cka(x, y) == pytest.approx(cka_by_hsic(x, y), rel=1e-12)


def test_cka_does_not_see_rotation_scale_and_offset() -> None:
    x, y = states()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(7, 7)))[0]
    assert linear_cka(3 * x @ rotation + 5, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
    assert linear_cka(x, x @ rotation) == pytest.approx(1)
    assert math.isnan(permuted_cka(np.ones((4, 3)), y[:4])(np.arange(4)))


@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("seed", range(3))
def test_mutual_knn_is_brute_force(k: int, seed: int) -> None:
    x, y = states(seed=seed)
    assert mutual_knn(x, y, k) == pytest.approx(knn_by_hand(x, y, k))
    assert mutual_knn(x, x * 2, k) == 1


def test_permuted_statistics_are_those_of_permuted_rows() -> None:
    x, y = states()
    order = np.random.default_rng(0).permutation(len(x))
    assert permuted_cka(x, y)(order) == pytest.approx(cka_by_hsic(x, y[order]), rel=1e-12)
    assert permuted_knn(x, y, 3)(order) == pytest.approx(knn_by_hand(x, y[order], 3))


def test_null_is_the_one_of_all_permutations() -> None:
    x, y = states(n=5)
    every = [cka_by_hsic(x, y[list(order)]) for order in itertools.permutations(range(5))]
    found = against_null(permuted_cka(x, y), 5, permutations=20_000, seed=0)
    assert found["value"] == pytest.approx(every[0])
    assert found["null_mean"] == pytest.approx(np.mean(every), abs=4 * float(np.std(every)) / math.sqrt(20_000))
    assert found["null_stdev"] == pytest.approx(np.std(every), rel=0.05)
    share = np.mean(np.array(every) >= every[0] - 1e-12)
    assert found["p"] == pytest.approx(share, abs=0.02)
    assert found["z"] == pytest.approx((every[0] - np.mean(every)) / np.std(every), rel=0.1, abs=0.05)


def test_paired_states_stand_out_and_unpaired_do_not() -> None:
    x, y = states(n=80, shared=1.0)
    others = np.roll(y, 40, axis=0)
    for statistic in (permuted_cka, lambda x, y: permuted_knn(x, y, 8)):
        paired, unpaired = (against_null(statistic(x, z), 80, 500, 0) for z in (y, others))
        assert paired["p"] == pytest.approx(1 / 501) and paired["z"] is not None and paired["z"] > 4
        assert unpaired["p"] is not None and unpaired["p"] > 0.01


def test_what_is_not_defined_is_none() -> None:
    found = against_null(permuted_cka(np.ones((4, 3)), np.eye(4)), 4, 10, 0)
    assert found["value"] is None and found["z"] is None and found["p"] is None
    same = against_null(permuted_knn(np.eye(3), np.eye(3), 2), 3, 10, 0)  # every order has the same neighbours
    assert same["value"] == 1 and same["z"] is None and same["p"] == 1


def test_clip_score_by_hand() -> None:
    images = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    texts = np.array([[0.6, 0.8], [0, -1], [1, 0]], dtype=np.float32)
    found = clip_score(images, texts)
    assert found["value"] == pytest.approx(2.5 * (0.6 + 0 + 0.6) / 3, rel=1e-6)
    every = [
        np.mean([2.5 * max(float(images[i] @ texts[j]), 0) for i, j in enumerate(order)])
        for order in itertools.permutations(range(3))
    ]
    assert found["null_mean"] == pytest.approx(np.mean(every), abs=0.1)
    assert found["p"] == pytest.approx(np.mean(np.array(every) >= every[0] - 1e-6), abs=0.06)


def records(n: int, seed: int = 0) -> list[Record]:
    generator = np.random.default_rng(seed)
    found = []
    for i in range(n):
        shared = generator.normal(size=6)
        for point, kind in ERANKS.values():
            state = (shared + generator.normal(size=6)).astype(np.float32)
            entropy = float(generator.uniform(1, 2))
            found.append(record(f"{i:03}", entropy, point=point, input=kind, mean_state=state))
    return found


def stacked(entries: list[Record], point: str, kind: str) -> Array:
    return np.array([r.mean_state for r in entries if (r.point, r.input) == (point, kind)], dtype=np.float64)


def test_companions_of_records() -> None:
    entries = records(40)
    found = companions(entries, permutations=50)
    assert (found["n"], found["permutations"], found["neighbours"]) == (40, 50, 4)
    text = stacked(entries, "llm", "text")
    for point in ("vision", "connector", "llm"):
        image = stacked(entries, point, "image")
        assert found["cka"][point]["value"] == pytest.approx(cka_by_hsic(image, text))
        assert found["mutual_knn"][point]["value"] == pytest.approx(knn_by_hand(image, text, 4))
    entropy = {where: [r.entropy for r in entries if (r.point, r.input) == where] for where in ERANKS.values()}
    image, words, pair = (np.array(entropy["llm", kind]) for kind in ("image", "text", "pair"))
    each = image + words - pair
    information = found["mutual_information"]
    assert information["value"] == pytest.approx(each.mean()) == information["mean"]
    assert information["stdev"] == pytest.approx(each.std(ddof=1))


def test_companions_do_not_depend_on_the_order_of_records() -> None:
    entries = records(30)
    shuffled = [entries[i] for i in np.random.default_rng(0).permutation(len(entries))]
    assert companions(shuffled, permutations=20) == companions(entries, permutations=20)


def test_mutual_information_is_of_the_data_set_eranks() -> None:
    entries = records(10)
    eranks = [
        np.mean(np.exp([r.entropy for r in entries if (r.point, r.input) == ("llm", k)]))
        for k in ("image", "text", "pair")
    ]
    found = companions(entries, aggregate="erank", permutations=2)["mutual_information"]
    assert found["value"] == pytest.approx(math.log(eranks[0] * eranks[1] / eranks[2]))
    assert found["value"] != pytest.approx(found["mean"])


def test_of_many_examples_some_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_EXAMPLES", 25)
    found = companions(records(40), permutations=5)
    assert (found["n"], found["neighbours"]) == (25, 2)
    assert found == companions(records(40), permutations=5) != companions(records(40), permutations=5, seed=1)


@pytest.mark.parametrize("n", [12, 31])
def test_statistics_without_each_example(n: int) -> None:
    x, y = states(n)
    others = [np.delete(np.arange(n), i) for i in range(n)]
    assert cka_without_each(x, y) == pytest.approx([linear_cka(x[o], y[o]) for o in others], rel=1e-9)
    for k in (1, 3):
        assert knn_without_each(x, y, k) == pytest.approx([mutual_knn(x[o], y[o], k) for o in others], abs=1e-12)
    assert np.isnan(knn_without_each(x[:4], y[:4], 3)).all()


def test_intervals_of_statistics_of_pairs_are_not_those_of_resamples() -> None:
    """Unrelated states: the interval stands around the statistic, where resamples lie above it."""
    generator = np.random.default_rng(0)
    entries = [
        replace(r, mean_state=generator.normal(size=50).astype(np.float32)) if r.mean_state is not None else r
        for r in records(200)
    ]
    frame = to_frame(entries)
    for name in ("cka", "mutual_knn"):
        ((_, sample),) = metric(name).samples(frame, "entropy")
        limits = sample_intervals(sample)
        for quantity, value in zip(sample.quantities, sample.estimates, strict=True):
            low, high = limits[quantity]
            assert 0 <= low < value < high <= 1
            below, above = (abs(math.atanh(2 * limit - 1) - math.atanh(2 * value - 1)) for limit in (low, high))
            assert below == pytest.approx(above)


def test_statistics_of_pairs_of_two_models_are_compared() -> None:
    one, other = (to_frame(records(40, seed=seed)) for seed in (0, 1))
    found = compare(one, other, metric="cka", names=("a", "b"))
    ((_, of_one),) = metric("cka").samples(one, "entropy")
    ((_, of_other),) = metric("cka").samples(other, "entropy")
    assert isinstance(of_one, PairSample) and isinstance(of_other, PairSample)
    (a, without_a), (b, without_b) = (of.of_columns(of.columns) for of in (of_one, of_other))
    for i, difference in enumerate(found.differences):
        assert difference.difference == pytest.approx(a[i] - b[i])
        apart = without_a[:, i] - without_b[:, i]
        error = math.sqrt(39 / 40 * ((apart - apart.mean()) ** 2).sum())
        assert (difference.high - difference.low) / 2 == pytest.approx(stats.t.ppf(0.975, 39) * error)
        assert difference.p == pytest.approx(2 * stats.t.sf(abs(a[i] - b[i]) / error, 39))
    same = compare(one, one, metric="mutual_knn", names=("a", "a"))
    assert set(same.fixed) == {d.quantity for d in same.differences} and same.tests == 0


def test_further_layers_have_no_mean_states_and_take_none_away() -> None:
    entries = records(12)
    layers = [replace(r, point="layer 1", mean_state=None) for r in entries if (r.point, r.input) == ("llm", "pair")]
    null = [replace(r, transform="mismatch/0") for r in entries if r.input == "pair"]
    for name in ("cka", "mutual_knn", "mutual_information"):
        ((_, plain),) = metric(name).samples(to_frame(entries), "entropy")
        ((_, found),) = metric(name).samples(to_frame([*entries, *layers]), "entropy")
        assert found.estimates == pytest.approx(plain.estimates, rel=1e-12)
    for of in METRICS:
        assert not list(of.samples(to_frame(null), "entropy"))
