"""Dependencies point one way, and importing mmerank is cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mmerank"
ADAPTERS = PACKAGE.parent / "adapters" / "mmerank_adapters"

# The rooms of the package, from the ground up: earlier may not import later. What stands in no room is ground.
ROOMS = (
    "ground",
    "inputs",
    "models",
    "runs",
    "states",
    "formulas",
    "engine",
    "analysis",
    "report",
    "jobs",
    "commands",
)
# What a room must not import although it stands above it.
SEPARATE = {
    "states": {"models", "runs"},
    "analysis": {"engine", "models", "states"},
    "report": {"engine", "models"},
}
# Rooms that are used on a laptop, from the files of a run: no torch when they are imported.
TORCH_FREE = ("ground", "inputs", "runs", "formulas", "analysis", "report", "commands")
WITH_TORCH = {"transfer"}  # of the ground


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


def room(module: str) -> str:
    """Of a dotted name below `mmerank`."""
    first = module.split(".")[0]
    return first if first in ROOMS else "ground"


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or not path.name.startswith("__"))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_data_flows_one_way(path: Path) -> None:
    here = room(name_of(path))
    for name in imported(path):
        package, _, rest = name.partition(".")
        assert package != "mmerank_adapters", "the core must not import an adapter"
        if package != "mmerank" or not rest or rest == "__version__":
            continue
        there = room(rest)
        assert ROOMS.index(there) <= ROOMS.index(here), f"{here} must not import {rest}"
        assert there not in SEPARATE.get(here, ()), f"{here} must not import {rest}"


def test_no_module_imports_itself_through_others() -> None:
    modules = {name_of(path): path for path in MODULES}
    edges = {
        name: {
            found
            for full in imported(path)
            if full.startswith("mmerank.") and (found := full.removeprefix("mmerank.")) in modules
        }
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, through: tuple[str, ...]) -> None:
        assert name not in through, f"circle: {' -> '.join([*through[through.index(name) :], name])}"
        if name not in done:
            for found in sorted(edges[name]):
                visit(found, (*through, name))
            done.add(name)

    for name in modules:
        visit(name, ())


@pytest.mark.parametrize("path", sorted(ADAPTERS.glob("*.py")), ids=lambda p: p.name)
def test_adapters_know_the_ground_inputs_and_models_alone(path: Path) -> None:
    for name in imported(path):
        package, _, rest = name.partition(".")
        assert package != "mmerank" or not rest or room(rest) in ("ground", "inputs", "models")


@pytest.mark.parametrize("path", [path for path in MODULES if room(name_of(path)) in TORCH_FREE], ids=name_of)
def test_what_needs_no_torch_does_not_import_it(path: Path) -> None:
    if name_of(path) not in WITH_TORCH:
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
