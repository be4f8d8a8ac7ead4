"""A real browser without a window, for tests of pages."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from typing import Any

from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
PATIENCE = 30.0
"""Seconds until something that must happen counts as not happening; a passing test waits for none."""
QUIET = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-background-networking",
    "disable-dev-shm-usage",
)


class Browser:
    """Chromium, with one page open at a time.

    Attributes:
        driver: selenium's.
    """

    def __init__(self) -> None:
        assert CHROMIUM
        assert DRIVER
        options = Options()
        options.binary_location = CHROMIUM
        for flag in QUIET:
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(DRIVER))

    def open(self, url: str, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Load a page, and wait until it says that it is ready."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [theme]})
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # what is left of the page before
        self.driver.get(url)
        self.until("document.documentElement.dataset.ready === 'yes'")

    def ask(self, expression: str, *arguments: Any) -> Any:
        """The value of a JavaScript expression; ``arguments`` is an array there."""
        return self.driver.execute_script(f"return {expression}", *arguments)

    def until(self, expression: str, *arguments: Any) -> Any:
        """Wait until a JavaScript expression is true; returns its value."""
        return waited(lambda: self.ask(expression, *arguments), lambda: f"{expression}; {self.problems()}")

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        ActionChains(self.driver).send_keys(*keys).perform()

    def point(self, selector: str, across: float = 0.5, down: float = 0.5, *, click: bool = False) -> None:
        """Move the pointer to a place in an element, told by shares of its width and height."""
        place = self.driver.find_element("css selector", selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
        width, height = place.size["width"], place.size["height"]
        x, y = int((across - 0.5) * width), int((down - 0.5) * height)
        actions = ActionChains(self.driver).move_to_element_with_offset(place, x, y)
        (actions.click() if click else actions).perform()

    def problems(self) -> list[str]:
        """What the console said of errors and warnings since the last call."""
        said = self.driver.get_log("browser")
        return [entry["message"] for entry in said if entry["level"] in ("SEVERE", "WARNING")]

    def requested(self) -> list[str]:
        """The addresses that were asked for since the last call."""
        told = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [each["params"] for each in told if each["method"] == "Network.requestWillBeSent"]
        return [each["request"]["url"] for each in asked]

    def close(self) -> None:
        self.driver.quit()


def waited(true: Callable[[], Any], told: Callable[[], str]) -> Any:
    """Wait until something is true; returns it."""
    deadline = time.monotonic() + PATIENCE
    while not (found := true()):
        assert time.monotonic() < deadline, told()
        time.sleep(0.02)
    return found
