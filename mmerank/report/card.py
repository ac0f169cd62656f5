"""The card of runs on the hub: their numbers, and what must be known to compare them with others."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mmerank.analysis.finished import Finished
from mmerank.report.how_to import how_to_report
from mmerank.report.numbers import all_numbers
from mmerank.report.render.formats import markdown, markdown_list
from mmerank.report.tables import lists, printed_tables
from mmerank.runs.fetched import RUNS
from mmerank.runs.parts import FOLDER

TAG = "mmerank"
_WITH_PAGE = "`report.html` shows them with the examples."
_WITHOUT = "Texts and pictures are not among them."


def card(runs: Sequence[Finished], repository: str, *, with_page: bool = False) -> str:
    """The card of a data set of runs.

    Args:
        runs: As they lie in the data set, each under its name there.
        repository: `owner/name`.
        with_page: Whether the page of a report lies beside it.

    Returns:
        Markdown with its metadata, by which the hub shows the records of each run as a table.
    """
    import yaml

    metadata = {
        "tags": [TAG, "effective-rank"],
        "configs": [{"config_name": run.name, "data_files": f"{RUNS}/{run.name}/{FOLDER}/*.parquet"} for run in runs],
    }
    numbers = all_numbers(runs)
    tables = [markdown(table) for table in printed_tables(runs, numbers) if table.first]
    listed = [f"- {_about(run)}" for run in runs]
    one = runs[0]
    whole = [f"hub:{repository}", *([f"hub:{repository}/{one.name}"] if len(runs) > 1 else [])]
    model = f", model={next(iter(one.frames))!r}" if len(one.frames) > 1 else ""
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {repository.partition('/')[2]}",
        "Effective ranks of hidden token representations, measured with mmerank.",
        *(text.strip() for text in tables),
        *(markdown_list(of).strip() for of in lists(runs).values()),
        "## How to report these numbers",
        *(paragraph for run in runs for paragraph in how_to_report(run)),
        "## Runs",
        "\n".join(listed),
        "## Read them again",
        f"```bash\nmmerank report {whole[0]} --out report\n```",
        f'```python\nimport mmerank\n\nresult = mmerank.{one.kind.result}.from_run("{whole[-1]}"{model})\n```',
        "Every run is a run folder: settings, summary, and a record for each example and measurement, with entropy, "
        f"number of tokens and spectrum. {_WITH_PAGE if with_page else _WITHOUT}",
    ]
    return "\n\n".join(parts) + "\n"


def _about(run: Finished) -> str:
    """What a run was made with."""
    versions = ", ".join(f"{name} {of}" for name, of in run.settings.get("versions", {}).items())
    left_out = sum(len(result.get("skipped", [])) for result in run.results.values())
    counts = ", ".join(f"{model}: n = {run.n(model)}" for model in run.frames)
    skipped = f"; {left_out} examples left out" if left_out else ""
    return (
        f"`{run.name}`: {run.job} on {run.data}; {counts}{skipped}. "
        f"Convention: `{json.dumps(run.convention)}`. Versions: {versions}."
    )
