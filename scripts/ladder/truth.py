"""What is true of a rung: how well it describes pictures, and how much its own picture helps it.

Asked of held-out scenes that no metric is taken of, in the model's own conversation template.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from mmerank.inputs.sequence import Kind
from mmerank.jobs.demo.captions import SLOTS, caption_scores, response_tokens
from mmerank.models.sequences import padded, spliced_embeddings
from scripts.ladder.training import Student
from scripts.train_tiny import Scene

CHOICES = 8
BATCH = 32
# The one that the ladder is ordered by: the mean of the slots.
TRUTH = "accuracy"


@torch.inference_mode()
def connector_rows(student: Student, given: Sequence[Scene]) -> Tensor:
    """The pictures as the LLM reads them, (n, m, d)."""
    pixels = [student.adapter.pixels(scene.picture(), "model") for scene in given]
    rows = [
        of.connector
        for i in range(0, len(pixels), BATCH)
        for of in student.adapter.encode_images(pixels[i : i + BATCH])
    ]
    return torch.stack(rows)


@torch.inference_mode()
def caption_losses(student: Student, given: Sequence[Scene], images: Tensor | None) -> NDArray[np.float64]:
    """Mean negative log-likelihood of each description, nats per token.

    Args:
        student: The model.
        given: Whose instruction and description.
        images: Of `connector_rows`, for each; None for the text alone.

    Returns:
        (n,).
    """
    kind: Kind = "text" if images is None else "pair"
    found = []
    for start in range(0, len(given), BATCH):
        some = given[start : start + BATCH]
        ids, mask = padded([student.adapter.sequence(scene.text_example(), kind, "template") for scene in some])
        rows = None if images is None else tuple(images[start : start + BATCH])
        embeddings = spliced_embeddings(student.lm.get_input_embeddings(), ids, rows)
        logits = student.lm(inputs_embeds=embeddings).logits[:, :-1].float()
        nats = F.cross_entropy(logits.mT, ids[:, 1:].clamp(min=0), reduction="none")
        for row, end, scene in zip(nats, mask.sum(dim=1).tolist(), some, strict=True):
            found.append(float(row[end - 1 - response_tokens(student.adapter, scene) : end - 1].mean()))
    return np.array(found)


def alternatives(given: Sequence[Scene]) -> list[list[int]]:
    """For each scene itself and the next scenes with as many objects, so that length gives nothing away.

    Args:
        given: Scenes.

    Returns:
        Indices, up to `CHOICES` of each, its own first.
    """
    found = []
    for i, scene in enumerate(given):
        after = [(i + k) % len(given) for k in range(1, len(given))]
        found.append([i, *[j for j in after if len(given[j].things) == len(scene.things)][: CHOICES - 1]])
    return found


def choice(student: Student, given: Sequence[Scene]) -> float:
    """How often the right caption is the likeliest of eight for a picture; chance is 1/8."""
    rows = connector_rows(student, given)
    right = 0
    for i, each in enumerate(alternatives(given)):
        losses = caption_losses(student, [given[j] for j in each], rows[[i] * len(each)])
        right += int(losses.argmin() == 0)
    return right / len(given)


def truth(student: Student, given: Sequence[Scene]) -> dict[str, float]:
    """All that is known of a rung.

    Args:
        student: The model.
        given: Held-out scenes.

    Returns:
        `accuracy` (mean of the slots) and each slot's, `invented` (objects named in empty cells, per picture),
        `loss`, `loss_mismatched` and `loss_text` (own picture, another's, none; nats per token), `loss_gain`
        (another's less own) and `choice`.
    """
    scores = caption_scores(student.adapter, given, lm=student.lm)
    return {
        TRUTH: sum(scores.accuracy.values()) / len(SLOTS),
        **{f"accuracy_{slot}": value for slot, value in scores.accuracy.items()},
        "invented": scores.invented,
        "loss": scores.loss,
        "loss_mismatched": scores.loss_mismatched,
        "loss_text": float(caption_losses(student, given, None).mean()),
        "loss_gain": scores.loss_mismatched - scores.loss,
        "choice": choice(student, given),
    }
