"""What is told before anything heavy is imported: names that name nothing."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from mmerank.commands.groups import Loading
from mmerank.errors import UsageError


def check_models(
    group: str,
    models: Iterable[str],
    computing: Loading,
    *,
    revisions: Iterable[str] = (),
    tokenizer: str | None = None,
    layers: str = "",
    inside: str = "",
) -> None:
    """Refuse models, and ways to run them, by their names and the disk: a typo in the last one must cost nothing.

    Args:
        group: Entry point group of the adapters that may take the models.
        models: As the command line has them.
        computing: How they are loaded.
        revisions: Of each, on the hub; none for the newest.
        tokenizer: Hub id or directory, if one is named.
        layers: Which are looked at.
        inside: Which blocks are looked into.

    Raises:
        UsageError: One is no name, or named twice.
    """
    from mmerank.models import located
    from mmerank.models.changed import change
    from mmerank.models.checkpoints import check_named

    located.check_dtype(computing.dtype)
    located.check_device(computing.device)
    located.check_load_in(computing.load_in)
    located.check_layers(layers)
    located.check_blocks(inside)
    if computing.wrap:
        change(computing.wrap)
    models = list(models)
    if twice := next((model for i, model in enumerate(models) if model in models[:i]), None):
        raise UsageError(f"{twice}: named twice; a model is measured once, and not compared with itself")
    for model in models:
        for revision in revisions or (None,):
            check_named(group, model, revision, ask_hub=False)
    if tokenizer is not None and not Path(tokenizer).is_dir():
        located.check_hub_id(tokenizer)


def check_on_hub(group: str, models: Iterable[str], revisions: Iterable[str] = ()) -> None:
    """Refuse models that the hub does not have: when all is read that needs no network, before heavy imports.

    Args:
        group: As in `check_models`.
        models: As in `check_models`.
        revisions: As in `check_models`.
    """
    from mmerank.models.checkpoints import check_named

    for model in models:
        for revision in revisions or (None,):
            check_named(group, model, revision)
