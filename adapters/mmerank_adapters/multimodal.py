"""Any multimodal model of transformers that has no adapter of its own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmerank.convention import GenerationConvention, ImageLayout, SequenceForm
from mmerank.errors import UsageError
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import Opened
from mmerank.inputs.sequence import Kind, Role, TokenSequence
from mmerank.models.checkpoints import configuration
from mmerank.models.encoded import Encoded
from mmerank.models.gates import zero_gates
from mmerank.models.generation import continued
from mmerank.models.hooks import Point
from mmerank.models.refusal import refusal
from mmerank.models.soundness import embedding_rows
from mmerank.models.source import source_of
from mmerank.models.special_tokens import size_cautions, special_cautions, stated_ids
from mmerank.models.tokenizer import load_tokenizer, stated
from mmerank.models.untrained import twin_of
from mmerank.models.wrapped import evaluated, unwrapped
from mmerank_adapters.anatomy import check_encoder
from mmerank_adapters.answering import lm_head
from mmerank_adapters.architecture import max_tokens
from mmerank_adapters.examination import TEXT, Examined, examined, read_by, told
from mmerank_adapters.feeding import Feeder, noise
from mmerank_adapters.from_checkpoint import loaded
from mmerank_adapters.reading import model_inputs
from mmerank_adapters.several import Several
from mmerank_adapters.words import WORDS, Word

_CROSS = "cross-attention model: no rows of the picture stand among those of its LLM"


class Multimodal:
    """A model of transformers' AutoModelForImageTextToText or AutoModelForMultimodalLM, fed by its own processor.

    Where the hook points are is found out when it is loaded, in forward passes over generated pictures and a text:
    the LLM and its final norm, where rows of a picture enter it, the module that puts out these rows (`connector`),
    and the first module that reads the vision encoder's (`vision`). Each is verified by the share of rows that are
    found again; all this is in `source`, under `inspection`.

    It runs the model's own forward, an example at a time, up to the LLM's final norm.
    """

    model_types = ()  # whatever no other adapter takes

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        name: str,
        source: Mapping[str, Any],
        known: Examined | None = None,
    ):
        self.name = name
        self.model = model
        check_encoder(model)
        word = WORDS.get(model.config.model_type, Word())
        self._processor = processor
        self._feeder = Feeder(processor, word.placeholder, name, inspect.signature(model.forward).parameters)
        self.tokenizer = self._feeder.tokenizer
        self._known = known or examined(model, self._feeder, word, name)
        self._reader, self.causal = self._known.reader, self._known.causal
        found = self._found = self._reader.found
        config = getattr(self._reader.llm, "config", None) or model.config.get_text_config()
        self.image_tokens = 0  # it depends on the picture
        self.max_tokens = max_tokens(self._reader.llm, config, self.tokenizer)
        llm = Point(found.final, "output")
        self.points: Mapping[str, Point] = {
            "vision": found.vision_point,
            "connector": Point(found.connector),
            "llm": llm,
        }
        self.vision_points: Mapping[str, Point] = {"default": self.points["vision"]}
        self.layers: Sequence[Point] = (Point(found.blocks[0], "input"), *map(Point, found.blocks[:-1]), llm)
        self._several = Several(self._of_several)
        self.undefined: Mapping[str, str] = {"erank3": _CROSS} if found.entry == "cross" else {}
        self.source: Mapping[str, Any] = {**source, "inspection": told(self._known, self._feeder, config)}

    @classmethod
    def load(
        cls,
        checkpoint: str | Path,
        *,
        name: str,
        dtype: str | None,
        device: str,
        load_in: str | None = None,
        revision: str | None = None,
    ) -> Multimodal:
        """Load a hub id or a local directory.

        Args:
            checkpoint: Hub id or directory.
            name: The name that results carry.
            dtype: A torch dtype by name; None for the checkpoint's own.
            device: A torch device, or `auto` for `device_map="auto"`.
            load_in: `8bit` or `4bit` to quantise the weights with bitsandbytes.
            revision: Branch, tag or commit on the hub.

        Returns:
            The adapter, its model in eval mode.

        Raises:
            ModelError: A part of the checkpoint is missing or cannot be read, weights are missing or not used, or
                inspection does not find its way.
        """
        model, processor, ignored = loaded(checkpoint, dtype=dtype, device=device, load_in=load_in, revision=revision)
        words = load_tokenizer(checkpoint, revision, around=False)
        if words.stated and getattr(processor, "tokenizer", None) is not None:
            processor.tokenizer = words.tokenizer
        source = source_of(
            "multimodal", model, checkpoint, ignored=ignored, said={}, load_in=load_in, revision=revision
        )
        adapter = cls(model, processor, name=name, source=source)
        content = configuration(checkpoint, revision)
        cautions = special_cautions(words.tokenizer, content, checkpoint, revision, fed=adapter._put_around(content))
        said = stated(name, words, *cautions, *size_cautions(words.tokenizer, embedding_rows(model)))
        adapter.source = {**adapter.source, **said}
        return adapter

    @classmethod
    def wrap(cls, model: Any, processor: Any, *, name: str) -> Multimodal:
        """An adapter around a model in memory, which is left as it is.

        Args:
            model: A multimodal model of transformers, also with what training puts around it.
            processor: Its processor, as transformers loads it.
            name: The name that results carry.

        Returns:
            The adapter.

        Raises:
            ModelError: Inspection does not find its way.
        """
        inner = unwrapped(model)
        source: dict[str, Any] = {
            "adapter": "multimodal",
            "checkpoint": getattr(inner.config, "_name_or_path", None) or None,
            "commit": None,
            "dtype": str(inner.dtype).removeprefix("torch."),
            "ignored": [],
        }
        with evaluated(inner):
            return cls(inner, processor, name=name, source=source)

    def untrained(self, seed: int) -> Multimodal:
        """The same configuration with the weights that transformers' own initialisation draws.

        A matrix of the connector that it leaves at zero, so that all rows would be one, is drawn, too. Gates that it
        leaves at zero stay so, and are named in the twin's `source` (`zero_gates`).

        Args:
            seed: Of the weights.

        Returns:
            The twin, in eval mode.
        """

        def complete(model: Any) -> None:
            spread = getattr(model.config.get_text_config(), "initializer_range", None) or 0.02
            for matrix in model.get_submodule(self._found.connector).parameters():
                if matrix.ndim > 1 and not bool(matrix.any()):
                    nn.init.normal_(matrix, std=spread)

        model = twin_of(self.model, seed, complete=complete)
        source = {"adapter": "multimodal", "untrained": True, "seed": seed, "dtype": self.source["dtype"]}
        name = f"{self.name} untrained (seed {seed})"
        known = Examined(self._reader.around(model, name), self.causal, alike=0)
        twin = Multimodal(model, self._processor, name=name, source=source, known=known)
        with torch.inference_mode(), zero_gates(model) as gates:
            twin._reader.run(*twin._feeder.taken_apart(TEXT, noise(0)))
        if gates:
            twin.source = {**twin.source, "zero_gates": gates}
        return twin

    @property
    def one_picture(self) -> str:
        """Why an example may have one picture alone; empty where it may have several."""
        if self._found.entry == "cross":
            return _CROSS
        if self._found.inserted or not self._found.image_ids:
            return "the model itself puts in the rows of a picture, so what stands where is not known of several"
        if self._reader.reads_text:
            return "its connector reads the text"
        return ""

    def pixels(self, picture: Opened, layout: ImageLayout) -> dict[str, Any]:
        """What the processor makes of a picture, or of several.

        Args:
            picture: Mode RGB; a tuple of several.
            layout: `model`.

        Returns:
            These, by name, and the sequence of the picture alone that they come with.

        Raises:
            UsageError: Another layout is asked for.
        """
        if layout != "model":
            raise UsageError(
                f"{self.name}: its own processor decides how a picture is laid out; --image-layout {layout} is for "
                "models with an adapter of their own"
            )
        alone, inputs = self._feeder.taken_apart("", picture)
        sizes = {"sizes": [of.size for of in picture]} if isinstance(picture, tuple) else {}
        return {"alone": alone, "inputs": inputs, **sizes}

    def sequence(self, example: Example, kind: Kind, form: SequenceForm) -> TokenSequence:
        """What the LLM reads for one example.

        Args:
            example: The example, its picture opened.
            kind: `image`, `text` or `pair`.
            form: `bare`: what the processor makes of a placeholder and the text; `template`: of the chat template.

        Returns:
            Ids, roles and further inputs.
        """
        return read_by(self._feeder, self._found, example, kind, form)

    def prompt(self, example: Example) -> TokenSequence:
        """What the LLM reads before it answers, in the model's chat template.

        Args:
            example: The example, its picture opened; its response is not read.

        Returns:
            Ids, roles and further inputs, the template's generation prompt at the end.
        """
        return read_by(self._feeder, self._found, example, "pair", "template", answered=False)

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[Mapping[str, Any]], vision_point: str = "default") -> list[Encoded]:
        """Run vision encoder and connector on each picture, up to where its rows enter the LLM.

        Args:
            pixels: What `pixels` gave.
            vision_point: `default`.

        Returns:
            The rows of each of these.

        Raises:
            DataError: The model refuses what its processor made of one.
        """
        found = []
        for of in pixels:
            placed = list[Tensor]()
            with refusal():
                encoded = self._reader.encoded(of["alone"], of["inputs"], placed=placed)
                if "sizes" in of:
                    encoded.spans = self._several.spans(encoded, placed, of["sizes"])
            found.append(encoded)
        return found

    def _of_several(self, pictures: tuple[Image.Image, ...]) -> tuple[Encoded, list[Tensor]]:
        placed = list[Tensor]()
        return self._reader.encoded(*self._feeder.taken_apart("", pictures), placed=placed), placed

    def decode(self, sequences: Sequence[TokenSequence], images: Sequence[Encoded] | None) -> None:
        """Run the model on each sequence, up to the LLM's final norm.

        Args:
            sequences: What it reads.
            images: The picture of each, or None.

        Raises:
            DataError: The model refuses one of them.
        """
        with refusal():
            self._reader.decode(sequences, images)

    @cached_property
    def _head(self) -> Callable[[Tensor], Tensor]:
        return lm_head(self._reader, self._feeder, self.name)

    def logits(self, h: Tensor) -> Tensor:
        """The LM head, which is held against the model's own logits when it is first asked for.

        Args:
            h: Final hidden states, (..., d).

        Returns:
            (..., vocabulary), in the model's dtype.
        """
        return self._head(h)

    def generate(
        self,
        sequence: TokenSequence,
        image: Encoded | None,
        how: GenerationConvention,
        logits: Callable[[Tensor], None],
    ) -> list[int]:
        """Let the model write behind a prompt.

        Args:
            sequence: What it reads.
            image: Its picture.
            how: Most tokens, and how each is chosen.
            logits: Is given those of each step.

        Returns:
            Ids of the new tokens.
        """
        inputs = model_inputs(self.model, sequence, None if image is None else image.inputs)
        return continued(self.model, inputs, self.tokenizer, how, logits)

    @property
    def processor(self) -> Any:
        """The model's processor, as transformers loads it."""
        return self._processor

    def _put_around(self, config: Mapping[str, Any]) -> dict[str, int | None]:
        """The BOS and EOS that the processor puts around a text that stands behind a picture, where it puts one."""
        sequence = self.sequence(Example("", noise(0), "", TEXT), "pair", "bare")
        text = [i for i, role in enumerate(sequence.roles) if role is Role.TEXT]
        ends = {"bos": sequence.ids[: text[0]], "eos": sequence.ids[text[-1] + 1 :]}
        found: dict[str, int | None] = {}
        for side, ids in ends.items():
            known = [getattr(self.tokenizer, f"{side}_token_id"), *stated_ids(config, side)]
            found[side] = next((i for i in known if i is not None and i in ids), None)
        return found
