"""What a model writes: eRank of the prompt's rows and, as it grows, of the response's, and entropy of its logits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmerank.convention import GenerationConvention
from mmerank.engine.batches import Budget
from mmerank.engine.measurement import Measured, no_spectrum
from mmerank.engine.plans.pictures import opened, waiting
from mmerank.engine.plans.plan import Ask, Outcome
from mmerank.engine.plans.prompts import Prompts, prompts_of
from mmerank.engine.window import Finish
from mmerank.errors import CaptureError, ModelError, NoSpectrum
from mmerank.inputs.contents import Content, content_of
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import MAX_PIXELS
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.hooks import capture
from mmerank.models.loading import TextAdapter
from mmerank.runs.record import Record
from mmerank.states.trajectory import Trajectory
from mmerank.transfer import Arriving, for_each_tensor, sent

POINT, PROMPT, RESPONSE = "llm", "prompt", "response"


@dataclass(frozen=True)
class Prepared:
    """An example with its prompt."""

    example: Example
    prompt: TokenSequence

    @property
    def id(self) -> str:
        """Of the example."""
        return self.example.id

    @property
    def sequences(self) -> tuple[TokenSequence]:
        """The one there is."""
        return (self.prompt,)


@dataclass(frozen=True)
class Loaded:
    """The same with what the vision encoder is fed; None where the model reads text alone."""

    item: Prepared
    pixels: Any
    content: Content

    @property
    def id(self) -> str:
        """Of the example."""
        return self.item.id


@dataclass
class Generations:
    """What is measured while a model writes behind prompts, one at a time.

    The rows are those at the final norm. A token's row is there once it has been read again, so a response of t
    tokens has t - 1 rows; the entropy of the logits is that of the distribution that each of the t tokens was chosen
    from, before temperature and `top_p`.

    Attributes:
        adapter: A multimodal model or a language model, with `generate`.
        convention: The choices in force.
        max_pixels: Pictures with more are skipped.

    Raises:
        ModelError: The adapter cannot write.
    """

    adapter: Adapter | TextAdapter
    convention: GenerationConvention = field(default_factory=GenerationConvention)
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        self._model: Any = self.adapter
        self._generate: Any = getattr(self.adapter, "generate", None)
        if not callable(self._generate):
            raise ModelError(f"{self.adapter.name}: its adapter has no `generate`, so it writes nothing")
        self._prompts: Prompts = prompts_of(self.adapter, self.convention.sequence, self.max_pixels)
        self._device = next(self.adapter.model.parameters()).device

    def budget(self, device: torch.device, asked: int | None) -> Budget:
        """One prompt at a time, whatever is asked for."""
        return Budget(0)

    def usable(self, example: Example) -> Example | Skipped:
        """Whether there is what the model reads."""
        return self._prompts.usable(example)

    def text(self, example: Example) -> str:
        """What stands in the prompt."""
        return self._prompts.text(example)

    def prepare(self, example: Example) -> Prepared | Skipped:
        """Its prompt, if that and the longest response fit into the model."""
        prompt = self._prompts.prompt(example)
        if isinstance(prompt, Skipped):
            return prompt
        most, new = self.adapter.max_tokens, self.convention.max_new_tokens
        if len(prompt) + new > most:
            return Skipped(example.id, f"a prompt of {len(prompt)} tokens and {new} new ones; the model reads {most}")
        if len(prompt) < 2:
            return Skipped(example.id, f"a prompt of {len(prompt)} tokens; at least 2 are needed")
        return Prepared(example, prompt)

    def length(self, item: Prepared) -> int:
        """Prompt and longest response."""
        return len(item.prompt) + self.convention.max_new_tokens

    def load(self, item: Prepared) -> Loaded:
        """The encoder's input."""
        if not self._prompts.reads_pictures:
            return Loaded(item, None, content_of(item.example))
        picture, content = opened(item.example, self.max_pixels)
        shown: Any = picture  # several only where the adapter takes them
        return Loaded(item, waiting(self._model.pixels(shown, "model"), self._device), content)

    def start(self, batch: list[Loaded], ask: Ask) -> Finish:
        """Let the model write behind each prompt."""
        return partial(_results, [self._written(loaded, ask) for loaded in batch])

    def _written(self, loaded: Loaded, ask: Ask) -> _Written | Skipped:
        item, uncertain = loaded.item, list[Tensor]()
        image = None
        if loaded.pixels is not None:
            pixels = for_each_tensor(loaded.pixels, partial(sent, device=self._device))
            (image,) = self._model.encode_images([pixels])

        def logits(of: Tensor) -> None:
            uncertain.append(torch.special.entr(of[0].float().softmax(dim=-1)).sum())

        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(_seed(self.convention.sampling_seed, item.id))
            with capture(self.adapter.model, {POINT: self._prompts.final}, calls=None) as seen:
                ids = self._generate(item.prompt, image, self.convention, logits)
        rows = torch.cat([h.flatten(0, -2) for h in seen[POINT]])
        before, written = len(item.prompt), len(ids)
        if len(rows) != before + written - 1 or len(uncertain) != written:
            raise CaptureError(
                f"{self.adapter.name}: {len(rows)} rows passed its final norm for a prompt of {before} tokens and "
                f"{written} new ones, so what is whose is not known"
            )
        if written < 3:
            return Skipped(item.id, f"the model ends its response after {written} token{'s' * (written > 1)}")
        study = Trajectory(self.convention.stride)
        outcomes = (
            ask(rows[:before], item.id, POINT, PROMPT),
            ask(rows[before:], item.id, POINT, RESPONSE, study=study),
        )
        text = self.adapter.tokenizer.decode(ids, skip_special_tokens=True)
        return _Written(loaded, outcomes, Arriving(torch.stack(uncertain)), text, len(rows))


@dataclass(frozen=True)
class _Written:
    loaded: Loaded
    outcomes: tuple[Outcome, Outcome]
    uncertain: Arriving
    text: str
    tokens: int


def _seed(seed: int, example: str) -> int:
    """Of one example's random numbers, which neither order nor other examples change."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{example}".encode()).digest()[:8], "big") >> 1


def _results(found: Sequence[_Written | Skipped]) -> Iterator[Measured | Skipped]:
    for of in found:
        if isinstance(of, Skipped):
            yield of
            continue
        name = of.loaded.id
        prompt, response = (outcome.result() for outcome in of.outcomes)
        entropies = of.uncertain.wait()[0].double().numpy()
        bad = next((outcome for outcome in (prompt, response) if isinstance(outcome, NoSpectrum)), None)
        if bad is not None:
            yield no_spectrum(name, bad)
        elif not np.isfinite(entropies).all():
            yield Skipped(name, "the logits of a token are not finite", suspect="model")
        else:
            assert isinstance(prompt, Record) and isinstance(response, Record)
            known = of.loaded.content._asdict()
            written = replace(response, logit_entropies=entropies, written=of.text, **known)
            yield Measured(name, (replace(prompt, **known), written), of.tokens)
