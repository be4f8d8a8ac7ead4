"""Speed on this machine's CPU: ``make bench``, or ``python benchmarks/cpu.py [--quick] [name ...]``.

The gate comes first: no time is taken unless dense output equals transformers' and verified output
equals dense output in float32. Then everything that is compared runs in one process, taking turns,
and medians and ratios of paired rounds are appended to ``benchmarks/results/cpu.csv``.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from linears import linears
from record import Record, interleaved, show
from workload import MODEL, long_prompt

if TYPE_CHECKING:
    from sfi_agent import Policy

CONTEXT = 6000
SHORT = 500
TOKENS = 24
ROUNDS = 5


def main() -> None:
    """Gate, then the chosen measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"any of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes, nothing recorded: does it run?")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print(_peak(options.peak, SHORT if options.quick else CONTEXT))
        return
    if unknown := set(options.names) - set(MEASUREMENTS):
        parser.error(f"unknown measurement {sorted(unknown)}; known: {', '.join(MEASUREMENTS)}")
    gate(300 if options.quick else 1000)
    record = Record("cpu", keep=not options.quick)
    for name in options.names or MEASUREMENTS:
        MEASUREMENTS[name](record, options.quick)
    show(record)


def gate(context: int) -> None:
    """Stop unless the float32 outputs agree token for token."""
    from sfi_agent import Policy, Runtime, Sampling
    from sfi_agent.evaluate.compare import compare

    runtime = Runtime.load(MODEL, dtype="float32")
    sampling = Sampling(max_new_tokens=32, ignore_eos=True)
    done = compare(runtime, long_prompt(runtime, context), Policy(dense_below=0), sampling, repeats=1)
    outputs = {name: result.token_ids for name, result in done.results.items()}
    if outputs["dense"] != outputs["transformers"] or not done.verified_equals_dense:
        sys.exit(f"gate: outputs differ in float32, so nothing is timed: {outputs}")
    print(f"gate: dense = transformers and verified = dense over 32 tokens at {context} tokens, float32")


def steps(record: Record, quick: bool) -> None:
    """Milliseconds of a decode step: transformers and ours at the full context, ours at a short one."""
    from sfi_agent import Runtime, Sampling

    context, short = (600, 100) if quick else (CONTEXT, SHORT)
    runtime = Runtime.load(MODEL)
    sampling = Sampling(max_new_tokens=TOKENS, ignore_eos=True)
    prompts = {"long": long_prompt(runtime, context), "short": long_prompt(runtime, short)}
    never = {"boundaries": (), "max_interval": 10 * TOKENS, "dense_below": 0}

    def ours(mode: str, prompt: str, named: str = "fast") -> Callable[[], float]:
        policy, session = runtime.registry.policy(named).but(mode=mode, **never), f"{mode}-{prompt}-{named}"
        return lambda: (
            1000
            / runtime.generate(
                prompts[prompt], policy=policy, sampling=sampling, session=session
            ).decode_tokens_per_second
        )

    runs = {
        f"transformers generate, {context} tokens": _transformers_steps(runtime, prompts["long"]),
        f"dense, {context} tokens": ours("dense", "long"),
        f"fast step of policy fast, {context} tokens": ours("sfi", "long"),
        f"dense, {short} tokens": ours("dense", "short"),
        f"fast step of policy balanced, {context} tokens": ours("sfi", "long", "balanced"),
    }
    samples = interleaved(runs, 2 if quick else ROUNDS)
    names = list(runs)
    record.add("decode step", "ms", samples)
    record.ratio("dense over transformers", samples[names[0]], samples[names[1]])
    record.ratio(
        f"fast step over a decode step at {short} tokens", samples[names[2]], samples[names[3]], less=True
    )
    record.ratio("balanced's fast step over dense", samples[names[4]], samples[names[1]], less=True)


def verified(record: Record, quick: bool) -> None:
    """Tokens a second of verified, sfi and dense on the demo's document and question."""
    from langchain_sfi.demo.document import FOLLOW_UP, library_manual
    from sfi_agent import Runtime, Sampling

    runtime = Runtime.load(MODEL)
    document = library_manual(800 if quick else 5000, lambda text: len(runtime.encode(text, raw=True)), 4711)
    prompt = runtime.encode(document.ask(FOLLOW_UP))
    sampling = Sampling(max_new_tokens=64, ignore_eos=True)

    def ours(policy: Policy) -> Callable[[], float]:
        session = f"{policy.mode}-{policy.selector}"
        return lambda: (
            runtime.generate(
                prompt, policy=policy, sampling=sampling, session=session
            ).decode_tokens_per_second
        )

    named = {name: runtime.registry.policy(name).but(dense_below=0) for name in ("fast", "balanced", "exact")}
    policies = {"dense": named["fast"].but(mode="dense"), **named}
    samples = interleaved({name: ours(policy) for name, policy in policies.items()}, 2 if quick else ROUNDS)
    record.add("the demo's text", "tokens/s", samples)
    for name in named:
        record.ratio(f"{name} over dense", samples[name], samples["dense"])


def memory(record: Record, quick: bool) -> None:
    """Peak resident memory of one process that reads the context and decodes 8 tokens; a run of each."""
    samples: dict[str, list[float]] = {"transformers": [], "dense": [], "sfi": [], "verified": []}
    for engine in samples:
        command = [sys.executable, __file__, "--peak", engine, *(["--quick"] if quick else [])]
        samples[engine].append(float(subprocess.run(command, check=True, capture_output=True).stdout))
    record.add("peak memory", "MB", samples)
    for mode in ("dense", "sfi", "verified"):
        record.ratio(
            f"{mode} over transformers, peak memory", samples[mode], samples["transformers"], less=True
        )


def _peak(engine: str, context: int) -> float:
    """Peak memory of this process after one answer, MB."""
    from sfi_agent import Policy, Runtime, Sampling
    from sfi_agent.evaluate.transformers_run import transformers_run

    runtime = Runtime.load(MODEL)
    prompt, sampling = long_prompt(runtime, context), Sampling(max_new_tokens=8, ignore_eos=True)
    if engine == "transformers":
        transformers_run(runtime, prompt, sampling)
    else:
        runtime.generate(prompt, policy=Policy.of(mode=engine, dense_below=0), sampling=sampling)
    return _high_water_mark()


def _high_water_mark() -> float:
    """MB; Linux's own count begins with this program, ``getrusage``'s with the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def _transformers_steps(runtime: object, prompt: list[int]) -> Callable[[], float]:
    """``generate`` on a cache that holds the prompt, so that each round times its steps alone."""
    import torch
    from transformers import DynamicCache

    from sfi_agent.evaluate.transformers_run import Clock
    from sfi_agent.runtime.linear import linears

    cache = DynamicCache()
    with runtime.transformers() as model, torch.inference_mode(), linears(model, len(prompt)):
        model(torch.tensor([prompt[:-1]]), past_key_values=cache, use_cache=True, logits_to_keep=1)

    def run() -> float:
        clock = Clock()
        ids = torch.tensor([prompt])
        with runtime.transformers() as model, torch.inference_mode():
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=cache,
                max_new_tokens=TOKENS,
                do_sample=False,
                eos_token_id=None,
                pad_token_id=0,
                streamer=clock,
            )
        cache.crop(len(prompt) - 1 - cache.get_seq_length())
        return 1000 * (clock.times[-1] - clock.times[1]) / (TOKENS - 1)

    return run


MEASUREMENTS: dict[str, Callable[[Record, bool], None]] = {
    "steps": steps,
    "verified": verified,
    "memory": memory,
    "linears": linears,
}

if __name__ == "__main__":
    main()
