"""The one table that says which measurement the paper calls eRank1 to eRank5 (Sec. 5.2)."""

from __future__ import annotations

# What the hook point of texts after the final norm is called.
FINAL = "final"
# label -> (hook point, input)
ERANKS = {
    "erank1": ("vision", "image"),
    "erank2": ("connector", "image"),
    "erank3": ("llm", "image"),
    "erank4": ("llm", "text"),
    "erank5": ("llm", "pair"),
}
# The seven quantities of Table 2, as they are shown.
LABELS = {
    **{label: label.replace("erank", "eRank") for label in ERANKS},
    "image_reduction_ratio": "Image Reduction Ratio",
    "image_text_alignment": "Image-Text Alignment",
}
