"""The one table of metrics: name, formula, and what a reader must know before comparing two numbers of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

from mmerank.errors import UsageError, did_you_mean
from mmerank.formulas import between, contrastive, geometric, information, similarity, spectral

Better = Literal["higher", "lower", "neither"]
Kind = Literal["spectral", "geometric", "between modalities", "paired states", "your own"]

_DIFF_ERANK = "Diff-eRank, arXiv:2401.17139, Def. 3.1-3.3"
_ROY = "Roy and Vetterli, EUSIPCO 2007"
_RENYI = "Rényi, of the spectrum of Diff-eRank, arXiv:2401.17139"
_ALPHA = "alpha-ReQ, NeurIPS 2022"
_NUCLEAR = "Matrix Nuclear-Norm, arXiv:2410.10672"
_LAYERS = "Layer by Layer, arXiv:2502.02013"
_LINEAR = "Razzhigaev et al. 2024"
_GAP = "Liang et al. 2022"
_MIR = "MIR, arXiv:2410.07167"
_HUH = "Huh et al., arXiv:2405.07987"
_WANG = "Wang and Isola, arXiv:2005.10242"
_SVD = "n d min(n, d)"
_SQUARE = "n² d"


# Of two layers, rows that a map is fitted to and others that it is measured on; of several, image rows and text rows.
FITTED = ("x", "y", "x_new", "y_new")
OF_LAYERS = ("layers",)
POOLED = (FITTED, OF_LAYERS)
# Rows that are kept of an example and hook point where a pooled metric asks for them: of two modalities half of each.
SAMPLED = 32
_KEPT = f"pooled rows, {SAMPLED} of an example and layer: {4 * SAMPLED} d bytes"


@dataclass(frozen=True)
class Entry:
    """A metric as the table has it.

    Attributes:
        name: Of `mmerank.metric`.
        label: For people.
        kind: What it is about.
        function: Arrays -> float.
        takes: The arrays, in their order: `h`, one cloud of rows; `image`, `text`, two in one space; `x`, `y`, paired
            rows, and `x_new`, `y_new`, others of the same; `layers`, of each an `image, text`; `views`.
        low: Smallest value, as a formula in the n rows and the width d; empty where there is none.
        high: Largest value.
        better: Which way is better, where that can be said.
        needs: What of the hidden states it is made of.
        follows_rows: Whether it grows or falls with the number of rows, so that models are to be compared on equally
            many.
        source: Who defined it.
        cost: Operations, up to a constant.
        averaged: Over examples: the value, or its logarithm, as of effective ranks, where a run asks for the mean
            entropy.
    """

    name: str
    label: str
    kind: Kind
    function: Callable[..., float]
    takes: tuple[str, ...]
    low: str
    high: str
    better: Better
    needs: str
    follows_rows: bool
    source: str
    cost: str
    averaged: Literal["value", "log"] = "value"

    @property
    def pooled(self) -> bool:
        """Whether a run takes it of rows that are sampled from each example and pooled over the data set."""
        return self.takes in POOLED

    @property
    def of_states(self) -> bool:
        """Whether a run takes it of the examples' mean states."""
        return self.takes[0] in ("x", "y") and not self.pooled

    def to_dict(self) -> dict[str, Any]:
        """JSON values: all but the function."""
        return {name: value for name, value in asdict(self).items() if name != "function"}


def _spectral(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    needs: str = "spectrum of centred unit rows",
    better: Better = "neither",
    cost: str = _SVD,
) -> Entry:
    # Effective ranks are exp of an entropy, and the entropies are averaged.
    averaged: Literal["value", "log"] = "log" if name.startswith(("erank_", "rankme_")) else "value"
    return Entry(name, label, "spectral", function, ("h",), low, high, better, needs, True, source, cost, averaged)


def _geometric(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    takes: tuple[str, ...] = ("h",),
    needs: str = "distances of sampled rows",
    better: Better = "neither",
    follows_rows: bool = False,
    cost: str = _SQUARE,
) -> Entry:
    return Entry(name, label, "geometric", function, takes, low, high, better, needs, follows_rows, source, cost)


def _between(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    needs: str,
    takes: tuple[str, ...] = ("image", "text"),
    better: Better = "lower",
    follows_rows: bool = False,
    cost: str = "n d",
) -> Entry:
    return Entry(
        name, label, "between modalities", function, takes, low, high, better, needs, follows_rows, source, cost
    )


def _paired(
    name: str,
    label: str,
    function: Callable[..., float],
    low: str,
    high: str,
    source: str,
    *,
    takes: tuple[str, ...] = ("x", "y"),
    needs: str = "mean states of paired examples",
    better: Better = "higher",
    follows_rows: bool = True,
    cost: str = _SQUARE,
) -> Entry:
    return Entry(name, label, "paired states", function, takes, low, high, better, needs, follows_rows, source, cost)


_SIGMA = "singular values of the rows"
_CENTRED = "singular values of the centred rows"
_D = "min(n-1, d)"

_ENTRIES = (
    _spectral("erank_diff_erank", "eRank", spectral.erank, "1", _D, _DIFF_ERANK),
    _spectral(
        "erank_sigma_of_centred_unit",
        "eRank of singular values, unit rows",
        spectral.erank_of_sigma,
        "1",
        _D,
        _DIFF_ERANK,
    ),
    _spectral(
        "erank_roy_vetterli_raw_sigma",
        "eRank of singular values, raw",
        spectral.erank_raw,
        "1",
        "min(n, d)",
        _ROY,
        needs=_SIGMA,
    ),
    _spectral(
        "erank_roy_vetterli_centred_sigma",
        "eRank of singular values, centred",
        spectral.erank_centred,
        "1",
        _D,
        _ROY,
        needs=_CENTRED,
    ),
    _spectral(
        "rankme_paper_eps1e-7", "RankMe", spectral.rankme, "1", "min(n, d)", "RankMe, arXiv:2210.02885", needs=_SIGMA
    ),
    _spectral(
        "erank_centred_not_unit_lambda",
        "eRank, rows not unit",
        spectral.erank_not_unit,
        "1",
        _D,
        _DIFF_ERANK + ", without unit rows",
        needs=_CENTRED,
    ),
    _spectral(
        "matrix_entropy_uncentred_unit",
        "Matrix entropy, uncentred",
        spectral.matrix_entropy_uncentred,
        "0",
        "ln min(n, d)",
        _LAYERS,
        needs="spectrum of unit rows",
    ),
    _spectral(
        "renyi_entropy_alpha_0.5",
        "Rényi entropy, order 1/2",
        partial(spectral.renyi_entropy, order=0.5),
        "0",
        f"ln {_D}",
        _RENYI,
    ),
    _spectral(
        "renyi_entropy_alpha_2.0",
        "Rényi entropy, order 2",
        partial(spectral.renyi_entropy, order=2.0),
        "0",
        f"ln {_D}",
        _RENYI,
    ),
    _spectral("participation_ratio", "Participation ratio", spectral.participation_ratio, "1", _D, "Gao et al. 2017"),
    _spectral("stable_rank", "Stable rank", spectral.stable_rank, "1", _D, "Rudelson and Vershynin 2007"),
    _spectral("k_energy_90", "Directions of 90 %", spectral.k_energy, "1", _D, "of the spectrum of Diff-eRank"),
    _spectral(
        "anisotropy_mllm_microscope",
        "Anisotropy",
        spectral.anisotropy,
        f"1/{_D}",
        "1",
        "LLM-Microscope",
        needs=_CENTRED,
    ),
    _spectral(
        "singular_ipr_lofi",
        "Singular IPR",
        spectral.inverse_participation,
        "1/min(n, d)",
        "1",
        "LoFi, arXiv:2503.06794, our reading",
        needs=_SIGMA,
    ),
    _spectral(
        "matrix_nuclear_norm_L12_over_n",
        "Matrix nuclear norm, estimate",
        spectral.matrix_nuclear_norm,
        "0",
        "√(min(n, d)/n)",
        _NUCLEAR,
        needs="column norms of centred unit rows",
        cost="n d",
    ),
    _spectral("nuclear_norm_exact_over_n", "Nuclear norm", spectral.nuclear_norm, "1/√n", f"√({_D}/n)", _NUCLEAR),
    _spectral(
        "alpha_req_ols_ranks3to20",
        "alpha-ReQ, least squares, ranks 3-20",
        spectral.alpha_req,
        "0",
        "",
        _ALPHA,
        needs=_CENTRED,
    ),
    _spectral(
        "alpha_req_weighted_1_over_k_ranks3to20",
        "alpha-ReQ, weights 1/k, ranks 3-20",
        partial(spectral.alpha_req, weighted=True),
        "0",
        "",
        _ALPHA,
        needs=_CENTRED,
    ),
    _geometric("twonn_mle", "TwoNN, likelihood", geometric.twonn, "0", "", "Denti et al.", follows_rows=True),
    _geometric(
        "twonn_facco_linear_fit_discard10pct",
        "TwoNN, linear fit",
        geometric.twonn_linear,
        "0",
        "",
        "Facco et al. 2017",
        follows_rows=True,
    ),
    _geometric(
        "lid_mle_k10_mean",
        "Local dimension, k = 10",
        geometric.lid,
        "0",
        "",
        "Levina and Bickel 2004",
        follows_rows=True,
    ),
    _geometric(
        "curvature_rad_hosseini",
        "Curvature, rad",
        geometric.curvature,
        "0",
        "π",
        "Hosseini and Fedorenko, arXiv:2311.04930",
        needs="successive rows",
        cost="n d",
    ),
    _geometric(
        "angle_between_successive_states_rad_(information_flow_code)",
        "Angle of successive rows, rad",
        geometric.angle_between_rows,
        "0",
        "π",
        "the code of arXiv:2502.02013",
        needs="successive rows",
        cost="n d",
    ),
    _geometric(
        "linearity_layer0_1",
        "Linearity of two layers",
        geometric.linearity,
        "0",
        "1",
        _LINEAR,
        takes=("x", "y"),
        needs="pooled rows of two layers, n > d+1",
        follows_rows=True,
        cost="n d²",
    ),
    _geometric(
        "linearity_residual_layer0_1",
        "Linearity of what a layer adds",
        geometric.linearity_of_residual,
        "0",
        "1",
        _LINEAR,
        takes=("x", "y"),
        needs="pooled rows of two layers, n > d+1",
        follows_rows=True,
        cost="n d²",
    ),
    _geometric(
        "linearity_held_out",
        "Linearity of two layers, held out",
        geometric.linearity_held_out,
        "",
        "1",
        _LINEAR + ", on other rows than those of the fit",
        takes=FITTED,
        needs=_KEPT,
        follows_rows=True,
        cost="n d²",
    ),
    _geometric(
        "linearity_residual_held_out",
        "Linearity of what a layer adds, held out",
        geometric.linearity_of_residual_held_out,
        "",
        "1",
        _LINEAR + ", on other rows than those of the fit",
        takes=FITTED,
        needs=_KEPT,
        follows_rows=True,
        cost="n d²",
    ),
    _between(
        "modality_gap_liang_norm_unit",
        "Modality gap",
        between.modality_gap,
        "0",
        "2",
        _GAP,
        needs="means of unit rows",
        better="neither",
    ),
    _between(
        "cos_of_means",
        "Cosine of means",
        between.cosine_of_means,
        "-1",
        "1",
        _GAP,
        needs="means of rows",
        better="neither",
    ),
    _between(
        "mir_fid_one_layer_nuclear_identity",
        "MIR distance of a layer",
        between.mir_distance,
        "0",
        "",
        _MIR,
        needs="pooled rows",
        follows_rows=True,
        cost="n m (d + min(n, m))",
    ),
    _between(
        "mir_fid_one_layer_sqrtm",
        "MIR distance, by covariances",
        partial(between.mir_distance, route="covariance"),
        "0",
        "",
        _MIR,
        needs="moments of pooled rows",
        follows_rows=True,
        cost="(n + m + d) d²",
    ),
    _between(
        "mir_fid_one_layer_fastmode",
        "MIR distance, released recurrence",
        partial(between.mir_distance, route="released"),
        "",
        "",
        "MIR's code, its default; may be rounding",
        needs="moments of pooled rows",
        better="neither",
        follows_rows=True,
        cost="(n + m + d) d²",
    ),
    _between(
        "mir_pooled_nuclear",
        "MIR",
        between.mir,
        "",
        "",
        _MIR,
        takes=OF_LAYERS,
        needs=_KEPT,
        follows_rows=True,
        cost="n m (d + min(n, m)) of each layer",
    ),
    _between(
        "mir_pooled_fastmode",
        "MIR, released recurrence",
        partial(between.mir, route="released"),
        "",
        "",
        "MIR's code, its default; may be rounding",
        takes=OF_LAYERS,
        needs=_KEPT,
        better="neither",
        follows_rows=True,
        cost="(n + m + d) d² of each layer",
    ),
    _paired("cka_linear_biased", "CKA", similarity.linear_cka, "0", "1", "Kornblith et al. 2019"),
    _paired(
        "cka_linear_unbiased",
        "CKA, unbiased",
        similarity.unbiased_cka,
        "",
        "",
        "Kornblith et al. 2019, HSIC of Song et al. 2012",
        follows_rows=False,
    ),
    _paired("mutual_knn_10", "Mutual 10-NN", similarity.mutual_knn, "0", "1", _HUH),
    _paired("cycle_knn_10", "Cycle 10-NN", similarity.cycle_knn, "0", "1", _HUH + "; saturates at 1"),
    _paired("cknna_10_unit_rows", "CKNNA, k = 10", similarity.cknna, "", "", _HUH),
    _paired(
        "knn_overlap_connector_10",
        "10-NN overlap across the connector",
        similarity.mutual_knn,
        "0",
        "1",
        "arXiv:2509.11986",
        needs="mean states before and behind the connector",
    ),
    _paired(
        "svcca_10_standardised_U", "SVCCA, 10 directions", similarity.svcca, "0", "1", "Raghu et al. 2017", cost=_SVD
    ),
    _paired("rsa_pearson_cosine", "RSA", similarity.rsa, "-1", "1", "Kriegeskorte et al. 2008", follows_rows=False),
    _paired(
        "alignment_wang_isola_a2",
        "Alignment",
        contrastive.alignment,
        "0",
        "4",
        _WANG,
        better="lower",
        follows_rows=False,
        cost="n d",
    ),
    _paired(
        "uniformity_wang_isola_t2_of_Y",
        "Uniformity",
        contrastive.uniformity,
        "-8",
        "0",
        _WANG,
        takes=("y",),
        needs="mean states",
        better="lower",
        follows_rows=False,
    ),
    _paired("infonce_symmetric_tau0.1", "InfoNCE, τ = 0.1", contrastive.infonce, "0", "", "InfoNCE", better="lower"),
    _paired(
        "lidar_delta1e-4",
        "LiDAR",
        contrastive.lidar,
        "1",
        _D,
        "LiDAR, ICLR 2024",
        takes=("views",),
        needs="mean states of several views",
        cost="n q d²",
    ),
    _paired(
        "matrix_mutual_information_sanchez_giraldo_linear",
        "Matrix mutual information, nats",
        information.matrix_mutual_information,
        "0",
        "ln n",
        "Sanchez Giraldo et al., arXiv:1211.2459",
        cost="n² (n + d)",
    ),
    _paired(
        "dime_10_perms_linear", "DiME, 10 permutations, nats", information.dime, "", "ln n", _LAYERS, cost="10 n³"
    ),
)

METRICS = {entry.name: entry for entry in _ENTRIES}


def metric(name: str) -> Callable[..., float]:
    """The plain function of arrays behind a metric.

    It takes numpy arrays or torch tensors of floating point, on any device, and gives a float. What has no value
    raises an error that names the array; nothing is ever NaN.

    Args:
        name: As `mmerank metrics` lists it.

    Returns:
        The function; its arrays and their shapes are in its docstring.

    Raises:
        UsageError: There is no metric of that name.

    Example:
        >>> import numpy as np
        >>> rows = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> round(metric("participation_ratio")(rows), 9)
        2.0
    """
    if name not in METRICS:
        close = did_you_mean(name, METRICS)
        raise UsageError(f"no metric {name!r}{close}; `mmerank metrics` lists all {len(METRICS)}")
    return METRICS[name].function
