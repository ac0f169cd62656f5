"""What a run measured that the page has no table or figure of."""

from __future__ import annotations

from mmerank.analysis.finished import Finished
from mmerank.analysis.metrics.diff_erank import TWIN


def elsewhere(run: Finished) -> list[str]:
    """What was measured and is not on the page, each with its name in the run's `summary.json`.

    Args:
        run: Any.

    Returns:
        Short texts.
    """
    asked = run.convention
    results = list(run.results.values())
    found = []
    if asked.get("companions"):
        found.append("permutation nulls of CKA and mutual k-NN (companions)")
    if (run.path / "clip.parquet").is_file() or any("clip_score" in r.get("companions", {}) for r in results):
        found.append("CLIPScore (companions)")
    if run.job != "diff" and run.match_tokens is not None:
        found.append("the spread of a single draw of rows (matched)")
    if run.perturbed:
        found.append("smallest detectable differences and effect sizes (tests)")
        found.append("examples measured again alone (checks)")
        if asked.get("token_curve"):
            found.append("eRank by number of rows after each transform (token_curve)")
    if run.job == "diff":
        if (
            max(sum(str(name).startswith(TWIN) for name in frame["model"].unique()) for frame in run.frames.values())
            > 1
        ):
            found.append("the spread over untrained seeds (erank_untrained_stdev)")
        if any(result.get("accuracy") for result in results):
            found.append("standard errors of the accuracies (accuracy_stderr)")
    return found
