"""One set of hidden states -> one record, in two steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from mmerank.convention import AnyConvention, Centre, Precision
from mmerank.engine.metrics import Metrics
from mmerank.errors import DataError, NonFiniteTokens, NoSpectrum, SourceError, TooFewTokens, TransformFailed
from mmerank.formulas.cloud import Known
from mmerank.inputs.example import Skipped
from mmerank.runs.record import Record
from mmerank.runs.settings import record_fingerprint
from mmerank.states.eigenvalues import shares
from mmerank.states.entropy import participation_ratio, spectral_entropy, top_share
from mmerank.states.reductions import Study
from mmerank.states.spectrum import PendingGram
from mmerank.states.token_set import TokenSet
from mmerank.transfer import Arriving


@dataclass(frozen=True)
class Measured:
    """One example's records, and how many positions the model computed for them."""

    id: str
    records: tuple[Record, ...]
    tokens: int


def measurement_fingerprint(source: Mapping[str, Any], convention: AnyConvention) -> str:
    """What a record knows its model (see `mmerank.models.identity`) and convention by: 16 hexadecimal digits."""
    return record_fingerprint(source, convention.to_dict())


def no_spectrum(example: str, error: NoSpectrum, where: str = "") -> Skipped:
    """An example that is left out because of its hidden states; `where` stands before the reason."""
    return Skipped(example, f"{where}{error}", suspect="model" if isinstance(error, NonFiniteTokens) else None)


def unreadable(example: str, error: DataError, where: str = "") -> Skipped:
    """An example that is left out because of its inputs; `where` stands before the reason."""
    suspect: Literal["source", "transform"] | None = "source" if isinstance(error, SourceError) else None
    if isinstance(error, TransformFailed):
        suspect = "transform"
    return Skipped(example, f"{where}{error}", suspect=suspect)


class Measurement:
    """One set of hidden states on its way to a record.

    The constructor asks the device for what it shall compute and does not wait for a GPU. `outcome` does the rest, in
    any thread.

    Args:
        h: Hidden states, (n, d), floating point.
        model: Name of the model.
        example: Id of the example.
        point: Name of the hook point.
        input_kind: What the model was fed: `image`, `text` or `pair`.
        centre: See `mmerank.states.spectrum.spectrum`.
        precision: See `mmerank.states.spectrum.spectrum`.
        fingerprint: Of model and convention.
        text_cut: Text tokens cut off to fit the model's limit.
        study: What else is asked of the rows.
        metrics: Those that are asked for.
    """

    def __init__(
        self,
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
        study: Study | None = None,
        metrics: Metrics | None = None,
    ):
        self._known: dict[str, Any] = {
            "model": model,
            "example": example,
            "point": point,
            "input": input_kind,
            "transform": "none",
            "n": h.shape[0],
            "d": h.shape[1],
            "text_cut": text_cut,
            "fingerprint": fingerprint,
        }
        self._choices: dict[str, Any] = {"centre": centre, "precision": precision}
        self._study = None if study is None else (study, h)
        self._metrics = None if metrics is None else (metrics, Arriving(h.detach()))
        self._pending: PendingGram | TooFewTokens
        try:
            self._pending = PendingGram(h, **self._choices)
        except TooFewTokens as error:
            self._pending = error

    def outcome(self) -> Record | NoSpectrum:
        """The record, or why there is no spectrum; to be called once.

        Returns:
            One of them; the error names the hook point.
        """
        point, kind, example = (self._known[name] for name in ("point", "input", "example"))
        studied: dict[str, Any] = {}
        try:
            if isinstance(self._pending, TooFewTokens):
                raise self._pending
            if self._study is None:
                gram, lengths = self._pending.arrived()
                eigenvalues = shares(gram)
            else:
                study, h = self._study
                tokens = TokenSet(h, pending=self._pending, **self._choices)
                eigenvalues, gram, lengths = tokens.spectrum, tokens.gram, tokens.lengths
                studied = study.fields(tokens, h, example=example, point=point, input_kind=kind)
        except NoSpectrum as error:
            return type(error)(f"hook point {point!r}, {kind} input: {error}")
        if self._metrics is not None:
            metrics, arriving = self._metrics
            rows = arriving.wait()[0].double().numpy()
            # Metrics are of rows that are centred by their mean, and roots of eigenvalues need all digits.
            plain = self._choices == {"centre": "mean", "precision": "float64"}
            known = Known(eigenvalues.numpy(), gram.numpy(), lengths.flatten().numpy()) if plain else None
            studied |= metrics.sampled(rows, example)
            studied["metrics"] = metrics.fields(rows, known, f"{example}/{point}/{kind}")
        return Record(
            **self._known,
            entropy=float(spectral_entropy(eigenvalues)),
            participation_ratio=float(participation_ratio(eigenvalues)),
            top_share=float(top_share(eigenvalues)),
            spectrum=eigenvalues.numpy().astype(np.float32),
            **studied,
        )
