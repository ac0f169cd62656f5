"""Dual encoders of transformers: CLIP, SigLIP and others that embed pictures and texts in one space."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from mmerank.errors import DataError, ModelError, first_line
from mmerank.models.checkpoints import configuration
from mmerank.models.encoders.checks import TEXT, check_features, picture
from mmerank.models.encoders.encoder import Features, ReadText, Side
from mmerank.models.located import at_revision
from mmerank.models.plausible import check_built
from mmerank.models.soundness import check_files, check_loaded
from mmerank.models.source import source_of
from mmerank.models.tokenizer import load_tokenizer, stated
from mmerank.models.untrained import twin_of

# Cosines of equal embeddings, in the dtype of the model.
_ALIKE = 1e-2


class DualEncoder:
    """A model of transformers with `get_image_features` and `get_text_features`.

    Layers are its `hidden_states`, but for the first of them, which enters the first block. That embeddings are what
    the model itself compares, and that rows of pictures are patches, is checked on one picture and text at load.
    """

    def __init__(self, model: Any, image_processor: Any, tokenizer: Any, *, name: str, source: Mapping[str, Any]):
        self.name = name
        self.model = model
        self.tokenizer = tokenizer
        self._image_processor = image_processor
        self.max_tokens = _max_tokens(model.config, tokenizer, name)
        self.undefined: Mapping[str, str] = {}
        self._patch = _patch(model.config, name)
        self.layers: Mapping[Side, Sequence[int]]
        self.layers, self.undefined, given = check_features(self)
        self._check_forward(given["image"].embeddings, given["text"].embeddings)
        self.source = {**source, "layers": {side: list(of) for side, of in self.layers.items()}}

    @classmethod
    def check(cls, model: str) -> None:
        """Refuse a checkpoint of something else.

        Args:
            model: Hub id or directory.

        Raises:
            ModelError: Its class embeds no pictures and texts in one space.
        """
        _class_of(model)

    @classmethod
    def load(cls, model: str, *, dtype: str | None, device: str) -> DualEncoder:
        """Load a hub id or a local directory.

        Args:
            model: Hub id, `OWNER/NAME@REVISION`, or directory.
            dtype: A torch dtype by name; None for the checkpoint's own.
            device: A torch device.

        Returns:
            The encoder, its model in eval mode.

        Raises:
            ModelError: A part of the checkpoint is missing or cannot be read, weights are missing or not used, or it
                is no dual encoder that is understood.
        """
        auto, config = _class_of(model)
        name, (checkpoint, revision) = model, at_revision(model)
        check_files(checkpoint, revision)
        content = configuration(checkpoint, revision)
        check_built(lambda: auto._from_config(copy.deepcopy(config)), content, checkpoint, revision)
        where = {"revision": revision or "main"}
        try:
            loaded, report = auto.from_pretrained(
                checkpoint,
                dtype=dtype or "auto",
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # refused below, by name
                **where,
            )
            image_processor = AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=False, **where)
        except Exception as error:  # each of the libraries below has errors of its own
            raise ModelError(f"{model}: cannot be loaded ({first_line(error)})") from error
        ignored = check_loaded(loaded, report, checkpoint, revision)
        words = load_tokenizer(checkpoint, revision, around=False)  # as transformers' own pipeline feeds it
        said = stated(name, words)
        source = source_of("transformers", loaded, checkpoint, ignored=ignored, said=said, revision=revision)
        return cls(loaded.to(device).eval(), image_processor, words.tokenizer, name=name, source=source)

    def pixels(self, picture: Image.Image) -> dict[str, Tensor]:
        """What the checkpoint's own image processor makes of a picture.

        Args:
            picture: RGB.

        Returns:
            Tensors by name, on the CPU: `pixel_values`, (c, h, w), and what else it makes.

        Raises:
            DataError: The processor refuses the picture.
        """
        try:
            made = self._image_processor(images=[picture], return_tensors="pt")
        except ValueError as error:
            raise DataError(f"the image processor refuses the picture ({error})") from error
        return {name: torch.as_tensor(of[0]) for name, of in made.items()}

    def tokens(self, text: str) -> ReadText:
        """What is read of a text, by the checkpoint's own tokenizer.

        Args:
            text: Any.

        Returns:
            Ids, cut in the tokenizer's own way.
        """
        whole = self.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        kept = self.tokenizer(text, truncation=True, max_length=self.max_tokens, verbose=False)["input_ids"]
        return ReadText(tuple(kept), len(whole) - len(kept))

    @torch.inference_mode()
    def images(self, pixels: Sequence[Mapping[str, Tensor]]) -> Features:
        """Run the image encoder.

        Args:
            pixels: Of pictures, as from `pixels`.

        Returns:
            Patches by layer, and embeddings.

        Raises:
            ModelError: Its rows are not the patches and at most a class token.
        """
        fed = {name: torch.stack([of[name] for of in pixels]).to(self.model.device) for name in pixels[0]}
        fed["pixel_values"] = values = fed["pixel_values"].to(self.model.dtype)
        out = self.model.get_image_features(**fed, output_hidden_states=True)
        if (mask := fed.get("pixel_attention_mask")) is not None:  # patches of any number, padded behind
            return _features(out.hidden_states[1:], out.pooler_output, mask.sum(dim=1).tolist())
        count = (values.shape[-2] // self._patch) * (values.shape[-1] // self._patch)
        if (classes := out.hidden_states[1].shape[1] - count) not in (0, 1):
            raise ModelError(
                f"{self.name}: {count + classes} rows for a picture of {count} patches; which are patches is unknown"
            )
        states = [h[:, classes:] for h in out.hidden_states[1:]]
        return _features(states, out.pooler_output, [count] * len(pixels))

    @torch.inference_mode()
    def texts(self, read: Sequence[ReadText]) -> Features:
        """Run the text encoder, on texts padded as far as it reads, as in training.

        Args:
            read: Of texts.

        Returns:
            Tokens by layer, and embeddings.
        """
        out = self.model.get_text_features(**self._fed(read), output_hidden_states=True)
        return _features(out.hidden_states[1:], out.pooler_output, [len(of.ids) for of in read])

    def untrained(self, seed: int) -> DualEncoder:
        """The same configuration with the weights that transformers' own initialisation draws.

        Args:
            seed: Of the weights, which are drawn in float32 on the CPU.

        Returns:
            The twin, in eval mode.
        """
        model = twin_of(self.model, seed)
        source = {"adapter": "transformers", "untrained": True, "seed": seed}
        name = f"{self.name} untrained (seed {seed})"
        return DualEncoder(model, self._image_processor, self.tokenizer, name=name, source=source)

    def _fed(self, read: Sequence[ReadText]) -> Any:
        """Ids padded as far as the model reads, and where they are, if its tokenizer tells models that."""
        ids = [{"input_ids": list(of.ids)} for of in read]
        fed = self.tokenizer.pad(ids, padding="max_length", max_length=self.max_tokens, return_tensors="pt")
        if "attention_mask" not in self.tokenizer.model_input_names:
            fed.pop("attention_mask", None)
        return fed.to(self.model.device)

    @torch.inference_mode()
    def _check_forward(self, *found: Tensor) -> None:
        """Hold embeddings of `picture()` and `TEXT` against those that the model's own forward compares."""
        shown = {name: of[None].to(self.model.device) for name, of in self.pixels(picture()).items()}
        shown["pixel_values"] = shown["pixel_values"].to(self.model.dtype)
        out = self.model(**self._fed([self.tokens(TEXT)]), **shown)
        for ours, theirs in zip(found, (out.image_embeds, out.text_embeds), strict=True):
            cosine = torch.nn.functional.cosine_similarity(ours.double(), theirs.double(), dim=-1)
            if bool((cosine < 1 - _ALIKE).any()):
                raise ModelError(
                    f"{self.name}: {type(self.model).__name__} does more to its embeddings than is understood"
                )


def _class_of(model: str) -> tuple[Any, Any]:
    """The class of a checkpoint, and its configuration."""
    from transformers import AutoConfig

    model_type = configuration(model)["model_type"]
    try:
        checkpoint, revision = at_revision(model)
        config = AutoConfig.from_pretrained(checkpoint, revision=revision or "main", trust_remote_code=False)
        family = AutoModel._model_mapping[type(config)]
    except Exception as error:
        raise ModelError(
            f"{model}: transformers has no model of model_type {model_type!r} ({first_line(error)})"
        ) from error
    family = family[0] if isinstance(family, (tuple, list)) else family
    if not (hasattr(family, "get_image_features") and hasattr(family, "get_text_features")):
        raise ModelError(
            f"{model}: {family.__name__} (model_type {model_type!r}) does not embed pictures and texts in one space; "
            "CLIP, SigLIP and their like do; vision models are measured as timm:NAME, models with an LLM by "
            "`mmerank align`, language models by `mmerank diff`"
        )
    return family, config


def _patch(config: Any, name: str) -> int:
    size = getattr(getattr(config, "vision_config", None), "patch_size", None)
    if not isinstance(size, int):
        raise ModelError(
            f"{name}: {type(config).__name__} states no patch_size of a vision encoder, so its rows are unknown"
        )
    return size


def _max_tokens(config: Any, tokenizer: Any, name: str) -> int:
    text = getattr(config, "text_config", None)
    limits = [getattr(text, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    found = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    if not found:
        raise ModelError(f"{name}: neither its configuration nor its tokenizer says how many tokens a text may have")
    return min(found)


def _features(states: Sequence[Tensor], embeddings: Tensor, counts: Sequence[int]) -> Features:
    layers = [{i + 1: h[at, :n] for i, h in enumerate(states)} for at, n in enumerate(counts)]
    return Features(layers, embeddings)
