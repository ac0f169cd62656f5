"""One set of hidden states -> one record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from mmerank.convention import Centre, Convention, Precision, TextConvention
from mmerank.entropy import participation_ratio, spectral_entropy, top_share
from mmerank.errors import DegenerateTokens, NonFiniteTokens
from mmerank.records import Record
from mmerank.row_study import RowStudy
from mmerank.subsets import TokenSet


def measurement_fingerprint(source: Mapping[str, Any], convention: Convention | TextConvention) -> str:
    """What a record knows its model and convention by: 16 hexadecimal digits."""
    stored = {"model": dict(source), "convention": convention.to_dict()}
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()[:16]


def measurement(
    h: Tensor,
    *,
    model: str,
    example: str,
    point: str,
    input_kind: str,
    centre: Centre,
    precision: Precision,
    fingerprint: str,
    text_cut: int = 0,
    study: RowStudy | None = None,
) -> Record:
    """Spectrum and entropy of a set of tokens, with where they come from.

    Args:
        h: Hidden states, (n, d), floating point.
        model: Name of the model.
        example: Id of the example.
        point: Name of the hook point.
        input_kind: What the model was fed: `image`, `text` or `pair`.
        centre: See `mmerank.spectrum.spectrum`.
        precision: See `mmerank.spectrum.spectrum`.
        fingerprint: Of model and convention.
        text_cut: Text tokens cut off to fit the model's limit.
        study: What else is asked of the rows.

    Returns:
        The record.

    Raises:
        DegenerateTokens: There is no spectrum; names the hook point.
        NonFiniteTokens: NaN or infinity; names model, hook point and example.
    """
    try:
        tokens = TokenSet(h, centre=centre, precision=precision)
    except DegenerateTokens as error:
        raise type(error)(f"hook point {point!r}, {input_kind} input: {error}") from None
    except NonFiniteTokens as error:
        where = f"{model}: hook point {point!r}, {input_kind} input, example {example!r}"
        raise NonFiniteTokens(f"{where}: {error}") from None
    n, d = h.shape
    eigenvalues = tokens.spectrum
    return Record(
        model=model,
        example=example,
        point=point,
        input=input_kind,
        transform="none",
        n=n,
        d=d,
        entropy=float(spectral_entropy(eigenvalues)),
        participation_ratio=float(participation_ratio(eigenvalues)),
        top_share=float(top_share(eigenvalues)),
        text_cut=text_cut,
        fingerprint=fingerprint,
        spectrum=eigenvalues.numpy().astype(np.float32),
        **(study.fields(tokens, h, example=example, point=point, input_kind=input_kind) if study else {}),
    )
