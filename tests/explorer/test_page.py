"""The page in a browser: an upload, a slider and a run, the numbers of `align`, and nothing asked of anybody else."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmerank import Convention, Example, align
from mmerank.jobs.explorer.browsed import Browsed
from mmerank.jobs.explorer.measured import Explorer
from mmerank.jobs.explorer.served import bound, server, without_telemetry
from tests.adapters.cases import CASES, LLAVA, examples
from tests.browser import asked_for, axe, chromium, needs_chromium, violations

pytestmark = [
    pytest.mark.slow,
    needs_chromium,
    pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="needs gradio: pip install '.[explore]'"),
]
LONGEST_S = 40  # what only ends a wait that would never end
TEXT = "A dog and a red ball on the grass."
EVIL = "<img src=http://127.0.0.1:9/x onerror=document.title='owned'>"


@pytest.fixture(scope="module")
def connected() -> Iterator[list[Any]]:
    """To where this process connects; the browser is another."""
    found: list[Any] = []

    class Watched(socket.socket):
        def connect(self, address: Any) -> None:
            found.append(address)
            super().connect(address)

        def connect_ex(self, address: Any) -> int:
            found.append(address)
            return super().connect_ex(address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "socket", Watched)
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, connected: list[Any]) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("explored") / "run"
    first, second, third = examples()
    maps = Convention(patches=True)
    align(LLAVA.adapter, [first, Example(EVIL, second.image, "", EVIL), third], convention=maps, out=folder)
    without_telemetry()
    from mmerank.jobs.explorer.page import blocks

    explorers = [Explorer(case.adapter) for case in CASES[:2]]
    with bound("127.0.0.1", None) as listening:
        serving = server(blocks(explorers, Browsed(folder)), "127.0.0.1")
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            wait(lambda: serving.started or not thread.is_alive())
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            serving.should_exit = serving.force_exit = True
            thread.join()


@pytest.fixture(scope="module")
def browser(page: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        driver.set_script_timeout(300)
        driver.get(page)
        yield driver


def wait(until: Callable[[], Any]) -> Any:
    end = time.monotonic() + LONGEST_S
    while not (found := until()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found


def text_of(browser: Any, css: str) -> str:
    return str(browser.execute_script("return (document.querySelector(arguments[0]) || {}).textContent || ''", css))


def numbers(browser: Any, within: str) -> list[list[str]]:
    """What is shown of each model, in the order of the page."""
    script = (
        "return [...document.querySelectorAll(arguments[0] + ' section.side')].map("
        "side => [...side.querySelectorAll('.value')].map(value => value.textContent))"
    )
    found: list[list[str]] = browser.execute_script(script, within)
    return found


def expected(example: Example) -> list[list[str]]:
    results = [align(case.adapter, [example]) for case in CASES[:2]]
    labels = [f"erank{i}" for i in range(1, 6)]
    ratios = ["image_reduction_ratio", "image_text_alignment"]
    return [
        [*(f"{getattr(of, name):.2f}" for name in labels), *(f"{getattr(of, name):.4f}" for name in ratios)]
        for of in results
    ]


def write(browser: Any, css: str, value: str) -> None:
    """As a person does: the value, and then away from it."""
    field = browser.find_element("css selector", css)
    field.clear()
    field.send_keys(value)
    browser.execute_script("arguments[0].blur()", field)


def test_upload_and_slider_give_the_numbers_of_align(browser: Any, page: str, tmp_path: Path) -> None:
    wait(lambda: numbers(browser, "#numbers"))
    write(browser, "#text textarea", TEXT)
    picture = examples()[0].image
    assert isinstance(picture, Image.Image)
    picture.save(tmp_path / "mine.png")
    before = expected(Example("mine", tmp_path / "mine.png", "", TEXT))
    browser.find_element("css selector", "#upload input").send_keys(str(tmp_path / "mine.png"))
    wait(lambda: numbers(browser, "#numbers") == before)

    write(browser, "#rotate input[type=number]", "90")
    wait(lambda: "--transform rotate:90" in text_of(browser, "#picture"))
    turned = Example("mine", picture.transpose(Image.Transpose.ROTATE_270), "", TEXT)
    wait(lambda: numbers(browser, "#numbers") == expected(turned))
    assert f"before {before[0][0]}" in text_of(browser, "#numbers") and before != expected(turned)

    browser.find_element("xpath", "//button[contains(., 'Undo')]").click()
    wait(lambda: numbers(browser, "#numbers") == before)
    assert browser.find_element("css selector", "#rotate input[type=number]").get_attribute("value") == "0"


def test_no_picture_is_told_and_the_page_goes_on(browser: Any, page: str, tmp_path: Path) -> None:
    (tmp_path / "none.png").write_bytes(b"no picture")
    browser.find_element("css selector", "#upload input").send_keys(str(tmp_path / "none.png"))
    wait(lambda: "the picture" in text_of(browser, "#numbers .message"))
    write(browser, "#blur input[type=number]", "2")
    wait(lambda: len(numbers(browser, "#numbers")) == 2)


def test_a_run_is_looked_through(browser: Any, page: str) -> None:
    from selenium.webdriver import ActionChains

    browser.find_element("xpath", "//button[@role='tab'][contains(., 'The run')]").click()

    def cells(column: int) -> list[str]:
        script = (
            "return [...document.querySelectorAll(`#examples [role=gridcell]:nth-child(${arguments[0]})`)]"
            ".filter(cell => cell.offsetParent).map(cell => cell.textContent.trim())"
        )
        found: list[str] = browser.execute_script(script, column)
        return found

    wait(lambda: len(cells(1)) == 3)
    assert EVIL in cells(1)  # as text
    row = cells(1).index(EVIL)
    cell = browser.find_elements("css selector", "#examples [role=gridcell]:nth-child(1)")[row]
    ActionChains(browser).move_to_element(cell).click().perform()
    result = align(LLAVA.adapter, [Example(EVIL, examples()[1].image, "", EVIL)])
    wait(lambda: numbers(browser, "#found") and numbers(browser, "#found")[0][4] == f"{result.erank5:.2f}")
    # What one tab draws does not refer to what stands in the other.
    assert browser.execute_script("return document.querySelectorAll('.explored .maps').length") == 3
    ids = browser.execute_script("return [...document.querySelectorAll('.explored [id]')].map(of => of.id)")
    assert len(ids) == len(set(ids)) > 0


def test_nothing_was_logged_and_nobody_else_asked(browser: Any, page: str, connected: list[Any]) -> None:
    assert not browser.get_log("browser")
    urls = asked_for(browser, page)
    assert any(url.endswith("/queue/join") for url in {url.partition("?")[0] for url in urls})  # they are seen at all
    assert not [url for url in urls if not url.startswith((page, "data:", "blob:"))]
    assert browser.title == "mmerank explore" and not browser.find_elements("css selector", "img[onerror]")
    # selenium itself speaks to its driver.
    assert {address[0] for address in connected if isinstance(address, tuple)} <= {"127.0.0.1", "localhost", "::1"}
    assert connected


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_both_colours(browser: Any, page: str, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page)
    wait(lambda: numbers(browser, "#numbers"))
    assert browser.execute_script("return document.documentElement.scrollWidth") == 390
    ground = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is (scheme == "light")
    assert not violations(browser, axe())
    browser.find_element("xpath", "//button[@role='tab'][contains(., 'The run')]").click()
    wait(lambda: browser.execute_script("return document.querySelector('#examples .search-input[aria-label]')"))
    assert not violations(browser, axe())
