"""`match_margin`: the loss of a response under its own picture, and under those of other examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mmerank.convention import MATCH_MARGIN, Convention
from mmerank.engine.plans.loss import Logits, answer_places, logits_of, mean_loss
from mmerank.errors import CaptureError, ModelError
from mmerank.formulas.asked import entry, value_of
from mmerank.inputs.sequence import Role, TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.hooks import capture
from mmerank.runs.record import VALUE
from mmerank.transfer import Arriving

COLUMN = f"{VALUE}{MATCH_MARGIN}"
NO_RESPONSE = "no token of its response is read"
_UNTOLD = "the tokens of its response are not told from what stands before them"


def asks_for_margin(convention: Convention) -> bool:
    """Whether `match_margin` is among the metrics."""
    return MATCH_MARGIN in convention.metrics


def margin_logits(adapter: Adapter) -> Logits:
    """The LM head of a model that `match_margin` is asked of.

    Args:
        adapter: The model.

    Returns:
        Final hidden states -> logits.

    Raises:
        ModelError: It has none, or predicts no tokens.
    """
    try:
        return logits_of(adapter)
    except ModelError as error:
        raise ModelError(f"metric {MATCH_MARGIN!r}: {error}") from None


def response_places(whole: TokenSequence, without: TokenSequence) -> tuple[int, ...] | str:
    """Which of the text tokens of a pair are its response's: those that are not there without it.

    Args:
        whole: The pair's sequence.
        without: That of the same pair with an empty response.

    Returns:
        Their places among the tokens of text, one after the other; or why there are none.
    """
    own = answer_places(whole, without)
    if not own:
        return NO_RESPONSE
    if own[-1] - own[0] >= len(own) or own[0] == 0:
        return _UNTOLD
    texts = [i for i, role in enumerate(whole.roles) if role is Role.TEXT]
    return tuple(texts.index(i) for i in own)


@dataclass
class Losses:
    """Reads the loss of responses from passes of the LLM that run anyway.

    Attributes:
        adapter: The model.
        logits: Its LM head.
        sequences: What the next `decode` is given, in its order.
        places: Of each, which of its tokens of text are predicted; empty for none.
    """

    adapter: Adapter
    logits: Logits
    sequences: Sequence[TokenSequence]
    places: Sequence[Sequence[int]]
    _kept: list[Tensor] = field(default_factory=list)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keeps the states that predict the responses, while `decode` runs inside."""
        waiting = iter(map(self._stretch, self.sequences, self.places))

        def reduce(h: Tensor) -> None:
            for states, stretch in zip(h, waiting, strict=False):
                self._kept.append(states[stretch].clone())

        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}, reduce=reduce, calls=None):
            yield
        if next(waiting, None) is not None:
            raise CaptureError(f"{self.adapter.name}: its `decode` ran fewer sequences than it was given")

    def found(self) -> list[Arriving | None]:
        """The loss of each response, 0-dim float64, nats per token; None where no token is predicted."""
        # Behind the pass: some adapters look at their LM head in a pass of its own when it is first asked for.
        found: list[Arriving | None] = []
        for h, sequence, places in zip(self._kept, self.sequences, self.places, strict=True):
            if not places:
                found.append(None)
                continue
            ids = torch.tensor(sequence.ids[self._stretch(sequence, places)])
            found.append(Arriving(mean_loss(self.logits, h, ids)))
        self._kept.clear()
        return found

    def _stretch(self, sequence: TokenSequence, places: Sequence[int]) -> slice:
        """From the token before the first that is predicted to the last."""
        if not places:
            return slice(0, 0)
        texts = [i for i, role in enumerate(sequence.roles) if role is Role.TEXT]
        return slice(texts[places[0]] - 1, texts[places[-1]] + 1)


def margin(own: Arriving, others: Sequence[Arriving]) -> float | str:
    """The metric of one example.

    Args:
        own: Loss of the response with its own picture.
        others: With each of the others.

    Returns:
        The number, or why there is none.
    """
    mine, *theirs = (float(loss.wait()[0]) for loss in (own, *others))
    metric = entry(MATCH_MARGIN)
    called = {"own": "the loss under its own picture", "others": "the losses under other pictures"}
    return value_of(metric, lambda: metric.function(np.array([mine]), np.array([theirs])), called)
