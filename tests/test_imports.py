"""Dependencies point one way, and importing mmerank is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmerank"
ADAPTERS = PACKAGE.parent / "adapters" / "mmerank_adapters"

# Earlier may not import later.
ORDER = [
    "errors",
    "interrupts",
    "durable",
    "processes",
    "convention",
    "eranks",
    "paper",
    "steps",
    "comparison",
    "transfer",
    "spectrum",
    "entropy",
    "subsets",
    "hooks",
    "pictures",
    "layers",
    "metadata",
    "images",
    "layouts",
    "inputs",
    "contents",
    "placeholders",
    "transforms",
    "variants",
    "rows",
    "hub",
    "texts",
    "stored",
    "soundness",
    "tokenizer",
    "special_tokens",
    "chat_template",
    "sequences",
    "demo",
    "data",
    "checkpoints",
    "untrained",
    "wrapped",
    "adapter",
    "text_adapter",
    "identity",
    "captions",
    "records",
    "run_files",
    "part_rules",
    "parts",
    "analysis",
    "uncertainty",
    "row_study",
    "measurement",
    "batches",
    "workers",
    "progress",
    "clip",
    "scored_model",
    "accuracy",
    "runs",
    "collect",
    "probe",
    "alignment",
    "perturbation",
    "text_probe",
    "twins",
    "diff_erank",
    "monitor",
    "doctor",
    "breakable",
    "row_report",
    "perturbation_report",
    "report_parts",
    "report",
    "diff_report",
    "doctor_report",
    "reporting",
    "tour",
    "reproduction",
    "options",
    "commands",
    "__main__",
]
# Reached late, inside a function.
LATE = {
    ("alignment", "report"),
    ("diff_erank", "diff_report"),
    ("perturbation", "report"),
    ("analysis", "uncertainty"),
}
TORCH_FREE = (
    "analysis",
    "breakable",
    "commands",
    "comparison",
    "convention",
    "data",
    "durable",
    "eranks",
    "paper",
    "perturbation_report",
    "placeholders",
    "errors",
    "hub",
    "images",
    "inputs",
    "interrupts",
    "layers",
    "layouts",
    "metadata",
    "options",
    "commands",
    "part_rules",
    "parts",
    "processes",
    "records",
    "report",
    "report_parts",
    "diff_report",
    "doctor_report",
    "reporting",
    "row_report",
    "rows",
    "run_files",
    "runs",
    "steps",
    "texts",
    "transforms",
    "variants",
    "uncertainty",
)


def imported(path: Path, *, runtime_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes: list[ast.AST] = list(ast.walk(tree))
    if runtime_only:
        nodes = list(tree.body)
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
            names.add(node.module)
    return names


def own(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" or path.parent != PACKAGE)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_data_flows_one_way(path: Path) -> None:
    here = own(path)
    assert here in ORDER, f"say in ORDER where {here} stands"
    for name in imported(path):
        package, _, rest = name.partition(".")
        assert package != "mmerank_adapters", "the core must not import an adapter"
        there = rest.split(".")[0]
        if package == "mmerank" and there in ORDER and there != here and (here, there) not in LATE:
            assert ORDER.index(there) < ORDER.index(here), f"{here} must not import {there}"


@pytest.mark.parametrize("path", sorted(ADAPTERS.glob("*.py")), ids=lambda p: p.name)
def test_adapters_know_neither_spectra_nor_runs(path: Path) -> None:
    for name in imported(path):
        for forbidden in ("spectrum", "entropy", "probe", "records", "analysis", "alignment", "report", "runs"):
            assert not name.startswith(f"mmerank.{forbidden}")


@pytest.mark.parametrize("name", TORCH_FREE)
def test_what_needs_no_torch_does_not_import_it(name: str) -> None:
    paths = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").is_file() else sorted((PACKAGE / name).glob("*.py"))
    for path in paths:
        assert not {n for n in imported(path, runtime_only=True) if n.split(".")[0] in ("torch", "transformers")}


def modules_after(*arguments: str) -> set[str]:
    listing = "import sys; print(','.join(sorted(m.split('.')[0] for m in sys.modules)))"
    code = f"{arguments[0]}; {listing}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.strip().split(","))


def test_import_is_light() -> None:
    assert not {"torch", "transformers", "matplotlib", "pandas", "datasets"} & modules_after("import mmerank")


def test_help_is_light() -> None:
    code = "import mmerank.commands.app"
    assert not {"torch", "transformers", "matplotlib", "pandas", "datasets"} & modules_after(code)


def test_effective_rank_needs_no_transformers() -> None:
    code = "import torch, mmerank; mmerank.effective_rank(torch.eye(3)); mmerank.capture"
    assert not {"transformers", "matplotlib", "pandas", "datasets"} & modules_after(code)


def test_public_names_exist() -> None:
    import mmerank

    assert set(mmerank.__all__) == set(mmerank._HOMES)
    for name in mmerank.__all__:
        assert getattr(mmerank, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = mmerank.nonsense
