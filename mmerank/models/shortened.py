"""An LLM that reads a sequence again with some of its positions left out, while the others keep theirs.

What an LLM is called with (embeddings, position ids, masks, features for later layers) is taken from a pass of the
model's own code and shortened, so nothing about a family's positions is made anew: mrope's three axes, a picture's
shared position, offsets, all are those of the whole sequence. That a family takes this as it is meant is checked on
the first example, by another way to the same states: the whole sequence with what is left out masked.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mmerank.errors import DataError, ModelError, UsageError
from mmerank.inputs.sequence import TokenSequence
from mmerank.models.adapter import Adapter
from mmerank.models.encoded import Encoded
from mmerank.models.hooks import capture

# Largest relative difference between two ways to the same states that is still rounding.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.05}
# What an LLM makes itself where it is not given, from the length of what it reads.
_MADE_ANEW = ("cache_position", "past_key_values", "use_cache", "input_ids")
# Features of the picture's rows alone, a tensor for each of the layers that add them (Qwen3-VL), and where these are.
_OF_ROWS, _ROWS_AT = "deepstack_visual_embeds", "visual_pos_masks"


class _Ends(BaseException):
    """Ends a pass that is needed no further; no adapter takes it for an error of the model."""


@dataclass(frozen=True)
class Call:
    """What the LLM is called with for one sequence.

    Attributes:
        arguments: Of its forward, by name, as the model's own code gives them.
        n: Positions of the sequence.
    """

    arguments: Mapping[str, Any]
    n: int

    @property
    def embeddings(self) -> Tensor:
        """What enters it, (n, d): of the picture's positions the connector's rows."""
        rows: Tensor = self.arguments["inputs_embeds"][0]
        return rows


@dataclass
class Shortened:
    """An adapter's LLM, which can be called again with some positions left out.

    Attributes:
        adapter: A multimodal model.

    Raises:
        ModelError: No rows of a picture stand among those that the LLM reads.
    """

    adapter: Adapter
    _llm: nn.Module | None = None
    _checked: bool = False
    _blocks: list[nn.Module] = field(default_factory=list)

    def __post_init__(self) -> None:
        if why := self.adapter.undefined.get("erank3"):
            raise ModelError(f"{self.adapter.name}: no row of a picture can be left out of its LLM ({why})")
        blocks = str(self.adapter.layers[0].module).rpartition(".")[0]
        self._blocks = list(self.adapter.model.get_submodule(blocks).children())

    def read(self, sequence: TokenSequence, image: Encoded) -> Call:
        """What the LLM is called with for a sequence; nothing of it is run.

        Args:
            sequence: With places for the picture's rows.
            image: The picture.

        Returns:
            It.

        Raises:
            DataError: The sequence is longer than what some of its layers look back.
            ModelError: The LLM is not given embeddings, or something of which it is not known what belongs to which
                position.
        """
        entered: dict[nn.Module, Mapping[str, Any]] = {}
        above = self._above()
        with ExitStack() as hooks:
            for module in above:
                hooks.callback(
                    module.register_forward_pre_hook(
                        lambda of, args, kwargs: entered.__setitem__(of, _named(of, args, kwargs)), with_kwargs=True
                    ).remove
                )
            hooks.callback(self._blocks[0].register_forward_pre_hook(_end).remove)
            try:
                self.adapter.decode([sequence], [image])
            except _Ends:
                pass
        n = len(sequence)
        for module in above:
            embeddings = entered.get(module, {}).get("inputs_embeds")
            if isinstance(embeddings, Tensor) and embeddings.shape[:2] == (1, n):
                self._llm = module
                call = Call(entered[module], n)
                _check_reach(getattr(module, "config", None), n)
                _shorter(self.adapter.name, call, list(range(n)))  # whether all that it is given is understood
                return call
        raise ModelError(
            f"{self.adapter.name}: its LLM is not called with embeddings of all {n} positions, so none can be left "
            "out; how its rows of a picture get in is not known"
        )

    def _above(self) -> list[nn.Module]:
        """Modules that the LLM's blocks are in, from the innermost on."""
        path, found = str(self.adapter.layers[0].module), []
        while path:
            path = path.rpartition(".")[0]
            found.append(self.adapter.model.get_submodule(path))
        return found

    def states(self, call: Call, kept: Sequence[int] | None = None) -> Tensor:
        """States behind the final norm.

        Args:
            call: From `read`.
            kept: Ascending positions that are read; None for all.

        Returns:
            (m, d), a row for each.
        """
        kept = list(range(call.n)) if kept is None else kept
        return self._run(_shorter(self.adapter.name, call, kept), len(kept))

    def _run(self, arguments: Mapping[str, Any], n: int) -> Tensor:
        assert self._llm is not None
        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}, calls=None) as seen:
            self._llm(**arguments)
        rows: Tensor = seen["llm"][0].flatten(0, -2)
        if len(rows) != n:
            raise ModelError(f"{self.adapter.name}: {len(rows)} rows pass its LLM's final norm for {n} positions")
        return rows

    def check(self, call: Call, kept: Sequence[int], sequence: TokenSequence, image: Encoded) -> None:
        """Hold what this does with a family against two other ways, once.

        All positions must give what the adapter's own pass gives; and some of them what the whole sequence gives
        where nothing attends to the others.

        Args:
            call: From `read`.
            kept: Ascending positions.
            sequence: Whose call it is.
            image: Its picture.

        Raises:
            ModelError: They differ by more than rounding.
        """
        if self._checked:
            return
        with capture(self.adapter.model, {"llm": self.adapter.points["llm"]}, calls=None) as seen:
            self.adapter.decode([sequence], [image])
        own = seen["llm"][0].flatten(0, -2)
        self._same(own, self.states(call), "called again with all positions, it gives other states")
        masked = self._run(_masked(self.adapter.name, call, kept), call.n)[list(kept)]
        self._same(
            masked,
            self.states(call, kept),
            "rows that are left out are not the same as rows that nothing attends to, so what a row adds is not "
            "attention to it alone",
        )
        self._checked = True

    def _same(self, one: Tensor, other: Tensor, why: str) -> None:
        a, b = one.double(), other.double()
        difference = float((a - b).norm() / a.norm())
        if math.isfinite(difference) and difference > TOLERANCE[one.dtype]:
            raise ModelError(f"{self.adapter.name}: {why} (relative difference {difference:.1e})")

    def attention(self, call: Call, layer: int, at: int) -> Tensor:
        """How much one position attends to each, in a layer of the whole sequence.

        Args:
            call: From `read`.
            layer: 1 for the LLM's first block, 2 for the second.
            at: The position that attends.

        Returns:
            (n,), the mean over the heads; 0 behind `at`.

        Raises:
            ModelError: The layer's attention is not computed as such, or not to be had.
            UsageError: There is no such layer.
        """
        if not 1 <= layer <= len(self._blocks):
            raise UsageError(
                f"{self.adapter.name}: no attention of layer {layer}; its LLM has {len(self._blocks)}, from 1 on"
            )
        assert self._llm is not None
        found: list[Tensor] = []
        block, n = self._blocks[layer - 1], call.n

        def weights(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            for of in output if isinstance(output, tuple) else ():
                if isinstance(of, Tensor) and of.ndim == 4 and of.shape[-2:] == (n, n) and of.is_floating_point():
                    found.append(of[0, :, at].float().mean(dim=0))

        arguments = dict(_shorter(self.adapter.name, call, list(range(n))))
        arguments["attention_mask"] = _additive(arguments["attention_mask"], call.embeddings, n)
        with ExitStack() as hooks:
            hooks.enter_context(_eager(self._llm, self.adapter.name))
            for module in block.modules():
                hooks.callback(module.register_forward_hook(weights).remove)
            hooks.callback(block.register_forward_hook(_end).remove)
            try:
                self._llm(**arguments)
            except _Ends:
                pass
        none = f"{self.adapter.name}: the attention of its LLM's layer {layer} is not to be had"
        if not found:
            raise ModelError(f"{none}: no module of it puts out weights of {n} x {n} positions")
        if self.adapter.causal and bool(found[0][at + 1 :].any()):
            raise ModelError(f"{none}: its weights are not causal")
        return found[0]


def _end(*_: Any) -> None:
    raise _Ends


def _check_reach(config: Any, n: int) -> None:
    """Refuse a sequence that is longer than what a layer looks back: left out rows would bring others into reach."""
    kinds = getattr(config, "layer_types", None)
    for key, kind in {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}.items():
        reach = getattr(config, key, None)
        if isinstance(reach, int) and 0 < reach < n and (kinds is None or kind in kinds):
            raise DataError(
                f"{n} positions, and some layers of the LLM look back {reach} ({key}): with rows left out, others "
                "would come into reach"
            )


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a module's forward by name."""
    if not args:
        return dict(kwargs)
    signature = inspect.signature(module.forward)
    try:
        found = dict(signature.bind_partial(*args, **kwargs).arguments)
    except TypeError:
        return dict(kwargs)
    for name, parameter in signature.parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            found |= found.pop(name, {})
    return found


def _shorter(name: str, call: Call, kept: Sequence[int]) -> dict[str, Any]:
    """The arguments of a call for some of its positions."""
    device = call.embeddings.device
    at = torch.tensor(kept, device=device)
    # Without a mask transformers takes a gap between positions for the end of a text and the beginning of another.
    found: dict[str, Any] = {"attention_mask": None, "position_ids": None}
    for key, value in call.arguments.items():
        if key not in _MADE_ANEW:
            found[key] = _at(name, key, value, at, call)
    if found["attention_mask"] is None:
        found["attention_mask"] = torch.ones((1, len(kept)), dtype=torch.long, device=device)
    if found["position_ids"] is None:
        found["position_ids"] = at[None]
    return {**found, "use_cache": False} if "use_cache" in call.arguments else found


def _at(name: str, key: str, value: Any, at: Tensor, call: Call) -> Any:
    """What of an argument belongs to some positions."""
    n = call.n
    if isinstance(value, Mapping):
        return {each: _at(name, key, of, at, call) for each, of in value.items()}
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return value
    if isinstance(value, Tensor):
        if key == "position_ids" and value.shape[-1] == n:
            return value[..., at]
        if key == "attention_mask" and value.ndim == 4 and value.shape[-2:] == (n, n):
            return value[..., at, :][..., at]
        if value.ndim >= 2 and tuple(value.shape[:2]) == (1, n):
            return value[:, at]
    if key == _OF_ROWS and isinstance(value, (list, tuple)):
        rows = call.arguments[_ROWS_AT][0]
        of_rows = (rows.cumsum(dim=0) - 1)[at][rows[at]]
        return [of[of_rows] for of in value]
    if isinstance(value, (list, tuple)) and not len(value):
        return value
    raise ModelError(
        f"{name}: its LLM is also given {key!r}, of which it is not known what belongs to which position, so none "
        "can be left out"
    )


def _masked(name: str, call: Call, kept: Sequence[int]) -> dict[str, Any]:
    """The arguments of a call for all positions, of which some are not attended to."""
    found = _shorter(name, call, list(range(call.n)))
    out = torch.ones(call.n, dtype=torch.bool, device=call.embeddings.device)
    out[list(kept)] = False

    def without(mask: Any) -> Any:
        if mask is None:
            mask = _causal(call)
        if mask.ndim == 2:
            return mask.masked_fill(out, 0)
        hidden = False if mask.dtype is torch.bool else torch.finfo(mask.dtype).min
        return mask.masked_fill(out, hidden)

    mask = found["attention_mask"]
    found["attention_mask"] = (
        {key: without(of) for key, of in mask.items()} if isinstance(mask, Mapping) else without(mask)
    )
    return found


def _causal(call: Call) -> Tensor:
    """What None stands for among masks that are made: whatever stands before."""
    return torch.ones((1, 1, call.n, call.n), dtype=torch.bool, device=call.embeddings.device).tril()


def _additive(mask: Any, embeddings: Tensor, n: int) -> Any:
    """Masks that were made for another way of attention, as eager attention adds them."""
    if isinstance(mask, Mapping):
        return {key: _additive(of, embeddings, n) for key, of in mask.items()}
    if mask is None:
        mask = torch.ones((1, 1, n, n), dtype=torch.bool, device=embeddings.device).tril()
    if mask.ndim == 4 and mask.dtype is torch.bool:
        added = torch.zeros(mask.shape, dtype=embeddings.dtype, device=mask.device)
        return added.masked_fill(~mask, torch.finfo(embeddings.dtype).min)
    return mask


@contextmanager
def _eager(llm: nn.Module, name: str) -> Iterator[None]:
    """Let an LLM compute its attention step by step, so that the weights are there."""
    change: Callable[[str], None] | None = getattr(llm, "set_attn_implementation", None)
    config: Any = getattr(llm, "config", None)
    usual = getattr(config, "_attn_implementation", None)
    if change is None or usual is None:
        raise ModelError(
            f"{name}: the attention of its LLM is not to be had, since {type(llm).__name__} has no other way to "
            "compute it (set_attn_implementation)"
        )
    try:
        change("eager")
    except Exception as error:  # of transformers, whatever it comes to
        raise ModelError(f"{name}: its LLM has no eager attention, whose weights could be read ({error})") from error
    try:
        yield
    finally:
        change(usual)
