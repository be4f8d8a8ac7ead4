"""The main job, end to end: ``python -m langchain_sfi.demo``.

A chat model reads a long document, answers a question about it and then a follow-up that pays for
its new tokens only; then the same two turns are run by transformers' own ``generate`` and in every
mode, and a table compares them.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from langchain_sfi.chat_models import SFIChatModel
from langchain_sfi.demo.dialogue import Dialogue, finding, verdict
from langchain_sfi.demo.document import FOLLOW_UP, QUESTION, library_manual
from langchain_sfi.demo.table import Row, Steps, TimedTurn, comparison
from langchain_sfi.messages import to_chat
from langchain_sfi.runtimes import shared_runtime
from sfi_agent.errors import SettingError, SFIError
from sfi_agent.models.embedded import EMBEDDED
from sfi_agent.policy import Sampling

if TYPE_CHECKING:
    from sfi_agent import Runtime

PARAGRAPH = "\n\n"
LEAST = 100
"""Tokens of a document, which is a line and what is around it."""
BESIDE = 128
"""Tokens of the conversation beside the document and the answers, at most."""
# As docs/explanation/speed.md advises.
CPU = "fast", "the one to take on a CPU, where all of this takes some minutes"
GPU = ("balanced", "the default, which is made for a GPU")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; 0, or 1 after one line about what went wrong."""
    options = _options(arguments)
    console = Console()
    try:
        run(options, console)
    except SFIError as error:
        Console(stderr=True).print(f"[red]error:[/red] {escape(str(error))}", soft_wrap=True, highlight=False)
        return 1
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        return 130
    return 0


def run(options: argparse.Namespace, console: Console) -> None:
    """The conversation, then the comparison."""
    for name, least in (("tokens", LEAST), ("max-tokens", 1)):
        if (given := getattr(options, name.replace("-", "_"))) < least:
            raise SettingError(f"--{name}: must be at least {least} (given {given})")
    if options.model in EMBEDDED:  # told before the model is loaded, where that can be
        check_room(options, EMBEDDED[options.model].window)
    with _stage(console, "loading the model"):
        runtime = shared_runtime(options.model)
        check_room(options, runtime.window)
        policy, why = CPU if runtime.device.type == "cpu" else GPU
        chat = SFIChatModel(runtime=runtime, policy=policy, max_tokens=options.max_tokens, stop=[PARAGRAPH])
        chat.invoke("Hello", max_tokens=1)  # the first pass over fresh weights is slow in any mode
    console.print(
        f"policy {policy}, {why}; fewer --tokens make it shorter\n", highlight=False, soft_wrap=True
    )
    document = library_manual(options.tokens, chat.get_num_tokens)
    console.print(f"{document}\n", highlight=False, markup=False)
    asked = Dialogue((document.ask(QUESTION), FOLLOW_UP))
    verified = _show(chat, asked, console)
    ours = _ended(runtime, "verified")
    with _stage(console, "the same two turns in mode sfi"):
        sparse = _converse(chat, asked, "sfi")
    _ended(runtime, "sfi")
    with _stage(console, "the same two turns in mode dense"):
        dense = _converse(chat, asked, "dense")
    theirs = _ended(runtime, "dense")
    with _stage(console, "the same two turns by transformers' generate, the slowest"):
        rows = [_baseline(runtime, asked, options.max_tokens)]
    rows += [_row("dense", dense), _row("sfi", sparse), _row("verified", verified)]
    console.print(comparison(rows, policy))
    console.print(verdict(runtime, ours, theirs), soft_wrap=True)
    found = finding(document.magic, {"verified": verified, "sfi": sparse, "dense": dense})
    console.print(found, soft_wrap=True)


def check_room(options: argparse.Namespace, window: int) -> None:
    """Raise SettingError unless a model with this window can hold the conversation."""
    most = window - 2 * options.max_tokens - BESIDE
    if options.tokens > most:
        raise SettingError(
            f"--tokens: must be at most {most} for a model that reads {window} tokens and answers twice "
            f"(given {options.tokens})"
        )


@contextmanager
def _stage(console: Console, what: str) -> Iterator[None]:
    """Say what takes its time: by a spinner, or in a file by a line that tells how long it took."""
    began = time.perf_counter()
    with console.status(what):
        yield
    if not console.is_terminal:
        console.print(f"{what}: {time.perf_counter() - began:.0f} s", highlight=False)


def _show(chat: SFIChatModel, dialogue: Dialogue, console: Console) -> Dialogue:
    """Hold the dialogue in verified mode, before the user's eyes."""
    for question in (QUESTION, FOLLOW_UP):
        console.print(f"[bold cyan]you[/bold cyan]  {question}", highlight=False)
        dialogue = dialogue.answered(_stream(chat, dialogue.prompt, console))
    return dialogue


def _stream(chat: SFIChatModel, messages: list[BaseMessage], console: Console) -> AIMessage:
    """Print an answer as it comes, with a bar while the prompt is read."""
    whole: AIMessageChunk | None = None
    with _Bar() as bar:
        for chunk in chat.stream(messages, _thread("verified"), mode="verified", on_progress=bar.show):
            if whole is None:
                bar.stop()
                console.print("[bold green]sfi[/bold green]  ", end="")
            console.print(chunk.text, end="", markup=False, highlight=False, soft_wrap=True)
            whole = chunk if whole is None else whole + chunk
    assert whole is not None
    usage, metadata = whole.usage_metadata, whole.response_metadata
    assert usage is not None
    console.print(
        f"\n     [dim]read {usage['input_tokens'] - usage['input_token_details']['cache_read']} of "
        f"{usage['input_tokens']} prompt tokens anew, first token after "
        f"{metadata['first_token_seconds']:.1f} s[/dim]\n",
        highlight=False,
    )
    return _answer(whole)


def _converse(chat: SFIChatModel, dialogue: Dialogue, mode: str) -> Dialogue:
    """The dialogue in another mode, in silence and in a session of its own."""
    for _ in dialogue.questions:
        dialogue = dialogue.answered(chat.invoke(dialogue.prompt, _thread(mode), mode=mode))
    return dialogue


def _ended(runtime: Runtime, mode: str) -> list[int]:
    """The tokens of a mode's session, which is dropped, so that the next reads the document itself."""
    tokens = runtime.sessions[_id(mode)].tokens
    runtime.drop_session(_id(mode))
    return tokens


def _baseline(runtime: Runtime, dialogue: Dialogue, max_tokens: int) -> Row:
    """The dialogue by transformers, which reads the whole prompt again in each turn."""
    from sfi_agent.evaluate.transformers_run import transformers_run

    turns: list[TimedTurn] = []
    for _ in dialogue.questions:
        prompt = runtime.encode(to_chat(dialogue.prompt))
        run = transformers_run(runtime, prompt, Sampling(max_new_tokens=max_tokens))
        turns.append(TimedTurn(run.completion_tokens, run.first_token_seconds, run.decode_tokens_per_second))
        dialogue = dialogue.answered(AIMessage(run.text.partition(PARAGRAPH)[0]))
    return Row("transformers", tuple(turns))


def _row(mode: str, dialogue: Dialogue) -> Row:
    return Row(mode, tuple(_turn(answer) for answer in dialogue.answers))


def _turn(answer: AIMessage) -> TimedTurn:
    told, usage = answer.response_metadata, answer.usage_metadata
    assert usage is not None
    steps = Steps(told["slow_steps"], told["fast_steps"], told["kv_read_fraction"])
    return TimedTurn(
        usage["output_tokens"],
        told["first_token_seconds"],
        told["decode_tokens_per_second"],
        steps,
    )


def _answer(chunk: AIMessageChunk) -> AIMessage:
    return AIMessage(
        chunk.text, usage_metadata=chunk.usage_metadata, response_metadata=chunk.response_metadata
    )


def _thread(mode: str) -> Any:
    return {"configurable": {"thread_id": _id(mode)}}


def _id(mode: str) -> str:
    return f"demo-{mode}"


class _Bar(Progress):
    """How much of the prompt has been read; on stderr, and only on a terminal."""

    def __init__(self) -> None:
        columns = (TextColumn("     reading"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        super().__init__(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._reading = self.add_task("reading", total=None)

    def show(self, done: int, total: int) -> None:
        """Prompt tokens read so far, and all of them."""
        self.update(self._reading, completed=done, total=total)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m langchain_sfi.demo", description=__doc__)
    parser.add_argument("--model", default="smollm2-135m", help="the embedded model, a folder or a hub name")
    parser.add_argument("--tokens", type=int, default=5000, help="length of the document")
    parser.add_argument("--max-tokens", type=int, default=48, help="length of an answer at most")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
