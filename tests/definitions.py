"""The metrics of one example by their definitions, in float64 numpy and Python, without a shared step."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]


def _c(h: Floats) -> Floats:
    centred: Floats = h - h.mean(axis=0)
    return centred


def _unit(h: Floats) -> Floats:
    return np.stack([row / math.sqrt(math.fsum(x * x for x in row)) for row in h])


def _s(h: Floats) -> Floats:
    return np.linalg.svd(h, compute_uv=False)


def _lam(h: Floats) -> Floats:
    return _s(_unit(_c(h))) ** 2 / len(h)


def _h(p: Floats) -> float:
    p = p[p > 1e-30]
    return -math.fsum(p * np.log(p))


def _share(p: Floats) -> Floats:
    share: Floats = p / p.sum()
    return share


def _near(h: Floats, k: int) -> list[list[float]]:
    return [sorted(math.dist(a, b) for j, b in enumerate(h) if j != i)[:k] for i, a in enumerate(h)]


def _mu(h: Floats) -> list[float]:
    return sorted(math.log(second / first) for first, second in _near(h, 2))


def _facco(h: Floats) -> float:
    x = np.array(_mu(h))
    kept = int(0.9 * len(x))
    y = -np.log(1 - np.arange(1, kept + 1) / len(x))
    return float(x[:kept] @ y / (x[:kept] @ x[:kept]))


def _lid(h: Floats) -> float:
    return float(np.mean([9 / math.fsum(math.log(r[9] / x) for x in r[:9]) for r in _near(h, 10)]))


def _angles(v: Floats) -> float:
    cosines = [a @ b / math.sqrt((a @ a) * (b @ b)) for a, b in pairwise(v)]
    return float(np.mean(np.arccos(cosines)))


def _alpha(h: Floats, weighted: bool) -> float:
    k = np.arange(3, 21)
    y = np.log(_share(_s(_c(h)) ** 2)[2:20])
    return -float(np.polyfit(np.log(k), y, 1, w=np.sqrt(1 / k) if weighted else None)[0])


def _mir(image: Floats, text: Floats) -> float:
    factor = 1 / np.linalg.norm(text, axis=1).mean()
    clouds = []
    for rows in (image * factor, text * factor):
        norms = np.linalg.norm(rows, axis=1)
        middle = np.sort(norms)[(len(norms) - 1) // 2]
        lower = np.sort(rows, axis=0)[(len(rows) - 1) // 2]
        clouds.append(np.where((np.abs(norms - middle) > 3 * norms.std(ddof=1))[:, None], lower, rows))
    a, b = clouds
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(s1)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    common = np.sqrt(np.clip(np.linalg.eigvalsh(root @ s2 @ root), 0, None)).sum()
    return float(((a.mean(axis=0) - b.mean(axis=0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * common)


def _gap(image: Floats, text: Floats) -> float:
    return float(np.linalg.norm(_unit(image).mean(axis=0) - _unit(text).mean(axis=0)))


def _cosine(image: Floats, text: Floats) -> float:
    a, b = image.mean(axis=0), text.mean(axis=0)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


ONE: dict[str, Callable[[Floats], float]] = {
    "erank_diff_erank": lambda h: math.exp(_h(_lam(h))),
    "erank_sigma_of_centred_unit": lambda h: math.exp(_h(_share(_s(_unit(_c(h)))))),
    "erank_roy_vetterli_raw_sigma": lambda h: math.exp(_h(_share(_s(h)))),
    "erank_roy_vetterli_centred_sigma": lambda h: math.exp(_h(_share(_s(_c(h))))),
    "rankme_paper_eps1e-7": lambda h: math.exp(_h(_share(_s(h)) + 1e-7)),
    "erank_centred_not_unit_lambda": lambda h: math.exp(_h(_share(_s(_c(h)) ** 2))),
    "matrix_entropy_uncentred_unit": lambda h: _h(_share(_s(_unit(h)) ** 2)),
    "renyi_entropy_alpha_0.5": lambda h: 2 * math.log(np.sqrt(_lam(h)).sum()),
    "renyi_entropy_alpha_2.0": lambda h: -math.log((_lam(h) ** 2).sum()),
    "participation_ratio": lambda h: 1 / float((_lam(h) ** 2).sum()),
    "stable_rank": lambda h: 1 / float(_lam(h)[0]),
    "anisotropy_mllm_microscope": lambda h: float(_share(_s(_c(h)) ** 2)[0]),
    "matrix_nuclear_norm_L12_over_n": lambda h: (
        float(np.sort(np.linalg.norm(_unit(_c(h)), axis=0))[::-1][: min(h.shape)].sum()) / len(h)
    ),
    "nuclear_norm_exact_over_n": lambda h: float(_s(_unit(_c(h))).sum()) / len(h),
    "singular_ipr_lofi": lambda h: float((_share(_s(h) ** 2) ** 2).sum()),
    "alpha_req_ols_ranks3to20": lambda h: _alpha(h, False),
    "alpha_req_weighted_1_over_k_ranks3to20": lambda h: _alpha(h, True),
    "k_energy_90": lambda h: float(1 + (np.cumsum(_lam(h)) < 0.9).sum()),
    "twonn_mle": lambda h: (len(h) - 1) / math.fsum(_mu(h)),
    "twonn_facco_linear_fit_discard10pct": _facco,
    "lid_mle_k10_mean": _lid,
    "curvature_rad_hosseini": lambda h: _angles(h[1:] - h[:-1]),
    "angle_between_successive_states_rad_(information_flow_code)": _angles,
}
TWO: dict[str, Callable[[Floats, Floats], float]] = {
    "modality_gap_liang_norm_unit": _gap,
    "cos_of_means": _cosine,
    "mir_fid_one_layer_nuclear_identity": _mir,
}
