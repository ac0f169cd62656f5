"""`--wrap`: a function that changes a model once it is loaded, as pruning and LoRA do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmerank.errors import ModelError, UsageError, first_line
from mmerank.imported import imported_function

if TYPE_CHECKING:  # what is asked for is looked at before torch is there
    from mmerank.models.protocol import LoadedModel

_OPTIONS = "expected ?OPTION=VALUE&... behind the function"


@dataclass(frozen=True)
class Change:
    """A function of a model's module that changes it in place, with its options.

    Attributes:
        stated: As it was asked for.
        name: For results, as in `pruned(amount=0.5)`.
        function: It.
        options: By keyword.
    """

    stated: str
    name: str
    function: Callable[..., Any]
    options: dict[str, Any]

    def make(self, adapter: Any) -> None:
        """Change a loaded model, and have its `source` say so.

        Args:
            adapter: Of any family.

        Raises:
            ModelError: The function fails, or gives another module back.
        """
        try:
            given = self.function(adapter.model, **self.options)
        except Exception as error:
            raise ModelError(f"--wrap {self.stated}: {type(error).__name__}: {first_line(error)}") from error
        from mmerank.models.wrapped import unwrapped

        if given is not None and unwrapped(given) is not adapter.model:
            raise ModelError(
                f"--wrap {self.stated}: gave back a {type(given).__name__}; the model has to be changed in place, "
                "since it is fed and read as it was loaded"
            )
        adapter.model.eval()
        adapter.source = {**adapter.source, "wrap": self.stated}


def change(stated: str) -> Change:
    """What `--wrap` names; its module is imported, which runs its code.

    Args:
        stated: `FILE.py:FUNCTION` or `package.module:FUNCTION`, and `?OPTION=VALUE&...`; values are read as YAML.

    Returns:
        The change.

    Raises:
        UsageError: It is something else, or there is no such file, module, function or option.
    """
    place, _, query = stated.partition("?")
    function = imported_function(place, f"--wrap {stated}")
    options = dict(_option(stated, part) for part in query.split("&") if part)
    said = ", ".join(f"{key}={value}" for key, value in options.items())
    name = place.rpartition(":")[2]
    return Change(stated, f"{name}({said})" if said else name, function, options)


def loaded_and_changed(wrap: str | None, load: Callable[[str], LoadedModel], name: str) -> Any:
    """A model that is loaded under the name that it has once it is changed, and then changed.

    Args:
        wrap: As for `change`, or None or empty for a model as it is.
        load: Loads it, under a name.
        name: Of the model as it is.

    Returns:
        What `load` gave.
    """
    if not wrap:
        return load(name)
    chosen = change(wrap)
    adapter = load(f"{name} + {chosen.name}")
    chosen.make(adapter)
    return adapter


def _option(stated: str, part: str) -> tuple[str, Any]:
    import yaml

    key, equals, value = part.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"--wrap {stated}: {_OPTIONS}; got {part!r}")
    try:
        return key, yaml.safe_load(value)
    except Exception:  # what YAML does not understand is text
        return key, value
