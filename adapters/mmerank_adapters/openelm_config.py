"""The architecture of an OpenELM (arXiv:2404.14619), whose layers differ in width, from its config.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmerank.errors import ModelError

# Values that the published models have, and the only ones this module can compute.
_FIXED = {"activation_fn_name": ("swish", "silu"), "normalization_layer_name": ("rms_norm",)}


@dataclass(frozen=True)
class OpenELMConfig:
    """The architecture.

    Attributes:
        vocab_size: Rows of the embedding.
        model_dim: Width of the residual stream.
        head_dim: Width of an attention head.
        query_heads: Per layer.
        kv_heads: Per layer; each serves query_heads / kv_heads neighbouring query heads.
        ffn_widths: Per layer.
        ffn_with_glu: Whether the first half of the FFN gates the second.
        normalize_qk: Whether queries and keys are normalised, each head by itself.
        share_embeddings: Whether the LM head is the embedding.
        rope_base: Of the rotary angles.
        max_context_length: Longest sequence the model was trained on.
    """

    vocab_size: int
    model_dim: int
    head_dim: int
    query_heads: tuple[int, ...]
    kv_heads: tuple[int, ...]
    ffn_widths: tuple[int, ...]
    ffn_with_glu: bool
    normalize_qk: bool
    share_embeddings: bool
    rope_base: float
    max_context_length: int

    @classmethod
    def from_json(cls, config: Mapping[str, Any], checkpoint: str) -> OpenELMConfig:
        """Read a config.json.

        As in the published code, query heads and FFN widths follow from the multipliers, while a list of KV heads
        in the file comes before what would follow.

        Args:
            config: Its content.
            checkpoint: Where it came from, for messages.

        Returns:
            The architecture.

        Raises:
            ModelError: A key is missing, or has a value that this module cannot compute.
        """
        for key, known in _FIXED.items():
            if config.get(key, known[0]) not in known:
                raise ModelError(f"{checkpoint}: {key} is {config[key]!r}; known: {', '.join(known)}")
        try:
            layers, width, head = (config[key] for key in ("num_transformer_layers", "model_dim", "head_dim"))
            groups = config["num_gqa_groups"]
            multiples = per_layer(config["qkv_multipliers"], layers)
            ffn = [float(m) * width for m in per_layer(config["ffn_multipliers"], layers)]
            queries = tuple(divisible(width * m, head * groups) // head for m in multiples)
            keys = tuple(config.get("num_kv_heads") or (q // groups for q in queries))
            read = cls(
                vocab_size=config["vocab_size"],
                model_dim=width,
                head_dim=head,
                query_heads=queries,
                kv_heads=keys,
                ffn_widths=tuple(divisible(value, config["ffn_dim_divisor"]) for value in ffn),
                ffn_with_glu=config["ffn_with_glu"],
                normalize_qk=config["normalize_qk_projections"],
                share_embeddings=config["share_input_output_layers"],
                rope_base=float(config["rope_freq_constant"]),
                max_context_length=config["max_context_length"],
            )
        except KeyError as error:
            raise ModelError(f"{checkpoint}: its config.json has no {error.args[0]!r}, which OpenELM needs") from None
        except (TypeError, ValueError) as error:
            raise ModelError(f"{checkpoint}: its config.json is not one of OpenELM ({error})") from None
        if width % head:
            raise ModelError(f"{checkpoint}: model_dim {width} is not a multiple of head_dim {head}")
        if len(keys) != layers or any(q % k for q, k in zip(queries, keys, strict=True)):
            raise ModelError(f"{checkpoint}: num_kv_heads {list(keys)} do not divide the query heads {list(queries)}")
        return read


def per_layer(multiplier: float | Sequence[float], layers: int) -> list[float]:
    """A multiplier for each layer.

    Args:
        multiplier: One number for all; two for a range, rounded to 2 decimals; else one for each layer.
        layers: Number of layers.

    Returns:
        `layers` numbers.

    Raises:
        ValueError: A list of another length.
    """
    if isinstance(multiplier, (int, float)):
        return [float(multiplier)] * layers
    if len(multiplier) == 2:
        first, last = multiplier
        step = (last - first) / max(layers - 1, 1)
        return [round(first + i * step, 2) for i in range(layers)]
    if len(multiplier) != layers:
        raise ValueError(f"{len(multiplier)} multipliers for {layers} layers")
    return [float(m) for m in multiplier]


def divisible(value: float, divisor: int) -> int:
    """The multiple of `divisor` nearest to `value`, half up, but at least one and at most 10 % below it.

    Args:
        value: Any positive number.
        divisor: What the result is a multiple of.

    Returns:
        The multiple.
    """
    nearest = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return nearest if nearest >= 0.9 * value else nearest + divisor
