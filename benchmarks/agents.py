"""What an agent needs, on this machine: ``python benchmarks/agents.py [--quick] [PART ...]``; ``make bench``.

Parts: ``calls`` (are forced calls valid, at the first try, in every mode), ``overhead`` (what a grammar
costs), ``many`` (sessions under a limit), ``huggingface`` (a session of LangChain's ChatHuggingFace beside
ours, in an environment of its own). A part whose gate fails stops the run, and nothing of it is recorded.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chat_huggingface.dialogue import CALLS as CALLS_OF_DIALOGUE
from chat_huggingface.dialogue import TOKENS as TOKENS_OF_DIALOGUE
from chat_huggingface.dialogue import requests
from many import many_sessions
from pydantic import BaseModel, Field, ValidationError
from record import Record, interleaved, show
from workload import MODEL

from sfi_agent.policy import MODES

if TYPE_CHECKING:
    from sfi_agent import Runtime
    from sfi_agent.policy import Grammar

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
    """The parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[[], *PARTS], metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing recorded: does it run?")
    parser.add_argument("--peer", help="Python of the environment that has langchain-huggingface")
    parser.add_argument("--untimed", action="store_true", help="record no times: the machine is busy")
    options = parser.parse_args()
    record = Record("agents", keep=not options.quick, timed=not options.untimed)
    for part in options.parts or PARTS:
        if part == "huggingface" and not options.peer:
            print("huggingface is left out: --peer names its environment's Python (`make bench` does)")
        else:
            PARTS[part](record, options)
    show(record)


def validity(record: Record, options: argparse.Namespace) -> None:
    """Share of forced calls with nested arguments that are valid, percent, and calls a minute."""
    calls = QUICK if options.quick else CALLS
    from langchain_sfi import SFIChatModel

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


def overhead(record: Record, options: argparse.Namespace) -> None:
    """A decode step with a grammar beside one without, taking turns; and the mask alone.

    Both decode the same number of tokens after the same prompt. That their difference drowns in what else
    the machine does is why the mask is timed by itself, too.
    """
    from sfi_agent import Policy, Runtime, Sampling
    from sfi_agent.policy import Grammar

    runtime = Runtime.load(MODEL)
    grammar = Grammar(json_schema=Order.model_json_schema(), max_string=200)
    prompt = runtime.encode("Order two lamps and a blue chair for Oslo, in JSON.")
    dense, rounds = Policy(mode="dense"), 2 if options.quick else 15
    began = time.perf_counter()
    runtime._grammars.constraint(grammar)
    compiled = 1000 * (time.perf_counter() - began)
    constrained = Sampling(grammar=grammar, max_new_tokens=200)
    answer = runtime.generate(prompt, policy=dense, sampling=constrained).token_ids
    free = Sampling(max_new_tokens=len(answer), ignore_eos=True)

    def step(sampling: Sampling) -> float:
        return 1000 / runtime.generate(prompt, policy=dense, sampling=sampling).decode_tokens_per_second

    runs = {
        "without a grammar": lambda: step(free),
        "with one": lambda: step(constrained),
        "its mask": lambda: _mask(runtime, grammar, answer[:-1]),
    }
    samples = interleaved(runs, rounds)
    record.add("decode step", "ms", samples)
    record.add("a grammar's first use", "ms", {"compiling it": [compiled]})
    record.ratio("with over without a grammar", samples["with one"], samples["without a grammar"], less=True)
    record.ratio("mask over step without", samples["its mask"], samples["without a grammar"], less=True)


def _mask(runtime: Runtime, grammar: Grammar, answer: tuple[int, ...]) -> float:
    """Milliseconds a token of finding and applying what may follow."""
    import torch

    constraint, scores = (
        runtime._grammars.constraint(grammar),
        torch.zeros(1, runtime.model.config.vocab_size),
    )
    began = time.perf_counter()
    for length in range(len(answer) + 1):
        scores.masked_fill(~torch.from_numpy(constraint.allowed(answer[:length])), -torch.inf)
    return 1000 * (time.perf_counter() - began) / (len(answer) + 1)


def many(record: Record, options: argparse.Namespace) -> None:
    """Sessions under a limit that holds a few of them."""
    many_sessions(record, quick=options.quick)


def huggingface(record: Record, options: argparse.Namespace) -> None:
    """Tokens a second of an agent's session, prompts included, beside ChatHuggingFace's; taking turns."""
    from sfi_agent.models.embedded import ensure_embedded

    calls, rounds = (2, 1) if options.quick else (CALLS_OF_DIALOGUE, 3)
    folder = str(ensure_embedded(MODEL))

    def theirs() -> float:
        script = Path(__file__).parent / "chat_huggingface/peer.py"
        done = subprocess.run(
            [options.peer, str(script), folder, str(calls)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"ChatHuggingFace failed: {done.stderr.strip()[-500:]}")
        told = json.loads(done.stdout.splitlines()[-1])
        return float(told["tokens"] / told["seconds"])

    runs = {"ChatHuggingFace": theirs, **{mode: partial(_session, folder, mode, calls) for mode in MODES}}
    samples = interleaved(runs, rounds)
    record.add(f"agent's session of {calls} calls", "tokens/s", samples)
    for mode in MODES:
        record.ratio(f"{mode} over ChatHuggingFace", samples[mode], samples["ChatHuggingFace"])


def _session(folder: str, mode: str, calls: int) -> float:
    """Ours: each call continues the session, and reads what is new; nothing is another session's."""
    from langchain_sfi import SFIChatModel
    from langchain_sfi.runtimes import shared_runtime

    model = SFIChatModel(model=folder, mode=mode, max_tokens=TOKENS_OF_DIALOGUE, dtype="bfloat16")
    model.invoke(requests(1)[0])  # loads it
    session, seconds, tokens = f"{mode}-{time.time()}", 0.0, 0
    for messages in requests(calls):
        began = time.perf_counter()
        answer = model.invoke(messages, session_id=session)
        seconds += time.perf_counter() - began
        tokens += answer.usage_metadata["output_tokens"]
    shared_runtime(folder, dtype="bfloat16").drop_session(session)
    return tokens / seconds


PARTS = {"calls": validity, "overhead": overhead, "many": many, "huggingface": huggingface}

if __name__ == "__main__":
    main()
