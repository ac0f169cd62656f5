"""What a model reads before it writes: pictures and instructions, or the beginning of a text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

from mmerank.convention import SequenceForm
from mmerank.engine.plans.loss import answer_places
from mmerank.errors import ModelError, first_line
from mmerank.inputs.example import Example, Skipped
from mmerank.inputs.pictures import open_pictures
from mmerank.inputs.placeholders import as_fed, placeholders
from mmerank.inputs.sequence import Role, TokenSequence, tokens_of
from mmerank.models.adapter import Adapter
from mmerank.models.hooks import Point
from mmerank.models.loading import TextAdapter

_ANY = "A"  # an answer that says where one begins


class Prompts(Protocol):
    """Prompts of examples, for one model."""

    reads_pictures: bool

    @property
    def final(self) -> Point:
        """Where the rows are read."""
        ...

    def usable(self, example: Example) -> Example | Skipped:
        """The example as it is read, or why it cannot be."""
        ...

    def text(self, example: Example) -> str:
        """The text of its prompt."""
        ...

    def prompt(self, example: Example) -> TokenSequence | Skipped:
        """What the model reads. A DataError says that it cannot be read."""
        ...


def prompts_of(adapter: Adapter | TextAdapter, form: SequenceForm, max_pixels: int) -> Prompts:
    """Prompts for a model.

    Args:
        adapter: It.
        form: `template` or `bare`.
        max_pixels: Pictures with more are not opened.

    Returns:
        Of pairs or of texts, by what the model reads.
    """
    if isinstance(adapter, Adapter):
        return PairPrompts(adapter, form, max_pixels)
    return TextPrompts(adapter, form)


@dataclass
class PairPrompts:
    """A picture and an instruction, up to where the answer begins."""

    adapter: Adapter
    form: SequenceForm
    max_pixels: int
    reads_pictures = True

    @property
    def final(self) -> Point:
        """The LLM's final norm."""
        return self.adapter.points["llm"]

    @cached_property
    def _signs(self) -> tuple[str, ...]:
        return placeholders(self.adapter.model, self.adapter.tokenizer)

    def usable(self, example: Example) -> Example | Skipped:
        """The example without what stands in its text for the picture."""
        if example.image is None:
            return Skipped(example.id, "no image")
        if (count := len(example.pictures)) > 1 and (why := getattr(self.adapter, "one_picture", "its adapter")):
            return Skipped(example.id, f"it has {count} pictures, and {self.adapter.name} reads one ({why})")
        return as_fed(self._signs, example, self.form)

    def text(self, example: Example) -> str:
        """The instruction, which may be empty."""
        return example.instruction

    def prompt(self, example: Example) -> TokenSequence | Skipped:
        """The pair's sequence up to the answer; in a template by what that puts there, where the adapter asks it."""
        assert example.image is not None
        shown = example.image
        if not self.adapter.image_tokens:  # what the LLM reads depends on the picture
            shown = open_pictures(shown, max_pixels=self.max_pixels)
        asked = replace(example, image=shown)
        # What a template writes before an answer that is there may be other than what it asks for one with.
        if self.form == "template" and callable(prompt := getattr(self.adapter, "prompt", None)):
            asking: TokenSequence = prompt(asked)
            return asking
        whole, without = (self.adapter.sequence(replace(asked, response=of), "pair", self.form) for of in (_ANY, ""))
        own = answer_places(whole, without)
        if not own or own[0] == 0:
            return Skipped(example.id, "where an answer begins is not told from its prompt")
        return whole.at(range(own[0]))


@dataclass
class TextPrompts:
    """An instruction or, of an example without one, its text."""

    adapter: TextAdapter
    form: SequenceForm
    reads_pictures = False

    def __post_init__(self) -> None:
        if self.form == "template" and not getattr(self.adapter.tokenizer, "chat_template", None):
            raise ModelError(
                f"{self.adapter.name}: its tokenizer has no chat template; let it continue the bare text "
                "(--sequence bare)"
            )

    @property
    def final(self) -> Point:
        """The final representation."""
        return self.adapter.layers[-1]

    def usable(self, example: Example) -> Example | Skipped:
        """Whether there is a text."""
        return example if self.text(example).strip() else Skipped(example.id, "the text is empty")

    def text(self, example: Example) -> str:
        """What is to be continued, or answered."""
        return example.instruction or example.response

    def prompt(self, example: Example) -> TokenSequence | Skipped:
        """Its tokens, with what the template puts around them."""
        tokenizer, text = self.adapter.tokenizer, self.text(example)
        if self.form == "bare":
            ids = self.adapter.token_ids(text)
            ends = {getattr(tokenizer, name, None) for name in ("eos_token_id", "sep_token_id")} - {None}
            if ids and ids[-1] in ends and len(ids) > 1:  # nothing is written behind an end
                ids = ids[:-1]
            return tokens_of(ids, Role.TEXT)
        try:
            said = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # whatever a template comes to
            raise ModelError(
                f"{self.adapter.name}: its chat template fails ({first_line(error)}); --sequence bare does without"
            ) from error
        return tokens_of(tokenizer(said, add_special_tokens=False)["input_ids"], Role.TEMPLATE)
