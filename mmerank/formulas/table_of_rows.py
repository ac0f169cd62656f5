"""The part of the table of metrics that is about one cloud of rows: its spectrum, and its geometry."""

from __future__ import annotations

from functools import partial

from mmerank.formulas import geometric, spectral
from mmerank.formulas.entry import FITTED, SAMPLED, of_geometry, of_spectrum

_DIFF_ERANK = "Diff-eRank, arXiv:2401.17139, Def. 3.1-3.3"
_ROY = "Roy and Vetterli, EUSIPCO 2007"
_RENYI = "Rényi, of the spectrum of Diff-eRank, arXiv:2401.17139"
_ALPHA = "alpha-ReQ, NeurIPS 2022"
_NUCLEAR = "Matrix Nuclear-Norm, arXiv:2410.10672"
_LAYERS = "Layer by Layer, arXiv:2502.02013"
_LINEAR = "Razzhigaev et al. 2024"
_KEPT = f"pooled rows, {SAMPLED} of an example and layer: {4 * SAMPLED} d bytes"
_SIGMA = "singular values of the rows"
_CENTRED = "singular values of the centred rows"
_D = "min(n-1, d)"

OF_ROWS = (
    of_spectrum("erank_diff_erank", "eRank", spectral.erank, "1", _D, _DIFF_ERANK),
    of_spectrum(
        "erank_sigma_of_centred_unit",
        "eRank of singular values, unit rows",
        spectral.erank_of_sigma,
        "1",
        _D,
        _DIFF_ERANK,
    ),
    of_spectrum(
        "erank_roy_vetterli_raw_sigma",
        "eRank of singular values, raw",
        spectral.erank_raw,
        "1",
        "min(n, d)",
        _ROY,
        needs=_SIGMA,
    ),
    of_spectrum(
        "erank_roy_vetterli_centred_sigma",
        "eRank of singular values, centred",
        spectral.erank_centred,
        "1",
        _D,
        _ROY,
        needs=_CENTRED,
    ),
    of_spectrum(
        "rankme_paper_eps1e-7", "RankMe", spectral.rankme, "1", "min(n, d)", "RankMe, arXiv:2210.02885", needs=_SIGMA
    ),
    of_spectrum(
        "erank_centred_not_unit_lambda",
        "eRank, rows not unit",
        spectral.erank_not_unit,
        "1",
        _D,
        _DIFF_ERANK + ", without unit rows",
        needs=_CENTRED,
    ),
    of_spectrum(
        "matrix_entropy_uncentred_unit",
        "Matrix entropy, uncentred",
        spectral.matrix_entropy_uncentred,
        "0",
        "ln min(n, d)",
        _LAYERS,
        needs="spectrum of unit rows",
    ),
    of_spectrum(
        "renyi_entropy_alpha_0.5",
        "Rényi entropy, order 1/2",
        partial(spectral.renyi_entropy, order=0.5),
        "0",
        f"ln {_D}",
        _RENYI,
    ),
    of_spectrum(
        "renyi_entropy_alpha_2.0",
        "Rényi entropy, order 2",
        partial(spectral.renyi_entropy, order=2.0),
        "0",
        f"ln {_D}",
        _RENYI,
    ),
    of_spectrum(
        "participation_ratio", "Participation ratio", spectral.participation_ratio, "1", _D, "Gao et al. 2017"
    ),
    of_spectrum("stable_rank", "Stable rank", spectral.stable_rank, "1", _D, "Rudelson and Vershynin 2007"),
    of_spectrum("k_energy_90", "Directions of 90 %", spectral.k_energy, "1", _D, "of the spectrum of Diff-eRank"),
    of_spectrum(
        "anisotropy_mllm_microscope",
        "Anisotropy",
        spectral.anisotropy,
        f"1/{_D}",
        "1",
        "LLM-Microscope",
        needs=_CENTRED,
    ),
    of_spectrum(
        "singular_ipr_lofi",
        "Singular IPR",
        spectral.inverse_participation,
        "1/min(n, d)",
        "1",
        "LoFi, arXiv:2503.06794, our reading",
        needs=_SIGMA,
    ),
    of_spectrum(
        "matrix_nuclear_norm_L12_over_n",
        "Matrix nuclear norm, estimate",
        spectral.matrix_nuclear_norm,
        "0",
        "√(min(n, d)/n)",
        _NUCLEAR,
        needs="column norms of centred unit rows",
        cost="n d",
    ),
    of_spectrum("nuclear_norm_exact_over_n", "Nuclear norm", spectral.nuclear_norm, "1/√n", f"√({_D}/n)", _NUCLEAR),
    of_spectrum(
        "alpha_req_ols_ranks3to20",
        "alpha-ReQ, least squares, ranks 3-20",
        spectral.alpha_req,
        "0",
        "",
        _ALPHA,
        needs=_CENTRED,
    ),
    of_spectrum(
        "alpha_req_weighted_1_over_k_ranks3to20",
        "alpha-ReQ, weights 1/k, ranks 3-20",
        partial(spectral.alpha_req, weighted=True),
        "0",
        "",
        _ALPHA,
        needs=_CENTRED,
    ),
    of_geometry("twonn_mle", "TwoNN, likelihood", geometric.twonn, "0", "", "Denti et al.", follows_rows=True),
    of_geometry(
        "twonn_facco_linear_fit_discard10pct",
        "TwoNN, linear fit",
        geometric.twonn_linear,
        "0",
        "",
        "Facco et al. 2017",
        follows_rows=True,
    ),
    of_geometry(
        "lid_mle_k10_mean",
        "Local dimension, k = 10",
        geometric.lid,
        "0",
        "",
        "Levina and Bickel 2004",
        follows_rows=True,
    ),
    of_geometry(
        "curvature_rad_hosseini",
        "Curvature, rad",
        geometric.curvature,
        "0",
        "π",
        "Hosseini and Fedorenko, arXiv:2311.04930",
        needs="successive rows",
        cost="n d",
    ),
    of_geometry(
        "angle_between_successive_states_rad_(information_flow_code)",
        "Angle of successive rows, rad",
        geometric.angle_between_rows,
        "0",
        "π",
        "the code of arXiv:2502.02013",
        needs="successive rows",
        cost="n d",
    ),
    of_geometry(
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
    of_geometry(
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
    of_geometry(
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
    of_geometry(
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
)
