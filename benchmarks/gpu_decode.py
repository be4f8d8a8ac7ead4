"""Decoding whole turns on a GPU: ``python benchmarks/gpu_decode.py [--model NAME] [ROWSxCONTEXT ...]``.

Weights and contexts are random numbers, so only speed is measured. Every row is a session whose turn runs
through the runtime as a user's does, one thread a row: dense, slow-fast over 2,048 positions and 256 recent
ones that a selector chooses at slow steps (``snapkv``) or at every step by two-bit codes (``index``), with a
slow step every 20 to 28 tokens, and the former with tokens drawn, from all and from the likeliest; policy
``balanced`` as it comes; and verified, drafts over the first, of 15 tokens and of as many as pay, up to 15,
each token of which is accepted with a given probability: drawn, since random weights agree by chance alone.
Beside it runs transformers'
``generate`` on as many rows, its steps timed inside one call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from drawn import accepted_at
from record import Record, show
from rig import RECENT, SELECTED, Rig, plain_tokenizer, random_model
from together import Turn, together
from transformers import DynamicCache, GenerationConfig, StaticCache, StoppingCriteria

from sfi_agent.models.load import Loaded
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.pages import PAGE
from sfi_agent.runtime.runtime import Runtime

SHAPES = ("1x8192", "8x8192", "8x32768")
TOKENS, ROUNDS = 160, 3
PEER_STEPS = 12
DRAFT, RATES = 15, (0.8, 0.9, 0.95)
"""Of verified decoding: tokens of a draft, and how likely each is accepted."""


def main() -> None:
    """Shape after shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), help="rows x context, as in 8x32768")
    parser.add_argument("--model", default="qwen3-4b", help="qwen3-4b, qwen3-0.6b or llama-3-8b")
    parser.add_argument("--only", default="", help="what has this in its name, beside dense and transformers")
    parser.add_argument("--static", action="store_true", help="transformers with a static cache, too: slow")
    parser.add_argument("--continuous", action="store_true", help="its continuous batching, too")
    options = parser.parse_args()
    sizes = [tuple(map(int, each.split("x"))) for each in options.shapes]
    record = Record("gpu_decode")
    model = random_model(options.model)
    kinds = {"generate, dynamic cache": False}
    if options.static:
        kinds["generate, static cache"] = True
    peers = {
        size: {kind: peer(model, *size, static=static) for kind, static in kinds.items()} for size in sizes
    }
    if options.continuous:
        for size in sizes:
            peers[size]["continuous batching"] = continuous(model, *size)
    tokens = max(rows * (context + 4 * PAGE + TOKENS) for rows, context in sizes)
    shape = model.config
    tokenizer = plain_tokenizer(shape.vocab_size)
    entry = 2 * shape.num_hidden_layers * shape.num_key_value_heads * shape.head_dim * 2
    runtime = Runtime(Loaded(options.model, model, tokenizer), kv_bytes=(tokens + 2 * PAGE) * entry)
    for store in (runtime.pool.keys, runtime.pool.values):
        for layer in store:
            layer.normal_()
    for rows, context in sizes:
        where = f"{options.model}, {rows} x {context}"
        turns(record, runtime, where, rows, context, peers[rows, context], options.only)
    show(record)


def turns(
    record: Record,
    runtime: Runtime,
    where: str,
    rows: int,
    context: int,
    peers: dict[str, list[float]],
    only: str,
) -> None:
    """Tokens a second of all rows together, mode by mode in turns."""
    memory = {"budget": SELECTED + RECENT, "recent": RECENT, "min_gap": 0, "max_interval": 10**6}
    policies = {
        "dense": Policy.of(mode="dense"),
        "sfi": Policy.of(selector="snapkv", boundaries=("interval",), repair=False, **memory),
        "sfi with index": Policy.of(selector="index", boundaries=("interval",), repair=False, **memory),
        "balanced": runtime.registry.policy("balanced"),
    }
    verified = Policy.of(
        mode="verified", selector="snapkv", boundaries=("interval",), max_draft=DRAFT, **memory
    )
    prompts = [torch.randint(0, 1000, (context + 1,)).tolist() for _ in range(rows)]
    drawn = {
        "sfi, drawn": {"temperature": 1.0, "seed": 0},
        "sfi, drawn of the likeliest": {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "seed": 0},
    }

    def verified_at(accepted: float, *, adaptive: bool) -> float:
        own = SELECTED + RECENT + RATES.index(accepted)  # what drafts gave is remembered policy by policy
        with accepted_at(accepted):
            return rate_of(runtime, verified.but(adaptive_draft=adaptive, budget=own), prompts)

    runs = {name: partial(rate_of, runtime, policy, prompts) for name, policy in policies.items()}
    runs |= {name: partial(runs["sfi"], **settings) for name, settings in drawn.items()}
    for rate in RATES:
        runs[f"verified, {rate} accepted"] = partial(verified_at, rate, adaptive=False)
        runs[f"verified, {rate} accepted, adaptive"] = partial(verified_at, rate, adaptive=True)
    runs = {name: run for name, run in runs.items() if only in name or name == "dense"}
    ours = [*runs]
    samples: dict[str, list[float]] = {name: [] for name in ours}
    for index in range(ROUNDS + 1):
        for name, run in runs.items():
            rate = run()
            if index:
                samples[name].append(rate)
    others = {f"transformers, {kind}": steps for kind, steps in peers.items() if steps}
    samples |= {name: [1000 * rows / step for step in steps] for name, steps in others.items()}
    record.add(f"decode, {where}", "tokens/s", samples)
    for name in ours[1:]:
        record.ratio(f"{name} over dense, {where}", samples[name], samples["dense"])
        for other in others:
            median = statistics.median(samples[other])
            record.ratio(f"{name} over {other}, {where}", samples[name], [median] * ROUNDS)


def rate_of(runtime: Runtime, policy: Policy, prompts: list[list[int]], **settings: Any) -> float:
    """Tokens a second of rows whose contexts are whatever the pool holds, with these sampling settings."""
    rig = Rig(runtime.model, runtime.pool, None)

    def prepare(index: int) -> None:
        prompt = prompts[index]
        with runtime.sessions.held(f"row-{index}", None) as session:
            session.row, session.tokens = rig.row(len(prompt) - 1), prompt[:-1]

    def own(index: int) -> Policy:
        every = {"interval": {"every": 20 + index % 9}}
        return policy.but(boundary_settings=every) if "interval" in policy.boundaries else policy

    each = [Turn(prompt, own(index), f"row-{index}") for index, prompt in enumerate(prompts)]
    sampling = Sampling.of(max_new_tokens=TOKENS, ignore_eos=True, **settings)
    rate, _ = together(runtime, each, sampling, prepare)
    for turn in each:
        runtime.drop_session(turn.session)
    return rate


class Clock(StoppingCriteria):
    """Notes when each of ``generate``'s steps ended."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        if input_ids.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def peer(model: Any, rows: int, context: int, *, static: bool) -> list[float]:
    """Milliseconds of transformers' own last steps; none where memory runs out.

    A static cache has its forward compiled and captured in the first steps.
    """
    model.set_attn_implementation("sdpa")
    shape, clock, kind = model.config, Clock(), "static" if static else "dynamic"
    tokens = PEER_STEPS * (2 if static else 1)
    cache: Any = None
    try:
        cache = StaticCache(shape, context + tokens + 1) if static else DynamicCache(config=shape)
        places = {"cache_position": torch.arange(context, device=model.device)}
        for layer in range(shape.num_hidden_layers):
            size = rows, shape.num_key_value_heads, context, shape.head_dim
            pair = (torch.randn(size, device=model.device, dtype=model.dtype) for _ in range(2))
            cache.update(*pair, layer, places)
        ids = torch.randint(0, 1000, (rows, context + 1), device=model.device)
        model.generate(
            ids, past_key_values=cache, max_new_tokens=tokens, do_sample=False, eos_token_id=None,
            pad_token_id=0, stopping_criteria=[clock], attention_mask=torch.ones_like(ids),
        )  # fmt: skip
    except torch.OutOfMemoryError as error:
        print(f"transformers generate, {kind} cache, at {rows} x {context}: {str(error).splitlines()[0]}")
        return []
    finally:
        del cache
        torch.cuda.empty_cache()
    steps = [1000 * (late - early) for early, late in pairwise(clock.times)][1 - PEER_STEPS :]
    median = statistics.median(steps)
    print(f"transformers generate, {kind} cache, at {rows} x {context}: {median:.1f} ms a step")
    return steps


def continuous(model: Any, rows: int, context: int) -> list[float]:
    """Milliseconds of the last steps of transformers' continuous batching, from its own timestamps.

    It reads the contexts itself: it has no way in for a cache.
    """
    from transformers.generation import ContinuousBatchingConfig

    model.set_attn_implementation("sdpa")
    prompts = [torch.randint(1, 1000, (context,)).tolist() for _ in range(rows)]
    try:
        answers = model.generate_batch(
            prompts,
            generation_config=GenerationConfig(
                max_new_tokens=2 * PEER_STEPS, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(max_memory_percent=0.6),
            record_timestamps=True,
        )
        times = [answer.timestamps for answer in answers.values()]
        steps = [1000 * (late - early) for each in times for early, late in pairwise(each[-PEER_STEPS:])]
    except Exception as error:
        print(f"transformers continuous batching at {rows} x {context}: {type(error).__name__}: {error}")
        return []
    finally:
        torch.cuda.empty_cache()
    if not steps:
        print(f"transformers continuous batching at {rows} x {context} gave no timestamps")
        return []
    print(f"transformers continuous batching at {rows} x {context}: {statistics.median(steps):.1f} ms a step")
    return steps


if __name__ == "__main__":
    main()
