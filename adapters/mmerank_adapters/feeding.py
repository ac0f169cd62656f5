"""What a model's own processor makes of a picture and a text, as the LLM reads it: ids, roles, further inputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from mmerank.convention import SequenceForm
from mmerank.errors import DataError, ModelError, first_line
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import Opened
from mmerank.inputs.sequence import IMAGE_ID, Kind, Role, TokenSequence
from mmerank_adapters.template import Template, common

# For nothing but a loss.
_LEFT_OUT = ("labels",)
# Which tokens are a picture's; positions follow from it in some models.
_KINDS = "mm_token_type_ids"
_TEXT = "A cat sat on the mat, in 1867."


class Feeder:
    """Feeds examples through a processor of transformers.

    What is taken apart is what comes out for one picture, with a text and without: what is the same is the picture's,
    and the rest the sequence's.

    Args:
        processor: As transformers loads it.
        placeholder: What stands for a picture in a text; None for what chat template or processor say.
        name: For messages.
        takes: What the model's forward is given by name.

    Raises:
        ModelError: It takes no pictures, or no text, or nothing is known to stand for a picture.
    """

    def __init__(self, processor: Any, placeholder: str | None, name: str, takes: Collection[str] = ()):
        self.processor = processor
        self.name = name
        self.tokenizer: Any = getattr(processor, "tokenizer", None)
        if self.tokenizer is None or getattr(processor, "image_processor", None) is None:
            whole = isinstance(processor, ProcessorMixin)
            lacks = "no pictures" if whole else "no pictures and texts; the checkpoint lacks processor files "
            raise ModelError(
                f"{name}: what transformers loads as its processor is a {type(processor).__name__}, which takes "
                f"{lacks}{'' if whole else '(processor_config.json, preprocessor_config.json)'}"
            )
        self._template = Template(processor, name)
        self.guessed = ""  # why nothing is put in for a picture
        self.placeholder = self._placeholder() if placeholder is None else placeholder
        self._text_by_tokenizer = False
        self._asked: dict[str, bool] = {}
        self._around: tuple[Opened | None, dict[str, Any] | None] = (None, None)
        self._learn(takes)

    def _learn(self, takes: Collection[str]) -> None:
        """See on one picture what belongs to it, and whether text is taken."""
        picture = noise(0)
        try:
            pair, alone = self.processed(self.placeholder + _TEXT, picture), self.processed(self.placeholder, picture)
        except DataError as error:
            why = f"; {self.guessed}" if self.guessed else ""
            if self._writes_its_own(picture):
                why += (
                    "; for a picture alone it writes a prompt of its own: if it takes no other, the pair is undefined"
                )
            raise ModelError(f"{self.name}: its processor fails on a picture and a text: {error}{why}") from error
        listed = set(getattr(self.processor, "model_input_names", ())) & set(takes)
        if _KINDS in listed and not {_KINDS} & pair.keys():  # some give it to who asks alone
            self._asked = {f"return_{_KINDS}": True}
            pair, alone = self.processed(self.placeholder + _TEXT, picture), self.processed(self.placeholder, picture)
        if "input_ids" not in pair:
            raise ModelError(f"{self.name}: its processor gives no token ids ({', '.join(pair)})")
        try:
            text = self.processed(_TEXT, None)
        except DataError:
            self._text_by_tokenizer = True
            text = self.processed(_TEXT, None)
        if pair["input_ids"].shape == alone["input_ids"].shape and torch.equal(pair["input_ids"], alone["input_ids"]):
            raise ModelError(
                f"{self.name}: its processor takes no text (a picture with a text and without gives the same token "
                "ids), so the pair and the text input are undefined"
            )
        self.of_picture = frozenset(
            key
            for key, value in pair.items()
            if key in alone and _equal(value, alone[key]) and not _equal(value, text.get(key))
        )
        if not any(pair[key].is_floating_point() for key in self.of_picture if isinstance(pair[key], Tensor)):
            raise ModelError(f"{self.name}: its processor makes no pixels of a picture")

    def _writes_its_own(self, picture: Image.Image) -> bool:
        try:
            return "input_ids" in self.processor(images=picture, return_tensors="pt")
        except Exception:  # then it was not that
            return False

    def _placeholder(self) -> str:
        """What the chat template puts in for a picture, else what the processor calls it, else nothing."""
        texts = []
        for content in ([{"type": "image"}, {"type": "text", "text": "\0"}], [{"type": "text", "text": "\0"}]):
            try:
                texts.append(
                    self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
                )
            except Exception:  # whatever a template comes to, or that there is none
                break
        if len(texts) == 2:
            with_picture, without = texts
            first = common(with_picture, without)
            last = common(with_picture[first:][::-1], without[first:][::-1])
            if found := with_picture[first : len(with_picture) - last].strip():
                return str(found)
        token = getattr(self.processor, "image_token", None) or getattr(self.tokenizer, "image_token", None)
        if not isinstance(token, str) or not token:
            self.guessed = (
                f"neither a chat template nor its {type(self.processor).__name__} says what stands for a picture in "
                "a text, so nothing was put in; a line in mmerank_adapters/words.py can say it"
            )
            return ""
        return token

    def processed(self, text: str, picture: Opened | None, **options: Any) -> dict[str, Any]:
        """What comes out, on the CPU, for one sample without padding.

        Args:
            text: With what stands for the picture, or for each of several.
            picture: None for text alone.
            **options: Further ones.

        Returns:
            Tensors by name.

        Raises:
            DataError: The processor refuses it.
        """
        options = {**self._asked, **options}
        try:
            if picture is not None:
                images = [*picture] if isinstance(picture, tuple) else picture
                made = self.processor(text=text, images=images, return_tensors="pt", **options)
            elif self._text_by_tokenizer:
                own = {name: of for name, of in options.items() if name not in self._asked}
                made = self.tokenizer(text, return_tensors="pt", **own)
            else:
                made = self.processor(text=text, return_tensors="pt", **options)
        except Exception as error:  # each of them has errors of its own
            raise DataError(f"the model's processor refuses it ({first_line(error)})") from error
        return {key: value for key, value in made.items() if key not in _LEFT_OUT and value is not None}

    def taken_apart(self, text: str, picture: Opened) -> tuple[TokenSequence, dict[str, Any]]:
        """What comes out for a picture, or several, with a text behind.

        Args:
            text: May be empty.
            picture: Mode RGB; a tuple of several.

        Returns:
            What is the sequence's, without roles, and what is the picture's.

        Raises:
            DataError: The processor refuses the picture.
        """
        made = self.processed(self._start(picture) + text, picture)
        sequence = self._sequence(made, [Role.TEMPLATE] * made["input_ids"].shape[1], ())
        return sequence, {key: value for key, value in made.items() if key in self.of_picture}

    def _start(self, picture: Opened) -> str:
        """What stands for a picture, once for each of several."""
        return self.placeholder * (len(picture) if isinstance(picture, tuple) else 1)

    def sequence(
        self,
        example: Example,
        kind: Kind,
        form: SequenceForm,
        image_ids: Collection[int],
        *,
        answered: bool = True,
    ) -> TokenSequence:
        """What the LLM reads for an example.

        Args:
            example: Its picture opened.
            kind: `image`, `text` or `pair`.
            form: `bare`: what stands for the picture, and the text; `template`: the model's chat template.
            image_ids: Those in whose places rows of the picture stand.
            answered: Of a template: with the response; else up to where the model is to write one.

        Returns:
            Ids, roles and all further inputs that are not the picture's.

        Raises:
            DataError: The processor refuses the picture.
            ModelError: There is no chat template, or it fails.
        """
        picture: Any = example.image if kind != "text" else None  # opened
        if form == "template":
            text, parts = self._template.written(example, kind, answered=answered)
            around = {"add_special_tokens": False} if self._has_bos(text) else {}
            made = self.processed(text, picture, **around)
            roles = self._template.roles(_ids(made), text, parts, around)
        else:
            start = "" if picture is None else self._start(picture)
            without = self._without_text(start, picture)
            made = without if kind == "image" else self.processed(start + example.text, picture)
            roles = _inserted(_ids(made), _ids(without))
        return self._sequence(made, roles, image_ids)

    def _without_text(self, start: str, picture: Opened | None) -> dict[str, Any]:
        """What stands around a text: made once for a picture, or several, and once for none."""
        last, made = self._around
        if made is None or last is not picture:
            try:
                made = self.processed(start, picture)
            except DataError:
                if picture is not None:
                    raise
                made = dict(self.tokenizer("", return_tensors="pt"))
            if picture is None:
                return made
            self._around = picture, made
        return made

    def _sequence(self, made: Mapping[str, Any], roles: list[Role], image_ids: Collection[int]) -> TokenSequence:
        ids = _ids(made)
        bos = self.tokenizer.bos_token_id
        for i, token in enumerate(ids):
            if token in image_ids and roles[i] is Role.TEXT:
                sign = self.tokenizer.convert_ids_to_tokens(token)
                raise DataError(f"its text holds {sign}, in whose place a row of a picture is put")
            if token in image_ids:
                roles[i] = Role.IMAGE
            elif token == bos and roles[i] is Role.TEMPLATE:
                roles[i] = Role.BOS
        extra, beside = {}, {}
        for key, value in made.items():
            if key == "input_ids" or key in self.of_picture or not isinstance(value, Tensor):
                continue
            if value.ndim >= 2 and tuple(value.shape[:2]) == (1, len(ids)):
                extra[key] = tuple(_frozen(value[0].tolist()))
            else:
                beside[key] = (str(value.dtype).removeprefix("torch."), _frozen(value.tolist()))
        return TokenSequence(tuple(ids), tuple(roles), extra, beside)

    def _has_bos(self, text: str) -> bool:
        bos = self.tokenizer.bos_token
        return bool(bos) and text.startswith(bos)


def tensors(sequence: TokenSequence, device: torch.device) -> dict[str, Tensor]:
    """The inputs of a model for a sequence, as the processor gave them.

    Args:
        sequence: Made by a `Feeder`.
        device: Where they go.

    Returns:
        Tensors by name, each with a batch of one.
    """
    own = sequence.at([i for i, token in enumerate(sequence.ids) if token != IMAGE_ID])
    found = {"input_ids": torch.tensor([own.ids])}
    found |= {key: torch.tensor([values]) for key, values in own.extra.items()}
    found |= {key: torch.tensor(value, dtype=getattr(torch, kind)) for key, (kind, value) in sequence.beside.items()}
    return {key: value.to(device) for key, value in found.items()}


def with_places_at(sequence: TokenSequence, start: int, count: int) -> TokenSequence:
    """The sequence with places for a picture's rows that the model itself puts in.

    Args:
        sequence: Made by a `Feeder`.
        start: Before which of its positions.
        count: How many.

    Returns:
        A longer one; `tensors` leaves these places out.
    """

    def longer(values: tuple[Any, ...], what: Any) -> tuple[Any, ...]:
        return values[:start] + (what,) * count + values[start:]

    extra = {name: longer(values, None) for name, values in sequence.extra.items()}
    ids, roles = longer(sequence.ids, IMAGE_ID), longer(sequence.roles, Role.IMAGE)
    return TokenSequence(ids, roles, extra, sequence.beside)


def noise(seed: int, width: int = 160, height: int = 112) -> Image.Image:
    """A picture that has no two patches alike.

    Args:
        seed: Of what is drawn.
        width: In pixels.
        height: In pixels.

    Returns:
        Mode RGB.
    """
    drawn = torch.randint(
        0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8
    )
    return Image.fromarray(drawn.numpy())


def _ids(made: Mapping[str, Any]) -> list[int]:
    ids: list[int] = made["input_ids"][0].tolist()
    return ids


def _inserted(ids: list[int], without: list[int]) -> list[Role]:
    """TEXT where ids stand that are not there without the text."""
    first = common(ids, without)
    last = common(ids[first:][::-1], without[first:][::-1])
    text = len(ids) - first - last
    return [Role.TEMPLATE] * first + [Role.TEXT] * text + [Role.TEMPLATE] * last


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and one.shape == other.shape and bool(torch.equal(one, other))
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(_equal, one, other))
    return type(one) is type(other) and bool(one == other)


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
