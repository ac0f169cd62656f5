"""Any multimodal model of transformers that has no adapter of its own."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from mmerank.convention import ImageLayout, SequenceForm
from mmerank.errors import MmerankError, ModelError, UsageError, first_line
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import Opened
from mmerank.inputs.sequence import Kind, Role, TokenSequence
from mmerank.models.checkpoints import configuration
from mmerank.models.devices import placement
from mmerank.models.encoded import Encoded
from mmerank.models.gates import zero_gates
from mmerank.models.hooks import Point
from mmerank.models.plausible import check_built
from mmerank.models.soundness import check_files, check_loaded, embedding_rows
from mmerank.models.source import source_of
from mmerank.models.special_tokens import size_cautions, special_cautions, stated_ids
from mmerank.models.tokenizer import load_tokenizer, stated
from mmerank.models.untrained import twin_of
from mmerank.models.wrapped import evaluated, unwrapped
from mmerank.transfer import for_each_tensor
from mmerank_adapters.anatomy import Anatomy, check_encoder
from mmerank_adapters.architecture import max_tokens
from mmerank_adapters.feeding import Feeder, noise, tensors, with_places_at
from mmerank_adapters.inspection import Inspector
from mmerank_adapters.passes import bound, tensors_of, until
from mmerank_adapters.prints import found_in, prints, rows_of
from mmerank_adapters.several import Several
from mmerank_adapters.words import WORDS, Word

_CLASSES = (AutoModelForImageTextToText, AutoModelForMultimodalLM)
_TEXT = "A cat sat on the mat, in 1867."
# Largest relative difference between states of a prefix read with and without what follows that is rounding.
_ROUNDING = {torch.float64: 1e-6, torch.float32: 1e-4}
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
        known: tuple[Anatomy, bool, bool, bool] | None = None,
    ):
        self.name = name
        self.model = model
        check_encoder(model)
        self._word = WORDS.get(model.config.model_type, Word())
        self._processor = processor
        self._feeder = Feeder(processor, self._word.placeholder, name)
        self.tokenizer = self._feeder.tokenizer
        self._modules = dict(model.named_modules())
        self.image_tokens = 0  # it depends on the picture
        # Told by the first passes, which know no better yet.
        self._text_by_llm = self._reads_text = self.causal = False
        self._alike = 0
        if known is None:
            self._found = self._inspected()
            self._examine()
        else:
            self._found, self._text_by_llm, self._reads_text, self.causal = known
        found = self._found
        self._llm, self._final = self._modules[found.llm], self._modules[found.final]
        self.max_tokens = max_tokens(self._llm, self._config, self.tokenizer)
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
        self.source: Mapping[str, Any] = {**source, "inspection": self._told()}

    @classmethod
    def load(
        cls, checkpoint: str | Path, *, name: str, dtype: str | None, device: str, load_in: str | None = None
    ) -> Multimodal:
        """Load a hub id or a local directory.

        Args:
            checkpoint: Hub id or directory.
            name: The name that results carry.
            dtype: A torch dtype by name; None for the checkpoint's own.
            device: A torch device, or `auto` for `device_map="auto"`.
            load_in: `8bit` or `4bit` to quantise the weights with bitsandbytes.

        Returns:
            The adapter, its model in eval mode.

        Raises:
            ModelError: A part of the checkpoint is missing or cannot be read, weights are missing or not used, or
                inspection does not find its way.
        """
        auto, config = _class_of(checkpoint)
        place = placement(device, load_in)
        check_files(checkpoint)
        check_built(lambda: auto.from_config(config, trust_remote_code=False), configuration(checkpoint), checkpoint)
        try:
            processor = AutoProcessor.from_pretrained(checkpoint, trust_remote_code=False)
        except Exception as error:  # each of the libraries below has errors of its own
            raise ModelError(f"{checkpoint}: its processor cannot be loaded ({first_line(error)})") from error
        try:
            model, report = auto.from_pretrained(
                checkpoint,
                dtype=dtype or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                trust_remote_code=False,
                **place,
            )
        except Exception as error:
            raise ModelError(f"{checkpoint}: cannot be loaded ({first_line(error)})") from error
        ignored = check_loaded(model, report, checkpoint)
        if not place:
            model.to(device)
        model.eval()
        words = load_tokenizer(checkpoint, around=False)
        if words.stated and getattr(processor, "tokenizer", None) is not None:
            processor.tokenizer = words.tokenizer
        source = source_of("multimodal", model, checkpoint, ignored=ignored, said={}, load_in=load_in)
        adapter = cls(model, processor, name=name, source=source)
        content = configuration(checkpoint)
        cautions = special_cautions(words.tokenizer, content, checkpoint, fed=adapter._put_around(content))
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
        known = self._found, self._text_by_llm, self._reads_text, self.causal
        twin = Multimodal(
            model, self._processor, name=f"{self.name} untrained (seed {seed})", source=source, known=known
        )
        with torch.inference_mode(), zero_gates(model) as gates:
            twin._run(*twin._feeder.taken_apart(_TEXT, noise(0)))
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
        if self._reads_text:
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
        found = self._feeder.sequence(example, kind, form, self._found.image_ids)
        return with_places_at(found, *self._found.inserted) if self._found.inserted and kind != "text" else found

    @torch.inference_mode()
    def encode_images(self, pixels: Sequence[Mapping[str, Any]], vision_point: str = "default") -> list[Encoded]:
        """Run vision encoder and connector on each picture, up to where its rows enter the LLM.

        Args:
            pixels: What `pixels` gave.
            vision_point: `default`.

        Returns:
            The rows of each of these.
        """
        found = []
        for of in pixels:
            placed = list[Tensor]()
            encoded = self._encoded(of["alone"], of["inputs"], placed=placed)
            if "sizes" in of:
                encoded.spans = self._several.spans(encoded, placed, of["sizes"])
            found.append(encoded)
        return found

    def _of_several(self, pictures: tuple[Image.Image, ...]) -> tuple[Encoded, list[Tensor]]:
        placed = list[Tensor]()
        return self._encoded(*self._feeder.taken_apart("", pictures), placed=placed), placed

    def _encoded(
        self,
        sequence: TokenSequence,
        inputs: Mapping[str, Any],
        *,
        whole: bool = False,
        placed: list[Tensor] | None = None,
    ) -> Encoded:
        """The rows of pictures that are read with a sequence.

        Args:
            sequence: What the LLM reads.
            inputs: The pictures'.
            whole: Whether the LLM runs up to its final norm.
            placed: Gets prints of what entered the LLM at the image positions.

        Returns:
            The rows of all pictures together.

        Raises:
            ModelError: They did not pass the points.
        """
        found, entered = self._found, list[Tensor]()
        end = until(self._final) if whole else until(self._modules[found.blocks[0]], entered=True)
        with self._read_rows(entered, sequence) as read, end:
            self._run(sequence, inputs)
        if not read["vision"] or not read["connector"]:
            raise ModelError(f"{self.name}: a picture did not pass {found.vision} and {found.connector}")
        vision, connector = (torch.cat(read[point]) for point in ("vision", "connector"))
        real = inputs.get(self._word.mask) if self._word.mask else None
        if real is not None:
            vision = _without_padding(vision, real)
            if not self._word.spliced:
                connector = _without_padding(connector, real)
        own = prints(connector)
        filled = None
        if entered and found.image_ids:
            places = [i for i, token in enumerate(sequence.ids) if token in found.image_ids]
            rows = entered[0][places]
            if found.added:
                rows = rows - self._embedded(sequence)[places]
            known = prints(rows)
            if placed is not None:
                placed.append(known)
            held = found_in(known, own, connector.dtype)
            if bool(held.any()):
                filled = held.tolist()
            if self._word.spliced:
                connector = connector[_taken(known[held], own).to(connector.device)]
        return Encoded(vision, connector, filled, inputs)

    def _embedded(self, sequence: TokenSequence) -> Tensor:
        table = self.model.get_input_embeddings()
        return table(torch.tensor(sequence.ids, device=self._device))  # type: ignore[no-any-return]

    @contextmanager
    def _read_rows(self, entered: list[Tensor], sequence: TokenSequence) -> Iterator[dict[str, list[Tensor]]]:
        """Rows at vision point and connector, of all their calls, and what enters the LLM."""
        found = self._found
        own_ids = torch.tensor(sequence.ids, device=self._device)
        read: dict[str, list[Tensor]] = {"vision": [], "connector": []}

        def vision(carried: Any) -> None:
            if carried is None:
                return  # a call that is not about a picture
            (h, *_) = tensors_of(carried)
            rows = rows_of(h.detach(), channels_first=found.channels_first, width=found.width)
            read["vision"].append(rows.clone())

        def connector(module: Any, args: Any, output: Any) -> None:
            if args and module is self.model.get_input_embeddings() and _any_same(args[0], own_ids):
                return  # the sequence is looked up; the tokens that a picture is made of, in a call of their own
            hs = tensors_of(output)
            same = [h for h in hs if h.shape[-1] == hs[0].shape[-1]] if isinstance(output, (list, tuple)) else hs[:1]
            rows = torch.cat([rows_of(h.detach()) for h in same])
            # A call of its own for indicators beside the picture is left out.
            if not (len(found.still) and bool(found_in(prints(rows), found.still, torch.float64).all())):
                read["connector"].append(rows)

        def enters(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = bound(module, args, kwargs)
            h = given.get("inputs_embeds") if found.entry == "embeddings" else next(iter(tensors_of(given)), None)
            if h is not None and not entered:
                entered.append(rows_of(h.detach()))

        with ExitStack() as hooks:
            at = self._modules[found.vision]
            if found.argument:
                hooks.callback(
                    at.register_forward_pre_hook(
                        lambda of, args, kwargs: vision(bound(of, args, kwargs).get(found.argument)), with_kwargs=True
                    ).remove
                )
            else:
                hooks.callback(at.register_forward_hook(lambda of, args, output: vision(output)).remove)
            hooks.callback(self._modules[found.connector].register_forward_hook(connector).remove)
            if found.entry != "cross":
                entry = found.llm if found.entry == "embeddings" else found.blocks[0]
                hooks.callback(self._modules[entry].register_forward_pre_hook(enters, with_kwargs=True).remove)
            yield read

    def decode(self, sequences: Sequence[TokenSequence], images: Sequence[Encoded] | None) -> None:
        """Run the model on each sequence, up to the LLM's final norm.

        Args:
            sequences: What it reads.
            images: The picture of each, or None.
        """
        pictures: Sequence[Encoded | None] = [None] * len(sequences) if images is None else images
        for sequence, image in zip(sequences, pictures, strict=True):
            if image is not None and self._reads_text and Role.TEXT in sequence.roles:
                image.connector = self._encoded(sequence, image.inputs, whole=True).connector
                continue
            with until(self._final, check=self._of_length(len(sequence))):
                self._run(sequence, None if image is None else image.inputs)

    def _of_length(self, expected: int) -> Callable[[Any], None]:
        """A check that the LLM read as many positions as are known."""

        def check(output: Any) -> None:
            count = tensors_of(output)[0].shape[-2]
            if count != expected:
                raise ModelError(
                    f"{self.name}: its LLM read {count} positions where its processor gave {expected}, so what "
                    "stands where is not known"
                )

        return check

    def _run(self, sequence: TokenSequence, inputs: Mapping[str, Any] | None) -> None:
        """The model's forward; without a picture, of the LLM alone where the model takes no text alone."""
        given = tensors(sequence, self._device)
        if inputs is None and self._text_by_llm:
            self._modules[self._found.llm](**given)
            return
        dtype = self.model.dtype

        def placed(tensor: Tensor) -> Tensor:
            return tensor.to(self._device, dtype if tensor.is_floating_point() else None)

        cache = {"use_cache": False} if "use_cache" in inspect.signature(self.model.forward).parameters else {}
        self.model(**given, **for_each_tensor(inputs or {}, placed), **cache)

    @property
    def _device(self) -> torch.device:
        """Where ids go; accelerate moves them on where the embeddings are offloaded."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return torch.device("cpu") if device.type == "meta" else device

    @property
    def _config(self) -> Any:
        return getattr(self._llm, "config", None) or self.model.config.get_text_config()

    def _inspected(self) -> Anatomy:
        """What inspection finds on a picture and a text."""
        pairs = [self._feeder.taken_apart(_TEXT, noise(seed)) for seed in range(2)]

        def run(picture: int) -> None:
            self._run(*pairs[picture])

        try:
            return Inspector(self.model, run, pairs[0][0].ids).anatomy(self._word.vision)
        except MmerankError as error:
            if self._feeder.guessed:
                raise ModelError(f"{error}; {self._feeder.guessed}") from error
            raise
        except Exception as error:  # of the model's own forward, anything
            raise ModelError(
                f"{self.name}: {type(self.model).__name__} fails on a picture and a text as its own processor gives "
                f"them ({first_line(error)})"
            ) from error

    @torch.inference_mode()
    def _examine(self) -> None:
        """See how text alone is run, whether the connector reads the text, and whether a prefix is one."""
        example = Example("", noise(0), "", _TEXT)
        (image,) = self.encode_images([self.pixels(noise(0), "model")])
        # No two patches of a picture of noise are alike: what is, it was padded with.
        self._alike = len(image.vision) - len(torch.unique(prints(image.vision).round(decimals=5), dim=0))
        alone, text, pair = (self.sequence(example, kind, "bare") for kind in ("image", "text", "pair"))
        try:
            self._last(text, None)
        except Exception:  # whatever a model says that wants a picture
            self._text_by_llm = True
            try:
                self._last(text, None)
            except Exception as error:
                raise ModelError(f"{self.name}: its LLM cannot be run on text alone ({first_line(error)})") from error
        before, self._reads_text = image.connector, True
        with_text = self._last(pair, image)
        self._reads_text = before.shape != image.connector.shape or not torch.allclose(
            before.float(), image.connector.float(), rtol=1e-3, atol=1e-3
        )
        if self._found.entry == "cross":
            self.causal = True  # no image input is read from anything
        elif pair.starts_with(alone):
            of_prefix = self._last(alone, image)
            apart = float((of_prefix - with_text[: len(of_prefix)]).norm() / of_prefix.norm())
            self.causal = math.isfinite(apart) and apart <= _ROUNDING.get(self.model.dtype, 0.05)

    def _last(self, sequence: TokenSequence, image: Encoded | None) -> Tensor:
        """Last hidden states, (n, d) float64."""
        states: list[Tensor] = []
        final = self._modules[self._found.final]
        self._final = final
        handle = final.register_forward_hook(lambda of, args, output: states.extend(tensors_of(output)[:1]))
        try:
            self.decode([sequence], None if image is None else [image])
        finally:
            handle.remove()
        return states[0][0].cpu().double()

    def _told(self) -> dict[str, Any]:
        """What inspection found, for the record."""
        found = self._found
        vision = f"{'input' if found.argument else 'output'} of {found.vision}"
        layout = " (channels first)" if found.channels_first else ""
        cut = f" (neighbours side by side, cut to {found.width})" if found.width else ""
        entry = {"embeddings": "its embeddings", "block": "its first block"}.get(found.entry, found.cross)
        return {
            "llm": found.llm,
            "final": found.final,
            "connector": found.connector,
            "vision": vision + layout + cut,
            "enters": entry,
            "matched": dict(found.matched),
            "placeholder": self._feeder.placeholder,
            **({"added": True} if found.added else {}),
            **({"alike": f"{self._alike} rows at the vision point, of padding"} if self._alike else {}),
            **({"connector_reads_text": True} if self._reads_text else {}),
            **({"text_alone": "by the LLM"} if self._text_by_llm else {}),
            **({"encoder_decoder": "eRank3 to eRank5 are the encoder's"} if self._is_encoder() else {}),
            **({"word": dict(self._word._asdict())} if self._word != Word() else {}),
        }

    def _put_around(self, config: Mapping[str, Any]) -> dict[str, int | None]:
        """The BOS and EOS that the processor puts around a text that stands behind a picture, where it puts one."""
        sequence = self.sequence(Example("", noise(0), "", _TEXT), "pair", "bare")
        text = [i for i, role in enumerate(sequence.roles) if role is Role.TEXT]
        ends = {"bos": sequence.ids[: text[0]], "eos": sequence.ids[text[-1] + 1 :]}
        found: dict[str, int | None] = {}
        for side, ids in ends.items():
            known = [getattr(self.tokenizer, f"{side}_token_id"), *stated_ids(config, side)]
            found[side] = next((i for i in known if i is not None and i in ids), None)
        return found

    def _is_encoder(self) -> bool:
        return any(getattr(config, "is_encoder_decoder", False) for config in (self._config, self.model.config))


def _class_of(checkpoint: str | Path) -> tuple[Any, Any]:
    """The class of transformers that loads a checkpoint, and its configuration."""
    try:
        config = AutoConfig.from_pretrained(checkpoint, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{checkpoint}: its configuration cannot be read ({first_line(error)})") from error
    for auto in _CLASSES:
        if type(config) in auto._model_mapping:
            return auto, config
    raise ModelError(
        f"{checkpoint}: model_type {config.model_type!r} is none of transformers' image-text-to-text or multimodal "
        "models; `mmerank.wrap(model, processor, name=...)` measures one that is in memory, `mmerank diff` language "
        "models, and CONTRIBUTING.md says how to write an adapter"
    )


def _any_same(ids: Tensor, others: Tensor) -> bool:
    return ids.numel() == others.numel() and bool((ids.flatten() == others).any())


def _without_padding(rows: Tensor, real: Tensor) -> Tensor:
    """Rows where a mask of rows, or of tiles of equally many, says that they are real; all if it is not of them."""
    told = (real.any(dim=-1) if real.is_floating_point() else real).flatten().bool().to(rows.device)
    return rows if len(rows) % len(told) else rows[told.repeat_interleave(len(rows) // len(told))]


def _taken(some: Tensor, others: Tensor) -> Tensor:
    """For each row, by its print, which of the others it is, each taken once; in rising order."""
    apart = torch.cdist(some, others, p=float("inf"))
    chosen = []
    for row in apart:
        nearest = int(row.argmin())
        apart[:, nearest] = math.inf
        chosen.append(nearest)
    return torch.tensor(sorted(chosen))
