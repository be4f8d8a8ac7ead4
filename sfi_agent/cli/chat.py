"""``sfi-agent chat``: a conversation in the terminal, whose turns pay for their new tokens only."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from sfi_agent.cli import options, tracing
from sfi_agent.cli.answer import answer
from sfi_agent.cli.options import err
from sfi_agent.errors import PromptError, SessionError, SettingError, SFIError

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
    session: Annotated[str, typer.Option(help="Id of the conversation in --store.")] = SESSION,
    store: options.StoreFolder = None,
    trace: tracing.TraceFile = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Chat: a line in, an answer out; an empty line or Ctrl-D ends. Ctrl-C stops an answer.

    With --store the conversation goes on where an earlier one left it.
    """
    chosen = options.policy_of(policy=policy, mode=mode, selector=selector, boundary=boundary, budget=budget)
    sampling = options.sampling_of(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    tracing.check(trace)
    with (
        options.runtime_of(model, device, dtype, store) as runtime,
        tracing.traced(trace, runtime, model),
    ):
        conversation = Conversation(runtime, chosen, sampling, system, session=session, quiet=json)
        if session != SESSION and store is None:
            told = f"session {session!r} ends with this command; to keep it, give --store FOLDER as well"
            err.print(escape(told), style="dim", highlight=False, soft_wrap=True)
        try:
            while line := _ask(json):
                try:
                    conversation.say(line)
                except SFIError as error:
                    if not sys.stdin.isatty():
                        raise
                    err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        finally:
            if json:
                options.print_json({"turns": [asdict(turn) for turn in conversation.turns]})


class Conversation:
    """Messages and what their turns cost; one that fails or gives no answer is forgotten.

    Raises:
        SessionError: the session is not chat's, so that a turn would replace its history.
        SettingError: the session began with another system message.
    """

    def __init__(
        self,
        runtime: Runtime,
        policy: Policy,
        sampling: Sampling,
        system: str | None,
        *,
        session: str = SESSION,
        quiet: bool,
    ) -> None:
        self._runtime, self._policy, self._sampling, self._quiet = runtime, policy, sampling, quiet
        self._session, notes = session, runtime.notes(session)
        if "messages" not in notes and session in runtime.sessions:
            raise SessionError(
                f"session {session!r} was not begun by chat, which would replace its history; choose another "
                "--session, or delete it: sfi-agent sessions delete"
            )
        begun = [{"role": "system", "content": system}] if system else []
        self._messages: list[dict[str, str]] = notes.get("messages") or begun
        if system and self._messages[:1] != begun:
            raise SettingError(
                f"session {session!r} did not begin with this --system; leave it out, or choose another "
                "--session"
            )
        self.turns: list[TurnResult] = []
        if "messages" not in notes:  # before the first turn, which is stored even if it does not answer
            runtime.set_notes(session, {"messages": []})

    def say(self, line: str) -> None:
        """Answer a line of the user's; Ctrl-C ends the answer where it is."""
        messages = [*self._messages, {"role": "user", "content": line}]
        try:
            result = self._answer(messages)
        except KeyboardInterrupt:  # before the turn began
            return _report(None)
        self.turns.append(result)
        if result.token_ids:
            self._messages = [*messages, {"role": "assistant", "content": result.text}]
            self._runtime.set_notes(self._session, {"messages": self._messages})
            if self._runtime.store:
                self._runtime.save(self._session)
        if not self._quiet:
            _report(result)

    def _answer(self, messages: list[dict[str, str]]) -> TurnResult:
        ids = self._runtime.encode(messages)
        return answer(
            self._runtime,
            ids,
            self._policy,
            self._sampling,
            session=self._session,
            quiet=self._quiet,
            stoppable=True,
        )


def _report(result: TurnResult | None) -> None:
    if result is None or not result.token_ids:
        err.print("stopped before the first token; the question is forgotten", style="dim")
        return
    err.print(
        f"{result.reused_tokens} of {result.prompt_tokens} prompt tokens reused, first token after "
        f"{result.first_token_seconds:.1f} s, {result.decode_tokens_per_second:.1f} tokens/s",
        style="dim",
        highlight=False,
        soft_wrap=True,
    )


def _ask(quiet: bool) -> str:
    """The next line, empty at the end; from a terminal with line editing and, unless ``quiet``, a prompt.

    Raises:
        PromptError: it is not UTF-8.
    """
    if sys.stdin is None:  # closed by whoever started us
        return ""
    try:
        if sys.stdin.isatty() and not quiet:
            with suppress(ImportError):  # not on every system
                import readline  # noqa: F401 - input() then edits lines and keeps a history
            return input("you> ").strip()
        return sys.stdin.buffer.readline().decode("utf-8").strip()
    except EOFError:
        return ""
    except UnicodeDecodeError:
        raise PromptError("the line is not UTF-8 text; convert the input to UTF-8") from None
