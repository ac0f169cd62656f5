"""Layers of the pair: each eRank is that of the hidden states which transformers itself returns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mmerank import Alignment, Convention, align, capture, load
from mmerank.errors import RunFolderError, UsageError
from mmerank.inputs.sequence import Role
from mmerank.runs.record import Record
from mmerank.states.reductions import orders
from tests import reference
from tests.adapters.cases import CASES, LLAVA, Case, examples
from tests.conftest import GOLDEN
from tests.test_cli import run

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.checkpoint)


def of_llm(result: Alignment) -> list[Record]:
    """Without those of the vision encoder, of which `tests/test_tower.py` is."""
    return [record for record in result.layer_records if record.input == "pair"]


def hidden_states(case: Case, form: Any = "bare") -> dict[str, list[NDArray[np.float64]]]:
    """All layers' states of each pair, by example, from `output_hidden_states` of the LLM in float64."""
    adapter = load(GOLDEN / case.name / case.checkpoint, device="cpu", dtype="float64")
    norm = adapter.points["llm"].module
    assert isinstance(norm, str)
    llm: Any = adapter.model.get_submodule(norm.rpartition(".")[0])
    found = {}
    for example in examples():
        sequence = adapter.sequence(example, "pair", form)
        with torch.inference_mode():
            pixels = [adapter.pixels(example.image, "model")]  # type: ignore[arg-type]
            inputs: list[Any] = []
            hook = llm.register_forward_pre_hook(
                lambda module, args, kwargs, inputs=inputs: inputs.append(kwargs), with_kwargs=True
            )
            adapter.decode([sequence], adapter.encode_images(pixels))
            hook.remove()
            states = llm(**inputs[0], output_hidden_states=True).hidden_states
        found[example.id] = [h[0].numpy() for h in states]
    return found


def test_equally_many_rows_of_every_layer() -> None:
    """Each draw is the entropy, by the definition, of the states that transformers returns there."""
    asked = Convention(match_tokens=6, match_repeats=3, match_seed=2)
    adapter = load(GOLDEN / LLAVA.name / LLAVA.checkpoint, device="cpu", dtype="float64")
    result = align(adapter, examples(), layers="all", convention=asked)
    expected = hidden_states(LLAVA)
    for record in of_llm(result):
        states = expected[record.example][int(record.point.removeprefix("layer "))]
        assert record.matched is not None and len(states) == record.n
        for i, entropy in enumerate(record.matched):
            drawn = orders(f"2/{record.example}/{record.point}/pair/{i}", record.n)[:6]
            assert entropy == pytest.approx(reference.entropy(states[drawn]), abs=1e-9)
    layers = result.layers or []
    last = [
        r.matched.mean() for r in result.records if (r.point, r.input) == ("llm", "pair") and r.matched is not None
    ]
    assert layers[-1]["equal"] == pytest.approx(np.exp(np.mean(last)))


@every_case
def test_every_layer_by_role(case: Case) -> None:
    expected = hidden_states(case)
    adapter = load(GOLDEN / case.name / case.checkpoint, device="cpu", dtype="float64")
    result = align(adapter, examples(), layers="all")
    plain = align(adapter, examples())
    assert [r.entropy for r in result.records] == [r.entropy for r in plain.records]
    depth = len(adapter.layers) - 1
    assert {r.point for r in of_llm(result)} == {f"layer {i}" for i in range(depth)}
    assert len(of_llm(result)) == 3 * depth
    finals = [r for r in result.records if (r.point, r.input) == ("llm", "pair")]
    for record in (*of_llm(result), *finals):
        states = expected[record.example]
        assert len(states) == depth + 1
        h = states[depth if record.point == "llm" else int(record.point.removeprefix("layer "))]
        images = slice(1, 1 + adapter.image_tokens)  # behind BOS
        assert (record.n, record.input) == (len(h), "pair")
        found = [record.entropy, record.entropy_image, record.entropy_text]
        parts = [h, h[images], h[1 + adapter.image_tokens :]]
        assert found == pytest.approx([reference.entropy(rows) for rows in parts], rel=1e-9)

    assert result.layers is not None
    for i, at in enumerate(result.layers):
        states = [expected[example.id][i] for example in examples()]
        image = np.mean([reference.entropy(h[1 : 1 + adapter.image_tokens]) for h in states])
        assert at["point"] == ("llm" if i == depth else f"layer {i}")
        assert at["image"] == pytest.approx(np.exp(image), rel=1e-9)
        low, high = at["intervals"]["image"]
        assert low <= at["image"] <= high
    assert result.layers[0]["image"] == pytest.approx(result.erank2)  # what the connector hands over
    assert result.layers[-1]["all"] == pytest.approx(result.erank5)


@every_case
def test_the_template_is_in_neither(case: Case) -> None:
    expected = hidden_states(case, "template")
    adapter = load(GOLDEN / case.name / case.checkpoint, device="cpu", dtype="float64")
    result = align(adapter, examples(), convention=Convention(sequence="template"), layers="1", batch_tokens=8192)
    assert {record.point for record in of_llm(result)} == {"layer 1"}
    for record, example in zip(sorted(of_llm(result), key=lambda r: r.example), examples(), strict=True):
        roles = np.array(adapter.sequence(example, "pair", "template").roles)
        h = expected[example.id][1]
        found = [record.entropy_image, record.entropy_text]
        assert found == pytest.approx([reference.entropy(h[roles == role]) for role in (Role.IMAGE, Role.TEXT)])


@every_case
def test_layers_fire_once_and_end_at_the_norm(case: Case) -> None:
    layers = {str(i): point for i, point in enumerate(case.adapter.layers)}
    assert case.adapter.layers[-1] == case.adapter.points["llm"]
    with torch.no_grad(), capture(case.adapter.model, layers) as seen:
        case.adapter.decode([case.adapter.sequence(examples()[0], "text", "bare")], None)
    assert len({tuple(h.shape) for h in seen.values()}) == 1


def test_only_what_is_asked_for() -> None:
    result = align(LLAVA.adapter, examples())
    assert result.layers is None and not result.layer_records and "layers" not in result.to_dict()
    assert np.isnan(result.to_pandas()["entropy_image"]).all()
    with pytest.raises(UsageError, match="unknown layer '7'; known: all"):
        align(LLAVA.adapter, examples(), layers="7")
    with_rows = align(LLAVA.adapter, examples(), convention=Convention(rows=True, companions=True), layers="first")
    assert all(r.strongest_row == -1 and r.mean_state is None for r in with_rows.layer_records)
    assert all(r.strongest_row >= 0 and r.mean_state is not None for r in with_rows.records)


def test_a_run_is_continued_with_its_layers(tmp_path: Path) -> None:
    first = align(LLAVA.adapter, examples(), layers="all", out=tmp_path / "run")
    again = align(LLAVA.adapter, examples(), layers="all", out=tmp_path / "run")
    assert again.layers == first.layers and again.matched is None
    with pytest.raises(RunFolderError, match="layers"):
        align(LLAVA.adapter, examples(), out=tmp_path / "run")


def test_command_line(golden_pairs: Path, tmp_path: Path) -> None:
    model, data = str(GOLDEN / LLAVA.name / LLAVA.checkpoint), f"llava:{golden_pairs}?images={GOLDEN / 'images'}"
    printed = run("align", model, "--data", data, "--layers", "all").stdout
    assert "image rows" in printed and "layer 0" in printed
    run("align", model, "--data", data, "--layers", "all", "--json", str(tmp_path / "result.json"))
    (result,) = json.loads((tmp_path / "result.json").read_text())["results"]
    assert result["layers"][-1]["all"] == pytest.approx(result["erank5"])
