"""What every test may ask for."""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read once, when something first imports triton

from sfi_agent.models.embedded import ensure_embedded
from tests.interpreting import quicker

if TYPE_CHECKING:
    from tests.browsing import Browser

torch.set_num_threads(1)  # tiny tensors gain nothing from threads, and lose much where cores are shared


@pytest.fixture(scope="session", autouse=True)
def interpreter() -> Iterator[None]:
    """Triton's, where it takes the place of a GPU."""
    if torch.cuda.is_available() or not find_spec("triton"):
        yield
        return
    with quicker():
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos", action="store_true", help="the long form of the tests marked chaos")
    parser.addoption("--no-mosquitto", action="store_true", help="test MQTT as where there is no mosquitto")


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """``rounds(short, long)``: how often a test that draws at random tries."""
    return lambda short, long: long if request.config.getoption("--chaos") else short


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Callable[[Mapping[str, int]], None]:
    """``tell(outcomes)`` prints how often each outcome came, in the long form."""

    def told(outcomes: Mapping[str, int]) -> None:
        if request.config.getoption("--chaos"):
            print(f"\n{request.node.name}: {json.dumps(outcomes)}")

    return told


@pytest.fixture
def uncollected() -> Iterator[None]:
    """No garbage is collected but where a test asks for it: what is gone nobody knew."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """Folder of the embedded model, from the user's own cache: a cold one takes half a minute."""
    return ensure_embedded("smollm2-135m")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window, for tests of pages."""
    from tests.browsing import CHROMIUM, DRIVER, Browser

    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Chromium (Debian: apt-get install chromium chromium-driver)")
    browser = Browser()
    yield browser
    browser.close()
