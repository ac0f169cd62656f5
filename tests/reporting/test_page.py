"""The page in a browser: it sorts and filters, nothing is logged or requested, and nothing hostile runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmerank import align, load_data
from mmerank.report.write import report
from tests.adapters.cases import LLAVA
from tests.browser import asked_for, chromium, needs_chromium

pytestmark = [pytest.mark.slow, needs_chromium]
EVIL = "</script><script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    records = []
    rng = np.random.default_rng(0)
    for i, name in enumerate(["b", EVIL, "a"]):
        Image.fromarray(rng.integers(0, 255, (30 + 10 * i, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": f"{EVIL} {'word ' * 3 * (i + 1)}"}]
        records.append({"id": name, "image": f"{i}.png", "conversations": turns})
    (folder / "pairs.json").write_text(json.dumps(records))
    align(LLAVA.adapter, load_data(f"llava:{folder}/pairs.json?images={folder}"), out=folder / "run")
    (path,) = report([folder / "run"], formats=["html"])
    return path


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.get(page.as_uri())
        yield driver


def cells(browser: Any, column: int) -> list[str]:
    script = (
        f"return [...document.querySelectorAll('.examples tbody tr')].map(row => row.cells[{column}].textContent)"
    )
    found: list[str] = browser.execute_script(script)
    return found


def test_it_sorts_filters_and_asks_for_nothing(browser: Any, page: Path) -> None:
    heads = [button.text for button in browser.find_elements("css selector", ".examples thead button")]
    column = heads.index("tokens")
    before = cells(browser, column)
    buttons = browser.find_elements("css selector", ".examples thead button")
    buttons[column].click()
    assert cells(browser, column) == sorted(before, key=float) and len(set(before)) == 3
    buttons[column].click()
    assert cells(browser, column) == sorted(before, key=float, reverse=True)
    buttons[0].click()
    assert [name for name in cells(browser, 0) if len(name) == 1] == ["a", "b"] and EVIL in cells(browser, 0)
    filters = browser.find_elements("css selector", ".examples thead input")
    filters[column].send_keys(f"<{max(map(float, before))}")
    assert len(cells(browser, column)) == 2
    filters[0].send_keys("onerror")
    assert cells(browser, 0) == [EVIL]

    assert browser.title.startswith("mmerank") and not browser.find_elements("css selector", "img[onerror]")
    assert not browser.get_log("browser")
    urls = asked_for(browser, page.as_uri())
    assert page.as_uri() in urls  # so requests are seen at all
    assert not [url for url in urls if url != page.as_uri() and not url.startswith("data:")]


def test_it_fits_a_phone(browser: Any) -> None:
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    # Figures are as wide as the page, and none is cut.
    cut = "return [...document.querySelectorAll('figure')].filter(of => of.scrollWidth > of.clientWidth).length"
    assert browser.execute_script(cut) == 0
    # A table that does not fit says so until its end is seen.
    goes_on = """
        const done = arguments[0];
        document.querySelectorAll("details").forEach(of => { of.open = true; });
        const boxes = [...document.querySelectorAll(".wide")].filter(of => of.scrollWidth > of.clientWidth + 1);
        const marked = () => boxes.map(of => of.classList.contains("goes-on"));
        requestAnimationFrame(() => setTimeout(() => {
          const before = marked();
          for (const of of boxes) of.scrollLeft = of.scrollWidth;
          requestAnimationFrame(() => setTimeout(() => done([before, marked()])));
        }));
    """
    before, after = browser.execute_async_script(goes_on)
    assert before and all(before) and not any(after)


def test_it_follows_the_preference_for_dark(browser: Any) -> None:
    colours = []
    for preference in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": preference}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colours.append(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert colours[0] == "rgb(255, 255, 255)" and colours[1] != colours[0]
