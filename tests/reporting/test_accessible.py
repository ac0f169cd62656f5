"""Pages by axe-core: contrast, labels, headings and what the keyboard reaches, in light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmerank import Convention, TextConvention, align, diff, load_data, perturb
from mmerank.jobs.diff import open_diff_run
from mmerank.report.write import report
from tests.adapters.cases import LLAVA, MINIGPT_V2, examples
from tests.adapters.text_cases import OPT
from tests.browser import axe, chromium, needs_chromium, violations
from tests.test_diff_erank import texts

pytestmark = [pytest.mark.slow, needs_chromium]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with a part of most kinds: two models, maps, layers, transforms and nulls, scores, texts."""
    folder = tmp_path_factory.mktemp("accessible")
    asked = Convention(match_tokens=4, patches=True)
    align(LLAVA.adapter, load_data("demo"), limit=2, convention=asked, layers="all", out=folder / "align")
    align(
        MINIGPT_V2.adapter, load_data("demo"), limit=2, convention=Convention(match_tokens=4), out=folder / "align-2"
    )
    changes: Any = ["rotate:90,180"]
    perturb(LLAVA.adapter, examples(), changes, controls=["mismatch"], control_draws=2, out=folder / "perturb")
    opened = open_diff_run(folder / "diff", texts(3), TextConvention(), layers="")
    opened.write_summary({"results": [diff(OPT.adapter, texts(3), out=opened).to_dict()]})
    scores = folder / "scores.csv"
    scores.write_text(f"model,benchmark,value,unit\n{LLAVA.adapter.name},POPE,0.5,fraction\n")
    runs = [folder / name for name in ("align", "align-2", "perturb", "diff")]
    (path,) = report(runs, folder / "out", formats=["html"], scores=[scores], scatter=["erank1,erank5"])
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.set_script_timeout(300)
        yield driver


@pytest.mark.parametrize(("preference", "width"), [("light", 1280), ("dark", 390)])
def test_nothing_that_axe_finds(browser: Any, page: Path, preference: str, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": preference}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    browser.get(page.as_uri())
    assert not violations(browser, axe())
    cut = "return [...document.querySelectorAll('figure')].filter(of => of.scrollWidth > of.clientWidth + 1).length"
    assert browser.execute_script(cut) == 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    # The smallest letters of figures, as they are seen.
    smallest = browser.execute_script(
        "return Math.min(...[...document.querySelectorAll('figure svg text')].map(of => {"
        " const svg = of.closest('svg'), box = svg.getBoundingClientRect();"
        " const drawn = parseFloat(getComputedStyle(of).fontSize) / svg.viewBox.baseVal.width;"
        " return box.width ? drawn * box.width : 99; }))"
    )
    assert smallest >= 7


def test_that_it_would_be_found(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(
        '<!DOCTYPE html><html lang="en"><head><title>x</title></head><body><main><h1>x</h1>'
        '<p style="color: #999; background: #fff">faint</p><img src="data:,"></main></body></html>'
    )
    browser.get((tmp_path / "bad.html").as_uri())
    assert {"color-contrast", "image-alt"} <= {rule for rule, _, _ in violations(browser, axe())}
