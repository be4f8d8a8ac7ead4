"""Reading prompts on a GPU: ``python benchmarks/gpu_prefill.py [--model NAME] [TOKENS ...]``.

Weights and prompts are random numbers, so only speed is measured: until the first token of one session's
answer, also where steps of its shapes are compiled and captured first, and of transformers' own forward pass
over the whole prompt; while eight sessions of 8,192 tokens decode slow-fast, until the reading session's
first token, and between the decoding ones' tokens, beside the same while nothing is read; and until the first
tokens of eight sessions whose prompts come at a time, also where all but their last tokens are the same.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from record import Record, interleaved, show
from rig import RECENT, SELECTED, plain_tokenizer, random_model

from sfi_agent.models.load import Loaded
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.pages import PAGE
from sfi_agent.runtime.runtime import Runtime

PROMPTS = 8192, 32768
ROUNDS = 5
DECODING, CONTEXT = 8, 8192
"""Sessions that decode meanwhile, and their prompts' tokens."""
ALONE = 64
"""Tokens that each of them decodes before another one's prompt comes."""
AT_A_TIME, OWN = (8, 8192), 256
"""Prompts that come together, and their tokens; those that each has of its own where they begin alike."""


def main() -> None:
    """Prompt after prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tokens", nargs="*", type=int, default=list(PROMPTS), help="of the prompt")
    parser.add_argument("--model", default="qwen3-4b", help="qwen3-4b, qwen3-0.6b or llama-3-8b")
    options = parser.parse_args()
    record = Record("gpu_prefill")
    model = random_model(options.model)
    peers = {tokens: peer(model, tokens) for tokens in options.tokens}
    shape = model.config
    entry = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 2
    held = DECODING * (CONTEXT + 8 * PAGE + 2048) + 2 * max(options.tokens)
    loaded = Loaded(options.model, model, plain_tokenizer(shape.vocab_size))
    runtime = Runtime(loaded, kv_bytes=held * entry)
    for tokens in options.tokens:
        first = {"the first such prompt": [first_token(runtime, tokens)]}
        runs = {"sfi-agent": lambda tokens=tokens: first_token(runtime, tokens)}
        samples = first | interleaved(runs, ROUNDS) | {"transformers, one forward pass": peers[tokens]}
        where = f"{options.model}, a prompt of {tokens}"
        record.add(f"first token, alone, {where}", "ms", samples)
        theirs = ROUNDS * [statistics.median(peers[tokens])]
        record.ratio(f"first token over transformers, {where}", samples["sfi-agent"], theirs, less=True)
    for tokens in options.tokens:
        among(record, runtime, f"{options.model}, a prompt of {tokens}", tokens)
    several(record, runtime, options.model, alike=False)
    several(record, runtime, options.model, alike=True)
    show(record)


def prompt_of(tokens: int) -> list[int]:
    """One that no session holds."""
    return torch.randint(0, 1000, (tokens,)).tolist()


def first_token(
    runtime: Runtime, tokens: int, begin: Sequence[int] = (), session: str | None = None
) -> float:
    """Milliseconds until the first token of a new session whose prompt begins with these tokens."""
    one = Sampling.of(max_new_tokens=1, ignore_eos=True)
    policy = Policy.of(mode="sfi", selector="snapkv")
    prompt, began = [*begin, *prompt_of(tokens - len(begin))], time.perf_counter()
    runtime.generate(prompt, policy=policy, sampling=one, session=session)
    return 1000 * (time.perf_counter() - began)


def among(record: Record, runtime: Runtime, where: str, tokens: int) -> None:
    """A prompt that is read while others decode."""
    memory = {"budget": SELECTED + RECENT, "recent": RECENT, "min_gap": 0, "max_interval": 10**6}
    every = {"interval": {"every": 24}}
    policy = Policy.of(
        selector="snapkv", boundaries=("interval",), boundary_settings=every, repair=False, **memory
    )
    spent: list[float] = []
    pauses: dict[str, list[float]] = {}
    for index in range(ROUNDS + 1):
        ready, over = threading.Barrier(DECODING + 1), threading.Event()
        times: list[list[float]] = [[] for _ in range(DECODING)]

        def decode(times: list[float], ready=ready, over=over) -> None:
            sampling = Sampling.of(max_new_tokens=1920, ignore_eos=True)
            with runtime.stream(prompt_of(CONTEXT), policy=policy, sampling=sampling) as stream:
                for chunk in stream:
                    times += [time.perf_counter()] * len(chunk.token_ids)
                    if len(times) == ALONE:
                        ready.wait()
                    if over.is_set():
                        break

        threads = [threading.Thread(target=decode, args=(own,)) for own in times]
        for thread in threads:
            thread.start()
        ready.wait()
        time.sleep(0.2)
        began = time.perf_counter()
        first = first_token(runtime, tokens)
        ended = time.perf_counter()
        over.set()
        for thread in threads:
            thread.join()
        if index == 0:
            continue
        spent.append(first)
        gaps = {
            "while nothing is read": [1000 * gap for own in times for gap in within(own, own[ALONE], began)],
            "while the prompt is read": [1000 * gap for own in times for gap in within(own, began, ended)],
        }
        for name, found in gaps.items():
            for kind, value in (("median", statistics.median(found)), ("longest", max(found))):
                pauses.setdefault(f"{name}, {kind}", []).append(value)
    record.add(f"first token, {DECODING} x {CONTEXT} decoding, {where}", "ms", {"first token": spent})
    record.add(f"pause between tokens of a decoding session, {where}", "ms", pauses)


def several(record: Record, runtime: Runtime, model: str, *, alike: bool) -> None:
    """Prompts that come at the same time, and differ in their last tokens only if they are ``alike``."""
    count, tokens = AT_A_TIME
    spent: dict[str, list[float]] = {"the first of them": [], "median": [], "the last of them": []}
    for index in range(ROUNDS + 1):
        ready, found = threading.Barrier(count), [0.0] * count
        begin = prompt_of(tokens - OWN) if alike else []

        def read(own: int, ready=ready, found=found, begin=begin) -> None:
            ready.wait()
            found[own] = first_token(runtime, tokens, begin, f"s{own}" if alike else None)

        threads = [threading.Thread(target=read, args=(own,)) for own in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for own in range(count if alike else 0):
            runtime.drop_session(f"s{own}")
        if index:
            for name, value in zip(spent, (min(found), statistics.median(found), max(found)), strict=True):
                spent[name].append(value)
    begins = f", the first {tokens - OWN} of them the same" if alike else ""
    record.add(f"first tokens of {count} prompts of {tokens} at a time{begins}, {model}", "ms", spent)


def within(times: list[float], first: float, last: float) -> list[float]:
    """Pauses that begin and end between two times."""
    return [late - early for early, late in pairwise(times) if early >= first and late <= last]


def peer(model: Any, tokens: int) -> list[float]:
    """Milliseconds of transformers' forward pass over a prompt."""
    model.set_attn_implementation("sdpa")
    spent = []
    for index in range(3):
        ids = torch.randint(0, 1000, (1, tokens), device=model.device)
        torch.cuda.synchronize()
        began = time.perf_counter()
        with torch.inference_mode():
            model(ids, logits_to_keep=1, use_cache=True).logits.argmax().item()
        if index:
            spent.append(1000 * (time.perf_counter() - began))
    torch.cuda.empty_cache()
    return spent


if __name__ == "__main__":
    main()
