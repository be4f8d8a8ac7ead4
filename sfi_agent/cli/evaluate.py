"""``sfi-agent eval``: what a policy costs in quality."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import out
from sfi_agent.errors import PromptError

app = typer.Typer(help="Measure what a policy costs in quality.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep ``eval`` a group of commands."""


@app.command("fidelity")
def fidelity(
    text: Annotated[Path, typer.Option(help="UTF-8 text to read.")],
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens read densely first.")],
    decode_tokens: Annotated[int, typer.Option(min=1, help="Tokens then read step by step and compared.")],
    model: options.Model = options.DEFAULT_MODEL,
    policy: options.PolicyName = None,
    selector: options.Selector = None,
    boundary: options.Boundary = None,
    budget: options.Budget = None,
    max_interval: options.MaxInterval = None,
    repair: options.Repair = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Read a text with dense attention and with a policy, and compare each position.

    Fast steps are measured below `dense_below`, too, and in `sfi` mode whatever the policy's own.
    """
    from sfi_agent.evaluate import fidelity as measuring

    chosen = options.policy_of(
        policy=policy,
        mode="sfi",
        selector=selector,
        boundary=boundary,
        budget=budget,
        max_interval=max_interval,
        repair=repair,
    )
    content = options.read_text(text)
    runtime = options.runtime_of(model, device, dtype)
    tokens = runtime.encode(content, raw=True)
    wanted = prompt_tokens + decode_tokens
    if len(tokens) < wanted:
        raise PromptError(
            f"{text} has {len(tokens)} tokens, but {prompt_tokens} prompt and {decode_tokens} decode tokens "
            f"are {wanted}; give a longer text or ask for fewer"
        )
    with options.status("measuring") as say:
        found = measuring.fidelity(
            runtime,
            tokens[:wanted],
            prompt_tokens,
            chosen,
            on_progress=lambda done, total: say(f"compared {done} of {total} positions"),
        )
    if json:
        options.print_json(found)
        return
    for name, value in asdict(found).items():
        out.print(
            f"{name:18} {value:.4f}" if isinstance(value, float) else f"{name:18} {value}", highlight=False
        )
