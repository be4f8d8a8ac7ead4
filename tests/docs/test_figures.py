"""Figures on the pages are those that benchmarks recorded, at the commit named, or those of an experiment.

Those of GPUs are in ``test_gpu_figures.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recorded import recorded

ROOT = Path(__file__).parents[2]
COMMIT, CPU_COMMIT = "0c89d6b", "1b69607"
"""Of results, and of those on a CPU."""
FIRST, RATIO = "first token of a follow-up", "ratio, higher is better"
DISK = "read from disk by a new process"
MANY, AGENT = "100 sessions of 2003 tokens", "agent's session of 6 calls"
RATIO_LESS = "ratio, lower is better"
SESSIONS, SPEED, BUS = "explanation/sessions.md", "explanation/speed.md", "explanation/bus.md"
FIGURES = [
    (SESSIONS, "sessions", "| reading the whole prompt | {:.1f} |", FIRST, "full prefill"),
    (SESSIONS, "sessions", "| a session in memory | {:.2f} |", FIRST, "in memory"),
    (SESSIONS, "sessions", "the model at hand | {:.2f} |", FIRST, DISK),
    (SESSIONS, "sessions", "| {:.0f} times as long |", RATIO, "full prefill over in memory"),
    (
        SESSIONS,
        "sessions",
        "| {:.1f} times as long |",
        RATIO,
        "full prefill over read from disk by a new process",
    ),
    (SESSIONS, "sessions", "A save writes {:.0f} MB/s", "whole session", "save"),
    (SESSIONS, "sessions", "a load reads {:.0f} MB/s", "whole session", "load"),
    (SESSIONS, "sessions", "checksum), {:.0f} kB a token", "on disk", "whole session"),
    (SESSIONS, "agents", "{:.0f} told their own secret", MANY, "told their own secret"),
    (SESSIONS, "agents", "they took {:.0f} MB at most", MANY, "in memory at most"),
    (SESSIONS, "agents", "at most of {:.0f} MB", MANY, "allowed"),
    (SESSIONS, "agents", "loaded in {:.0f} ms", MANY, "one loaded"),
    (SESSIONS, "agents", "saved in {:.0f} ms", MANY, "one saved"),
    (SESSIONS, "agents", "evicted in {:.0f} ms", MANY, "one evicted"),
    (SPEED, "agents", "| `ChatHuggingFace` | {:.1f} |", AGENT, "ChatHuggingFace"),
    *((SPEED, "agents", f"| `{mode}` | {{:.1f}} |", AGENT, mode) for mode in ("dense", "verified", "sfi")),
    *(
        (SPEED, "agents", f"| {{:.1f}} |\n{after}", RATIO, f"{mode} over ChatHuggingFace")
        for mode, after in (("dense", "| `verified`"), ("verified", "| `sfi`"), ("sfi", "\n"))
    ),
    (SPEED, "agents", "mask takes {:.2f} ms", "decode step", "its mask"),
    (SPEED, "agents", "a decode step of {:.0f} ms", "decode step", "without a grammar"),
    (SPEED, "agents", "costs {:.0f} ms to compile", "a grammar's first use", "compiling it"),
    *(
        (SPEED, "cpu", f"{words} | {{:.0f}} |", "decode step", name)
        for words, name in (
            ("| 223 |", "transformers generate, 6000 tokens"),
            ("as transformers, paired", "dense, 6000 tokens"),
            ("at 500 tokens, paired", "fast step of policy fast, 6000 tokens"),
            ("| 38 |", "dense, 500 tokens"),
            ("a dense step, paired", "fast step of policy balanced, 6000 tokens"),
        )
    ),
    (SPEED, "cpu", "| {:.2f} times |\n| fast", RATIO, "dense over transformers"),
    (SPEED, "cpu", "| {:.2f} times |\n| `dense`", RATIO_LESS, "fast step over a decode step at 500 tokens"),
    (SPEED, "cpu", "| {:.2f} times |\n\n", RATIO_LESS, "balanced's fast step over dense"),
    *(
        (SPEED, "cpu", f"{words} | {{:.1f}} |", "the demo's text", name)
        for words, name in (("17.6 |", "dense"), ("1.14", "fast"), ("0.98", "exact"), ("0.41", "balanced"))
    ),
    *(
        (SPEED, "cpu", f"| {{:.2f}} |\n{after}", RATIO, f"{name} over dense")
        for name, after in (("fast", "| `exact`"), ("exact", "| `balanced`"), ("balanced", "\n"))
    ),
    (BUS, "bus", "comes {:.1f} ms later", "added by the bus", "time to first text"),
]
README_ROWS = {"balanced": "`balanced`", "paper": "the paper's selector", "recent": "recent tokens only"}
"""Policies of its table, as `frontier.md` calls them and as it does."""


@pytest.mark.parametrize(("page", "results", "words", "measurement", "name"), FIGURES)
def test_a_figure_is_what_was_measured(page, results, words, measurement, name) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    commit = CPU_COMMIT if results == "cpu" else COMMIT
    assert commit in text, "the page names the commit"
    found = recorded(results, commit, measurement, name)
    told = [words.format(value) for value in found]
    assert any(part in text for part in told), f"{page} lacks {told}"


@pytest.mark.parametrize("policy", README_ROWS)
def test_the_readme_says_what_its_page_says(policy) -> None:
    page = (ROOT / "docs/experiments/frontier.md").read_text(encoding="utf-8")
    table = page.partition("**Agreement at KV read 0.15**")[2].partition("**Agreement at KV read 0.25**")[0]
    (row,) = (line for line in table.replace("**", "").splitlines() if line.startswith(f"| {policy} |"))
    told = row.replace(f"| {policy} |", f"| {README_ROWS[policy]} |")
    assert told in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md lacks {told}"
