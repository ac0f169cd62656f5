"""Gates of a model that start at zero: what they multiply has no part in an untrained twin."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from mmerank.errors import ModelError, first_line

_FACTORIES = {torch.empty, torch.full, torch.ones, torch.rand, torch.randn, torch.zeros}
_PRODUCTS = {
    torch.mul,
    torch.multiply,
    Tensor.mul,
    Tensor.mul_,
    Tensor.multiply,
    Tensor.__mul__,
    Tensor.__rmul__,
    Tensor.__imul__,
}


@contextmanager
def zero_gates(model: nn.Module, initial: Mapping[str, Tensor] | None = None) -> Iterator[list[str]]:
    """Parameters whose initial values make a factor that is zero throughout, as forward passes in the block tell.

    What is computed of numbers and vectors among the parameters alone (tanh of a gate, 1 + the weight of a norm) is
    followed, and looked at where it multiplies something else. Biases, which add, are no such factors.

    Args:
        model: Whose passes are run inside the block, in this thread.
        initial: What its parameters are when they are drawn, by name, where it is a trained one. Default: what they
            are.

    Yields:
        Names, in the order in which the passes come to them; complete behind the block.
    """
    found: list[str] = []
    with _Follower(model, initial, found):
        yield found


def initial_vectors(model: nn.Module) -> dict[str, Tensor]:
    """Numbers and vectors among the parameters as the model's own initialisation draws them; matrices are not made.

    Args:
        model: Of transformers, on any device.

    Returns:
        By name; nothing of a model that is not of transformers, whose twins are drawn otherwise.

    Raises:
        ModelError: The class cannot be built so, or the weights lie elsewhere than on a device.
    """
    build = getattr(type(model), "_from_config", None)
    if build is None:
        return {}
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError("its weights are offloaded")
    try:
        with torch.random.fork_rng(devices=[]), _VectorsAlone():
            drawn = build(copy.deepcopy(model.config), dtype=torch.float32)
    except Exception as error:  # of its class's own code, anything
        raise ModelError(first_line(error)) from error
    return {name: parameter for name, parameter in drawn.named_parameters() if not parameter.is_meta}


class _VectorsAlone(TorchFunctionMode):
    """Makes whatever is larger than a vector without values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and kwargs.get("device") is None:
            made = func(*args, **{**kwargs, "device": "meta"})
            if not _is_vector(made) and made.is_floating_point():
                return made
        return func(*args, **kwargs)


class _Follower(TorchFunctionMode):
    """Follows what is computed of numbers and vectors among the parameters, as if they had their initial values."""

    def __init__(self, model: nn.Module, initial: Mapping[str, Tensor] | None, found: list[str]):
        super().__init__()
        self._found = found
        # By id of a tensor: itself, so that the id stays its own, what it would be at first, and of what it is made.
        self._known: dict[int, tuple[Tensor, Tensor, frozenset[str]]] = {}
        for name, parameter in model.named_parameters():
            value = parameter if initial is None else initial.get(name)
            if value is not None and _is_vector(parameter):
                at_first = value.detach().to(parameter.device, parameter.dtype)
                self._known[id(parameter)] = (parameter, at_first, frozenset([name]))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = [self._known[id(leaf)] for leaf in given if id(leaf) in self._known]
        if known and len(known) < len(given):
            if func in _PRODUCTS:
                zero = [name for _, at_first, names in known if not bool(at_first.any()) for name in sorted(names)]
                self._found += [name for name in zero if name not in self._found]
        elif known and isinstance(result, Tensor):
            args, kwargs = tree_map(self._at_first, (args, kwargs))
            names = frozenset[str]().union(*(of for *_, of in known))
            self._known[id(result)] = (result, func(*args, **kwargs), names)
        return result

    def _at_first(self, leaf: Any) -> Any:
        return self._known[id(leaf)][1] if isinstance(leaf, Tensor) else leaf


def _is_vector(tensor: Tensor) -> bool:
    return tensor.numel() == max(tensor.shape, default=1)
