"""What the `source` of a model of transformers says of where it was loaded from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmerank.models.checkpoints import commit_of
from mmerank.models.stored import unread


def source_of(
    adapter: str,
    model: Any,
    checkpoint: str | Path,
    *,
    ignored: Sequence[str],
    said: Mapping[str, Any],
    revision: str | None = None,
    load_in: str | None = None,
) -> dict[str, Any]:
    """What was read from where.

    Args:
        adapter: Which one.
        model: Of transformers, loaded.
        checkpoint: Directory or hub id.
        ignored: Weights that are not used, as from `mmerank.models.soundness.check_loaded`.
        said: Of the tokenizer, as from `mmerank.models.tokenizer.stated`.
        revision: On the hub.
        load_in: How the weights were quantised at loading.

    Returns:
        JSON values by name.
    """
    return {
        "adapter": adapter,
        "checkpoint": str(checkpoint),
        "commit": commit_of(checkpoint, revision),
        "dtype": str(model.dtype).removeprefix("torch."),
        "ignored": list(ignored),
        **unread(checkpoint, revision),
        **said,
        **({"load_in": load_in} if load_in else {}),
    }
