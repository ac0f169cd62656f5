"""Which numbers of the paper belong beside a result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mmerank.report.paper import tables as paper

_LLAVA = ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-13b-hf")
_DATA = {
    "detail_23k": re.compile(r"detail_23k:.*|llava:(.*/)?detail_23k\.json"),
    "cc_sbu_align": re.compile(r"cc_sbu_align:.*|minigpt:(.*/)?cc_sbu_align/?"),
}
_STATED_SIZE = re.compile(r"(?:(?<=[-_])|^)(\d+(?:\.\d+)?)([mb])(?=[-_]|$)[-_]?", re.IGNORECASE)
_SIZES = {hub: (family, size) for family, sizes in paper.FAMILIES.items() for size, hub in sizes.items()}


def printed_alignment(model: str, source: Mapping[str, Any], data: str, transform: str = "none") -> dict[str, float]:
    """What Tables 2 and 3 print for a multimodal model.

    Args:
        model: Its name.
        source: What it was loaded from; MiniGPT-v2 counts at its published size.
        data: The DATA argument.
        transform: Of the pictures; Table 3 has LLaVA-1.5 on detail_23k with pictures "rotated clockwise", which is
            put beside a quarter turn.

    Returns:
        Number by quantity; none where the paper has no such row.
    """
    name = "LLaVA-1.5" if model in _LLAVA else None
    if (source.get("adapter"), source.get("image_size"), source.get("vit_depth")) == ("minigpt-v2", 448, 39):
        name = "MiniGPT-v2"
    known = next((known for known, form in _DATA.items() if form.fullmatch(data.partition("?")[0])), None)
    if transform == "rotate:90" and (name, known) == ("LLaVA-1.5", "detail_23k"):
        return dict(paper.TABLE_3)
    return dict(paper.TABLE_2.get((str(name), str(known)), {})) if transform == "none" else {}


def published_size(model: str) -> tuple[str, str] | None:
    """Family and size of a language model of the paper's tables, as `("OPT", "1.3B")`; None for any other."""
    return _SIZES.get(model)


def named_size(model: str) -> tuple[str, str] | None:
    """Family and size of a language model, by the paper's tables or else as its name states them.

    Args:
        model: Its name, without a revision.

    Returns:
        As in `("OPT", "1.3B")`; None where the name states no number of parameters.

    Example:
        >>> named_size("EleutherAI/pythia-160m"), named_size("google/gemma-3-4b-it"), named_size("gpt2-medium")
        (('pythia', '160M'), ('gemma-3-it', '4B'), None)
    """
    if found := published_size(model):
        return found
    name = model.rstrip("/").rsplit("/", 1)[-1]
    size = _STATED_SIZE.search(name)
    if size is None:
        return None
    family = f"{name[: size.start()]}-{name[size.end() :]}".strip("-_. ").replace("--", "-")
    return family, f"{size.group(1)}{size.group(2).upper()}"


def printed_diff(model: str, data: str) -> dict[str, float]:
    """What Tables 1, 6, 7, 8 and 9 print for a language model.

    Args:
        model: Its hub id.
        data: The DATA argument.

    Returns:
        Number by quantity; none where the paper has no such row.
    """
    family, size = published_size(model) or ("", "")
    name = data.partition(":")[0]
    tables = {"diff_erank": paper.DIFF_ERANK, "reduced_loss": paper.REDUCED_LOSS}
    found = {
        quantity: table[family, name][size]
        for quantity, table in tables.items()
        if size in table.get((family, name), {})
    }
    if (family, name) == ("OPT", "dolly-15k"):
        found["diff_erank_mean_of_eranks"] = paper.DIFF_ERANK_MEAN_OF_ERANKS[size]
    return found
