"""Traces made up for tests of the page."""

from __future__ import annotations

from functools import lru_cache

import torch

from sfi_agent.details import Memory, Step, Token
from sfi_agent.runtime.strips import strip
from sfi_agent.trace import Trace, TurnTrace

NASTY = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "&lt;b&gt;",
    "\u2028\u2029",
    "日本語 🙂 עברית",
    "\x00\x1b[31m\u202e",
    "{title} ${x} `y`",
    "\\u003c/script>\\",
)
"""Text that would break a page which reads it as anything but text."""


def trace(*turns: TurnTrace) -> Trace:
    return Trace(sfi_agent="0", model="made-up", turns=list(turns))


def nasty() -> Trace:
    """Every place that shows text of others' has such text."""
    tokens = [
        Token(id=i, text=text, mark="corrected", step=0, boundary=text, drafted=text)
        for i, text in enumerate(NASTY)
    ]
    turn = TurnTrace(
        runtime=NASTY[0],
        session=NASTY[1],
        turn=1,
        mode="verified",
        prompt_tokens=len(NASTY),
        policy={"selector": NASTY[1], "budget": 0.5, "boundaries": list(NASTY)},
        prompt=list(NASTY),
        tokens=tokens,
        steps=[step(0, fast=False, position=len(NASTY), tokens=3)],
        memories=[memory(0, len(NASTY))],
        finish_reason=NASTY[0],
    )
    return Trace(sfi_agent=NASTY[0], model=NASTY[0], turns=[turn, turn.model_copy(update={"turn": 2})])


def step(number: int, *, fast: bool, position: int, tokens: int = 1) -> Step:
    seconds = (0.050 if fast else 0.080) + 0.001 * (number % 7)
    dense = 1000 * (position + 1)
    read = 0.15 * dense if fast else float(dense)
    return Step(
        number=number, fast=fast, position=position, tokens=tokens, seconds=seconds, read=read, dense=dense
    )


def memory(number: int, length: int, *, layers: int = 30, heads: int = 3, share: float = 0.125) -> Memory:
    """A memory with positions drawn at random, another for every number."""
    generator = torch.Generator().manual_seed(number)
    sink, tail = min(4, length // 4), max(length - 64, length // 2)
    count = max(1, int(share * length))
    chosen = {
        layer: torch.randint(sink, max(tail, sink + 1), (heads, count), generator=generator)
        for layer in range(layers)
    }
    shown = strip(chosen, sink, tail, length)
    return Memory(step=number, sink=sink, tail=tail, length=length, seconds=None, read=0.0, **shown)


@lru_cache(maxsize=2)
def long(prompt: int = 8_000, steps: int = 1_000, slow_every: int = 25) -> Trace:
    """A turn of so many steps, whose memory was chosen anew, and at random, at every fast one."""
    words = ["the", " heap", " of", "\n", " a", " tree", ".", " and"]
    kinds = [number % slow_every != slow_every - 1 for number in range(steps)]
    tokens = [Token(id=1, text="First", mark="prompt", step=-1)]
    tokens += [
        Token(
            id=2,
            text=words[number % len(words)],
            mark="fast" if fast else "slow",
            step=number,
            boundary="punctuation" if words[number % len(words)] == "." else "",
        )
        for number, fast in enumerate(kinds)
    ]
    turn = TurnTrace(
        session="long",
        turn=1,
        mode="sfi",
        prompt_tokens=prompt,
        read=prompt,
        policy={"selector": "index", "budget": 0.125, "boundaries": ["punctuation"]},
        prompt=[f" word{number}" for number in range(prompt)],
        tokens=tokens,
        steps=[step(number, fast=fast, position=prompt + number) for number, fast in enumerate(kinds)],
        memories=[memory(number, prompt + number + 1) for number, fast in enumerate(kinds) if fast],
        finish_reason="length",
        cost={"drafted": 0, "accepted": 0, "kv_read_fraction": 0.184, "first_token_seconds": 12.5},
    )
    return trace(turn)
