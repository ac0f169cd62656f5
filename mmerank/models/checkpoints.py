"""What every way of loading a model shares: how a MODEL argument is read, and what a configuration is known by."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import reprlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from mmerank.errors import ModelError, UsageError, did_you_mean
from mmerank.imported import imported
from mmerank.inputs.demo import MODELS
from mmerank.models.located import LANGUAGE, at_revision, check_located, is_yaml
from mmerank.models.soundness import check_no_adapter_alone
from mmerank.yaml_files import yaml_file

# What no adapter's `load` takes from a YAML file, because the caller says it.
_CALLERS = ("name", "dtype", "device", "load_in")
# Keys of a configuration that say where it came from or how it is run, and nothing of the architecture.
_NOT_ARCHITECTURE = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "torch_dtype", "transformers_version", "use_cache"}
)


def family_named(group: str, name: str) -> Any:
    """The adapter class of an entry point name, or of `package.module:Class`.

    The name may come out of a file of somebody else, so that the module is not looked for in the current folder.

    Args:
        group: Entry point group.
        name: The name.

    Returns:
        The class.

    Raises:
        UsageError: No such name, or it cannot be imported.
    """
    if ":" in name:
        with _without_current_folder():
            family = imported(name, f"adapter {name!r}")
        if not hasattr(family, "load"):
            raise UsageError(f"adapter {name!r} is no adapter: it has no `load`; docs/own-model.md shows one")
        return family
    return _entry_point(group, name).load()


def _entry_point(group: str, name: str) -> EntryPoint:
    known = {entry.name: entry for entry in entry_points(group=group)}
    if name not in known:
        raise UsageError(f"unknown adapter {name!r}; known: {', '.join(sorted(known))}")
    return known[name]


def check_named(group: str, model: str | Path, revision: str | None = None, *, ask_hub: bool = True) -> None:
    """Refuse a MODEL argument that names nothing, before anything heavy is imported.

    Args:
        group: Entry point group of the adapters that may take it.
        model: A hub id, a directory, a YAML file, or the name of a model that comes with mmerank.
        revision: Branch, tag or commit on the hub; None for the newest.
        ask_hub: Whether the hub is asked for what may be on it.

    Raises:
        UsageError: It is no name, or nearly that of a model that comes with mmerank; an adapter is unknown.
        ModelError: No such checkpoint or YAML file, or one that cannot be read.
    """
    if is_yaml(model):
        adapter, _ = yaml_keys(Path(model))
        if ":" not in adapter:
            _entry_point(group, adapter)
        return
    if group == LANGUAGE and not Path(model).exists() and (str(model) in MODELS or did_you_mean(str(model), MODELS)):
        raise UsageError(f"{model}: the models that come with mmerank read pictures; `mmerank align` measures them")
    if str(model) not in MODELS or revision:
        check_located(model, revision, ask_hub=ask_hub)


@contextmanager
def _without_current_folder() -> Iterator[None]:
    """Leave the current folder out of what is imported from, where Python put it there by itself, as `-m` does.

    It stays where PYTHONPATH names it. What is installed from it stands further behind in the path.
    """
    here = Path.cwd()
    named = os.environ.get("PYTHONPATH")
    asked = named is not None and any(Path(entry or ".").resolve() == here for entry in named.split(os.pathsep))
    before = list(sys.path)
    first = before[:1] if before and Path(before[0] or ".").resolve() == here else []
    if not asked:
        sys.path[:] = [entry for entry in before[len(first) :] if entry not in ("", ".")]
    try:
        yield
    finally:
        if not asked:
            sys.path[:] = before


def families(group: str) -> dict[str, Any]:
    """Adapter class by the `model_type` of config.json that it loads.

    Args:
        group: Entry point group.

    Returns:
        One entry per model_type.
    """
    classes = [entry.load() for entry in entry_points(group=group)]
    return {model_type: family for family in classes for model_type in model_types(family)}


def model_types(family: Any) -> tuple[str, ...]:
    """Those of config.json that an adapter class loads; none where it names none."""
    return tuple(getattr(family, "model_types", ()))


def yaml_keys(path: Path) -> tuple[str, dict[str, Any]]:
    """Adapter name and further keys of a YAML file `{adapter: NAME, ...}`.

    Args:
        path: The file.

    Returns:
        The name, and the other keys.

    Raises:
        ModelError: It cannot be read, is not YAML, or names no adapter.
    """
    try:
        keys = yaml_file(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # what int(), float() and others raise comes through, and RecursionError
        raise ModelError(f"{path}: not valid YAML ({str(error) or type(error).__name__})") from None
    if not isinstance(keys, dict) or not isinstance(keys.get("adapter"), str):
        raise ModelError(f"{path}: expected keys, one of them `adapter: NAME`")
    return keys.pop("adapter"), keys


def check_keys(path: Path, name: str, load: Callable[..., Any], keys: Mapping[str, Any]) -> None:
    """Hold the keys of a YAML file against what the adapter's own `load` takes by keyword.

    Args:
        path: The file.
        name: The adapter's name.
        load: Its `load`.
        keys: The keys found.

    Raises:
        ModelError: A key is unknown or missing.
    """
    parameters = inspect.signature(load).parameters.values()
    first = next((p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD), None)
    own = {p.name: p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in _CALLERS}
    unknown = sorted(map(str, keys.keys() - own.keys()))
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        known = ", ".join(own) or "no keys of its own"
        why = f" ({first}, the first parameter of its load, is the path of this file)" if first in unknown else ""
        raise ModelError(
            f"{path}: unknown key {', '.join(unknown)}{why}; adapter {name} knows {known}, as its load has them "
            "behind the *"
        )
    if missing := [key for key, p in own.items() if p.default is p.empty and key not in keys]:
        raise ModelError(f"{path}: missing key {', '.join(missing)}; adapter {name} needs it")


def path_beside(file: Path, key: str, value: Any) -> Path:
    """The path that a key of a YAML file means.

    Args:
        file: The YAML file, which the path is relative to.
        key: The key, for the message.
        value: What stands there.

    Returns:
        The path, whether or not it exists.

    Raises:
        ModelError: `value` is not text.
    """
    if not isinstance(value, str) or not value:
        raise ModelError(f"{file}: {key} is {reprlib.repr(value)}, expected a path, relative to this file")
    return file.parent / Path(value).expanduser()


def folder_or_hub_id(file: Path, key: str, value: Any) -> str:
    """The directory that a key of a YAML file means, else the hub id.

    Args:
        file: The YAML file, which a directory is relative to.
        key: The key, for the message.
        value: What stands there.

    Returns:
        Path of an existing directory, or `value`.

    Raises:
        ModelError: It can only be a directory, and there is none.
    """
    path = path_beside(file, key, value)
    if not path.is_dir() and value.startswith((".", "/", "~")):
        raise ModelError(f"{file}: {key}: no such folder, {path}")
    return str(path) if path.is_dir() else value


def configuration(model: str | Path, revision: str | None = None) -> dict[str, Any]:
    """A checkpoint's config.json, local or on the hub, without loading anything else.

    Args:
        model: Directory or hub id, also `OWNER/NAME@REVISION`.
        revision: Branch, tag or commit on the hub; None for the newest.

    Returns:
        Its content; `model_type` is there, and text.

    Raises:
        ModelError: There is none, it names no model_type, it cannot be that of the weights beside it, or a directory
            is asked for a revision.
    """
    check_located(model, revision)
    model, revision = at_revision(model, revision)
    from transformers import PretrainedConfig

    check_no_adapter_alone(model)
    if Path(model).is_dir():
        from mmerank.models.plausible import check_folder

        check_folder(model)
    try:
        config, _ = PretrainedConfig.get_config_dict(str(model), revision=revision)
    except (AttributeError, TypeError) as error:
        raise ModelError(f"{model}: its config.json is not a JSON object") from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ModelError(f"{model}: its config.json cannot be read ({reason})") from error
    if not isinstance(config.get("model_type"), str):
        raise ModelError(f"{model}: its config.json names no model_type")
    content: dict[str, Any] = config
    return content


def commit_of(model: str | Path, revision: str | None = None) -> str | None:
    """The commit that a hub id was read at, by where its config.json lies in the cache; None for a directory.

    transformers stopped keeping it in the configuration.

    Args:
        model: Directory or hub id, already loaded.
        revision: Branch, tag or commit on the hub; None for the newest.

    Returns:
        40 hexadecimal digits, or None.
    """
    from transformers.utils import cached_file

    if Path(model).is_dir():
        return None
    found = cached_file(str(model), "config.json", revision=revision, _raise_exceptions_for_missing_entries=False)
    commit = re.search(r"snapshots/([0-9a-f]{40})/", Path(found).as_posix()) if found else None
    return commit[1] if commit else None


def configuration_fingerprint(config: Any) -> str:
    """A hash of the architecture that a configuration describes: the same for every checkpoint of it.

    Args:
        config: JSON values by name, as in config.json, or several of those.

    Returns:
        16 hexadecimal digits.
    """
    kept = without_origin(config)
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()[:16]


def without_origin(value: Any) -> Any:
    """A configuration without what says where it, or a part of it, came from or how it is run.

    Args:
        value: JSON values, nested in any way.

    Returns:
        The same with text for all names.
    """
    if isinstance(value, Mapping):
        return {str(key): without_origin(of) for key, of in value.items() if key not in _NOT_ARCHITECTURE}
    return [without_origin(of) for of in value] if isinstance(value, (list, tuple)) else value
