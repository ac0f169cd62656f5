"""Questions with several answers: how likely a model finds each of them behind the picture and the question."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmerank.convention import Convention, SequenceForm
from mmerank.engine.batches import Budget, budget_for
from mmerank.engine.measurement import Measured
from mmerank.engine.plans.loss import answer_places, logits_of
from mmerank.engine.plans.pictures import waiting
from mmerank.engine.plans.plan import Ask
from mmerank.engine.window import Finish
from mmerank.errors import CaptureError
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS, open_pictures
from mmerank.inputs.placeholders import placeholders, without_placeholder
from mmerank.inputs.questions import Question
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.hooks import capture
from mmerank.transfer import for_each_tensor, sent


@dataclass(frozen=True)
class Answered(Measured):
    """How likely each answer to a question is.

    Attributes:
        loglikelihoods: Of each choice, the sum over its tokens, nats.
        counts: Number of these tokens.
    """

    loglikelihoods: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Scored:
    """Where the tokens of one choice are predicted.

    Attributes:
        run: Which pass of the question it is read from.
        positions: Of that pass, each before a token of the choice.
        ids: These tokens.
    """

    run: int
    positions: tuple[int, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Prepared:
    """A question with what the model will read for it.

    Attributes:
        question: With its picture as it is held.
        runs: Different sequences; choices of one token share theirs.
        scored: One for each choice.
    """

    question: Question
    runs: tuple[TokenSequence, ...]
    scored: tuple[Scored, ...]

    @property
    def id(self) -> str:
        """Of the question."""
        return self.question.id

    @property
    def sequences(self) -> tuple[TokenSequence, ...]:
        """All that is read."""
        return self.runs


@dataclass(frozen=True)
class Loaded:
    """The same with what the vision encoder is fed."""

    item: Prepared
    pixels: Any

    @property
    def id(self) -> str:
        """Of the question."""
        return self.item.id


@dataclass
class Choices:
    """What is read of questions: the likelihood of each answer.

    A choice stands where the response of a pair does, in the model's own template unless bare sequences are asked
    for. Its tokens are those that are not there without it; the template behind it does not count.

    Attributes:
        adapter: The model.
        form: Of the sequences.
        max_pixels: Pictures with more are skipped.
        convention: What the records of a run would be known by.
        placeholders: What stands for a picture in a text.

    Raises:
        ModelError: The adapter has no LM head, or its LLM reads what stands behind a token.
    """

    adapter: Adapter
    form: SequenceForm = "template"
    max_pixels: int = MAX_PIXELS
    convention: Convention = field(init=False)

    def __post_init__(self) -> None:
        self._logits = logits_of(self.adapter)
        self.convention = Convention(sequence=self.form)
        self.placeholders = placeholders(self.adapter.model, self.adapter.tokenizer)

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """For the LLM's positions."""
        return budget_for(device, asked)

    def usable(self, example: Example) -> Example | Skipped:
        """The question without what stands in it for the picture."""
        if example.image is None:
            return Skipped(example.id, "no image")
        if len(example.pictures) > 1:
            return Skipped(example.id, f"it has {len(example.pictures)} pictures; questions are asked about one")
        return without_placeholder(self.placeholders, example)

    def text(self, example: Example) -> str:
        """Question and right answer."""
        return example.text

    def prepare(self, example: Example) -> Prepared | Skipped:
        """Its sequences. A DataError says that it cannot be read."""
        assert isinstance(example, Question) and example.image is not None
        shown = example.image
        if not self.adapter.image_tokens:  # what the LLM reads depends on the picture
            shown = open_pictures(shown, max_pixels=self.max_pixels)
        found = choice_runs(self.adapter, replace(example, image=shown), self.form)
        if isinstance(found, Skipped):
            return found
        runs, scored = found
        if (longest := max(map(len, runs))) > self.adapter.max_tokens:
            limit = self.adapter.max_tokens
            return Skipped(example.id, f"{longest} tokens with an answer, and the model reads {limit}")
        return Prepared(example, runs, scored)

    def length(self, item: Prepared) -> int:
        """Of all its passes, padding included."""
        return len(item.runs) * max(map(len, item.runs))

    def load(self, item: Prepared) -> Loaded:
        """The encoder's input."""
        assert item.question.image is not None
        picture: Any = open_pictures(item.question.image, max_pixels=self.max_pixels)
        pixels = self.adapter.pixels(picture, "model")
        return Loaded(item, waiting(pixels, next(self.adapter.model.parameters()).device))

    def start(self, batch: list[Loaded], ask: Ask) -> Finish:
        """One pass for all sequences of a batch, and the LM head where an answer's tokens are predicted."""
        device = next(self.adapter.model.parameters()).device
        each = [loaded.pixels for loaded in batch]
        if device.type == "cuda":
            each = [for_each_tensor(pixels, lambda tensor: sent(tensor, device)) for pixels in each]
        images = self.adapter.encode_images(each, "default")
        sequences = [run for loaded in batch for run in loaded.item.runs]
        shown = [image for loaded, image in zip(batch, images, strict=True) for _ in loaded.item.runs]
        wanted = iter([(i, run) for i, loaded in enumerate(batch) for run in range(len(loaded.item.runs))])
        read: dict[tuple[int, int], Tensor] = {}  # by place in the batch and choice

        def reduce(h: Tensor) -> None:
            for states, (i, run) in zip(h, wanted, strict=False):
                for choice, scored in enumerate(batch[i].item.scored):
                    if scored.run == run:
                        read[i, choice] = states[list(scored.positions)].clone()

        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}, reduce=reduce, calls=None):
            self.adapter.decode(sequences, shown)
        if next(wanted, None) is not None:
            raise CaptureError(f"{self.adapter.name}: its `decode` ran fewer sequences than it was given")
        # Behind the pass: some adapters look at their LM head in a pass of its own when it is first asked for.
        found = [
            [self._loglikelihood(read[i, choice], scored.ids) for choice, scored in enumerate(loaded.item.scored)]
            for i, loaded in enumerate(batch)
        ]
        return partial(_results, batch, found)

    def _loglikelihood(self, states: Tensor, ids: Sequence[int]) -> Tensor:
        """Sum over the tokens of a choice, nats, 0-dim float32."""
        logits = self._logits(states).float()
        wanted = torch.tensor(ids, device=logits.device)
        return torch.log_softmax(logits, dim=-1).gather(-1, wanted[:, None]).sum()


def choice_runs(
    adapter: Adapter, question: Question, form: SequenceForm
) -> tuple[tuple[TokenSequence, ...], tuple[Scored, ...]] | Skipped:
    """What the LLM reads to predict each choice of a question.

    Args:
        adapter: The model.
        question: Its picture opened where the adapter needs it.
        form: Of the sequences.

    Returns:
        Sequences up to the token before the last of a choice, each once; and where each choice is read.
    """

    def sequence(answer: str) -> TokenSequence:
        return adapter.sequence(Example(question.id, question.image, question.instruction, answer), "pair", form)

    without = sequence("")
    wholes = [sequence(choice) for choice in question.choices]
    found = []
    for choice, whole in zip(question.choices, wholes, strict=True):
        own = answer_places(whole, without)
        if not own or own[-1] - own[0] >= len(own) or own[0] == 0:
            return Skipped(question.id, f"the tokens of its choice {choice!r:.60} are not told from the question's")
        found.append(own)
    # A space before the answer may be a token by itself before one choice, and a part of the first token of another:
    # all are predicted from the same prefix.
    first = min(own[0] for own in found)
    runs: dict[Any, int] = {}
    kept: list[TokenSequence] = []
    scored = []
    for whole, places in zip(wholes, found, strict=True):
        own = list(range(first, places[-1] + 1))
        read = whole.at(range(own[-1]))
        known = (read.ids, repr(read.extra), repr(read.beside))
        if known not in runs:
            runs[known] = len(kept)
            kept.append(read)
        ids = tuple(whole.ids[i] for i in own)
        scored.append(Scored(runs[known], tuple(i - 1 for i in own), ids))
    return tuple(kept), tuple(scored)


def _results(batch: Sequence[Loaded], found: Sequence[Sequence[Tensor]]) -> Iterator[Measured | Skipped]:
    for loaded, of in zip(batch, found, strict=True):
        item = loaded.item
        sums = tuple(map(float, of))
        if not all(map(math.isfinite, sums)):
            yield Skipped(item.id, "the likelihood of an answer is not finite", suspect="model")
            continue
        counts = tuple(len(scored.ids) for scored in item.scored)
        yield Answered(item.id, (), sum(map(len, item.runs)), sums, counts)
