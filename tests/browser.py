"""Chromium without a window, for the tests of pages: what it logs and asks for can be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and its driver")


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={profile}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def asked_for(browser: Any, page: str) -> list[str]:
    """The addresses that a page asked for since this was last called; the browser's own first tab is not ours."""
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [message["params"] for message in sent if message["method"] == "Network.requestWillBeSent"]
    return [request["request"]["url"] for request in requests if request["documentURL"] == page]


def axe() -> str:
    """The script of axe-core, as the package has it."""
    pytest.importorskip("axe_core_python", reason="needs axe-core-python")
    return files("axe_core_python").joinpath("axe.min.js").read_text(encoding="utf-8")


def violations(browser: Any, script: str) -> list[tuple[str, str, str]]:
    """Rule, what it says, and the first element that breaks it; of everything that can be opened on the page."""
    browser.execute_script("document.querySelectorAll('details').forEach(of => { of.open = true; })")
    browser.execute_script(script)
    found = browser.execute_async_script(
        "const done = arguments[arguments.length - 1];"
        "axe.run(document, {resultTypes: ['violations']}).then(done, error => done({error: String(error)}));"
    )
    assert "error" not in found, found
    # A rule that fails itself, as contrast does of a colour that it cannot read, breaks nothing and looks at nothing.
    assert not [of["error"] for of in found["incomplete"] if of.get("error")]
    assert "color-contrast" in {of["id"] for of in [*found["passes"], *found["violations"]]}
    return [(of["id"], of["help"], of["nodes"][0]["html"][:200]) for of in found["violations"]]
