"""The documents' code blocks run, print what they say, and name options that exist."""

from __future__ import annotations

import ast
import io
import operator
import re
import shlex
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer

import mmerank
from benchmarks.__main__ import parsed
from mmerank.commands.app import app

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Groups of them, which are no modules.
ENTRY_POINTS = {f"mmerank.{group}" for group in ("adapters", "metrics", "text_adapters", "transforms")}
NUMBER = re.compile(r"-?\d+\.\d+")

documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))


def blocks(document: Path) -> list[tuple[str, str]]:
    return FENCE.findall(document.read_text())


@documents
def test_python_blocks_run_and_print_what_they_say(
    document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    printed = ""
    for language, content in blocks(document):
        if language == "python":
            out = io.StringIO()
            with redirect_stdout(out):
                exec(compile(content, str(document), "exec"), namespace)
            printed = out.getvalue()
        elif language == "text":
            # Weights are drawn and multiplied in float32, so the last digits differ between machines.
            assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", content).split()
            found, stated = ([float(x) for x in NUMBER.findall(text)] for text in (printed, content))
            assert found == pytest.approx(stated, rel=0.02)


def commands() -> list[tuple[str, list[str]]]:
    found = []
    for document in DOCUMENTS:
        for language, content in blocks(document):
            if language == "bash":
                lines = content.replace("\\\n", " ").splitlines()
                found += [(document.name, words) for line in lines if (words := shlex.split(line, comments=True))]
    return found


def unlaunched(words: list[str]) -> list[str]:
    """Our command, without the launcher that starts it several times."""
    return words[words.index("-m") + 1 :] if words[0] in ("accelerate", "torchrun", "srun") else words


@pytest.mark.parametrize(("document", "words"), commands(), ids=lambda x: x if isinstance(x, str) else " ".join(x))
def test_shell_commands_exist(document: str, words: list[str]) -> None:
    words = unlaunched(words)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[0] == "mmerank":
        group: Any = typer.main.get_command(app)
        group.commands[words[1]].make_context(words[1], words[2:])  # raises on an unknown option
    elif words[:3] == ["python", "-m", "benchmarks"]:
        parsed(words[3:])  # raises on an unknown option or case
    elif words[:2] == ["python", "-m"] and words[2].startswith("scripts."):
        script = import_module(words[2])
        if hasattr(script, "parsed"):
            script.parsed(words[3:])  # raises on an unknown option
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        pytest.fail(f"{document}: what is {words[0]!r}?")


@documents
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def strings_of(path: Path) -> list[str]:
    """What a module says: its strings, without docstrings, which are a reference by full names."""
    tree = ast.parse(path.read_text())
    apart = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in apart]
    return [node.value for node in strings if isinstance(node.value, str)]


def typed(name: str) -> bool:
    """Whether a dotted name is there after `import mmerank` alone, or is a module, which `import` takes."""
    first, *rest = name.split(".")[1:]
    if first in mmerank.__all__ or first == "__version__":
        return operator.attrgetter(".".join([first, *rest]))(mmerank) is not None
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_every_dotted_name_can_be_typed_as_it_stands() -> None:
    texts = [document.read_text() for document in DOCUMENTS]
    sources = [path for room in ("mmerank", "adapters") for path in (ROOT / room).rglob("*.py")]
    texts += [said for path in sources for said in strings_of(path)]
    named = {name for text in texts for name in re.findall(r"(?<![\w./])mmerank(?:\.[A-Za-z]\w*)+", text)}
    assert {"mmerank.analysis.estimates", "mmerank.wrap"} <= named
    assert not typed("mmerank.report.push.push")
    assert [name for name in sorted(named - ENTRY_POINTS) if not typed(name)] == []


def test_every_convention_is_documented() -> None:
    from mmerank import Convention, TextConvention

    text = (ROOT / "docs" / "conventions.md").read_text()
    for name, default in {**Convention().to_dict(), **TextConvention().to_dict()}.items():
        assert f"`--{name.replace('_', '-')}`" in text and f"**`{default}`**" in text


def test_every_text_set_is_documented() -> None:
    from mmerank.inputs.text_sets import SETS

    text = (ROOT / "docs" / "conventions.md").read_text()
    for name, chosen in SETS.items():
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}` | {chosen.repository}")]
        assert (chosen.revision or "") in row and chosen.files[0].split("/")[-1] in row
        assert f"`{name}`" in (ROOT / "README.md").read_text()


def test_every_transform_is_documented() -> None:
    from mmerank.inputs.transforms.known import KNOWN

    text = (ROOT / "docs" / "perturbation.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    for known in KNOWN.values():
        name, _, choice = known.form.partition("|")
        assert any(f"`{name}`" in row.split("|")[1] and choice in row for row in rows), known.form
    help_of: Any = typer.main.get_command(app)
    words = re.split(r"[\s,.]+", help_of.commands["perturb"].help)
    assert not set(KNOWN) - set(words)
    assert f"{len(KNOWN)} transforms" in (ROOT / "README.md").read_text()


def test_every_metric_is_documented() -> None:
    from mmerank.formulas.table import METRICS

    rows = [line for line in (ROOT / "docs" / "metrics.md").read_text().splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{entry.name}`{' *' if entry.follows_rows else ''} | {', '.join(entry.takes)} "
        f"| {entry.low or '-∞'} to {entry.high or '∞'} | {'' if entry.better == 'neither' else entry.better} "
        f"| {entry.needs} | {entry.cost} | {entry.source} |"
        for entry in METRICS.values()
    ]
    assert f"each of {len(METRICS)} metrics" in (ROOT / "README.md").read_text()


def test_bash_blocks_are_all_there() -> None:
    assert len(commands()) >= 6
