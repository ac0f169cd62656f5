"""The Image Reduction Ratio in two parts, on rows of which it is known what takes their effective rank."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mmerank
from mmerank.analysis.metrics.reduction import METRIC
from mmerank.analysis.statistics.bootstrap import sample_intervals
from mmerank.convention import AT_CONNECTOR_ROWS, Convention
from mmerank.engine.measurement import Measurement
from mmerank.engine.metrics import Metrics
from mmerank.runs.record import Record, to_frame
from tests import reference

CONVENTION = Convention(metrics=(AT_CONNECTOR_ROWS,))
SIDE, WIDTH = 8, 96


def records(seed: int, connect: Any) -> list[Record]:
    """The five measurements of an example whose vision rows are independent."""
    draw = np.random.default_rng(seed)
    vision = draw.normal(size=(SIDE * SIDE, WIDTH))
    connector = connect(vision, draw)
    text = draw.normal(size=(6, WIDTH))
    places = {
        ("vision", "image"): vision,
        ("connector", "image"): connector,
        ("llm", "image"): connector,
        ("llm", "text"): text,
        ("llm", "pair"): np.concatenate([connector, text]),
    }
    found = []
    for (point, kind), h in places.items():
        metrics = Metrics(CONVENTION, None, len(connector) if point == "vision" else None)
        record = Measurement(
            torch.from_numpy(h),
            model="m",
            example=f"{seed}",
            point=point,
            input_kind=kind,
            centre="mean",
            precision="float64",
            fingerprint="",
            metrics=metrics,
        ).outcome()
        assert isinstance(record, Record)
        found.append(record)
    return found


def pooled(vision: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """An average pool of 2 x 2."""
    squares = vision.reshape(SIDE // 2, 2, SIDE // 2, 2, WIDTH)
    return np.asarray(squares.mean(axis=(1, 3)).reshape(-1, WIDTH))


def flattened(vision: NDArray[np.float64], draw: np.random.Generator) -> NDArray[np.float64]:
    """The same, behind a map of rank 3."""
    return pooled(vision, draw) @ draw.normal(size=(WIDTH, 3)) @ draw.normal(size=(3, WIDTH))


def parts(connect: Any) -> tuple[dict[str, float], dict[str, Any], dict[str, float]]:
    frame = to_frame([record for seed in range(24) for record in records(seed, connect)], spectrum=False)
    ((_, sample),) = METRIC.samples(frame, "entropy")
    found = dict(zip(sample.quantities, map(float, sample.estimates), strict=True))
    eranks = {
        str(point): math.exp(of["entropy"].mean()) for point, of in frame[frame["input"] == "image"].groupby("point")
    }
    return found, sample_intervals(sample), eranks


def test_a_pool_of_independent_rows_is_count_alone() -> None:
    found, limits, eranks = parts(pooled)
    low, high = limits["reduction_by_geometry"]
    assert low <= 0 <= high and high - low < 0.05
    whole = (eranks["vision"] - eranks["connector"]) / eranks["vision"]
    assert found["reduction_by_count"] == pytest.approx(whole, abs=0.02) and whole > 0.5
    assert sum(found.values()) == pytest.approx(whole, abs=1e-12)


def test_what_a_flat_connector_takes_is_geometry() -> None:
    found, _, eranks = parts(flattened)
    assert found["reduction_by_count"] == pytest.approx(parts(pooled)[0]["reduction_by_count"], abs=1e-12)
    assert found["reduction_by_geometry"] > 0.1 and eranks["connector"] < 3.001


def test_as_many_rows_leave_nothing_to_the_count() -> None:
    found, _, _ = parts(lambda vision, draw: np.ascontiguousarray(vision[:, ::-1]))
    assert found["reduction_by_count"] == 0
    assert found["reduction_by_geometry"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", ["demo-llava", "demo-minigpt-v2"])
def test_runs_draw_as_many_rows_as_the_connector_puts_out(name: str) -> None:
    adapter: Any = mmerank.load(name)
    pairs = [of for of in mmerank.load_data("demo") if isinstance(of, mmerank.Example)][:3]
    result = mmerank.align(adapter, pairs, metrics=[AT_CONNECTOR_ROWS])
    frame = result.to_pandas().set_index(["example", "point", "input"])[f"metric:{AT_CONNECTOR_ROWS}"]
    for pair in pairs:
        picture: Any = pair.image
        with torch.inference_mode():
            (image,) = adapter.encode_images([adapter.pixels(picture.convert("RGB"), "model")])
        rows, count = image.vision.double().numpy(), len(image.connector)
        logs = [reference.entropy(rows)]
        if count < len(rows):
            key = f"0/connector/{pair.id}/vision/image"
            drawn = [random.Random(f"{key}/{i}").sample(range(len(rows)), len(rows))[:count] for i in range(8)]
            logs = [reference.entropy(rows[of]) for of in drawn]
        assert frame[pair.id, "vision", "image"] == pytest.approx(math.exp(np.mean(logs)), rel=1e-9)
        assert frame[pair.id, "connector", "image"] is None or math.isnan(frame[pair.id, "connector", "image"])
    assert result.metrics is not None
    numbers = {of["input"]: of["value"] for of in result.metrics["image_reduction"]}
    assert sum(numbers.values()) == pytest.approx(result.image_reduction_ratio, abs=1e-12)
    assert "Image Reduction Ratio in two parts" in str(result)
    points: Any = result.figures()["reduction"].axes[0].get_lines()[0].get_ydata()
    parts = [numbers["reduction_by_count"], numbers["reduction_by_geometry"]]
    assert [*points] == pytest.approx([result.image_reduction_ratio, *parts])


def test_the_plain_function_draws_in_the_same_sense() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 24))
    found = mmerank.metric(AT_CONNECTOR_ROWS)(rows, rows[:10])
    chosen = random.Random(0)
    logs = [reference.entropy(rows[chosen.sample(range(40), 10)]) for _ in range(8)]
    assert found == pytest.approx(math.exp(np.mean(logs)), rel=1e-9)
