"""Forced tool calls on this machine: ``make bench``, or ``python benchmarks/agents.py [--quick]``.

Every call is asked for at the first try and checked by LangChain's parser and by pydantic; a mode with an
invalid one stops the run, and nothing is recorded of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError
from record import Record, show
from workload import MODEL

CALLS, QUICK = 200, 6
TOGETHER = 8
"""Calls in flight, so that they share steps."""
ITEMS = (
    "tea",
    "two lamps",
    "a blue chair",
    "paper",
    "seven stamps",
    "ink",
    "an old map",
    "rope",
    "salt",
    "a kite",
)
PLACES = ("Oslo", "Lima", "Kyoto", "Accra", "Turin", "Perth", "Quito", "Riga", "Dakar", "Tromsø")


class Place(BaseModel):
    """Where to deliver."""

    city: str = Field(max_length=16)
    floor: int | None = Field(default=None, ge=0, le=40)


class Line(BaseModel):
    """One thing and how many."""

    item: str = Field(max_length=16)
    count: int = Field(ge=1, le=99)
    unit: Literal["piece", "box"] = "piece"


class Order(BaseModel):
    """Order things."""

    lines: list[Line] = Field(min_length=1, max_length=2)
    place: Place
    express: bool


def main() -> None:
    """Validity in every mode, then what the grammar costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} calls a mode, nothing recorded")
    parser.add_argument("--calls", type=int, help=f"calls a mode; default {CALLS}")
    options = parser.parse_args()
    record = Record("agents", keep=not options.quick)
    validity(record, options.calls or (QUICK if options.quick else CALLS))
    overhead(record, 2 if options.quick else 5)
    show(record)


def validity(record: Record, calls: int) -> None:
    """Share of forced calls with nested arguments that are valid, percent, and calls a minute."""
    from langchain_sfi import SFIChatModel
    from sfi_agent.policy import MODES

    valid, speed = dict[str, list[float]](), dict[str, list[float]]()
    for mode in MODES:
        model = SFIChatModel(
            model=MODEL, policy={"dense_below": 0}, mode=mode, max_tokens=200, temperature=0.7
        )
        bound = model.bind_tools([Order], tool_choice="any")
        asked = [f"Order {ITEMS[i % 10]} for {PLACES[i // 10 % 10]}, no. {i}." for i in range(calls)]
        began, good = time.perf_counter(), 0
        settings = [{"max_concurrency": TOGETHER}] * calls
        for prompt, answer in zip(asked, bound.batch(asked, settings), strict=True):
            good += _valid(prompt, answer)
        if good < calls:
            sys.exit(f"gate: {calls - good} of {calls} forced calls are invalid in mode {mode}")
        valid[mode] = [100 * good / calls]
        speed[mode] = [60 * calls / (time.perf_counter() - began)]
    record.add(f"valid of {calls} forced calls", "%", valid)
    record.add(f"forced calls, {TOGETHER} in flight", "calls/min", speed)


def _valid(prompt: str, answer: Any) -> bool:
    try:
        (call,) = answer.tool_calls
        Order.model_validate(call["args"])
    except (ValueError, ValidationError) as error:
        print(f"{prompt}: {answer.text} {answer.invalid_tool_calls}: {error}", file=sys.stderr)
        return False
    return True


def overhead(record: Record, rounds: int) -> None:
    """What one token's mask takes, and its share of the decode step that it is part of."""
    import torch

    from sfi_agent import Policy, Runtime, Sampling
    from sfi_agent.policy import Grammar

    runtime = Runtime.load(MODEL)
    grammar = Grammar(json_schema=Order.model_json_schema(), max_string=200)
    prompt = runtime.encode("Order two lamps and a blue chair for Oslo, in JSON.")
    sampling, dense = Sampling(grammar=grammar, max_new_tokens=200), Policy(mode="dense")
    masks, steps = list[float](), list[float]()
    for _ in range(rounds):
        result = runtime.generate(prompt, policy=dense, sampling=sampling)
        steps.append(1000 / result.decode_tokens_per_second)
        constraint, answer = runtime._grammars.constraint(grammar), list(result.token_ids[:-1])
        scores = torch.zeros(1, runtime.model.config.vocab_size)
        began = time.perf_counter()
        for length in range(len(answer) + 1):
            scores.masked_fill(~torch.from_numpy(constraint.allowed(answer[:length])), -torch.inf)
        masks.append(1000 * (time.perf_counter() - began) / (len(answer) + 1))
    record.add("one token", "ms", {"mask": masks, "decode step with it": steps})
    record.ratio("mask over decode step", masks, steps, less=True)


if __name__ == "__main__":
    main()
