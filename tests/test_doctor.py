from __future__ import annotations

import io
import json
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console

from mmerank import Convention, Example, align, load, wrap
from mmerank.analysis.results.examination import Examination
from mmerank.convention import ImageLayout
from mmerank.eranks import ERANKS
from mmerank.errors import DataError
from mmerank.inputs.example import Skipped
from mmerank.inputs.sequence import KINDS, Role
from mmerank.jobs.doctor import examine
from mmerank.report.terminal.doctor import examination_view
from tests.adapters.cases import CASES, LLAVA, Case, examples
from tests.adapters.test_multimodal import EXAMPLES
from tests.adapters.tiny_models import built
from tests.conftest import GOLDEN
from tests.test_cli import run


def rendered(found: Examination) -> str:
    console = Console(file=io.StringIO(), width=100, color_system=None, force_terminal=False)
    console.print(examination_view(found))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@every_case
@pytest.mark.parametrize("form", ["bare", "template"])
@pytest.mark.parametrize("tokens", ["all", "modality"])
def test_layout_covers_every_position_once(case: Case, form: Any, tokens: Any) -> None:
    convention = Convention(sequence=form, tokens=tokens)
    found = examine(case.adapter, examples(), convention=convention)
    measured = align(case.adapter, examples()[:1], convention=convention)
    for kind in KINDS:
        sequence = case.adapter.sequence(examples()[0], kind, form)
        covered = [(i, s.role) for s in found.layout[kind] for i in range(s.first, s.last + 1)]
        assert covered == [(i, role.name.lower()) for i, role in enumerate(sequence.roles)]
        counted = sum(s.last - s.first + 1 for s in found.layout[kind] if s.counted)
        assert counted == next(r.n for r in measured.records if (r.point, r.input) == ("llm", kind))
        assert found.points["llm"]["shapes"][kind][0] == counted
    assert [found.eranks[label] for label in ERANKS] == pytest.approx([getattr(measured, label) for label in ERANKS])
    texts = [s.text for s in found.layout["pair"] if s.role == Role.TEXT.name.lower()]
    assert examples()[0].response.split()[-1] in texts[-1]


@every_case
def test_points_are_described(case: Case) -> None:
    found = examine(case.adapter, examples())
    assert set(found.points) == {"vision", "connector", "llm"} and found.points["vision"]["shapes"].keys() == {
        "image"
    }
    assert found.parameters == sum(p.numel() for p in case.adapter.model.parameters())
    assert found.places == ("float32 on cpu",) and next(iter(found.vision_points)) == "default"


def test_rows_of_pictures_of_several_sizes() -> None:
    """LLaVA-NeXT's: 16 of each of two tiles or more, ends of lines and what is cut off again left out."""
    model, processor, _ = built("llava_next")
    found = examine(wrap(model, processor, name="m"), EXAMPLES, convention=Convention(tokens="modality"))
    assert list(found.picture_rows) == ["small, 96 x 64", "tall, 100 x 400", "large, 1200 x 900"]
    assert found.picture_rows["small, 96 x 64"] == {"vision": 80, "connector": 80, "llm": 64}
    assert found.picture_rows["tall, 100 x 400"] == {"vision": 48, "connector": 48, "llm": 16 + 8 * 2}
    # The newline places of the example's own picture are not the picture's either.
    places = [stretch for stretch in found.layout["image"] if stretch.role == "image"]
    assert sum(stretch.last - stretch.first + 1 for stretch in places) == 64
    assert examine(LLAVA.adapter, examples()).picture_rows == {}
    assert "small, 96 x 64" in rendered(found) and "8 rows of the picture" in rendered(found)


def test_a_picture_that_a_processor_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor, _ = built("qwen2_vl")
    of = wrap(model, processor, name="m")
    own = of.pixels

    def small_ones(picture: Image.Image, layout: ImageLayout) -> Any:
        if picture.width > 1000:
            raise DataError("too wide")
        return own(picture, layout)

    monkeypatch.setattr(of, "pixels", small_ones)
    found = examine(of, EXAMPLES)
    assert found.picture_rows["large, 1200 x 900"] == "too wide" and "too wide" in rendered(found)
    assert found.picture_rows["small, 96 x 64"] == {"vision": 24, "connector": 6, "llm": 6}


def test_the_first_usable_example_is_run() -> None:
    entries: list[Example | Skipped] = [Skipped("a", "for a reason"), Example("b", None, "x", "y"), *examples()]
    assert examine(LLAVA.adapter, entries).example == "0"
    with pytest.raises(DataError, match="no example could be measured; first: 'a': for a reason"):
        examine(LLAVA.adapter, entries[:2])


def test_a_broken_model_is_not_tried_on_every_example() -> None:
    weight = LLAVA.adapter.model.get_parameter("model.language_model.norm.weight")
    sound, passes = weight.detach().clone(), iter(examples())
    with torch.no_grad():
        weight.fill_(torch.nan)
    try:
        with pytest.raises(DataError, match="example '0': hook point 'llm', image input: hidden states hold NaN"):
            examine(LLAVA.adapter, passes)
        assert next(passes).id == "1"
    finally:
        with torch.no_grad():
            weight.copy_(sound)


def test_warnings() -> None:
    half = load(GOLDEN / "llava_tiny" / "hf_model", dtype="float16", device="cpu")
    (example, *_) = examples()
    long = Example("long", example.image, example.instruction, example.response * 100)
    found = examine(half, [long])
    warnings = " | ".join(found.warnings)
    assert found.layout["pair"][-1].last + 1 == half.max_tokens == found.points["llm"]["shapes"]["pair"][0]
    assert "float16" in warnings and "text tokens were cut off" in warnings and "token counts differ" in warnings

    connector = LLAVA.adapter.model.get_submodule("model.multi_modal_projector")
    noise = torch.randn(36, 64, generator=torch.Generator().manual_seed(0)) * 1e-3

    def collapse(module: Any, args: Any, output: Any) -> Any:
        line = torch.linspace(-1, 1, 36)[:, None] * torch.ones(64)
        return (line + noise).expand_as(output)

    handle = connector.register_forward_hook(collapse)
    try:
        assert "connector / image 100%" in " | ".join(examine(LLAVA.adapter, examples()).warnings)
    finally:
        handle.remove()


@every_case
def test_command(case: Case) -> None:
    model = str(GOLDEN / case.name / case.checkpoint)
    done = run("doctor", model, "--sequence", "template", "--tokens", "modality")
    assert done.returncode == 0, done.stderr
    for word in ("Hook points", "Token layout", "template", "bos", "float32", str(case.adapter.points["llm"].module)):
        assert word in done.stdout
    done = run("doctor", model, "--json", "-")
    content = json.loads(done.stdout)
    assert content["source"]["adapter"] == case.adapter.source["adapter"] and content["layout"]["pair"]


def test_files_behind_a_model_are_named() -> None:
    done = run("doctor", str(GOLDEN / "minigpt_v2_tiny" / "minigpt_v2.yaml"))
    shown = "".join(done.stdout.split())  # a path may go on in the next line
    for word in ("llama_base", "eva_vit_g.pth", "checkpoint.pth", "ignored", "blocks.3."):
        assert word in shown
