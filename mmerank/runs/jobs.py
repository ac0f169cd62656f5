"""What makes run folders: an entry for each job, with everything that is said of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmerank.convention import (
    AnyConvention,
    Convention,
    EncoderConvention,
    GenerationConvention,
    PruneConvention,
    TextConvention,
)

_RATIOS = ("image_reduction_ratio", "image_text_alignment")
_ENCODERS = ("erank_images", "erank_texts", "modality_gap", "image_to_text_at_1", "text_to_image_at_1")
_WORDS = (*(f"eRank{i}" for i in range(1, 6)), "Image Reduction Ratio", "Image-Text Alignment", "matched rows")
_EMBEDDINGS = {"erank_images": "images", "erank_texts": "texts", "erank_joint": "both"}
# Of one example: the mean over the five measurements, of encoders over their last layers, of how far the entropy
# moved under a transform, in nats.
CHANGE = "mean_entropy_change"


@dataclass(frozen=True)
class Job:
    """One kind of run.

    Attributes:
        title: Of its tables.
        result: What `mmerank` calls the class of its results, which has `from_run`.
        convention: The choices that its settings state.
        metric: Of which every model of such a run has numbers; their n is the run's.
        examples: What its examples are called.
        first: Quantities that stand first on the page and beside scores, and in the figure there.
        told: Quantities in the paragraph on how to report it.
        ranked_by: The quantity of one example by which the most and the least are shown.
        counted: The input whose rows stand beside an example's numbers.
        axis: Quantities of its main figure with their words; empty for eRank1 to eRank5.
        against: What its numbers are held against, as a sentence; empty where that depends on the run.
        caution: What to be careful about with several of them, as a sentence; empty where that depends on the runs.
        words: Words of the glossary that its page explains beside those of all pages.
        perturbed: Whether it has numbers before and after a change.
        of_encoders: Whether it is of encoders alone.
        of_pairs: Whether it has eRank1 to eRank5 of image-text pairs, as in the paper.
        in_steps: Whether checkpoints of one training are drawn as such.
    """

    title: str
    result: str
    convention: type[AnyConvention]
    metric: str
    examples: str
    first: tuple[str, ...]
    told: tuple[str, ...]
    ranked_by: str
    counted: str = "pair"
    axis: Mapping[str, str] = field(default_factory=dict)
    against: str = ""
    caution: str = ""
    words: tuple[str, ...] = ()
    perturbed: bool = False
    of_encoders: bool = False
    of_pairs: bool = False
    in_steps: bool = True


JOBS: dict[str, Job] = {
    "align": Job(
        title="Image-text alignment",
        result="Alignment",
        convention=Convention,
        metric="alignment",
        examples="image-text pairs",
        first=_RATIOS[::-1],
        told=_RATIOS,
        ranked_by="image_text_alignment",
        of_pairs=True,
        words=(*_WORDS, "decisive row", "contribution"),
    ),
    "perturb": Job(
        title="Before and after a change",
        result="Perturbation",
        convention=Convention,
        metric="alignment",
        examples="image-text pairs",
        first=_RATIOS[::-1],
        told=_RATIOS,
        ranked_by=CHANGE,
        perturbed=True,
        of_pairs=True,
        words=(*_WORDS, "standardised change", "null"),
    ),
    "diff": Job(
        title="Diff-eRank",
        result="Diff",
        convention=TextConvention,
        metric="diff_erank",
        examples="texts",
        first=("diff_erank", "reduced_loss"),
        told=("diff_erank", "erank_untrained", "erank_trained", "reduced_loss"),
        ranked_by="diff_erank",
        axis={"erank_untrained": "untrained", "erank_trained": "trained"},
        words=("Diff-eRank", "untrained", "reduced loss"),
    ),
    "encode": Job(
        title="Encoders",
        result="Encoding",
        convention=EncoderConvention,
        metric="embeddings",
        examples="examples",
        first=("matched_cosine", "image_to_text_at_1"),
        told=_ENCODERS,
        ranked_by="erank_image",
        axis=_EMBEDDINGS,
        against="Beside each number stands that of an untrained twin of the same configuration.",
        caution=(
            "an encoder of random weights has a modality gap and low eRanks of embeddings, too; hold each number "
            "against that of the untrained model beside it."
        ),
        words=("untrained",),
        of_encoders=True,
        in_steps=False,
    ),
    "perturb_encoder": Job(
        title="Encoders before and after a change",
        result="EncoderPerturbation",
        convention=EncoderConvention,
        metric="embeddings",
        examples="examples",
        first=("matched_cosine", "image_to_text_at_1"),
        told=_ENCODERS,
        ranked_by=CHANGE,
        axis=_EMBEDDINGS,
        caution=(
            "an encoder of random weights moves, too; mmerank.perturb(encoder.untrained(0), ...) tells how far."
        ),
        words=("standardised change",),
        perturbed=True,
        of_encoders=True,
        in_steps=False,
    ),
    "generate": Job(
        title="What models write",
        result="Generation",
        convention=GenerationConvention,
        metric="generation",
        examples="prompts",
        first=("erank_response", "logit_entropy"),
        told=("erank_prompt", "erank_response", "erank_velocity", "erank_acceleration", "logit_entropy"),
        ranked_by="erank_response",
        counted="response",
        against="Nothing is held against it here; a longer response has a higher eRank for its length alone.",
        caution=(
            "an eRank is at most the number of rows less one, so a longer response has a higher one and a higher "
            "first difference for that alone; hold responses of unlike length against each other at equal rows."
        ),
        words=("matched rows",),
        in_steps=False,
    ),
    "prune-study": Job(
        title="Pictures with rows left out",
        result="Pruning",
        convention=PruneConvention,
        metric="pruning",
        examples="image-text pairs",
        first=("loss_whole", "erank_connector"),
        told=("erank_vision", "erank_connector", "erank_llm", "loss_whole"),
        ranked_by="mean_loss_change",
        counted="whole",
        against="Beside every way to choose rows stand equally many drawn at random, and a regular sub-grid.",
        caution=(
            "rows are left out between the connector and the LLM alone, and the loss of a given response is not "
            "accuracy on a task; hold ways to choose rows against each other at equal rows, since fewer rows have a "
            "lower eRank for that alone."
        ),
        words=("eRank1", "eRank2"),
        in_steps=False,
    ),
}
