"""The embedded model on real text: ``python benchmarks/gpu_text.py [--quick] [ROWS ...]``.

Every row is a session that has read its own stretch of prose, each 64 tokens on from the one before; for each
policy all are forked, and answer at the same time. Recorded are tokens a second of all rows together, how
many of the drafted tokens were accepted, KV bytes read, and how far an answer goes before it differs from the
dense one's (all of it, where it never does).
``--quick`` is a trial on any machine, with short texts, and records nothing.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import takewhile

import torch
from record import Record, show
from together import Turn, read, together
from workload import MODEL, long_prompt

from sfi_agent import Runtime, Sampling
from sfi_agent.policy import Policy
from sfi_agent.runtime.pages import PAGE
from sfi_agent.runtime.result import TurnResult

ROWS = (1, 4, 16, 64)
CONTEXT, TOKENS, ROUNDS, UNTIMED = 7000, 256, 3, 3
"""Of several rows each round may bring steps of new shapes, which are captured: by when rows meet."""
POSITION_BYTES = 2**16
"""Of the embedded model's keys and values in all layers, at most."""
POLICIES = ("dense", "fast", "balanced", "exact")


def main() -> None:
    """As many rows as asked for, one number after another."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", type=int, help="sessions at a time")
    parser.add_argument("--quick", action="store_true", help="a trial on short texts; records nothing")
    options = parser.parse_args()
    context, tokens, rounds = (600, 48, 1) if options.quick else (CONTEXT, TOKENS, ROUNDS)
    untimed = 0 if options.quick else UNTIMED
    counts = options.rows or ((1, 3) if options.quick else ROWS)
    on_gpu = torch.cuda.is_available()
    dtype = "bfloat16" if on_gpu else "float32"
    room = max(counts) * (context + (1 + len(POLICIES)) * (tokens + 4 * PAGE)) * POSITION_BYTES
    runtime = Runtime.load(MODEL, device="cuda" if on_gpu else "cpu", dtype=dtype, kv_bytes=room)
    text = long_prompt(runtime, context + max(counts) * PAGE)
    record = Record("gpu_text", keep=not options.quick)
    sampling = Sampling.of(max_new_tokens=tokens, ignore_eos=True)
    for count in counts:
        prompts = [text[PAGE * row : PAGE * row + context] for row in range(count)]
        measure(record, runtime, prompts, sampling, (untimed, rounds), f"{count} x {context}")
    show(record)


def measure(
    record: Record,
    runtime: Runtime,
    prompts: list[list[int]],
    sampling: Sampling,
    rounds: tuple[int, int],
    where: str,
) -> None:
    """One number of rows, policy after policy in turns."""
    rates: dict[str, list[float]] = {name: [] for name in POLICIES}
    answers: dict[str, list[TurnResult]] = {}
    # By a policy whose selector asks for queries, which the others may leave.
    texts = [
        Turn(prompt, runtime.registry.policy("fast"), f"text-{row}") for row, prompt in enumerate(prompts)
    ]
    read(runtime, texts)
    untimed, timed = rounds
    for index in range(untimed + timed):
        for name in POLICIES:
            policy = Policy(mode="dense") if name == "dense" else runtime.registry.policy(name)
            turns = [Turn(prompt, policy, f"{name}-{row}") for row, prompt in enumerate(prompts)]
            for text, turn in zip(texts, turns, strict=True):
                runtime.fork(text.session, turn.session)
            rate, answers[name] = together(runtime, turns, sampling)
            for turn in turns:
                runtime.drop_session(turn.session)
            if index >= untimed:
                rates[name].append(rate)
    for text in texts:
        runtime.drop_session(text.session)
    record.add(f"decode of prose, {where}", "tokens/s", rates)
    for name in POLICIES[1:]:
        record.ratio(f"{name} over dense, prose, {where}", rates[name], rates["dense"])
    agreed = {
        name: [_agreed(one, other) for one, other in zip(answers[name], answers["dense"], strict=True)]
        for name in POLICIES[1:]
    }
    record.add(f"answer until it differs from the dense one, {where}", "tokens", agreed)
    shares = {name: [result.kv_read_fraction for result in answers[name]] for name in POLICIES[1:]}
    record.add(f"KV bytes read over dense, prose, {where}", "share", shares)
    drafted = [float(result.drafted) for result in answers["exact"]]
    record.add(f"drafted tokens, prose, {where}", "tokens", {"exact": drafted})
    kept = [result.accepted / result.drafted for result in answers["exact"] if result.drafted]
    record.add(f"drafted tokens accepted, prose, {where}", "share", {"exact": kept} if kept else {})
    print(f"{where}: " + ", ".join(f"{name} {statistics.median(each):.1f}" for name, each in rates.items()))


def _agreed(answer: TurnResult, dense: TurnResult) -> float:
    """Tokens before the first that differs."""
    pairs = zip(answer.token_ids, dense.token_ids, strict=False)
    return float(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)))


if __name__ == "__main__":
    main()
