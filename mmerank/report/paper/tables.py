"""Numbers printed in the paper, to stand beside ours: Diff-eRank (arXiv:2401.17139)."""

from __future__ import annotations

from collections.abc import Mapping

from mmerank.eranks import ERANKS

_COLUMNS = (*ERANKS, "image_reduction_ratio", "image_text_alignment")

# (model, data) -> the numbers as printed. LLaVA-1.5 on cc_sbu_align: the alignment recomputes to 0.7633 from its row.
TABLE_2: Mapping[tuple[str, str], Mapping[str, float]] = {
    key: dict(zip(_COLUMNS, values, strict=True))
    for key, values in {
        ("LLaVA-1.5", "detail_23k"): (18.34, 11.28, 45.62, 74.21, 76.34, 0.3850, 0.8566),
        ("LLaVA-1.5", "cc_sbu_align"): (9.00, 5.20, 28.47, 59.00, 47.63, 0.4222, 0.7618),
        ("MiniGPT-v2", "detail_23k"): (90.59, 55.70, 58.50, 63.63, 108.53, 0.3851, 0.7084),
        ("MiniGPT-v2", "cc_sbu_align"): (74.79, 46.15, 48.68, 52.68, 93.29, 0.3829, 0.6955),
    }.items()
}

# LLaVA-1.5 on detail_23k, the pictures "rotated clockwise"; the paper does not say by how much.
TABLE_3: Mapping[str, float] = dict(zip(_COLUMNS, (19.20, 12.31, 46.54, 74.21, 77.69, 0.3588, 0.8514), strict=True))

# Hub ids of the language models in the text tables, by family and size.
FAMILIES: Mapping[str, Mapping[str, str]] = {
    "OPT": {size: f"facebook/opt-{size.lower()}" for size in ("125M", "1.3B", "2.7B", "6.7B", "13B")},
    "OpenELM": {
        "270M": "apple/OpenELM-270M",
        "450M": "apple/OpenELM-450M",
        "1.1B": "apple/OpenELM-1_1B",
        "3B": "apple/OpenELM-3B",
    },
    "Cerebras-GPT": {
        size: f"cerebras/Cerebras-GPT-{size}" for size in ("111M", "256M", "590M", "1.3B", "2.7B", "6.7B", "13B")
    },
}


def _by_size(family: str, *values: float) -> dict[str, float]:
    return dict(zip(FAMILIES[family], values, strict=True))


# (family, data) -> size -> number, Tables 1, 6, 7 and 8.
DIFF_ERANK: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("OPT", "openbookqa"): _by_size("OPT", 1.410, 2.140, 2.338, 2.280, 3.032),
    ("OPT", "piqa"): _by_size("OPT", 4.647, 6.294, 6.774, 6.950, 7.267),
    ("OPT", "dolly-15k"): _by_size("OPT", 54.35, 76.39, 83.02, 89.60, 89.81),
    ("OPT", "wikipedia"): _by_size("OPT", 83.55, 136.20, 148.59, 161.09, 162.88),
    ("OPT", "openwebtext2"): _by_size("OPT", 103.23, 184.76, 205.48, 254.30, 262.70),
    ("OPT", "hh-rlhf"): _by_size("OPT", 53.02, 76.44, 82.82, 90.41, 93.30),
    ("OpenELM", "dolly-15k"): _by_size("OpenELM", 114.76, 115.69, 117.53, 119.40),
    ("Cerebras-GPT", "dolly-15k"): _by_size("Cerebras-GPT", 42.48, 42.68, 45.90, 46.00, 53.90, 67.13, 77.78),
}
REDUCED_LOSS: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("OPT", "openbookqa"): _by_size("OPT", 5.734, 6.138, 6.204, 6.258, 6.236),
    ("OPT", "piqa"): _by_size("OPT", 6.472, 6.928, 6.999, 7.077, 7.068),
    ("OPT", "dolly-15k"): _by_size("OPT", 7.6838, 8.322, 8.4471, 8.5961, 8.6505),
    ("OPT", "wikipedia"): _by_size("OPT", 7.8671, 8.4575, 8.5746, 8.7009, 8.7581),
    ("OPT", "openwebtext2"): _by_size("OPT", 7.8090, 8.3601, 8.4697, 8.5915, 8.6396),
    ("OPT", "hh-rlhf"): _by_size("OPT", 8.1041, 8.4800, 8.5242, 8.5914, 8.6928),
    ("OpenELM", "dolly-15k"): _by_size("OpenELM", 8.5164, 8.6417, 8.8210, 9.0060),
    ("Cerebras-GPT", "dolly-15k"): _by_size("Cerebras-GPT", 7.1540, 7.5343, 7.7891, 8.0733, 8.3235, 8.5339, 8.5152),
}
# Table 1: on the data set itself; Tables 7 and 8: the mean of winogrande and piqa.
ACCURACY: Mapping[tuple[str, str], Mapping[str, float]] = {
    ("OPT", "openbookqa"): _by_size("OPT", 0.276, 0.332, 0.370, 0.360, 0.366),
    ("OPT", "piqa"): _by_size("OPT", 0.619, 0.714, 0.733, 0.756, 0.767),
    ("OpenELM", "dolly-15k"): _by_size("OpenELM", 0.6183, 0.6516, 0.6865, 0.7188),
    ("Cerebras-GPT", "dolly-15k"): _by_size("Cerebras-GPT", 0.5410, 0.5620, 0.5625, 0.5925, 0.6300, 0.6705, 0.7060),
}
# Table 4: OPT on dolly-15k, Diff-eRank by layer.
LAYER_DIFF_ERANK: Mapping[str, Mapping[str, float]] = {
    "first": _by_size("OPT", 73.07, 73.03, 66.93, 49.24, 41.83),
    "middle": _by_size("OPT", 87.75, 51.98, 56.16, 66.63, 73.88),
    "last": _by_size("OPT", 54.35, 76.39, 83.02, 89.60, 89.81),
}
# Table 9: OPT on dolly-15k by the mean of the eRanks, "Algorithm (b)".
DIFF_ERANK_MEAN_OF_ERANKS: Mapping[str, float] = _by_size("OPT", 66.81, 103.78, 114.60, 128.99, 131.42)
# Table 11: OPT-1.3B on Wikipedia, number of texts -> Diff-eRank.
SAMPLE_SIZE_DIFF_ERANK: Mapping[int, float] = {10000: 136.20, 5000: 132.39, 1000: 136.14}
SAMPLE_SIZE_STDEV = 1.782  # of these three as a population
# Table 10: OPT-1.3B trained further on Wikipedia, on openbookqa; the loss itself, not its reduction.
CONTINUAL_TRAINING: Mapping[str, Mapping[str, float]] = {
    stage: dict(zip(("Diff-eRank", "loss", "accuracy"), values, strict=True))
    for stage, values in {
        "random init": (0.0, 10.830, 0.250),
        "initial": (2.140, 4.692, 0.332),
        "fully trained": (2.161, 4.654, 0.340),
        "overfitting": (2.156, 4.663, 0.336),
    }.items()
}
