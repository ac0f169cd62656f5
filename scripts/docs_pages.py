"""Pages of the documentation that are made of something else, so that nothing is written twice; mkdocs runs it.

README.md gives the first page, CONTRIBUTING.md and CHANGELOG.md one each;
the command line its reference, from the code; the public names theirs, for mkdocstrings; each notebook a page with
its outputs.
"""

import inspect
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from rich.text import Text

import mmerank
from mmerank.commands.app import app

ROOT = Path(__file__).parents[1]
# In a table, where a bare one ends a cell, but in code.
BAR = "\\|"
BRACKET = "\\["  # else the beginning of a link
# Where documents point outside docs/ to what is a page here.
PAGES = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "../README.md": "index.md",
    "../CONTRIBUTING.md": "contributing.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages, and take notebooks for what they become.

    Args:
        files: What lies in docs/.
        config: Of the site.

    Returns:
        The same, with more in it.
    """
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(notebook)
    for name, content in pages():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Lead links of documents to what is a page here.

    Args:
        markdown: Of any page.

    Returns:
        The same with links to pages.
    """
    return relinked(markdown).replace(".ipynb)", ".md)")


def pages() -> Iterator[tuple[str, str]]:
    """All pages that are made.

    Yields:
        File name in docs/, and Markdown.
    """
    yield "index.md", relinked((ROOT / "README.md").read_text())
    yield "contributing.md", relinked((ROOT / "CONTRIBUTING.md").read_text())
    yield "changelog.md", relinked((ROOT / "CHANGELOG.md").read_text())
    yield "command-line.md", command_line()
    yield "api.md", public_names()
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        yield f"notebooks/{path.stem}.md", notebook_page(json.loads(path.read_text()))


def relinked(markdown: str) -> str:
    """A document of the repository's root as a page of docs/.

    Args:
        markdown: With links from the root.

    Returns:
        With links from docs/.
    """
    markdown = markdown.replace("](docs/", "](")
    for there, here in PAGES.items():
        markdown = markdown.replace(f"]({there}", f"]({here}")
    return markdown


def command_line() -> str:
    """Reference of the command line, from the code: every command with its arguments and options.

    Returns:
        Markdown.
    """
    group: Any = typer.main.get_command(app)
    callbacks = {
        command.callback.__name__.replace("_", "-"): command.callback
        for command in app.registered_commands
        if command.callback
    }
    lines = ["# Command line", "", inspect.cleandoc(group.help), ""]
    for name, command in group.commands.items():
        usage = " ".join(command.collect_usage_pieces(typer.Context(command)))
        lines += [f"## mmerank {name}", "", inspect.cleandoc(command.help or ""), ""]
        lines += [f"```text\nmmerank {name} {usage}\n```", "", "| | default | |", "|---|---|---|"]
        hints = get_type_hints(callbacks[name])
        for parameter in command.params:
            takes = f" {parameter.metavar}" if parameter.metavar else ""
            names = ", ".join(f"`{option}{takes}`" for option in (*parameter.opts, *parameter.secondary_opts))
            if parameter.param_type_name == "argument":
                names = f"`{parameter.metavar or parameter.name}`"
            choices = get_args(hints.get(parameter.name)) if get_origin(hints.get(parameter.name)) is Literal else ()
            text = Text.from_markup(parameter.help or "").plain if hasattr(parameter, "help") else ""
            if choices:
                text += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
            default = parameter.default
            stated = default not in (None, "") and default is not False and default != [] and not callable(default)
            shown = f"`{default}`" if stated else ""
            lines.append(f"| {names} | {shown} | {text.replace('|', BAR).replace('[', BRACKET)} |")
        lines.append("")
    return "\n".join(lines)


def public_names() -> str:
    """What mkdocstrings makes the reference of: all of `mmerank.__all__`, where it is defined.

    Returns:
        Markdown.
    """
    entries = "\n\n".join(f"::: mmerank.{mmerank._HOMES[name]}.{name}" for name in mmerank.__all__)
    return f"# Python\n\nAll of these are names in `mmerank`: `from mmerank import align`.\n\n{entries}\n"


def notebook_page(notebook: dict[str, Any]) -> str:
    """A notebook with its outputs as text.

    Args:
        notebook: As it stands in the file.

    Returns:
        Markdown.
    """
    lines = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        lines += [source, ""] if cell["cell_type"] == "markdown" else [f"```python\n{source}\n```", ""]
        for output in cell.get("outputs", []):
            text = output.get("text") or output.get("data", {}).get("text/plain")
            if text:
                lines += [f"```text\n{''.join(text).rstrip()}\n```", ""]
    return "\n".join(lines)
