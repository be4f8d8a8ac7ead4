"""Figures on the pages are those that benchmarks recorded, at the commit named, or those of an experiment."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMITS = {
    "cpu": "1b69607",
    "gpu_steps": "a22d54e",
    "gpu_decode": "ce4f2e5",
    "gpu_prefill": "366c664",
    "gpu_text": "9eaf534",
}
"""Of results that were not recorded at the usual one; a figure may name another: file@commit."""
COMMIT = "0c89d6b"
FIRST, RATIO = "first token of a follow-up", "ratio, higher is better"
DISK = "read from disk by a new process"
MANY, AGENT = "100 sessions of 2003 tokens", "agent's session of 6 calls"
RATIO_LESS = "ratio, lower is better"
STEPS = "dense", "fast", "fast with index", "verify 16"
SHAPES = (1, 8192), (8, 8192), (16, 8192), (1, 32768), (8, 32768), (3, 131072)
TURNS = {
    "transformers, generate, dynamic cache": "dynamic cache |",
    "dense": "| `dense` |",
    "sfi": "| `sfi`, snapkv |",
    "sfi, drawn": "| `sfi`, snapkv, drawn |",
    "sfi, drawn of the likeliest": "`top_p` 0.95 |",
    "sfi with index": "| `sfi`, index |",
    "balanced": "| `balanced` as it comes |",
    "verified, 0.8 accepted, adaptive": "accepted, adaptive |",
    "verified, 0.9 accepted, adaptive": "0.9 of them, adaptive |",
    "verified, 0.95 accepted, adaptive": "0.95 of them, adaptive |",
    "verified, 0.8 accepted": "0.8 of them, drafts of 15 tokens |",
    "verified, 0.9 accepted": "0.9 of them, drafts of 15 tokens |",
    "verified, 0.95 accepted": "0.95 of them, drafts of 15 tokens |",
}
GPU = "explanation/gpu.md"
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
    *(
        (GPU, "gpu_steps", "| {:.2f} | ", f"step, qwen3-4b, {rows} x {context}", name)
        for rows, context in SHAPES
        for name in STEPS
    ),
    *(
        (GPU, "gpu_steps", " | {:.2f} |", RATIO_LESS, f"{name}, over its floor, qwen3-4b, {rows} x {context}")
        for rows, context in SHAPES
        for name in STEPS
    ),
    *(
        (GPU, results, words, f"decode of prose, {rows} x 7000", name)
        for name in ("dense", "fast", "balanced", "exact")
        for results, rows, words in (
            ("gpu_text@05cd943", 1, f"| `{name}` | {{:.0f}} |"),
            ("gpu_text", 16, " | {:.0f} | "),
            ("gpu_text", 64, " | {:.0f} | "),
        )
    ),
    (GPU, "gpu_text@b697d97", "made {:.0f} tokens", "decode of prose, 16 x 7000", "dense"),
    (GPU, "gpu_text@b697d97", "and {:.0f} with", "decode of prose, 16 x 7000", "balanced"),
    *(
        (GPU, "gpu_text", f"{{:.0f}}{after}", "answer until it differs from the dense one, 16 x 7000", name)
        for name, after in (("balanced", " tokens"), ("exact", "; in"), ("fast", ". Of"))
    ),
    *(
        (GPU, results, words, f"decode, qwen3-4b, 8 x {context}", "transformers, generate, dynamic cache")
        for results, words, context in (
            ("gpu_decode@99412d4", "it made up to {:.0f} tokens", 8192),
            ("gpu_decode@cc5e10a", "up to {:.0f} (cc5e10a)", 32768),
        )
    ),
    *(
        (
            GPU,
            results,
            words,
            RATIO,
            "sfi over transformers, generate, dynamic cache, qwen3-4b, 8 x 32768",
        )
        for results, words in (
            ("gpu_decode", "made {:.1f} times\nas many"),
            ("gpu_decode@cc5e10a", "`sfi` made {:.1f} times"),
        )
    ),
    *(
        (GPU, "gpu_decode@366c664", words, f"decode, qwen3-4b, 8 x {context}", f"verified, {rate} accepted")
        for context, rate, words in (
            (8192, 0.9, "tokens made {:.0f} and"),
            (32768, 0.9, "and {:.0f} tokens a second, 0.9"),
            (8192, 0.95, "accepted, and {:.0f} and"),
            (32768, 0.95, "and {:.0f}, 0.95 accepted"),
        )
    ),
    (GPU, "gpu_steps", "`snapkv` takes {:.2f}.", "refresh of one row, qwen3-4b, 8 x 8192", "snapkv"),
    *(
        (GPU, "gpu_steps@05cd943", words, "step, qwen3-4b, 6 x 131072", name)
        for name, words in (
            ("dense", "took {:.2f} ms dense"),
            ("fast", "{:.2f} fast"),
            ("fast with index", "{:.2f} with the index"),
            ("verify 16", "{:.2f} for a verify"),
        )
    ),
    *(
        (
            GPU,
            "gpu_steps",
            "| {:.2f} |",
            f"refresh of one row behind a step, qwen3-4b, {rows} x {context}",
            name,
        )
        for rows, context in ((8, 8192), (8, 32768), (3, 131072))
        for name in ("coding of 24 keys", "snapkv", "paper")
    ),
    *(
        (GPU, "gpu_prefill", words, f"first token, {where}qwen3-4b, a prompt of {tokens}", name)
        for where, name, first in (
            ("alone, ", "transformers, one forward pass", "all of it"),
            ("alone, ", "sfi-agent", "alone"),
            ("8 x 8192 decoding, ", "first token", "tokens decode"),
        )
        for tokens, words in ((8192, f"{first} | {{:.0f}} | "), (32768, " | {:.0f} |"))
    ),
    *(
        (GPU, "gpu_prefill", words, f"pause between tokens of a decoding session, qwen3-4b, {prompt}", name)
        for prompt, name, words in (
            ("a prompt of 8192", "while nothing is read, median", "a token every {:.1f} ms"),
            ("a prompt of 8192", "while the prompt is read, median", "one every {:.1f} ms"),
            ("a prompt of 32768", "while the prompt is read, median", "or {:.1f}"),
            ("a prompt of 8192", "while the prompt is read, longest", "was {:.1f} and"),
            ("a prompt of 32768", "while the prompt is read, longest", "and {:.1f} ms"),
            ("a prompt of 8192", "while nothing is read, longest", "for {:.1f} without"),
        )
    ),
    *(
        (GPU, "gpu_prefill", words, f"first tokens of 8 prompts of 8192 at a time{begins}, qwen3-4b", name)
        for begins, row in (("", "tokens each"), (", the first 7936 of them the same", "the same"))
        for name, words in (
            ("the first of them", f"{row} | {{:.0f}} | "),
            ("median", " | {:.0f} | "),
            ("the last of them", " | {:.0f} |\n"),
        )
    ),
    *(
        (GPU, "gpu_decode", f"{words} {{:.0f}} |", "decode, qwen3-4b, 8 x 8192", name)
        for name, words in TURNS.items()
    ),
    *((GPU, "gpu_decode", "| {:.0f} | ", "decode, qwen3-4b, 8 x 32768", name) for name in TURNS),
    *(
        (GPU, "gpu_decode", "| {:.2f} |", RATIO, f"{name} over dense, qwen3-4b, 8 x {context}")
        for name in [*TURNS][2:]
        for context in (8192, 32768)
    ),
]
README_ROWS = {"balanced": "`balanced`", "paper": "the paper's selector", "recent": "recent tokens only"}
"""Policies of its table, as `frontier.md` calls them and as it does."""


@pytest.mark.parametrize(("page", "results", "words", "measurement", "name"), FIGURES)
def test_a_figure_is_what_was_measured(page, results, words, measurement, name) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    results, _, commit = results.partition("@")
    commit = commit or COMMITS.get(results, COMMIT)
    assert commit in text, "the page names the commit"
    with (ROOT / f"benchmarks/results/{results}.csv").open(encoding="utf-8") as lines:
        found = [
            float(row["p50"])
            for row in csv.DictReader(lines)
            if row["commit"].startswith(commit) and (row["measurement"], row["name"]) == (measurement, name)
        ]
    told = [words.format(value) for value in found]
    assert any(part in text for part in told), f"{page} lacks {told}"


@pytest.mark.parametrize("policy", README_ROWS)
def test_the_readme_says_what_its_page_says(policy) -> None:
    page = (ROOT / "docs/experiments/frontier.md").read_text(encoding="utf-8")
    table = page.partition("**Agreement at KV read 0.15**")[2].partition("**Agreement at KV read 0.25**")[0]
    (row,) = (line for line in table.replace("**", "").splitlines() if line.startswith(f"| {policy} |"))
    told = row.replace(f"| {policy} |", f"| {README_ROWS[policy]} |")
    assert told in (ROOT / "README.md").read_text(encoding="utf-8"), f"README.md lacks {told}"
