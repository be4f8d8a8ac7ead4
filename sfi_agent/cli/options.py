"""Options that several commands share, and how they become a policy, a runtime, an object to print."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from sfi_agent.environment import expanded
from sfi_agent.errors import PromptError, SettingError
from sfi_agent.policy import Policy, Sampling, parse_budget

if TYPE_CHECKING:
    from sfi_agent.progress import Progress
    from sfi_agent.runtime.limits import Limits
    from sfi_agent.runtime.runtime import Runtime

out = Console()
err = Console(stderr=True)

Model = Annotated[str, typer.Option(help="Embedded model, folder, .gguf file or hub name.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")]
Dtype = Annotated[str, typer.Option(help="auto, bfloat16, float16, float32.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, nothing else.")]
PolicyName = Annotated[
    str | None,
    typer.Option("--policy", help="A policy by name (balanced, ...); other options override it."),
]
Selector = Annotated[str | None, typer.Option(help="Selector, see `sfi-agent plugins`.")]
Boundary = Annotated[list[str] | None, typer.Option(help="Boundary detector; may be repeated.")]
Budget = Annotated[str | None, typer.Option(help="Positions (512) or a fraction of the context (0.125).")]
MaxInterval = Annotated[int | None, typer.Option(help="Fast steps after which a slow one comes.")]
Kernel = Annotated[str | None, typer.Option(help="Attention kernel, see `sfi-agent plugins`.")]
Repair = Annotated[
    bool | None, typer.Option("--repair/--no-repair", help="Slow steps rewrite the KV of fast ones.")
]
PromptFile = Annotated[Path, typer.Option(help="UTF-8 text file.")]
Raw = Annotated[bool, typer.Option("--raw", help="Feed the text as it is, without a chat template.")]
MaxNewTokens = Annotated[int, typer.Option(help="Tokens to generate at most.")]
StoreFolder = Annotated[
    Path | None, typer.Option("--store", help="Folder in which the session outlives this command.")
]
DEFAULT_MODEL = "smollm2-135m"


def policy_of(
    *,
    policy: str | None = None,
    mode: str | None = None,
    selector: str | None = None,
    boundary: list[str] | None = None,
    budget: str | None = None,
    max_interval: int | None = None,
    kernel: str | None = None,
    **more: Any,
) -> Policy:
    """The policy named, or the default one, with what the other options say changed.

    Raises:
        UnknownNameError: no such policy.
        SettingError: a value is not allowed.
    """
    from sfi_agent.registry import default_registry

    base = default_registry().policy(policy) if policy else Policy()
    return base.but(
        mode=mode,
        selector=selector,
        boundaries=tuple(boundary) if boundary else None,
        budget=None if budget is None else parse_budget(budget),
        max_interval=max_interval,
        kernel=kernel,
        **more,
    )


def sampling_of(**settings: Any) -> Sampling:
    """The sampling settings given; what is None stays at its default."""
    return Sampling().but(**settings)


def runtime_of(
    model: str, device: str, dtype: str, store: Path | None = None, limits: Limits | None = None
) -> Runtime:
    """Load a model, with a spinner on stderr while that takes; ``store`` keeps sessions, within ``limits``.

    Raises:
        SettingError: ``store`` is a file.
        ModelError: the model cannot be loaded.
    """
    check_store(store)
    from sfi_agent.models.embedded import EMBEDDED, ensure_embedded

    with status(f"loading {model}") as say:
        if model in EMBEDDED:
            ensure_embedded(model, progress=say)
        from sfi_agent.runtime.runtime import Runtime

        return Runtime.load(model, device=device, dtype=dtype, store=store, limits=limits)


def check_store(store: Path | None) -> None:
    """Raise SettingError where a store is no folder and cannot become one."""
    if store is not None and (folder := expanded(store)).exists() and not folder.is_dir():
        raise SettingError(f"--store {store} is a file; name a folder, which is made if there is none")


def stored_session(store: Path | None, session: str | None) -> None:
    """Raise SettingError where a store is given and no session to keep in it."""
    if store is not None and session is None:
        raise SettingError("--store keeps a session by its id; give --session as well")


@contextmanager
def status(line: str) -> Iterator[Callable[[str], None]]:
    """A spinner on stderr whose line can be changed; nothing where stderr is no terminal."""
    if not err.is_terminal:
        yield lambda line: None
        return
    with err.status(line) as spinner:
        yield lambda line: spinner.update(line)


def read_text(path: Path) -> str:
    """The file's text.

    Raises:
        PromptError: it is missing, not UTF-8, or empty.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PromptError(f"{path} is not UTF-8 text (byte {error.start}); convert it to UTF-8") from None
    except OSError as error:
        raise PromptError(f"cannot read {path}: {error.strerror}") from None
    if not text.strip():
        raise PromptError(f"{path} is empty; put a prompt into it")
    return text


@contextmanager
def prefill_progress(total: int) -> Iterator[Progress]:
    """A progress bar on stderr for long prompts; nothing where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("reading"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("tokens"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("reading", total=total)

        def on_progress(done: int, _: int) -> None:
            bar.update(task, completed=done, visible=done < total)

        yield on_progress


def print_json(value: Any) -> None:
    """One JSON object on stdout; dataclasses become objects."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
    typer.echo(json.dumps(plain, ensure_ascii=False))
