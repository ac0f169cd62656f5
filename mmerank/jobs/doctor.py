"""What a model looks like from here: hook points with shapes, token layout, and what to be careful about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from PIL import Image

from mmerank.analysis.metrics.alignment import LABELS
from mmerank.analysis.results.examination import Examination, Stretch, said_of_gates
from mmerank.computing import Computing
from mmerank.convention import Convention
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.pairs import Pairs
from mmerank.engine.probe import Probe
from mmerank.eranks import ERANKS
from mmerank.errors import DataError, ModelError
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS, open_pictures
from mmerank.inputs.sequence import KINDS, Role, TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.encoded import Encoded
from mmerank.models.gates import initial_vectors, zero_gates
from mmerank.models.hooks import Point
from mmerank.models.initialisation import initialisation, unstated
from mmerank.models.wrapped import evaluated
from mmerank.runs.record import Record
from mmerank.transfer import for_each_tensor

PICTURES = {"small": (96, 64), "tall": (100, 400), "large": (1200, 900)}  # width and height in pixels
STEEP = 0.5  # share of the spectrum in one direction that is worth a warning


def examine(
    adapter: Adapter,
    examples: Iterable[Example | Skipped],
    *,
    convention: Convention | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Examination:
    """Run the first usable example and look at what happens.

    Args:
        adapter: A loaded model.
        examples: The first that can be measured is used.
        convention: The choices in force.
        max_pixels: Pictures with more pixels are skipped.

    Returns:
        What was found.

    Raises:
        DataError: No example can be measured, or hidden states hold NaN or infinity.
    """
    convention = convention or Convention()
    plan = Pairs(adapter, convention, max_pixels=max_pixels)
    probe = Probe(plan, Computing(batch_tokens=0))
    skipped, untold = None, ""
    try:
        initial = initial_vectors(adapter.model)
    except ModelError as error:
        initial, untold = {}, f"whether gates of an untrained twin start at zero cannot be told: {error}"
    for example in examples:
        with zero_gates(adapter.model, initial) as gates:
            (result,) = probe.measure([example])
        if isinstance(result, Measured) and isinstance(example, Example):
            break
        skipped = skipped or result
        if isinstance(result, Skipped) and result.suspect == "model":
            raise DataError(f"{adapter.name}: example {example.id!r}: {result.reason}")
    else:
        why = f"; first: {skipped.id!r}: {skipped.reason}" if isinstance(skipped, Skipped) else ""
        raise DataError(f"no example could be measured{why}")
    records = {(record.point, record.input): record for record in result.records}
    counts: dict[str, int] = {}
    for parameter in adapter.model.parameters():
        place = f"{str(parameter.dtype).removeprefix('torch.')} on {parameter.device}"
        counts[place] = counts.get(place, 0) + parameter.numel()
    points = {**adapter.points, "vision": adapter.vision_points[convention.vision_point]}
    prepared = probe.prepare(example)
    assert not isinstance(prepared, Skipped)  # it has been measured
    picture = _opened(example, max_pixels)
    filled = _encoded(adapter, picture, convention).filled
    layout = {}
    for kind, sequence in prepared.own.items():
        told = sequence if filled is None else sequence.with_places(filled)
        layout[kind] = _stretches(adapter, told, convention)
    return Examination(
        model=adapter.name,
        source=dict(probe.source),
        parameters=sum(counts.values()),
        places=tuple(sorted(counts, key=lambda place: -counts[place])),
        points={name: _described(point, name, records) for name, point in points.items()},
        vision_points={
            name: f"{point.side} of {point.module}" + (f", without the first {point.skip}" if point.skip else "")
            for name, point in adapter.vision_points.items()
        },
        example=example.id,
        layout=layout,
        picture_rows={} if adapter.image_tokens else dict(_picture_rows(adapter, convention)),
        eranks={
            label: float(torch.tensor(records[where].entropy).exp())
            for label, where in ERANKS.items()
            if where in records
        },
        warnings=(
            *_warnings(plan, records),
            *([said_of_gates(gates)] if gates else []),
            *([untold] if untold else []),
        ),
        initialisation=initialisation(adapter),
        zero_gates=tuple(gates),
    )


def _opened(example: Example, max_pixels: int) -> Any:
    assert example.image is not None  # it has been measured
    return open_pictures(example.image, max_pixels=max_pixels)


@torch.inference_mode()
def _encoded(adapter: Adapter, picture: Image.Image, convention: Convention) -> Encoded:
    with evaluated(adapter.model):
        device = next(adapter.model.parameters()).device
        pixels = for_each_tensor(adapter.pixels(picture, convention.image_layout), lambda tensor: tensor.to(device))
        return adapter.encode_images([pixels], convention.vision_point)[0]


def _picture_rows(adapter: Adapter, convention: Convention) -> Iterator[tuple[str, dict[str, int] | str]]:
    """Rows at each hook point of pictures of several sizes."""
    for name, (width, height) in PICTURES.items():
        picture = Image.effect_noise((width, height), 64).convert("RGB")
        label = f"{name}, {width} x {height}"
        try:
            found = _encoded(adapter, picture, convention)
            sequence = adapter.sequence(Example("", picture, "", "a"), "image", "bare")
        except DataError as error:
            yield label, str(error)
            continue
        roles = (sequence if found.filled is None else sequence.with_places(found.filled)).roles
        rows = {"vision": len(found.vision), "connector": len(found.connector), "llm": roles.count(Role.IMAGE)}
        yield label, rows


def _described(point: Point, name: str, records: dict[tuple[str, str], Record]) -> dict[str, Any]:
    shapes = {kind: (r.n, r.d) for (where, kind), r in records.items() if where == name}
    return {"module": str(point.module), "side": point.side, "skip": point.skip, "shapes": shapes}


def _stretches(adapter: Adapter, sequence: TokenSequence, convention: Convention) -> tuple[Stretch, ...]:
    found, position = [], 0
    for role, run in groupby(zip(sequence.roles, sequence.ids, strict=True), key=lambda pair: pair[0]):
        ids = [i for _, i in run]
        found.append(
            Stretch(
                first=position,
                last=position + len(ids) - 1,
                role=role.name.lower(),
                counted=convention.tokens == "all" or role in (Role.IMAGE, Role.TEXT),
                text="" if role is Role.IMAGE else adapter.tokenizer.decode(ids),
            )
        )
        position += len(ids)
    return tuple(found)


def _warnings(plan: Pairs, records: dict[tuple[str, str], Record]) -> Iterable[str]:
    adapter = plan.adapter
    yield from adapter.source.get("cautions", ())
    yield from (f"{LABELS[label]} is undefined: {reason}" for label, reason in adapter.undefined.items())
    dtypes = {parameter.dtype for parameter in adapter.model.parameters()}
    if torch.float16 in dtypes:
        yield "float16 overflows at 65504: massive activations may become infinite; bfloat16 does not"
    if not adapter.causal:
        yield "the LLM is not causal, so the image input needs a pass of its own"
    elif plan.prefix.refuted:
        yield "the image's hidden states depend on the text behind it, so the image input needs a pass of its own"
    if text_cut := records["llm", "text"].text_cut:
        yield f"{text_cut} text tokens were cut off to fit the limit of {adapter.max_tokens}"
    steep = [f"{point} / {kind} {r.top_share:.0%}" for (point, kind), r in records.items() if r.top_share > STEEP]
    if line := unstated(initialisation(adapter)):
        yield line
    if steep:
        yield (
            f"one direction holds most of the spectrum ({', '.join(steep)}): a massive activation, or tokens that "
            "hardly differ; compare with --centre median"
        )
    tokens = {kind: records["llm", kind].n for kind in KINDS if ("llm", kind) in records}
    if max(tokens.values()) > 2 * min(tokens.values()):
        counts = ", ".join(f"{kind} {n}" for kind, n in tokens.items())
        yield f"token counts differ ({counts}); they bound eRank3 to eRank5, which differ for that alone"
