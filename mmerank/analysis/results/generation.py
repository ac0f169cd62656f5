"""What a model wrote for a data set, and how its rows and its certainty changed as it wrote."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mmerank.analysis.metrics import generation
from mmerank.analysis.results.numbered import NumberedResult
from mmerank.convention import GenerationConvention


@dataclass(frozen=True)
class Response:
    """What a model wrote for one example.

    Attributes:
        example: Its id.
        text: The response.
        erank_prompt: Of the prompt's rows.
        rows: Of the response: 8, 16, ... where the stride is 8.
        eranks: Of its first so many rows.
        logit_entropies: Of the distribution that each token was chosen from, nats.
    """

    example: str
    text: str
    erank_prompt: float
    rows: tuple[int, ...]
    eranks: tuple[float, ...]
    logit_entropies: tuple[float, ...]


class GenerationResult(NumberedResult[GenerationConvention]):
    """What a model wrote for a data set.

    `records` are two an example, its prompt and its response; `numbers` have `erank_response_at_K` of the first K
    rows of responses, too.
    """

    _job = "generate"
    _metrics = (generation.METRIC, generation.AT_ROWS)

    @cached_property
    def responses(self) -> tuple[Response, ...]:
        """What was written, in the order of the ids."""
        prompts = {record.example: math.exp(record.entropy) for record in self.records if record.input == "prompt"}
        found = []
        for record in self.records:
            if record.input == "response":
                assert record.trajectory is not None and record.logit_entropies is not None
                rows = tuple(record.stride * (i + 1) for i in range(len(record.trajectory)))
                eranks = tuple(map(float, np.exp(record.trajectory)))
                unsure = tuple(map(float, record.logit_entropies))
                found.append(Response(record.example, record.written, prompts[record.example], rows, eranks, unsure))
        return tuple(found)
