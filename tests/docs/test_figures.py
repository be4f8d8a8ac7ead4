"""Figures on the pages are those that benchmarks recorded, at the commit named, or those of an experiment.

Those of GPUs are in ``test_gpu_figures.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recorded import recorded

ROOT = Path(__file__).parents[2]
COMMIT = "0c89d6b"
CPUS = "7424887", "1b69607"
"""Commits of what was measured on two CPUs; the README has the first one's."""
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
    (BUS, "bus", "comes {:.1f} ms later", "added by the bus", "time to first text"),
]
README_ROWS = {"balanced": "`balanced`", "paper": "the paper's selector", "recent": "recent tokens only"}
"""Policies of its table, as `frontier.md` calls them and as it does."""


@pytest.mark.parametrize(("page", "results", "words", "measurement", "name"), FIGURES)
def test_a_figure_is_what_was_measured(page, results, words, measurement, name) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    assert COMMIT in text, "the page names the commit"
    found = recorded(results, COMMIT, measurement, name)
    told = [words.format(value) for value in found]
    assert any(part in text for part in told), f"{page} lacks {told}"


STEP, DEMO = "decode step", "the demo's text"
CPU_ROWS = [
    # A row's label, the measurement, and a ratio: of which kind, its name, and how each CPU's is written.
    ("transformers `generate`, 6,000 tokens", STEP, "transformers generate, 6000 tokens", None),
    (
        "`dense`, 6,000 tokens",
        STEP,
        "dense, 6000 tokens",
        (RATIO, "dense over transformers", "{:.2f} times as fast as transformers, paired", "{:.2f} times"),
    ),
    (
        "fast step of `fast`, 6,000 tokens",
        STEP,
        "fast step of policy fast, 6000 tokens",
        (
            RATIO_LESS,
            "fast step over a decode step at 500 tokens",
            "{:.2f} times the step at 500 tokens, paired",
            "{:.2f} times",
        ),
    ),
    ("`dense`, 500 tokens", STEP, "dense, 500 tokens", None),
    (
        "fast step of `balanced`, 6,000 tokens",
        STEP,
        "fast step of policy balanced, 6000 tokens",
        (RATIO_LESS, "balanced's fast step over dense", "{:.2f} times a dense step, paired", "{:.2f} times"),
    ),
    ("`dense`", DEMO, "dense", None),
    *(
        (f"`{name}`", DEMO, name, (RATIO, f"{name} over dense", "{:.2f}", "{:.2f}"))
        for name in ("fast", "exact", "balanced")
    ),
]


@pytest.mark.parametrize(("label", "measurement", "name", "ratio"), CPU_ROWS)
def test_a_row_of_the_cpus_is_what_was_measured(label, measurement, name, ratio) -> None:
    text = (ROOT / "docs" / SPEED).read_text(encoding="utf-8")
    row = f"| {label} |"
    for number, commit in enumerate(CPUS):
        assert commit in text, "the page names the commit"
        (found,) = recorded("cpu", commit, measurement, name)
        row += f" {found:.0f} |" if measurement == STEP else f" {found:.1f} |"
        row += (
            " |" if ratio is None else f" {ratio[2 + number].format(*recorded('cpu', commit, *ratio[:2]))} |"
        )
    assert row in text.splitlines()


@pytest.mark.parametrize(
    ("page", "words", "measurement", "name"),
    [
        *(
            ("README.md", words, STEP, name)
            for words, name in (
                ("takes transformers {:.0f} ms", "transformers generate, 6000 tokens"),
                ("`dense` {:.0f} ms", "dense, 6000 tokens"),
                ("of `fast` {:.0f} ms", "fast step of policy fast, 6000 tokens"),
            )
        ),
        *(
            ("README.md", words, RATIO, f"{name} over dense")
            for words, name in (
                ("`fast` makes {:.2f} times", "fast"),
                ("`exact` {:.2f}", "exact"),
                ("`balanced` {:.2f}:", "balanced"),
            )
        ),
        *(
            (f"docs/{SPEED}", words, "peak memory", name)
            for words, name in (
                ("transformers {:,.0f} MB", "transformers"),
                ("`dense` {:.0f},", "dense"),
                ("`sfi` {:.0f},", "sfi"),
                ("`verified` {:,.0f}.", "verified"),
            )
        ),
    ],
)
def test_a_cpus_figure_in_words_is_what_was_measured(page, words, measurement, name) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert words.format(*recorded("cpu", CPUS[0], measurement, name)) in text


@pytest.mark.parametrize("policy", README_ROWS)
def test_the_readme_says_what_its_page_says(policy) -> None:
    page = (ROOT / "docs/experiments/frontier.md").read_text(encoding="utf-8")
    table = page.partition("**Agreement at KV read 0.15**")[2].partition("**Agreement at KV read 0.25**")[0]
    (row,) = (line for line in table.replace("**", "").splitlines() if line.startswith(f"| {policy} |"))
    told = row.replace(f"| {policy} |", f"| {README_ROWS[policy]} |")
    assert told in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md lacks {told}"
