"""The words of tables, pages and the terminal, each in a sentence or two."""

from __future__ import annotations

from mmerank.errors import UsageError, did_you_mean
from mmerank.runs.jobs import JOBS

GLOSSARY: dict[str, str] = {
    "eRank": (
        "Effective rank: over how many directions the hidden states of some tokens spread. exp of the entropy of "
        "the spectrum of their covariance, each token centred and scaled to unit length: 1 if all lie on one "
        "line, and at most the number of rows less one."
    ),
    "eRank1": "eRank of a picture's rows after the vision encoder, as the connector reads them.",
    "eRank2": "eRank of a picture's rows after the connector.",
    "eRank3": "eRank at the LLM, after its final norm, when it reads the picture alone.",
    "eRank4": "eRank at the LLM when it reads the text alone. No change of a picture can move it.",
    "eRank5": "eRank at the LLM when it reads picture and text together, the pair.",
    "Image Reduction Ratio": (
        "(eRank1 - eRank2) / eRank1: by which share the connector lowers the picture's eRank. Neither more nor "
        "less is better: what was removed may have been redundant or not."
    ),
    "Image-Text Alignment": (
        "Mean over maximum of eRank3, eRank4 and eRank5: 1 where the three are equal, 1/3 at least. It does not "
        "say that picture and text belong together, and has no null of its own: hold it against that of pictures "
        "with other texts (perturb --control)."
    ),
    "hook point": (
        "Where in a model hidden states are read: vision (before the connector), connector (behind it), llm "
        "(after the final norm), layer I (after block I)."
    ),
    "update": "What attention or the MLP of a block adds to the residual stream (--inside).",
    "rows": "The hidden states of the tokens that count, one row each: patches of a picture, tokens of a text.",
    "matched rows": (
        "Equally many rows drawn at random at every hook point of every model (--match-tokens). An eRank mostly "
        "follows the number of rows, so only such numbers of models with different numbers of tokens can be "
        "compared."
    ),
    "decisive row": "The row without which the entropy changes most, up or down.",
    "contribution": (
        "What a row adds: the entropy of all rows less that of all but this one, in nats. Above 0 the rank is "
        "lower without the row; below 0 the others spread over more without it."
    ),
    "standardised change": (
        "d_z: the mean of the examples' changes over their standard deviation, so that hook points can be held "
        "against each other. Of an eRank, changes are those of its entropy."
    ),
    "interval": "What is left open by which examples were measured: 95 %, by the bootstrap over examples.",
    "q": (
        "p of a paired permutation test, after control of the false discovery rate over what is tested together: "
        "of models all numbers of a metric and each two of them on the same data, of changes all of the run. A "
        "change is told from 0 where q < 0.05 and its interval leaves out 0; what is not told from 0 need not be "
        "0."
    ),
    "null": "What a number is where nothing is related, as of pictures with other examples' texts.",
    "Diff-eRank": (
        "eRank of the same texts in an untrained model less that in the trained one. It rises with the width of "
        "the untrained model alone: read both eRanks, too."
    ),
    "untrained": "A model of the same configuration with fresh random weights, also called its twin.",
    "reduced loss": "The loss of the untrained model less that of the trained one, nats per token.",
}


def terms_of(jobs: set[str]) -> dict[str, str]:
    """The words that a page of such runs needs.

    Args:
        jobs: As in `mmerank.runs.jobs.JOBS`.

    Returns:
        Some of `GLOSSARY`, in its order.
    """
    wanted = {term for job in jobs for term in JOBS[job].words} | {"eRank", "rows", "hook point", "interval", "q"}
    return {term: said for term, said in GLOSSARY.items() if term in wanted}


def said_of(asked: str) -> dict[str, str]:
    """What a word means, and others that it is part of.

    Args:
        asked: Any part of a term, in small or large letters.

    Returns:
        Text by term.

    Raises:
        UsageError: There is no such term.

    Example:
        >>> list(said_of("alignment"))
        ['Image-Text Alignment']
    """
    words = " ".join(asked.lower().split())
    exact = {term: said for term, said in GLOSSARY.items() if term.lower() == words}
    found = exact or {term: said for term, said in GLOSSARY.items() if words in term.lower()}
    if not words or not found:
        known = list(GLOSSARY)
        raise UsageError(f"no term {asked!r}{did_you_mean(asked, known)}; there are {', '.join(known)}")
    return found
