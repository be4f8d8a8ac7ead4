"""Figures of the pages about GPUs are those that benchmarks recorded, at the commits that the pages name."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from tests.recorded import recorded

EXPLANATION = Path(__file__).parents[2] / "docs/explanation"
WHY, FIGURES = "gpu.md", "gpu-figures.md"
COMMITS = {
    "gpu_steps": "2837e58",
    "gpu_decode": "7a3f41f",
    "gpu_prefill": "366c664",
    "gpu_text": "564a9e5",
}
"""Of figures that name no other: results@commit."""
Cell = str | tuple[str, str, str, str]
"""How a number is written, in which results it is, the measurement and its name; or what stands there."""
LOWER, HIGHER = "ratio, lower is better", "ratio, higher is better"
GENERATE, FORWARD = "transformers, generate, dynamic cache", "transformers, one forward pass"
LENGTHS = 8192, 32768
SHAPES = (1, 8192), (8, 8192), (16, 8192), (1, 32768), (8, 32768), (3, 131072)
LARGEST = (8, 8192), (8, 32768), (3, 131072)
PROSE = "decode of prose, {} x 7000"
SFI_OVER = f"sfi over {GENERATE}, qwen3-4b, 8 x 32768"
BEGINNINGS = {
    "of other tokens each": "",
    "the first 7,936 tokens the same": ", the first 7936 of them the same",
}
TURNS = {
    "`sfi`, snapkv": "sfi",
    "`sfi`, snapkv, drawn": "sfi, drawn",
    "`sfi`, snapkv, drawn with `top_k` 20 and `top_p` 0.95": "sfi, drawn of the likeliest",
    "`sfi`, index": "sfi with index",
    "`balanced` as it comes": "balanced",
    "`verified`, 0.8 of them, drafts of 15 tokens": "verified, 0.8 accepted",
    "`verified`, 0.9 of them, drafts of 15 tokens": "verified, 0.9 accepted",
    "`verified`, 0.95 of them, drafts of 15 tokens": "verified, 0.95 accepted",
}
ADAPTIVE = {
    "0.8 of the drafted tokens accepted": "verified, 0.8 accepted, adaptive",
    "0.9 of them": "verified, 0.9 accepted, adaptive",
    "0.95 of them": "verified, 0.95 accepted, adaptive",
}
JUDGED = "@564a9e5"


def step(name: str, shape: str, commit: str = "") -> Cell:
    return "{:.2f}", f"gpu_steps{commit}", f"step, {shape}", name


def steps(shape: str, commit: str = "") -> list[Cell]:
    """Milliseconds of each kind of step, and times its floor."""
    return [
        cell
        for name in ("dense", "fast", "fast with index", "verify 16")
        for cell in (
            step(name, shape, commit),
            ("{:.2f}", f"gpu_steps{commit}", LOWER, f"{name}, over its floor, {shape}"),
        )
    ]


def refresh(name: str, shape: str) -> Cell:
    return "{:.2f}", "gpu_steps", f"refresh of one row behind a step, {shape}", name


def turns(name: str, *, commit: str = "") -> list[Cell]:
    """Tokens a second at both lengths."""
    return [("{:.0f}", f"gpu_decode{commit}", f"decode, qwen3-4b, 8 x {length}", name) for length in LENGTHS]


def over_dense(name: str, *, commit: str = "") -> list[Cell]:
    results = f"gpu_decode{commit}"
    return [("{:.2f}", results, HIGHER, f"{name} over dense, qwen3-4b, 8 x {length}") for length in LENGTHS]


def first(name: str, where: str = "alone", commit: str = "") -> list[Cell]:
    """Milliseconds until a first token, of both prompts."""
    measurement = f"first token, {where}, qwen3-4b, a prompt of "
    return [("{:.0f}", f"gpu_prefill{commit}", f"{measurement}{length}", name) for length in LENGTHS]


def pause(which: str, commit: str = "") -> list[Cell]:
    """Milliseconds between tokens while each of both prompts is read."""
    measurement = "pause between tokens of a decoding session, qwen3-4b, a prompt of "
    name = f"while the prompt is read, {which}"
    return [("{:.1f}", f"gpu_prefill{commit}", f"{measurement}{length}", name) for length in LENGTHS]


def interleaved(figures: list[Cell], beside: list[Cell]) -> list[Cell]:
    return [cell for pair in zip(figures, beside, strict=True) for cell in pair]


ROWS: list[tuple[str, str, list[Cell]]] = [
    *((FIGURES, f"{rows} x {length:,}", steps(f"qwen3-4b, {rows} x {length}")) for rows, length in SHAPES),
    (FIGURES, "6 x 131,072", steps("qwen3-4b, 6 x 131072", "@05cd943")),
    *(
        (FIGURES, f"{called}, 8 x {length:,}", steps(f"{called.lower()}, 8 x {length}", "@99412d4"))
        for called, length in product(("Llama-3-8B", "Qwen3-0.6B"), LENGTHS)
    ),
    *(
        (
            FIGURES,
            f"{rows} x {length:,}",
            [step(name, f"qwen3-4b, {rows} x {length}") for name in ("dense", "slow")]
            + [
                refresh(name, f"qwen3-4b, {rows} x {length}")
                for name in ("coding of 24 keys", "snapkv", "paper")
            ],
        )
        for rows, length in LARGEST
    ),
    *(
        (
            FIGURES,
            f"{rows} x {length:,}",
            [
                step("fast", f"qwen3-4b, {rows} x {length}"),
                step("one row dense, the others fast", f"qwen3-4b, {rows} x {length}"),
                needed,
                step("one row dense, of 24 tokens, the others fast", f"qwen3-4b, {rows} x {length}"),
            ],
        )
        for (rows, length), needed in zip(LARGEST, ("0.2", "1.0", "4.4"), strict=True)
    ),
    (FIGURES, "transformers, one forward pass over all of it", first(FORWARD)),
    (FIGURES, "alone", first("sfi-agent")),
    (FIGURES, "alone, before", first("sfi-agent", commit="@fc13228")),
    (FIGURES, "while 8 sessions of 8,192 tokens decode", first("first token", "8 x 8192 decoding")),
    (FIGURES, "the same, before", first("first token", "8 x 8192 decoding", "@fc13228")),
    (FIGURES, "a token every", pause("median")),
    (FIGURES, "the same, before", pause("median", "@fc13228")),
    (FIGURES, "the longest pause, with a slow step and a refresh in it", pause("longest")),
    *(
        (
            FIGURES,
            label,
            [
                (
                    "{:.0f}",
                    "gpu_prefill",
                    f"first tokens of 8 prompts of 8192 at a time{begins}, qwen3-4b",
                    name,
                )
                for name in ("the first of them", "median", "the last of them")
            ],
        )
        for label, begins in BEGINNINGS.items()
    ),
    (FIGURES, "transformers `generate`, dynamic cache", interleaved(turns(GENERATE), ["0.04", "0.10"])),
    (FIGURES, "`dense`", interleaved(turns("dense"), ["", ""])),
    *((FIGURES, label, interleaved(turns(name), over_dense(name))) for label, name in TURNS.items()),
    *(
        (
            FIGURES,
            f"`verified`, {label}, adaptive",
            interleaved(turns(name, commit=JUDGED), over_dense(name, commit=JUDGED)),
        )
        for label, name in ADAPTIVE.items()
    ),
    *((FIGURES, label, turns(name)) for label, name in ADAPTIVE.items()),
    *(
        (
            FIGURES,
            f"`{name}`",
            [
                *(("{:.0f}", "gpu_text", PROSE.format(rows), name) for rows in (1, 16, 64)),
                read,
            ],
        )
        for name, read in {
            "dense": "",
            "fast": "0.17",
            "balanced": "0.20",
            "exact": "1.00",
        }.items()
    ),
    *(
        (WHY, label, [*(step(name, f"qwen3-4b, 8 x {length}") for length in LENGTHS), link])
        for label, name, link in (
            ("a dense step of 8 sessions, ms", "dense", "[steps](gpu-figures.md#steps)"),
            ("a fast step of 8 sessions, ms", "fast", ""),
            ("a fast step of 8 sessions with the index, ms", "fast with index", ""),
            ("a pass over 16 drafted tokens of each of 8 sessions, ms", "verify 16", ""),
        )
    ),
    (
        WHY,
        "one session's memory chosen anew by `snapkv` behind a step, ms",
        [
            *(refresh("snapkv", f"qwen3-4b, 8 x {length}") for length in LENGTHS),
            "[refreshes](gpu-figures.md#refreshes)",
        ],
    ),
    *(
        (WHY, label, [*first(name), link])
        for label, name, link in (
            (
                "a prompt of so many tokens until the first one of the answer, ms",
                "sfi-agent",
                "[prompts](gpu-figures.md#prompts)",
            ),
            ("the same prompt in one forward pass of transformers, ms", FORWARD, ""),
        )
    ),
    *(
        (WHY, label, [*turns(name, commit=commit), link])
        for label, name, commit, link in (
            (
                "tokens a second of 8 sessions: `dense`",
                "dense",
                "",
                "[whole turns](gpu-figures.md#whole-turns)",
            ),
            ("of `sfi`, snapkv", "sfi", "", ""),
            ("of `sfi`, index", "sfi with index", "", ""),
            ("of `balanced` as it comes", "balanced", "", ""),
            (
                "of `verified`, 0.9 of the drafted tokens accepted, adaptive",
                "verified, 0.9 accepted, adaptive",
                JUDGED,
                "",
            ),
            ("of transformers `generate`, dynamic cache", GENERATE, "", ""),
        )
    ),
]
"""Rows of tables: the page, what begins them, and the cells behind that."""

WORDS: list[tuple[str, tuple[str, str, str, str]]] = [
    *(
        (words, ("{:.2f}", f"gpu_steps@{commit}", LOWER, f"fast, over its floor, qwen3-4b, {shape}"))
        for words, commit, shape in (
            ("fast steps of 8 x 8,192, 16 x 8,192 and 8 x 32,768 took {} to", "95475da", "8 x 8192"),
            ("1.28 to {}, 1.30", "98580d3", "8 x 8192"),
            (", {} to 1.32 and", "95475da", "16 x 8192"),
            ("1.30 to {} and", "98580d3", "16 x 8192"),
            ("and {} to 1.34 times", "95475da", "8 x 32768"),
            ("1.30 to {} times their floor", "98580d3", "8 x 32768"),
        )
    ),
    *(
        (words, ("{:.0f}", f"gpu_decode{commit}", f"decode, qwen3-4b, 8 x {length}", GENERATE))
        for words, commit, length in (
            ("it made from {} (a22d54e)", "@a22d54e", 8192),
            ("to {} (99412d4) tokens a second", "@99412d4", 8192),
            ("from {} (7a3f41f)", "", 32768),
            ("to {} (cc5e10a)", "@cc5e10a", 32768),
            ("transformers made {} tokens a second", "@99412d4", 8192),
        )
    ),
    ("in the same runs, {} and", ("{:.1f}", "gpu_decode", HIGHER, SFI_OVER)),
    ("and {} times as many", ("{:.1f}", "gpu_decode@cc5e10a", HIGHER, SFI_OVER)),
    *(
        (words, ("{:.0f}", "gpu_decode@99412d4", "decode, qwen3-4b, 8 x 8192", name))
        for words, name in (
            ("it made {} with its static one", "transformers, generate, static cache"),
            ("and {} with its continuous batching", "transformers, continuous batching"),
        )
    ),
    *(
        (words, ("{:.2f}", results, LOWER, f"peak memory over weights and KV, qwen3-4b, {shape}"))
        for words, results, shape in (
            ("at 8 x 32,768 is {} times weights and KV", "gpu_steps", "8 x 32768"),
            ("(peak memory {} times weights and KV)", "gpu_steps@05cd943", "6 x 131072"),
        )
    ),
    (
        "at 8 x 8,192 `snapkv` takes {}.",
        ("{:.2f}", "gpu_steps", "refresh of one row, qwen3-4b, 8 x 8192", "snapkv"),
    ),
    *(
        (
            words,
            (
                "{:.1f}",
                "gpu_prefill",
                "pause between tokens of a decoding session, qwen3-4b, a prompt of 8192",
                f"while nothing is read, {which}",
            ),
        )
        for words, which in (("a token every {} ms", "median"), ("longest pause is {} ms", "longest"))
    ),
    *(
        (
            f"| `{name}` | {{}} tokens",
            ("{:.0f}", "gpu_text", "answer until it differs from the dense one, 16 x 7000", name),
        )
        for name in ("balanced", "exact", "fast")
    ),
    *(
        (words, ("{:.0f}", "gpu_text@b697d97", PROSE.format(16), name))
        for words, name in (("16 sessions made {} tokens", "dense"), ("and {} with `balanced`", "balanced"))
    ),
]
"""What the page of figures says in words, and the number in it."""


def told(cell: Cell, page: str) -> list[str]:
    """What may stand in a cell: a measurement may have been made more than once."""
    if isinstance(cell, str):
        return [cell]
    form, results, measurement, name = cell
    results, _, commit = results.partition("@")
    commit = commit or COMMITS[results]
    assert commit in page, "the page names the commit"
    return [form.format(value) for value in recorded(results, commit, measurement, name)]


@pytest.mark.parametrize(("page", "label", "cells"), ROWS)
def test_a_row_is_what_was_measured(page: str, label: str, cells: list[Cell]) -> None:
    text = (EXPLANATION / page).read_text(encoding="utf-8")
    rows = [
        "".join(f"| {cell} " if cell else "| " for cell in (label, *row)) + "|"
        for row in product(*(told(cell, text) for cell in cells))
    ]
    assert set(rows) & set(text.splitlines()), f"{page} lacks {rows}"


DECODE = "decode, qwen3-4b, 8 x 32768"
README: list[tuple[str, tuple[str, str, str, str]]] = [
    *(
        (words, ("{:.1f}", "gpu_steps", "step, qwen3-4b, 8 x 32768", name))
        for words, name in (
            ("takes {} ms dense", "dense"),
            ("{} fast", "fast"),
            ("{} with", "fast with index"),
        )
    ),
    *(
        (words, ("{:,.0f}", f"gpu_decode{commit}", DECODE, name))
        for words, commit, name in (
            ("{} tokens a second dense", "", "dense"),
            ("{} slow-fast", "", "sfi"),
            ("{} with the index", "", "sfi with index"),
            ("`generate` makes {},", "", GENERATE),
            ("a faster host {}.", "@cc5e10a", GENERATE),
        )
    ),
]


@pytest.mark.parametrize(("words", "cell"), README)
def test_the_readme_says_what_was_measured(words: str, cell: Cell) -> None:
    text = " ".join((EXPLANATION.parents[1] / "README.md").read_text(encoding="utf-8").split())
    said = [
        words.format(number) for number in told(cell, (EXPLANATION / FIGURES).read_text(encoding="utf-8"))
    ]
    assert any(part in text for part in said), f"README.md lacks {said}"


@pytest.mark.parametrize(("words", "cell"), WORDS)
def test_a_figure_in_words_is_what_was_measured(words: str, cell: Cell) -> None:
    text = " ".join((EXPLANATION / FIGURES).read_text(encoding="utf-8").split())
    said = [words.format(number) for number in told(cell, text)]
    assert any(part in text for part in said), f"{FIGURES} lacks {said}"
