"""The one table of metrics: name, formula, and what a reader must know before comparing two numbers of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mmerank.convention import AT_CONNECTOR_ROWS, MATCH_MARGIN
from mmerank.errors import UsageError, did_you_mean
from mmerank.formulas import between, connector, contrastive, information, likelihood, similarity
from mmerank.formulas.entry import (
    KEPT,
    LAYER_BY_LAYER,
    MOST,
    OF_CONNECTOR,
    OF_LAYERS,
    OF_LOSSES,
    SVD,
    Entry,
    between_modalities,
    of_paired_states,
)
from mmerank.formulas.table_of_rows import OF_ROWS

_GAP = "Liang et al. 2022"
_MIR = "MIR, arXiv:2410.07167"
_HUH = "Huh et al., arXiv:2405.07987"
_WANG = "Wang and Isola, arXiv:2005.10242"

_OF_MODALITIES = (
    between_modalities(
        "modality_gap_liang_norm_unit",
        "Modality gap",
        between.modality_gap,
        "0",
        "2",
        _GAP,
        needs="means of unit rows",
        better="neither",
    ),
    between_modalities(
        "cos_of_means",
        "Cosine of means",
        between.cosine_of_means,
        "-1",
        "1",
        _GAP,
        needs="means of rows",
        better="neither",
    ),
    between_modalities(
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
    between_modalities(
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
    between_modalities(
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
    between_modalities(
        "mir_pooled_nuclear",
        "MIR",
        between.mir,
        "",
        "",
        _MIR,
        takes=OF_LAYERS,
        needs=KEPT,
        follows_rows=True,
        cost="n m (d + min(n, m)) of each layer",
    ),
    between_modalities(
        "mir_pooled_fastmode",
        "MIR, released recurrence",
        partial(between.mir, route="released"),
        "",
        "",
        "MIR's code, its default; may be rounding",
        takes=OF_LAYERS,
        needs=KEPT,
        better="neither",
        follows_rows=True,
        cost="(n + m + d) d² of each layer",
    ),
    of_paired_states("cka_linear_biased", "CKA", similarity.linear_cka, "0", "1", "Kornblith et al. 2019"),
    of_paired_states(
        "cka_linear_unbiased",
        "CKA, unbiased",
        similarity.unbiased_cka,
        "",
        "",
        "Kornblith et al. 2019, HSIC of Song et al. 2012",
        follows_rows=False,
    ),
    of_paired_states("mutual_knn_10", "Mutual 10-NN", similarity.mutual_knn, "0", "1", _HUH),
    of_paired_states("cycle_knn_10", "Cycle 10-NN", similarity.cycle_knn, "0", "1", _HUH + "; saturates at 1"),
    of_paired_states("cknna_10_unit_rows", "CKNNA, k = 10", similarity.cknna, "", "", _HUH),
    of_paired_states(
        "knn_overlap_connector_10",
        "10-NN overlap across the connector",
        similarity.mutual_knn,
        "0",
        "1",
        "arXiv:2509.11986",
        needs="mean states before and behind the connector",
    ),
    of_paired_states(
        "svcca_10_standardised_U", "SVCCA, 10 directions", similarity.svcca, "0", "1", "Raghu et al. 2017", cost=SVD
    ),
    of_paired_states(
        "rsa_pearson_cosine", "RSA", similarity.rsa, "-1", "1", "Kriegeskorte et al. 2008", follows_rows=False
    ),
    of_paired_states(
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
    of_paired_states(
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
    of_paired_states(
        "infonce_symmetric_tau0.1", "InfoNCE, τ = 0.1", contrastive.infonce, "0", "", "InfoNCE", better="lower"
    ),
    of_paired_states(
        "lidar_delta1e-4",
        "LiDAR",
        contrastive.lidar,
        "1",
        MOST,
        "LiDAR, ICLR 2024",
        takes=("views",),
        needs="mean states of several views",
        cost="n q d²",
    ),
    of_paired_states(
        "matrix_mutual_information_sanchez_giraldo_linear",
        "Matrix mutual information, nats",
        information.matrix_mutual_information,
        "0",
        "ln n",
        "Sanchez Giraldo et al., arXiv:1211.2459",
        cost="n² (n + d)",
    ),
    of_paired_states(
        "dime_10_perms_linear",
        "DiME, 10 permutations, nats",
        information.dime,
        "",
        "ln n",
        LAYER_BY_LAYER,
        cost="10 n³",
    ),
)

_OF_LIKELIHOOD = (
    Entry(
        MATCH_MARGIN,
        "Match margin, nats per token",
        "likelihood",
        likelihood.match_margin,
        OF_LOSSES,
        "",
        "",
        "lower",
        "losses of responses",
        False,
        "here; see docs/metrics.md",
        "k = 4 passes a pair more",
    ),
)

_OF_CONNECTOR = (
    Entry(
        AT_CONNECTOR_ROWS,
        "eRank1 at the connector's number of rows",
        "connector",
        connector.erank_at_connector_rows,
        OF_CONNECTOR,
        "1",
        MOST,
        "neither",
        "vision rows, as many drawn as the connector puts out",
        True,
        "here; see docs/metrics.md",
        "8 m² (m + d)",
        "log",
    ),
)

METRICS = {entry.name: entry for entry in (*OF_ROWS, *_OF_MODALITIES, *_OF_LIKELIHOOD, *_OF_CONNECTOR)}


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
