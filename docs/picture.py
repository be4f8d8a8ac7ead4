"""Make docs/images/eye.png: the page of a real answer's trace, as a browser shows it.

Usage: python docs/picture.py (needs the extra ``eye``, and Chromium). It asks what a heap is, at length.
"""

from __future__ import annotations

import heapq
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sfi_agent import Policy, Runtime, Sampling
from sfi_agent.trace import Recorder, write

TARGET = Path(__file__).parent / "images" / "eye.png"
TOKENS, SHOWN = 160, 41
WIDTH, HEIGHT = 1000, 1030


def main() -> None:
    """Decode, write the page, take its picture."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("needs Chromium (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        trace(page)
        command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += [f"--window-size={WIDTH},{HEIGHT}", "--virtual-time-budget=10000"]
        subprocess.run([*command, f"--screenshot={TARGET}", f"{page.as_uri()}#{SHOWN}"], check=True)
    print(f"wrote {TARGET.name}")


def trace(page: Path) -> None:
    """The trace of a verified answer."""
    policy = Policy(mode="verified", boundaries=("punctuation",), adaptive_draft=False, max_draft=12)
    recorder = Recorder("smollm2-135m")
    with Runtime.load("smollm2-135m", dtype="float32") as runtime, runtime.observers.heard_by(recorder):
        prompt = runtime.encode(
            f"{heapq.__about__}\n\nExplain at length what a heap is and what it is good for."
        )
        runtime.generate(prompt, policy=policy, sampling=Sampling(max_new_tokens=TOKENS), session="heap")
    write(recorder.trace, page)


if __name__ == "__main__":
    main()
