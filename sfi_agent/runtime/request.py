"""A turn that was asked for, from waiting for its place to its last chunk."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from sfi_agent.errors import PromptError
from sfi_agent.grammar.constraint import Constraint
from sfi_agent.policy import Policy, Sampling
from sfi_agent.progress import Progress
from sfi_agent.runtime.batcher import Batcher
from sfi_agent.runtime.calls import telling
from sfi_agent.runtime.garbage import apart, collecting
from sfi_agent.runtime.job import Job
from sfi_agent.runtime.kv import ROOM
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.parts import Parts
from sfi_agent.runtime.result import Chunk, TurnResult
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.sharing import Beginning, Others, in_pages
from sfi_agent.runtime.stream import Hands, StreamCancelledError
from sfi_agent.runtime.turn import Turn
from sfi_agent.tools.dialect import Ask

if TYPE_CHECKING:
    from sfi_agent.runtime.runtime import Runtime


OPEN_ANSWER = 4096
"""Tokens for which pages are kept free where a turn may answer up to the model's window."""


@dataclass
class Request:
    """What :meth:`sfi_agent.runtime.runtime.Runtime.stream` was asked, in order.

    Attributes:
        runtime: whose turn it is.
        batcher: steps it.
        prompt: token ids.
        policy, sampling, parts: of the turn.
        room: tokens that it may answer, at most.
        ask, session, timeout, on_progress: as they were given.
        constraint: what the answer must look like; None: free.
        hands: the threads that have had the stream, and whether it was cancelled.
    """

    runtime: Runtime
    batcher: Batcher
    prompt: Sequence[int]
    policy: Policy
    sampling: Sampling
    parts: Parts
    _: KW_ONLY
    room: int
    ask: Ask | None
    session: str | None
    timeout: float | None
    constraint: Constraint | None
    on_progress: Progress | None
    hands: Hands = field(default_factory=Hands, init=False)
    _turn: Turn | None = field(default=None, init=False)
    _job: Job | None = field(default=None, init=False)
    _began: float = field(default=0.0, init=False)

    def chunks(self) -> Generator[Chunk, None, None]:
        """Wait for room and for the session, and run the turn."""
        self._began, table, read = time.monotonic(), self.runtime.sessions, len(self.prompt)
        most = read + min(self.room, self.sampling.max_new_tokens or self.room)
        likely = read + min(self.room, self.sampling.max_new_tokens or OPEN_ANSWER)
        admitted = table.admitted(self.session, most, likely, self._left(), self.hands)
        with suppress(StreamCancelledError), ExitStack() as place:
            room = place.enter_context(admitted)
            conversation = place.enter_context(table.held(self.session, self._left(), self.hands))
            if self.hands.cancelled.is_set():
                return
            self.batcher.settle()
            try:
                self._turn = self._begun(conversation)
                room.begun(self._turn.row)
                self._job = Job(self._turn, self._left(), self.hands.cancelled)
                self._job.place = place
                yield from self._answer(self._turn, self._job)
            finally:
                if collecting():
                    conversation.reader = None  # nobody reads any more: whoever wants the session may wait
                    apart(partial(self._collected, conversation, place.pop_all()))
                elif self._turn is None or self._turn.work is None:
                    table.turn_over(conversation)
                else:  # dropped during a step, and over after it
                    conversation.in_step = True
                    self.batcher.after_step(partial(table.turn_collected, conversation))

    def _collected(self, conversation: Session, place: ExitStack) -> None:
        """End the turn of a stream that was garbage, in a thread that may wait."""
        with place:
            try:
                if self._job:
                    self.batcher.leave(self._job)
            finally:
                self.runtime.sessions.turn_over(conversation)

    def result(self) -> TurnResult:
        """The answer as it stands.

        Raises:
            PromptError: the turn has not begun.
        """
        if self._turn is None:
            raise PromptError("the turn has not begun; iterate over the stream, and before it is closed")
        return self._turn.result(self.session)

    def _left(self) -> float | None:
        """Seconds of the timeout."""
        return None if self.timeout is None else self.timeout - (time.monotonic() - self._began)

    def _begun(self, conversation: Session) -> Turn:
        runtime, parts = self.runtime, self.parts.continued(conversation, self.policy)
        limit = runtime.architecture.rotary_limit
        others = self._placed(conversation, Beginning.of(self.prompt, self.policy, parts.selector, limit))
        return Turn(
            conversation,
            self.prompt,
            self.policy,
            self.sampling,
            parts,
            tokenizer=runtime.tokenizer,
            stop_tokens=runtime.stop_tokens,
            room=self.room,
            rotary_limit=limit,
            emit_event=runtime.observers.emit,
            on_progress=self.on_progress,
            constraint=self.constraint,
            details=runtime.observers.wants_details,
            others=others,
        )

    def _placed(self, conversation: Session, beginning: Beginning) -> Others | None:
        """Have the KV where it belongs, with room, and what another session has read of the prompt.

        Returns:
            from whom the turn may take more, if it has to wait; None: a turn without a session takes nothing
            from others, it is a run of its own.
        """
        pool, sessions, row = self.runtime.pool, self.runtime.sessions, conversation.row
        if pool and not isinstance(row.kv, PagedCache):
            with self.batcher.paused():
                in_pages(pool, conversation, beginning.prompt)
        row.kv.reserve(len(self.prompt) + min(self.room, ROOM))
        if conversation.id not in sessions or self.runtime.deterministic:
            return None
        others = Others(conversation, beginning, sessions)
        if others.there():
            with self.batcher.paused():
                others.take()
        return others

    def _answer(self, turn: Turn, job: Job) -> Generator[Chunk, None, None]:
        """Chunks of the turn, its tool calls told as events."""
        answer = self.batcher.run(job)
        if self.ask and self.ask.choice.tools:
            parser = self.runtime.dialect.parser(self.ask, turn.prompt)
            answer = telling(answer, parser, turn.session, self.runtime.observers.emit)
        return answer
