"""``sfi-agent chat``: a conversation in the terminal, whose turns pay for their new tokens only."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import err, out

if TYPE_CHECKING:
    from sfi_agent.policy import Policy, Sampling
    from sfi_agent.runtime.result import TurnResult
    from sfi_agent.runtime.runtime import Runtime

SESSION = "chat"


def chat(
    model: options.Model = options.DEFAULT_MODEL,
    mode: Annotated[str | None, typer.Option(help="dense, sfi or verified.")] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_new_tokens: options.MaxNewTokens = 512,
    policy: options.PolicyName = None,
    selector: options.Selector = None,
    boundary: options.Boundary = None,
    budget: options.Budget = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Chat: a line in, an answer out; an empty line or Ctrl-D ends. Ctrl-C stops an answer."""
    chosen = options.policy_of(policy=policy, mode=mode, selector=selector, boundary=boundary, budget=budget)
    sampling = options.sampling_of(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    runtime = options.runtime_of(model, device, dtype)
    messages = [{"role": "system", "content": system}] if system else []
    turns: list[TurnResult] = []
    while line := _ask(json):
        messages.append({"role": "user", "content": line})
        result = _answer(runtime, messages, chosen, sampling, quiet=json)
        messages.append({"role": "assistant", "content": result.text})
        turns.append(result)
    if json:
        from dataclasses import asdict

        options.print_json({"turns": [asdict(turn) for turn in turns]})


def _ask(quiet: bool) -> str:
    """The next line; with ``quiet`` or piped input, without a prompt."""
    if not quiet and sys.stdin.isatty():
        out.print("[bold]you>[/] ", end="")
    return sys.stdin.readline().strip()


def _answer(
    runtime: Runtime, messages: list[dict[str, str]], policy: Policy, sampling: Sampling, *, quiet: bool
) -> TurnResult:
    ids = runtime.encode(messages)
    with (
        options.prefill_progress(len(ids)) as on_progress,
        runtime.stream(
            ids, policy=policy, sampling=sampling, session=SESSION, on_progress=on_progress
        ) as stream,
    ):
        try:
            for chunk in stream:
                if not quiet:
                    out.out(chunk.text, end="", highlight=False)
        except KeyboardInterrupt:
            stream.close()
    result = stream.result
    if not quiet:
        out.out("")
        err.print(
            f"{result.reused_tokens} of {result.prompt_tokens} prompt tokens reused, first token after "
            f"{result.first_token_seconds:.1f} s, {result.decode_tokens_per_second:.1f} tokens/s",
            style="dim",
            highlight=False,
        )
    return result
