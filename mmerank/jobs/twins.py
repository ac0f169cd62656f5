"""Untrained twins of a language model or an encoder: what identifies one, and where its records are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from mmerank.analysis.metrics.diff_erank import TWIN
from mmerank.engine.measurement import Measured
from mmerank.inputs.example import Example, Skipped
from mmerank.models.identity import INITIALISATION, KNOWN_BY, OF_TWINS
from mmerank.models.initialisation import check_drawn, drawn_at, named
from mmerank.models.protocol import LoadedModel
from mmerank.runs.folder import RunFolder, versions
from mmerank.runs.record import Record

Measure = Callable[[Iterable[Example | Skipped]], Iterator[Measured | Skipped]]
Trained = TypeVar("Trained", bound=LoadedModel)


class Probe(Protocol):
    """What measures with a model."""

    def measure(self, examples: Iterable[Example | Skipped]) -> Iterator[Measured | Skipped]:
        """Records of each example."""
        ...


def twin_name(seed: int) -> str:
    """What the names of a seed's twins begin with, whatever their configuration."""
    return f"{TWIN}{seed} "


def twin_source(trained: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """What an untrained twin is known by, so that its records are found without building it.

    Its weights are drawn in float32 on the CPU: they follow from these values and from the versions of the libraries.

    Args:
        trained: The trained model's `mmerank.models.identity.identity`.
        seed: Of the twin's weights.

    Returns:
        JSON values by name.
    """
    kept = {key: trained.get(key) for key in ("adapter", "configuration", "dtype")}
    known = {key: trained[KNOWN_BY][key] for key in OF_TWINS if key in trained[KNOWN_BY]}
    shared = {key: trained[key] for key in ("layers", "undefined") if key in trained}
    return {**kept, **shared, "untrained": True, "seed": seed, "tokenizer": known["tokenizer"], KNOWN_BY: known}


def full_twin_name(seed: int, source: Mapping[str, Any]) -> str:
    """The name in the records: the same for all checkpoints of a configuration, and for them alone."""
    given = source[KNOWN_BY].get(INITIALISATION)
    return f"{twin_name(seed)}{f'{named(given)} ' if given else ''}[{_digest(source)[:8]}]"


def built_when_needed(
    adapter: Trained,
    seed: int,
    probe: Callable[[Trained], Probe],
    *,
    last_use: bool = False,
    init_range: float | None = None,
) -> Measure:
    """A measurement with an untrained twin that is built at the first text: none is where all is measured already.

    Args:
        adapter: The trained model.
        seed: Of the twin's weights.
        probe: What measures with the twin.
        last_use: Whether the trained model is not needed any more, so that its weights are freed first.
        init_range: What the twin is drawn with in place of what the configuration says.

    Returns:
        Texts -> a result for each.
    """

    def measure(examples: Iterable[Example | Skipped]) -> Iterator[Measured | Skipped]:
        waiting = iter(examples)
        for first in waiting:
            if last_use:
                free_weights(adapter.model)
            with _built(adapter, seed, init_range) as twin:
                yield from probe(twin).measure(chain([first], waiting))

    return measure


def free_weights(model: nn.Module) -> None:
    """Free the memory of a model's weights, and leave what a twin is made like: shapes, dtypes and devices.

    Of quantised or offloaded models nothing is freed, since their weights are not only in their parameters.

    Args:
        model: One that is not run again.
    """
    parameters = list(model.parameters())
    if hasattr(model, "hf_device_map") or not all(p.is_floating_point() and not p.is_meta for p in parameters):
        return
    for parameter in parameters:
        parameter.data = torch.zeros((), dtype=parameter.dtype, device=parameter.device).expand(parameter.shape)


@contextmanager
def _built(adapter: Trained, seed: int, init_range: float | None) -> Iterator[Trained]:
    """An untrained twin; where both do not fit on the device, the trained model waits on the CPU meanwhile."""
    device, moved = next(adapter.model.parameters()).device, False
    try:
        try:
            twin = _drawn(adapter, seed, init_range)
        except torch.OutOfMemoryError:
            moved = True
            adapter.model.to("cpu")
            torch.cuda.empty_cache()
            twin = _drawn(adapter, seed, init_range)
        yield twin
    finally:
        if moved:
            adapter.model.to(device)


def _drawn(adapter: Trained, seed: int, init_range: float | None) -> Trained:
    if init_range is None:
        return adapter.untrained(seed)
    with drawn_at(adapter, init_range):
        twin = adapter.untrained(seed)
    check_drawn(twin.model, adapter.name, init_range)
    return twin


def measured_examples(entries: Sequence[Example | Skipped], trained: Iterable[Record]) -> list[Example]:
    """The examples that the trained model could measure, which its twins are to see.

    Args:
        entries: The data.
        trained: The trained model's records.

    Returns:
        In the data's order, each once.
    """
    measured = {record.example for record in trained}
    first: dict[str, Example] = {}
    for entry in entries:
        if isinstance(entry, Example) and entry.id in measured:
            first.setdefault(entry.id, entry)
    return list(first.values())


def twin_cache(cache: Path, name: str, texts: Sequence[Example], settings: Mapping[str, Any]) -> RunFolder:
    """Where a twin's records of these texts under these settings are kept.

    Args:
        cache: The folder of all twins.
        name: Of the twin in the records.
        texts: Those that are measured.
        settings: Convention and layers.

    Returns:
        A folder of its own.
    """
    content = [[example.id, example.text] for example in texts]
    stated = {"job": "untrained", "texts": _digest(content), **settings}
    return RunFolder(cache / _digest([name, stated, versions()])[:32], stated, waits=True)


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
