"""LLaVA-1.5, BakLLaVA and ViP-LLaVA, from checkpoints in the layout of transformers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, CLIPImageProcessorPil

from mmerank.convention import GenerationConvention, ImageLayout, SequenceForm
from mmerank.errors import ModelError
from mmerank.inputs.example import Example
from mmerank.inputs.pictures import check_area, square
from mmerank.inputs.sequence import Kind, Role, TokenSequence, image_places
from mmerank.models.chat_template import ANSWER, PICTURE, QUESTION, other_template
from mmerank.models.checkpoints import configuration
from mmerank.models.devices import placement
from mmerank.models.encoded import Encoded, encoded
from mmerank.models.generation import continued
from mmerank.models.head import head_logits
from mmerank.models.hooks import Point
from mmerank.models.plausible import check_built
from mmerank.models.sequences import bare_sequence, begin, end, padded, spliced_embeddings, tokenized
from mmerank.models.soundness import check_files, check_loaded, check_pixels, embedding_rows
from mmerank.models.source import source_of
from mmerank.models.special_tokens import both, check_bos, size_cautions, special_cautions
from mmerank.models.tokenizer import load_tokenizer, stated
from mmerank.models.untrained import twin_of
from mmerank.transfer import sent
from mmerank_adapters.architecture import configuration_of
from mmerank_adapters.processing import check_processing

# What stands before the user's turn, before the answer, and after it, in the template each family was trained with.
# LLaVA-1.5 and BakLLaVA: `vicuna_v1` of LLaVA's code. ViP-LLaVA: the template of its model card.
_VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. USER: ",
    " ASSISTANT:",
)
_VIP = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions.###Human: ",
    "###Assistant:",
)


_LANGUAGE_MODELS = ("llama", "mistral")


class Llava:
    """The LLaVA family on transformers' LlavaForConditionalGeneration and VipLlavaForConditionalGeneration.

    Hook points: `vision` is the connector's input, which is the CLIP layer the connector reads (the
    second-to-last in LLaVA-1.5) without CLS; `connector` its output; `llm` the output of the final norm.
    """

    model_types = ("llava", "vipllava")
    undefined: Mapping[str, str] = {}

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, *, name: str, source: Mapping[str, Any]):
        self.name = name
        self.source = source
        self.model = model
        self.tokenizer = tokenizer
        self._image_processor = image_processor
        self._core = model.model
        config = model.config
        self.max_tokens: int = config.text_config.max_position_embeddings
        self.image_tokens: int = (config.vision_config.image_size // config.vision_config.patch_size) ** 2
        # Rotary angles that change with the length of the sequence change what the prefix is.
        self.causal = config.text_config.rope_parameters["rope_type"] not in ("dynamic", "longrope")
        self._template = _VIP if config.model_type == "vipllava" else _VICUNA_V1
        self._other_template: str | None = None
        paths = {module: path for path, module in model.named_modules()}
        tower = next(path for path in paths.values() if path.endswith("encoder.layers"))
        connector = paths[self._core.multi_modal_projector]
        self.points = {
            "vision": Point(connector, "input"),
            "connector": Point(connector, "output"),
            "llm": Point(paths[self._core.language_model.norm], "output"),
        }
        blocks = [paths[block] for block in self._core.language_model.layers]
        self.layers = (Point(blocks[0], "input"), *map(Point, blocks[:-1]), self.points["llm"])
        depth = config.vision_config.num_hidden_layers
        self.vision_points = {
            "default": self.points["vision"],
            "last": Point(f"{tower}.{depth - 1}", "output", skip=1),
        }
        # ViP-LLaVA, and LLaVA if it is configured so, reads several layers, side by side.
        if config.model_type == "llava" and isinstance(read := config.vision_feature_layer, int):
            layer = read if read >= 0 else depth + 1 + read
            self.vision_points["with_cls"] = Point(f"{tower}.{layer - 1}", "output")

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
    ) -> Llava:
        """Load a hub id or a local directory.

        Args:
            checkpoint: Hub id, or a directory in the same layout.
            name: The name that results carry.
            dtype: A torch dtype by name; None for the checkpoint's own.
            device: A torch device, or `auto` for `device_map="auto"`.
            load_in: `8bit` or `4bit` to quantise the weights with bitsandbytes.
            revision: Branch, tag or commit on the hub.

        Returns:
            The adapter, its model in eval mode.

        Raises:
            ModelError: A part of the checkpoint is missing or cannot be read, or weights are missing or not used.
        """
        content = configuration(checkpoint, revision)
        _check_configuration(content, checkpoint)
        config = configuration_of(str(checkpoint), revision)
        _check_layers(config, checkpoint)
        place = placement(device, load_in)
        check_files(checkpoint, revision)
        check_built(
            lambda: AutoModelForImageTextToText.from_config(copy.deepcopy(config), trust_remote_code=False),
            content,
            checkpoint,
            revision,
        )
        where = {"revision": revision or "main", "trust_remote_code": False}
        try:
            model, report = AutoModelForImageTextToText.from_pretrained(
                checkpoint,
                config=config,
                dtype=dtype or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **where,
                **place,
            )
            # The torchvision backend differs from the original preprocessing by up to one 8-bit step.
            image_processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil", **where)
        except Exception as error:  # each of the libraries below has errors of its own
            raise ModelError(
                f"{checkpoint}: cannot be loaded ({str(error).strip() or type(error).__name__})"
            ) from error
        ignored = check_loaded(model, report, checkpoint, revision=revision)
        check_pixels(image_processor, model.config.vision_config.image_size, checkpoint)
        check_processing(image_processor, checkpoint)
        words = load_tokenizer(checkpoint, revision, around=False)
        check_bos(words.tokenizer, content, checkpoint)
        cautions = special_cautions(words.tokenizer, content, checkpoint, revision, fed=both(words.tokenizer))
        if not place:
            model.to(device)
        model.eval()
        said = stated(name, words, *cautions, *size_cautions(words.tokenizer, embedding_rows(model)))
        source = source_of("llava", model, checkpoint, ignored=ignored, said=said, load_in=load_in, revision=revision)
        adapter = cls(model, words.tokenizer, image_processor, name=name, source=source)
        adapter._check_template(checkpoint, revision)
        if other := adapter._other_template:
            source["chat_template"] = f"another than this adapter feeds with --sequence template: {other}"
        return adapter

    @staticmethod
    def takes(config: Mapping[str, Any]) -> bool:
        """Whether a configuration of these model types is of CLIP and Llama or Mistral; there are others.

        Args:
            config: As in config.json.

        Returns:
            Whether `load` may try.
        """
        kinds = [(config.get(f"{part}_config") or {}).get("model_type") for part in ("vision", "text")]
        return kinds[0] in (None, "clip_vision_model") and kinds[1] in (None, *_LANGUAGE_MODELS)

    @classmethod
    def wrap(cls, model: Any, processor: Any, *, name: str) -> Llava:
        """An adapter around a model in memory, which is left as it is.

        Args:
            model: Of these families.
            processor: Its processor; pictures are prepared by the same class's PIL backend, as `load` has it.
            name: The name that results carry.

        Returns:
            The adapter.
        """
        settings = processor.image_processor.to_dict()
        source: dict[str, Any] = {
            "adapter": "llava",
            "checkpoint": getattr(model.config, "_name_or_path", None) or None,
            "commit": None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "ignored": [],
        }
        adapter = cls(model, processor.tokenizer, CLIPImageProcessorPil.from_dict(settings), name=name, source=source)
        adapter.processor = processor
        return adapter

    def untrained(self, seed: int) -> Llava:
        """The same configuration with the weights that transformers' own initialisation draws.

        Args:
            seed: Of the weights.

        Returns:
            The twin, in eval mode.
        """
        model = twin_of(self.model, seed)
        source = {
            "adapter": "llava",
            "untrained": True,
            "seed": seed,
            "dtype": self.source["dtype"],
        }
        name = f"{self.name} untrained (seed {seed})"
        twin = Llava(model, self.tokenizer, self._image_processor, name=name, source=source)
        twin._other_template = self._other_template
        return twin

    def pixels(self, picture: Image.Image, layout: ImageLayout) -> Tensor:
        """CLIP's input for one picture, by PIL, as in the original code.

        Args:
            picture: Mode RGB.
            layout: `pad` (also `model`): a square, the shorter side filled with the mean colour on both sides,
                then scaled; `crop`: the shorter side scaled, the centre cut out.

        Returns:
            (3, h, w), float32.
        """
        processor = self._image_processor
        if layout != "crop":
            picture = square(picture, tuple(int(255 * mean) for mean in processor.image_mean))
        else:
            scale = processor.size["shortest_edge"] / min(picture.size)
            check_area(picture.width * scale, picture.height * scale, "scaled for the crop")
        cut = {"do_center_crop": True} if layout == "crop" else {}
        pixels: Tensor = processor(picture, return_tensors="pt", **cut)["pixel_values"][0]
        return pixels

    def sequence(self, example: Example, kind: Kind, form: SequenceForm) -> TokenSequence:
        """What the LLM reads for one example.

        The `template` tokenises the pieces before and after the picture separately, as LLaVA's code does; the
        image-only input is the template with an empty instruction and no answer.

        Args:
            example: The example.
            kind: `image`, `text` or `pair`.
            form: `bare` or `template`.

        Returns:
            Ids and roles, one BOS in front.

        Raises:
            ModelError: The template is asked for, and the checkpoint has another one or no EOS.
        """
        if form == "bare":
            return bare_sequence(self.tokenizer, example.text, kind, self.image_tokens)
        before, answer = self._template
        if self._other_template:
            raise ModelError(
                f"{self.name}: its own chat template gives {self._other_template!r}, and this adapter knows only "
                f"{before + '...' + answer!r}; measure bare sequences (--sequence bare)"
            )
        turn = (
            (example.instruction, Role.TEXT),
            (f"{answer} ", Role.TEMPLATE),
            (example.response, Role.TEXT),
        )
        if kind == "text":
            return (
                begin(self.tokenizer)
                + tokenized(self.tokenizer, (before, Role.TEMPLATE), *turn)
                + end(self.tokenizer)
            )
        opening = begin(self.tokenizer) + tokenized(self.tokenizer, (before, Role.TEMPLATE))
        opening += image_places(self.image_tokens)
        if kind == "image":
            return opening + tokenized(self.tokenizer, (f"\n{answer}", Role.TEMPLATE))
        return opening + tokenized(self.tokenizer, ("\n", Role.TEMPLATE), *turn) + end(self.tokenizer)

    def _check_template(self, checkpoint: str | Path, revision: str | None) -> None:
        """Keep what the checkpoint's own template makes of an exchange, where that is not what `sequence` does.

        The template of the published checkpoints on the hub leaves the sentence in front out; the code that they
        were trained with has it.
        """
        before, answer = self._template
        turn = f"{PICTURE}\n{QUESTION}{answer} {ANSWER}"
        role = max(before.rfind(opening) for opening in ("USER: ", "###Human: "))
        token = self.tokenizer.convert_ids_to_tokens(self.model.config.image_token_id)
        expected = [opening + turn + end for opening in (before, before[role:]) for end in ("", "###")]
        self._other_template = other_template(checkpoint, self.tokenizer, expected, picture=token, revision=revision)

    def encode_images(self, pixels: Sequence[Tensor], vision_point: str = "default") -> list[Encoded]:
        """Run CLIP and the connector.

        Args:
            pixels: One tensor a picture, (3, h, w).
            vision_point: Where the vision encoder is read.

        Returns:
            The rows of each picture.
        """
        batch = torch.stack(tuple(pixels)).to(self._core.vision_tower.device, self.model.dtype)
        points = {"vision": self.vision_points[vision_point], "connector": self.points["connector"]}
        return encoded(self.model, points, lambda: self._core.get_image_features(batch))

    def decode(self, sequences: Sequence[TokenSequence], images: Sequence[Encoded] | None) -> None:
        """Run the language model up to its final norm.

        Args:
            sequences: What it reads.
            images: The rows of each one's picture, or None.
        """
        ids, mask = padded(sequences)
        rows = None if images is None else [image.connector for image in images]
        embeddings = spliced_embeddings(self._core.get_input_embeddings(), ids, rows)
        self._core.language_model(
            inputs_embeds=embeddings, attention_mask=sent(mask, embeddings.device), use_cache=False
        )

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
        ids, mask = padded([sequence])
        rows = None if image is None else [image.connector]
        embeddings = spliced_embeddings(self._core.get_input_embeddings(), ids, rows)
        inputs = {"inputs_embeds": embeddings, "attention_mask": mask.long().to(embeddings.device)}
        return continued(self.model, inputs, self.tokenizer, how, logits)

    @cached_property
    def processor(self) -> Any:
        """The checkpoint's processor, as transformers loads it, for generation alone."""
        if "checkpoint" not in self.source:
            raise ModelError(f"{self.name}: an untrained twin has no processor to generate with")
        commit = self.source.get("commit") or "main"
        return AutoProcessor.from_pretrained(self.source["checkpoint"], revision=commit, trust_remote_code=False)

    def logits(self, h: Tensor) -> Tensor:
        """The LM head.

        Args:
            h: Final hidden states, (..., d).

        Returns:
            (..., vocabulary), in the model's dtype.
        """
        return head_logits(self.model, self.model.config.text_config, h)


def _check_layers(config: Any, checkpoint: str | Path) -> None:
    """The layers of CLIP that the connector reads are there."""
    key = "vision_feature_layers" if config.model_type == "vipllava" else "vision_feature_layer"
    read, depth = getattr(config, key), config.vision_config.num_hidden_layers
    for layer in read if isinstance(read, (list, tuple)) else [read]:
        if type(layer) is not int or not -depth - 1 <= layer <= depth:
            raise ModelError(f"{checkpoint}: {key} is {read}, and its vision encoder has {depth} layers")


def _check_configuration(config: Mapping[str, Any], checkpoint: str | Path) -> None:
    """Refuse what the classes of transformers would build but this adapter would read in the wrong place."""
    vision = (config.get("vision_config") or {}).get("model_type", "clip_vision_model")
    text = (config.get("text_config") or {}).get("model_type", "llama")
    wrong = None
    if vision != "clip_vision_model":
        wrong = f"vision_config.model_type is {vision!r}, expected 'clip_vision_model'"
    elif text not in _LANGUAGE_MODELS:
        wrong = f"text_config.model_type is {text!r}, expected 'llama' or 'mistral'"
    elif (strategy := config.get("vision_feature_select_strategy", "default")) != "default":
        wrong = f"vision_feature_select_strategy is {strategy!r}, expected 'default' (without CLS)"
    elif config.get("vision_feature_layer") == 0:
        wrong = "vision_feature_layer is 0, expected a layer of CLIP"
    for key in ("image_token_id", "image_token_index"):
        if type(number := config.get(key, 0)) is not int or number < 0:
            wrong = f"{key} is {number!r:.40}, expected the id of a token"
    if wrong:
        raise ModelError(f"{checkpoint}: {wrong}; this is not a LLaVA-1.5, BakLLaVA or ViP-LLaVA")
