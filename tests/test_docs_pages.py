"""What the documentation makes of the README, the code and the notebooks."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import typer

import mmerank
from mmerank.commands.app import app

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    pytest.importorskip("mkdocs")
    return dict(runpy.run_path(str(ROOT / "scripts" / "docs_pages.py"))["pages"]())


def test_every_command_and_option_is_in_the_reference(pages: dict[str, str]) -> None:
    sections = re.split(r"^## mmerank (\S+)$", pages["command-line.md"], flags=re.MULTILINE)[1:]
    by_command = dict(zip(sections[::2], sections[1::2], strict=True))
    group: Any = typer.main.get_command(app)
    assert by_command.keys() == group.commands.keys()
    for name, command in group.commands.items():
        for parameter in command.params:
            assert (
                f"`{(parameter.opts[0] if parameter.opts[0].startswith('-') else parameter.metavar)}"
                in by_command[name]
            )
    assert "One of `mean`, `median`, `none`." in by_command["align"]
    assert re.search(r"`--match-seed N` \| `0` \|", by_command["align"])
    cells = [
        re.sub(r"`[^`]*`|\\\|", "", line).count("|")
        for line in by_command["align"].splitlines()
        if line.startswith("|")
    ]
    assert set(cells) == {4}


def test_every_public_name_is_in_the_reference(pages: dict[str, str]) -> None:
    named = re.findall(r"^::: (\S+)$", pages["api.md"], re.MULTILINE)
    assert [name.rpartition(".")[2] for name in named] == mmerank.__all__


def test_nothing_of_the_readme_is_lost_or_twice(pages: dict[str, str]) -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert re.findall(r"^## (.*)$", pages["index.md"], re.MULTILINE) == headings


def test_every_page_is_in_the_site(pages: dict[str, str]) -> None:
    site = (ROOT / "mkdocs.yml").read_text()
    written = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert not [name for name in {*pages, *written} if f": {name}\n" not in site]
