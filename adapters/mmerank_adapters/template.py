"""An example in a model's own chat template, and which of the tokens that come of it are its texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from mmerank.errors import DataError, ModelError, first_line
from mmerank.inputs.example import Example
from mmerank.inputs.sequence import Kind, Role

_Span = tuple[int, int]


class Template:
    """The chat template of a processor of transformers.

    Args:
        processor: As transformers loads it.
        name: For messages.
    """

    def __init__(self, processor: Any, name: str):
        self._processor = processor
        self._name = name

    def written(self, example: Example, kind: Kind, *, answered: bool = True) -> tuple[str, list[str]]:
        """The exchange in the template.

        Args:
            example: Its pictures stand before its question, or at their places in it.
            kind: `image`, `text` or `pair`.
            answered: With the response; else with what the template puts where one is to be written.

        Returns:
            All of it, and the parts that are the example's.

        Raises:
            DataError: Pictures stand within the text, and the template moves them out of it.
            ModelError: There is no template, or it fails.
        """
        question = _question(example, kind)
        turns = [{"role": "user", "content": question}]
        parts = [part["text"] for part in question if part["type"] == "text"]
        if kind == "image":
            answered = False
        if answered:
            parts.append(example.response)
            turns.append({"role": "assistant", "content": [{"type": "text", "text": example.response}]})
        if not getattr(self._processor, "chat_template", None):
            raise ModelError(f"{self._name}: its processor has no chat template; measure bare sequences")
        try:
            asked = {} if answered else {"add_generation_prompt": True}
            text = str(self._processor.apply_chat_template(turns, tokenize=False, **asked))
        except Exception as error:  # whatever a template comes to
            raise ModelError(
                f"{self._name}: its chat template fails ({first_line(error)}); measure bare sequences "
                "(--sequence bare)"
            ) from error
        if example.places and kind == "pair":
            self._check_places(text, question)
        return text, parts

    def _check_places(self, text: str, question: Sequence[Mapping[str, str]]) -> None:
        """Something stands between two texts in whose middle a picture stands, and nothing else tells of it."""
        said = [part["text"] for part in question if part["type"] == "text"]
        spans = self._spans(text, said)
        before, end, moved = "text", 0, False
        for part in question:
            if part["type"] == "text":
                start, following = next(spans)
                moved |= before == "image" and not text[end:start].strip()
                end = following
            before = part["type"]
        if moved:
            raise DataError(
                "its pictures stand within its text, and the chat template moves them out of it, where they would "
                "have other places"
            )

    def _spans(self, text: str, parts: Sequence[str]) -> Iterator[_Span]:
        """Where the parts stand in the text."""
        position = 0
        for part in parts:
            # A template may strip what it is given.
            found = text.find(part, position)
            part = part if found >= 0 else part.strip()
            found = text.find(part, position)
            if found < 0:
                raise ModelError(f"{self._name}: its chat template changes what it is given; measure bare sequences")
            position = found + len(part)
            yield found, position

    def roles(self, ids: Sequence[int], text: str, parts: Sequence[str], around: Mapping[str, Any]) -> list[Role]:
        """Roles by where the parts stand in the text; what the processor puts in the picture's place is template.

        Args:
            ids: What the processor made of text and pictures.
            text: As from `written`, like the parts.
            parts: The example's own.
            around: Options of the tokenizer.

        Returns:
            TEXT or TEMPLATE, for each id.

        Raises:
            ModelError: It is not understood what stands where.
        """
        spans = list(self._spans(text, parts))
        plain = self._processor.tokenizer(text, return_offsets_mapping=True, **around)
        roles = [
            Role.TEXT if any(start < last and first < end for first, last in spans) else Role.TEMPLATE
            for start, end in plain["offset_mapping"]
        ]
        unexpanded = list(plain["input_ids"])
        first = common(ids, unexpanded)
        last = common(ids[first:][::-1], unexpanded[first:][::-1])
        if Role.TEXT not in roles[first : len(roles) - last]:
            return roles[:first] + [Role.TEMPLATE] * (len(ids) - first - last) + roles[len(roles) - last :]
        # A processor may put tokens of its own behind all, too, or pictures stand between the texts: then these stand
        # somewhere as they are, all together or one by one.
        own = [False, *(role is Role.TEXT for role in roles), False]
        edges = [i for i, (before, here) in enumerate(pairwise(own)) if before != here]
        texts = list(zip(edges[::2], edges[1::2], strict=True))
        for stretches in ([(edges[0], edges[-1])], texts):
            if (found := _placed(ids, unexpanded, roles, stretches)) is not None:
                return found
        raise ModelError(f"{self._name}: its processor tokenises the chat template in a way not understood")


def _placed(
    ids: Sequence[int], unexpanded: Sequence[int], roles: Sequence[Role], stretches: Sequence[_Span]
) -> list[Role] | None:
    """The roles of stretches where these stand among the ids, looked for from the end; None where one does not."""
    found, behind = [Role.TEMPLATE] * len(ids), len(ids)
    for start, end in reversed(stretches):
        said = list(unexpanded[start:end])
        places = range(behind - len(said), -1, -1)
        at = next((at for at in places if list(ids[at : at + len(said)]) == said), None)
        if at is None:
            return None
        found[at : at + len(said)] = roles[start:end]
        behind = at
    return found


def _question(example: Example, kind: Kind) -> list[dict[str, str]]:
    """The parts of the user's turn: pictures in front, or within the instruction where they have places there."""
    pictures = [] if kind == "text" else [{"type": "image"} for _ in example.pictures]
    text = "" if kind == "image" else example.instruction
    if kind != "pair" or not example.places or len(example.places) != len(pictures):
        return [*pictures, *([{"type": "text", "text": text}] if text else [])]
    found = list[dict[str, str]]()
    for start, end in pairwise([0, *example.places, len(text)]):
        if part := text[start:end].strip():
            found.append({"type": "text", "text": part})
        found.append({"type": "image"})
    return found[:-1]  # one more stretch than pictures


def common(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Length of what two begin with."""
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
