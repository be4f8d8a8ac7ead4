"""``sfi-agent eval suite``: everything that a policy costs in quality, dense attention beside it."""

from __future__ import annotations

from typing import Annotated

import typer

from sfi_agent.cli import options
from sfi_agent.cli.options import out
from sfi_agent.cli.suite_tables import tables_of
from sfi_agent.errors import SettingError

Tasks = Annotated[
    str | None,
    typer.Option(help="What to measure, as in fidelity,retrieval; default all. A wrong name lists them."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Small sizes: does it run?")]


def suite(
    model: options.Model = options.DEFAULT_MODEL,
    policy: options.PolicyName = None,
    selector: options.Selector = None,
    boundary: options.Boundary = None,
    budget: options.Budget = None,
    max_interval: options.MaxInterval = None,
    repair: options.Repair = None,
    tasks: Tasks = None,
    quick: Quick = False,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens read before anything is compared.")
    ] = None,
    decode_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens then compared.")] = None,
    answer_tokens: Annotated[int | None, typer.Option(min=1, help="Tokens that the model writes.")] = None,
    lengths: Annotated[str | None, typer.Option(help="Of retrieval contexts, as in 1024,4096.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Of each retrieval task and of tool calls.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the texts.")] = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Fidelity, answers, drafts, tool calls and retrieval under a policy, dense attention beside it."""
    from sfi_agent.evaluate.suite import MEASURES, Sizes, Suite, known_tasks

    wanted = options.policy_of(
        policy=policy,
        selector=selector,
        boundary=boundary,
        budget=budget,
        max_interval=max_interval,
        repair=repair,
    )
    chosen = known_tasks(_parts(tasks)) if tasks is not None else MEASURES
    numbers = None if lengths is None else _numbers(lengths)
    runtime = options.runtime_of(model, device, dtype)
    preset = Sizes.quick(runtime.window) if quick else Sizes.standard(runtime.window)
    sizes = preset.but(
        context=context, decode=decode_tokens, answer=answer_tokens, lengths=numbers, samples=samples
    )
    measured = Suite(runtime, sizes, chosen, seed=seed)
    with options.status("measuring") as say:
        found = measured.run(wanted, lambda what, done, total: say(f"{done} of {total}: {what}"))
    if json:
        options.print_json(found)
        return
    for table in tables_of(found):
        out.print(table)
    out.print(f"{found.model}, {found.dtype} on {found.device}, {found.seconds:.0f} s", highlight=False)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in _parts(text))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise SettingError(f"lengths: must be numbers of tokens separated by commas (given {text!r})")
    return numbers
