"""``sfi-agent generate``: one prompt, one answer."""

from __future__ import annotations

from typing import Annotated

import typer

from sfi_agent.cli import options, tracing
from sfi_agent.cli.answer import answer
from sfi_agent.cli.options import err
from sfi_agent.errors import SessionError


def generate(
    prompt_file: options.PromptFile,
    model: options.Model = options.DEFAULT_MODEL,
    raw: options.Raw = False,
    mode: Annotated[str | None, typer.Option(help="dense, sfi or verified.")] = None,
    max_new_tokens: options.MaxNewTokens = 128,
    policy: options.PolicyName = None,
    selector: options.Selector = None,
    boundary: options.Boundary = None,
    budget: options.Budget = None,
    max_interval: options.MaxInterval = None,
    kernel: options.Kernel = None,
    repair: options.Repair = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Nucleus sampling.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Keep this many tokens.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 discourages repeats.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop string; may be repeated.")] = None,
    session: Annotated[str | None, typer.Option(help="Id of the conversation, reported back.")] = None,
    store: options.StoreFolder = None,
    trace: tracing.TraceFile = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Answer the prompt in a file."""
    chosen = options.policy_of(
        policy=policy,
        mode=mode,
        selector=selector,
        boundary=boundary,
        budget=budget,
        max_interval=max_interval,
        kernel=kernel,
        repair=repair,
    )
    sampling = options.sampling_of(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop) if stop else None,
    )
    options.stored_session(store, session)
    tracing.check(trace)
    text = options.read_text(prompt_file)
    with options.runtime_of(model, device, dtype, store) as runtime:
        if session is not None and "messages" in runtime.notes(session):
            raise SessionError(
                f"session {session!r} is chat's, whose history this would replace; go on with sfi-agent "
                "chat, or choose another --session"
            )
        ids = runtime.encode(text, raw=raw)
        with tracing.traced(trace, runtime, model):
            result = answer(runtime, ids, chosen, sampling, session=session, quiet=json)
    if json:
        options.print_json(result)
        return
    err.print(
        f"{result.completion_tokens} tokens ({result.finish_reason}), "
        f"{result.decode_tokens_per_second:.1f} tokens/s, {result.slow_steps} slow and {result.fast_steps} "
        f"fast steps, {result.kv_read_fraction:.0%} of dense KV reads, first token after "
        f"{result.first_token_seconds:.1f} s",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )
