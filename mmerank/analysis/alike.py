"""Whether models make as many rows of the same examples, which effective ranks follow before anything else."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

from mmerank.analysis.metrics.alignment import ALIGNMENT, LABELS
from mmerank.eranks import ERANKS, FINAL, by_label
from mmerank.runs.record import Record

_NAMED = 3  # models whose counts stand in a sentence


def read_alike(models: Sequence[Iterable[Record]]) -> bool:
    """Whether models read the texts that two of them have as equally many tokens, as those of one tokenizer do.

    Where they do not, neither losses per token nor eRanks of one are comparable with another's.

    Args:
        models: Records of each trained model.

    Returns:
        True for one model, and where no text is shared.
    """
    counts: dict[str, set[int]] = {}
    for records in models:
        for record in records:
            if record.point == FINAL:
                counts.setdefault(record.example, set()).add(record.n)
    return all(len(found) == 1 for found in counts.values())


def repeated(records: Iterable[Record]) -> list[tuple[str, ...]]:
    """Examples that have the same text and the same picture under several ids, and so count as often.

    Args:
        records: Of one model, of untouched examples; those of versions that took no hashes tell nothing.

    Returns:
        The ids of each group of more than one.
    """
    found: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        if record.text_digest and record.picture_digest:
            found.setdefault((record.text_digest, record.picture_digest), {})[record.example] = None
    return [tuple(ids) for ids in found.values() if len(ids) > 1]


def repeated_text(groups: Sequence[Sequence[str]]) -> str:
    """What to say of examples that count more than once.

    Args:
        groups: From `repeated`, at least one.

    Returns:
        A sentence without its end.

    Example:
        >>> repeated_text([("a", "b"), ("c", "d", "e")])
        "3 examples have the text and picture of another one, as 'b' those of 'a', and count as others do"
    """
    count = sum(len(ids) - 1 for ids in groups)
    first, second = groups[0][:2]
    return (
        f"{count} example{'s have' if count > 1 else ' has'} the text and picture of another one, as {second!r} "
        f"those of {first!r}, and count{'s' * (count == 1)} as others do"
    )


def unlike_rows(models: Sequence[Iterable[Record]]) -> dict[str, list[float]]:
    """The eRanks that models take of different numbers of rows of the same examples.

    Such eRanks, and ratios of them, compare numbers of rows first.

    Args:
        models: Records of each model, of untouched examples.

    Returns:
        By label, the mean number of rows of each model; only labels for which two of them have different numbers in
        any example that both have.
    """
    counts = [by_label(records) for records in models]
    found = {}
    for label in ERANKS:
        by_example: dict[str, set[int]] = {}
        for count in counts:
            for record in count[label]:
                by_example.setdefault(record.example, set()).add(record.n)
        if all(count[label] for count in counts) and any(len(different) > 1 for different in by_example.values()):
            found[label] = [statistics.fmean(record.n for record in count[label]) for count in counts]
    return found


def stands_on(quantity: str) -> tuple[str, ...]:
    """The eRanks that a number of pairs is made of, by label; all of them where that is not known.

    Args:
        quantity: Its name, whatever stands before it.

    Returns:
        Labels.

    Example:
        >>> stands_on("image_reduction_ratio"), stands_on("matched_erank4")
        (('erank1', 'erank2'), ('erank4',))
    """
    if quantity.endswith("image_reduction_ratio"):
        return "erank1", "erank2"
    if quantity.endswith("image_text_alignment"):
        return "erank3", "erank4", "erank5"
    return tuple(label for label in ERANKS if quantity.endswith(label)) or tuple(ERANKS)


def concerned(unlike: Iterable[str]) -> list[str]:
    """The numbers of pairs that follow numbers of rows where these eRanks do.

    Args:
        unlike: Labels.

    Returns:
        Names, as of `mmerank.analysis.metrics.alignment.ALIGNMENT`.
    """
    there = set(unlike)
    return [name for name in ALIGNMENT if there & {*stands_on(name)}]


def unlike_text(unlike: Mapping[str, Sequence[float]], names: Sequence[str]) -> str:
    """What to say of models that read the same examples as different numbers of rows.

    Args:
        unlike: From `unlike_rows`.
        names: Of the models.

    Returns:
        A clause without an end.

    Example:
        >>> unlike_text({"erank1": [576, 256.0]}, ["a", "b"])[-68:]
        '(eRank1: a 576, b 256), which concerns eRank1, Image Reduction Ratio'
    """
    told = "; ".join(f"{label.replace('erank', 'eRank')}: {_counts(found, names)}" for label, found in unlike.items())
    numbers = ", ".join(LABELS[name] for name in concerned(unlike))
    return (
        f"eRank mostly follows the number of tokens, and the models have different numbers of them ({told}), which "
        f"concerns {numbers}"
    )


def _counts(found: Sequence[float], names: Sequence[str]) -> str:
    """Of each model, or of many the fewest and the most."""
    counted = sorted(zip((round(x, 1) for x in found), names, strict=True))
    if len(counted) > _NAMED:
        (least, first), (most, last) = counted[0], counted[-1]
        return f"{least:.6g} ({first}) to {most:.6g} ({last})"
    return ", ".join(f"{name} {round(count, 1):.6g}" for name, count in zip(names, found, strict=True))
