"""What a module does beside its weights: its settings, the functions it runs, and the hooks that were put on it."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping
from functools import cache, partial
from types import CodeType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
import xxhash
from torch import Tensor, nn

# Attributes that say where a module came from or how it is run, and nothing of what it computes.
_NOT_COMPUTED = frozenset({"gradient_checkpointing", "hf_device_map", "name_or_path", "training", "warnings_issued"})
# What peft keeps in private: whether its adapters are on, and which.
_SWITCHES = frozenset({"_disable_adapters", "_active_adapter"})
# Their functions are known by name, since a version stands for what they do.
_LIBRARIES = frozenset({"accelerate", "mmerank", "mmerank_adapters", "peft", "torch", "transformers"})
_CHUNK = 1 << 26  # bytes that go to the CPU at once


class Description:
    """Values as JSON values that differ where they compute something else, and are the same in another process.

    A function is known by its code, its defaults, and the variables from outside that it names; one that comes again
    by its number. None stands for what decides nothing, or is looked at elsewhere, as a module is.
    """

    def __init__(self) -> None:
        self._functions: dict[int, tuple[int, Any]] = {}  # held, so that none gets the id of another

    def module(self, name: str, module: nn.Module) -> list[Any]:
        """What decides the output of a module beside its parameters and buffers.

        Args:
            name: Its path in the model.
            module: Any; of one whose rotary angles follow the last sequence, only class and functions.

        Returns:
            Path, class, attributes and `forward`, hooks.
        """
        values = {} if is_dynamic(module) else vars(module)
        named = {key for key in values if not key.startswith("_")} - _NOT_COMPUTED
        named -= left_by_passes(type(module))  # type: ignore[arg-type]  # a class has a hash
        named |= _SWITCHES & values.keys()
        own = {key: values[key] for key in sorted(named)} | {"forward": module.forward}
        # Those of libraries note what passes, or ask for gradients.
        kinds = (module._forward_pre_hooks, module._forward_hooks)
        hooks = [hook for kind in kinds for hook in kind.values() if _root(hook) not in _LIBRARIES]
        return [name, type(module).__qualname__, self.of(own), self.of(hooks)]

    def of(self, value: Any, within: tuple[int, ...] = ()) -> Any:
        """Any value.

        Args:
            value: It.
            within: Ids of what it stands in, which is not described again.

        Returns:
            JSON values.
        """
        if isinstance(value, (bool, int, float, str)):
            return value
        if id(value) in within or isinstance(value, nn.Module):
            return None
        within = (*within, id(value))
        if isinstance(value, Mapping):
            found = {str(key): self.of(one, within) for key, one in value.items()}
            return {key: one for key, one in found.items() if one is not None}
        if isinstance(value, (list, tuple)):
            return [self.of(one, within) for one in value]
        if isinstance(value, (set, frozenset)):
            return sorted(map(str, value))
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(value) if value.dtype.kind in "biufc" else None
        if isinstance(value, Tensor):
            return None if value.is_meta else tensor_content(value)
        return self._function(value, within) if callable(value) else None

    def _function(self, value: Any, within: tuple[int, ...]) -> Any:
        if isinstance(value, MethodType):
            return self._function(value.__func__, within)
        inner = value.func if isinstance(value, partial) else value
        # It puts a module on devices, or casts the output: what it is around computes.
        if _root(inner) == "accelerate":
            return self._function(value.__wrapped__, within) if hasattr(value, "__wrapped__") else None
        if isinstance(value, partial):
            return [self._function(inner, within), self.of(value.args, within), self.of(value.keywords, within)]
        of = value if hasattr(value, "__qualname__") else type(value)
        name = f"{of.__module__}.{of.__qualname__}"
        if _root(value) in _LIBRARIES or isinstance(value, type):
            return name
        if not isinstance(value, FunctionType):
            return [name, self.of(getattr(value, "__dict__", {}), within)]
        if id(value) in self._functions:
            return [name, self._functions[id(value)][0]]
        self._functions[id(value)] = len(self._functions), value
        try:
            names = inspect.getclosurevars(value)
        except ValueError:  # a variable without a value
            return [name, self._code(value.__code__)]
        used = [value.__defaults__, value.__kwdefaults__, names.nonlocals, names.globals]
        return [name, self._code(value.__code__), *(self.of(one, within) for one in used)]

    def _code(self, code: CodeType) -> Any:
        constants = [self._code(one) if isinstance(one, CodeType) else self.of(one) for one in code.co_consts]
        return [code.co_code.hex(), list(code.co_names), constants]


@cache
def left_by_passes(of: type) -> frozenset[str]:
    """Attributes that a module's own passes write: a counter, positions of the last sequence.

    What a pass leaves behind follows from what was fed, and would make a model that ran another one.

    Args:
        of: The module's class.

    Returns:
        Names of attributes that are assigned in `forward`, in methods that it names, and in those that these name.
    """
    written: set[str] = set()
    seen, waiting = set[str](), ["forward"]
    while waiting:
        name = waiting.pop()
        function = inspect.unwrap(method) if callable(method := getattr(of, name, None)) else None
        if name in seen or not isinstance(function, FunctionType):
            continue
        seen.add(name)
        written |= {step.argval for step in dis.get_instructions(function) if step.opname == "STORE_ATTR"}
        waiting += function.__code__.co_names
    return frozenset(written)


def is_dynamic(module: nn.Module) -> bool:
    """Whether rotary angles follow the length of the last sequence; what they follow from is in the configuration."""
    rope = str(getattr(module, "rope_type", ""))
    return "dynamic" in rope or "longrope" in rope


def tensor_content(value: Tensor) -> str:
    """Shape, dtype and a hash of all bytes."""
    digest = xxhash.xxh3_128()
    content: Any = value.detach().contiguous().flatten().view(torch.uint8)
    for chunk in content.split(_CHUNK):
        digest.update(chunk.cpu().numpy())
    return f"{tuple(value.shape)} {value.dtype} {digest.hexdigest()}"


def _root(value: Any) -> str:
    """The package that a function, or the class of an object, comes from."""
    of = value if hasattr(value, "__qualname__") else type(value)
    return str(getattr(of, "__module__", "")).partition(".")[0]
