"""A text adapter as a model of lm-eval: log-likelihoods of answers behind questions."""

from __future__ import annotations

from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from torch import Tensor

from mmerank.engine.batches import batches, default_budget
from mmerank.engine.progress import Meter
from mmerank.errors import DataError, UsageError
from mmerank.inputs.sequence import Role, tokens_of
from mmerank.models.loading import TextAdapter
from mmerank.models.sequences import outside, padded
from mmerank.models.soundness import embedding_rows
from mmerank.models.wrapped import evaluated


class ScoredModel(TemplateLM):  # type: ignore[misc]
    """What lm-eval asks, answered by a text adapter.

    Ids, and what is cut on the left of a question that is too long, are as in lm-eval's own `HFLM` where that reads
    the tokenizer as its file has it; OpenELM, which
    `HFLM` cannot load, gets the ids that its adapter gives it everywhere else.

    Args:
        adapter: A model that predicts the next token.
        batch_tokens: As in `mmerank.diff`.
        progress: Show progress on stderr.
    """

    def __init__(self, adapter: TextAdapter, batch_tokens: int | None = None, progress: bool = False):
        super().__init__()
        self._adapter = adapter
        self._progress = progress
        self._budget = batch_tokens
        if batch_tokens is None:
            self._budget = default_budget(next(adapter.model.parameters()).device)
        self.tokenizer = adapter.tokenizer

    @property
    def eot_token_id(self) -> int:
        """The id that ends a text."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """The id in front of an answer without a question."""
        first = self.tokenizer.bos_token_id
        return self.eot_token_id if first is None else int(first)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, as the adapter gives them; without special tokens where lm-eval says so."""
        if add_special_tokens is False:
            ids: list[int] = self.tokenizer(string, add_special_tokens=False, verbose=False)["input_ids"]
            return ids
        return self._adapter.token_ids(string)

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """As lm-eval has it, without a bar of its own."""
        answers: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return answers

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        """Score answers behind questions.

        Args:
            requests: Question and answer as text, ids of the question, ids of the answer.
            **_: What `HFLM` can do beside.

        Returns:
            Sum of the answer's log-likelihoods in nats, and whether each of its tokens is the likeliest.

        Raises:
            DataError: An answer is longer than the model's longest sequence, or a token has no embedding.
        """
        with evaluated(self._adapter.model):
            return self._answers(requests)

    def _answers(self, requests: list[tuple[Any, list[int], list[int]]]) -> list[tuple[float, bool]]:
        answers: dict[int, tuple[float, bool]] = {}
        # The last token is only predicted.
        inputs = [(question + answer)[-(self._adapter.max_tokens + 1) : -1] for _, question, answer in requests]
        if (longest := max(len(answer) for _, _, answer in requests)) > self._adapter.max_tokens:
            raise DataError(
                f"accuracy: an answer of {longest} tokens, and {self._adapter.name} takes {self._adapter.max_tokens}"
            )
        rows = embedding_rows(self._adapter.model)
        for sequence in inputs:
            if reason := outside(tokens_of(sequence, Role.TEXT), rows, self.tokenizer):
                raise DataError(f"accuracy: {reason}")
        assert self._budget is not None
        with Meter(f"answers {self._adapter.name}", len(requests), shown=self._progress) as meter:
            for batch in batches(range(len(requests)), lambda i: len(inputs[i]), self._budget):
                ids, mask = padded([tokens_of(inputs[i], Role.TEXT) for i in batch])
                for i, h in zip(batch, self._adapter.forward(ids, mask), strict=True):
                    answer = torch.tensor(requests[i][2])
                    answers[i] = self._score(h[len(inputs[i]) - len(answer) : len(inputs[i])], answer)
                    meter.advance(len(inputs[i]))
        return [answers[i] for i in range(len(requests))]

    def _score(self, h: Tensor, answer: Tensor) -> tuple[float, bool]:
        logs = torch.log_softmax(self._adapter.logits(h[None])[0].float(), dim=-1).cpu()
        return float(logs.gather(1, answer[:, None]).sum()), bool((logs.argmax(dim=-1) == answer).all())

    def loglikelihood_rolling(self, *_: Any, **__: Any) -> list[float]:
        """Not needed for multiple choice.

        Raises:
            UsageError: Always.
        """
        raise UsageError("accuracy: only multiple-choice tasks of lm-eval can be measured, not perplexity")

    def generate_until(self, *_: Any, **__: Any) -> list[str]:
        """Not needed for multiple choice.

        Raises:
            UsageError: Always.
        """
        raise UsageError("accuracy: only multiple-choice tasks of lm-eval can be measured, not generated text")
