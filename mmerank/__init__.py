"""Effective rank of hidden token representations, and image-text alignment measured with it.

Names are loaded when first used, so that `import mmerank` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmerank.adapter import Adapter, load, wrap
    from mmerank.alignment import Alignment, align
    from mmerank.analysis.bootstrap import Bootstrap
    from mmerank.analysis.paired import Comparison, compare
    from mmerank.analysis.rerun import estimates
    from mmerank.convention import Convention, TextConvention
    from mmerank.data import load_data
    from mmerank.diff_erank import Diff, diff
    from mmerank.entropy import effective_rank, matrix_entropy
    from mmerank.errors import MmerankError
    from mmerank.hooks import Point, capture
    from mmerank.inputs import Example
    from mmerank.monitor import AlignmentMonitor, DiffErankMonitor
    from mmerank.perturbation import Perturbation, perturb
    from mmerank.text_adapter import TextAdapter, load_text, wrap_text

_HOMES = {
    "Adapter": "adapter",
    "Alignment": "alignment",
    "AlignmentMonitor": "monitor",
    "align": "alignment",
    "Bootstrap": "analysis.bootstrap",
    "Comparison": "analysis.paired",
    "Convention": "convention",
    "Example": "inputs",
    "MmerankError": "errors",
    "Perturbation": "perturbation",
    "Point": "hooks",
    "Diff": "diff_erank",
    "DiffErankMonitor": "monitor",
    "TextConvention": "convention",
    "TextAdapter": "text_adapter",
    "capture": "hooks",
    "compare": "analysis.paired",
    "diff": "diff_erank",
    "effective_rank": "entropy",
    "estimates": "analysis.rerun",
    "load": "adapter",
    "load_data": "data",
    "load_text": "text_adapter",
    "matrix_entropy": "entropy",
    "perturb": "perturbation",
    "wrap": "adapter",
    "wrap_text": "text_adapter",
}

__all__ = [
    "Adapter",
    "Alignment",
    "AlignmentMonitor",
    "Bootstrap",
    "Comparison",
    "Convention",
    "Diff",
    "DiffErankMonitor",
    "Example",
    "MmerankError",
    "Perturbation",
    "Point",
    "TextAdapter",
    "TextConvention",
    "align",
    "capture",
    "compare",
    "diff",
    "effective_rank",
    "estimates",
    "load",
    "load_data",
    "load_text",
    "matrix_entropy",
    "perturb",
    "wrap",
    "wrap_text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmerank' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mmerank.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
