"""Effective rank of hidden token representations, and image-text alignment measured with it.

Names are loaded when first used, so that `import mmerank` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from mmerank.analysis.estimates import estimates
    from mmerank.analysis.statistics.bootstrap import Bootstrap
    from mmerank.convention import (
        Convention,
        EncoderConvention,
        GenerationConvention,
        PruneConvention,
        TextConvention,
    )
    from mmerank.errors import MmerankError
    from mmerank.formulas.table import metric
    from mmerank.inputs.example import Example
    from mmerank.inputs.load import load_data
    from mmerank.inputs.questions import Question, load_questions
    from mmerank.inputs.transforms.own import transform
    from mmerank.jobs.align import Alignment, align
    from mmerank.jobs.compare import Comparison, compare
    from mmerank.jobs.diff import Diff, diff
    from mmerank.jobs.encode import Encoding, encode
    from mmerank.jobs.generate import Generation, generate
    from mmerank.jobs.lightning import lightning_monitor
    from mmerank.jobs.monitor import AlignmentMonitor, DiffErankMonitor
    from mmerank.jobs.perturb import EncoderPerturbation, Perturbation, perturb
    from mmerank.jobs.prune_study import Pruning, prune_study
    from mmerank.jobs.results import Results
    from mmerank.jobs.score import Score, score
    from mmerank.models.adapter import Adapter, load, wrap
    from mmerank.models.encoders.loading import load_encoder
    from mmerank.models.hooks import Point, capture
    from mmerank.models.loading import TextAdapter, load_text, wrap_text
    from mmerank.states.entropy import effective_rank, matrix_entropy
    from mmerank.states.leave_one_out import leave_one_out

_HOMES = {
    "Adapter": "models.adapter",
    "Alignment": "jobs.align",
    "AlignmentMonitor": "jobs.monitor",
    "align": "jobs.align",
    "Bootstrap": "analysis.statistics.bootstrap",
    "Comparison": "jobs.compare",
    "Convention": "convention",
    "Example": "inputs.example",
    "MmerankError": "errors",
    "Perturbation": "jobs.perturb",
    "Point": "models.hooks",
    "Question": "inputs.questions",
    "Results": "jobs.results",
    "Score": "jobs.score",
    "Diff": "jobs.diff",
    "DiffErankMonitor": "jobs.monitor",
    "EncoderConvention": "convention",
    "EncoderPerturbation": "jobs.perturb",
    "Encoding": "jobs.encode",
    "TextConvention": "convention",
    "TextAdapter": "models.loading",
    "capture": "models.hooks",
    "compare": "jobs.compare",
    "diff": "jobs.diff",
    "effective_rank": "states.entropy",
    "encode": "jobs.encode",
    "generate": "jobs.generate",
    "Generation": "jobs.generate",
    "GenerationConvention": "convention",
    "prune_study": "jobs.prune_study",
    "Pruning": "jobs.prune_study",
    "PruneConvention": "convention",
    "estimates": "analysis.estimates",
    "leave_one_out": "states.leave_one_out",
    "lightning_monitor": "jobs.lightning",
    "load": "models.adapter",
    "load_data": "inputs.load",
    "load_encoder": "models.encoders.loading",
    "load_questions": "inputs.questions",
    "load_text": "models.loading",
    "matrix_entropy": "states.entropy",
    "metric": "formulas.table",
    "perturb": "jobs.perturb",
    "score": "jobs.score",
    "transform": "inputs.transforms.own",
    "wrap": "models.adapter",
    "wrap_text": "models.loading",
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
    "EncoderConvention",
    "EncoderPerturbation",
    "Encoding",
    "Example",
    "Generation",
    "GenerationConvention",
    "MmerankError",
    "Perturbation",
    "Point",
    "PruneConvention",
    "Pruning",
    "Question",
    "Results",
    "Score",
    "TextAdapter",
    "TextConvention",
    "align",
    "capture",
    "compare",
    "diff",
    "effective_rank",
    "encode",
    "estimates",
    "generate",
    "leave_one_out",
    "lightning_monitor",
    "load",
    "load_data",
    "load_encoder",
    "load_questions",
    "load_text",
    "matrix_entropy",
    "metric",
    "perturb",
    "prune_study",
    "score",
    "transform",
    "wrap",
    "wrap_text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmerank' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mmerank.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
