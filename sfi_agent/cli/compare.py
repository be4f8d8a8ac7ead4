"""``sfi-agent compare``: transformers and the three modes on one prompt."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import out

if TYPE_CHECKING:
    from sfi_agent.evaluate.compare import Comparison


def compare(
    prompt_file: options.PromptFile,
    model: options.Model = options.DEFAULT_MODEL,
    raw: options.Raw = False,
    max_new_tokens: options.MaxNewTokens = 128,
    repeat: Annotated[int, typer.Option(min=1, help="Rounds; the engines take turns.")] = 2,
    ignore_eos: Annotated[bool, typer.Option(help="Go on after the end token.")] = False,
    policy: options.PolicyName = None,
    selector: options.Selector = None,
    boundary: options.Boundary = None,
    budget: options.Budget = None,
    max_interval: options.MaxInterval = None,
    kernel: options.Kernel = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Run transformers, dense, sfi and verified in turns, greedily, and compare."""
    from sfi_agent.evaluate import compare as measuring

    chosen = options.policy_of(
        policy=policy,
        selector=selector,
        boundary=boundary,
        budget=budget,
        max_interval=max_interval,
        kernel=kernel,
    )
    sampling = options.sampling_of(max_new_tokens=max_new_tokens, ignore_eos=ignore_eos)
    text = options.read_text(prompt_file)
    runtime = options.runtime_of(model, device, dtype)
    ids = runtime.encode(text, raw=raw)
    runtime.stream(ids, policy=chosen, sampling=sampling).close()  # refused now, not after transformers' run
    with options.status("measuring") as say:
        done = measuring.compare(
            runtime,
            ids,
            chosen,
            sampling,
            repeats=repeat,
            on_run=lambda engine, round: say(f"{engine}, round {round + 1} of {repeat}"),
        )
    if json:
        options.print_json(as_object(done))
    else:
        out.print(table_of(done))
        out.print(verdict(done), highlight=False)


def as_object(done: Comparison) -> dict[str, object]:
    """The comparison as one JSON object."""
    return {
        **{engine: asdict(result) for engine, result in done.results.items()},
        "verified_equals_dense": done.verified_equals_dense,
        "difference": asdict(done.difference) if done.difference else None,
        "repeats": done.repeats,
    }


def verdict(done: Comparison) -> str:
    """One sentence on whether verified output equals dense output."""
    if done.verified_equals_dense:
        return "verified output equals dense output"
    if (difference := done.difference) is None:
        return "verified output and dense output differ in length"
    kind = "a tie within rounding" if difference.tie else "NOT a tie"
    return (
        f"verified output leaves dense output at token {difference.index}: {kind} "
        f"(logits {difference.gap:.3g} apart, rounding {difference.rounding:.3g})"
    )


def table_of(done: Comparison) -> object:
    """A rich table, one row an engine."""
    from rich.table import Table

    table = Table("", "tokens/s", "first token", "slow", "fast", "accepted", "KV read")
    for engine, result in done.results.items():
        decoded = result.completion_tokens > 1  # the first token is the prompt's
        table.add_row(
            engine,
            f"{result.decode_tokens_per_second:.1f}" if decoded else "–",
            f"{result.first_token_seconds:.2f} s",
            str(result.slow_steps),
            str(result.fast_steps),
            f"{result.accepted}/{result.drafted}" if result.drafted else "",
            f"{result.kv_read_fraction:.0%}" if decoded else "–",
        )
    return table
