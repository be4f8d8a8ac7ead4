"""One request to a session, from prompt to finish."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from torch import Tensor

from sfi_agent import events
from sfi_agent.grammar.constraint import Constraint
from sfi_agent.policy import Policy, Sampling
from sfi_agent.runtime.answer import Answer, AnswerText
from sfi_agent.runtime.choice import MemoryChoice
from sfi_agent.runtime.chunks import PromptChunks
from sfi_agent.runtime.kv import ROOM
from sfi_agent.runtime.meter import Meter
from sfi_agent.runtime.modes import LOOPS
from sfi_agent.runtime.parts import Boundaries, Parts
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.sampling import Sampler
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.sharing import Others
from sfi_agent.runtime.step import NOT_MADE, Outcome, Predicted, Work
from sfi_agent.runtime.text import TextStream
from sfi_agent.runtime.tracer import Tracer, Untraced

UNSEEN = 128
"""Latest tokens in which boundaries are looked for once a draft wants to know of them."""


class Turn:
    """A turn in progress.

    A decode loop of :mod:`sfi_agent.runtime.modes` says what it does next, in words that begin with ``chunk``
    below; the engine runs that as :attr:`work`, and hands what came of it to :meth:`advance`.

    Attributes:
        work: what the next step should do; None once the turn is over.
        start: positions of the row when that was asked.
        answer: its tokens.
        text: of the answer, and its pieces not yet taken by the caller.
        boundary: whether the step that reads the latest token should be slow.
        stale: verified mode: a boundary has passed since the sparse memory was refreshed.
        choice: of the sparse memory.
        others: of whom the turn may take what they read of its prompt, before it reads any; None: of nobody.
        reused: tokens of the prompt that the session held, or took of others.
        needs_logits: of a step; without them the token that it chooses is all that the turn needs.
    """

    def __init__(
        self,
        session: Session,
        prompt: Sequence[int],
        policy: Policy,
        sampling: Sampling,
        parts: Parts,
        *,
        tokenizer: Any,
        stop_tokens: frozenset[int],
        room: int,
        rotary_limit: int | None,
        emit_event: Callable[[events.Event], None],
        on_progress: Callable[[int, int], None] | None = None,
        constraint: Constraint | None = None,
        details: bool = False,
        others: Others | None = None,
    ) -> None:
        self.session, self.row = session, session.row
        self.prompt, self.policy, self.parts = tuple(prompt), policy, parts
        self.others = others
        first_end = 0 if rotary_limit is None or len(prompt) <= rotary_limit else rotary_limit + 1
        self._sampler = Sampler(sampling, constraint, len(prompt))
        self._chunks = PromptChunks(self.prompt, policy.prefill_chunk, first_end, self._sampler.draw)
        self.reused = session.begin(prompt, policy, parts.selector, stretched=first_end > 0)
        self.row.kv.reserve(len(prompt) + min(room, ROOM))
        self.meter = Meter(self.row, len(prompt))
        stop_tokens = frozenset() if sampling.ignore_eos else stop_tokens
        self.text = AnswerText(TextStream(tokenizer, visible=sampling.visible), sampling.stop)
        room = min(room, sampling.max_new_tokens or room)
        self.answer = Answer(session, self.text, room=room, stop_tokens=stop_tokens)
        self.boundary = False
        self.stale = True
        self.finish_reason: str | None = None
        self._boundaries = Boundaries(parts.trigger, TextStream(tokenizer, special=True), stop_tokens)
        self._emit_event, self._on_progress = emit_event, on_progress
        self.needs_logits = details or parts.trigger.needs_logits or not self._sampler.known
        # No dense step asks for boundaries, and one before a draft only where the draft is made.
        self._observes = policy.mode == "sfi" or details or parts.trigger.needs_logits
        self._unseen: deque[int] = deque(maxlen=UNSEEN)
        self._tracer = Tracer(self, tokenizer) if details else Untraced()
        self.row.traced = details
        self.choice = MemoryChoice(self.row, policy, parts, self._tracer.saw)
        self.tell(events.TurnStarted, mode=policy.mode, prompt_tokens=len(prompt), reused_tokens=self.reused)
        self._tracer.opened()
        self._steps = LOOPS[policy.mode](self)
        self.work: Work | None = next(self._steps)
        self.start = self.row.kv.length

    def advance(self, outcome: Outcome) -> None:
        """Give the step's outcome to the decode loop and take its next work."""
        assert self.work is not None
        before = self.meter.read
        self.meter.count(self.work, outcome.seconds)
        self.meter.prepared(outcome.preparing)
        if not self.work.prefill:
            self._tracer.step(self.work, outcome.seconds, self.meter.read - before)
            if not self.work.fast:
                self.tell(events.SlowStep, position=self.row.kv.length - 1, tokens=len(self.work.tokens))
        try:
            self._go_on(outcome)
        except StopIteration:
            self.finish(self.answer.finish_reason or "stop")
        self._tracer.tell()

    def end_draft(self) -> None:
        """Have the draft verified instead of the step that its loop asks for, which is spare."""
        self._go_on(NOT_MADE)

    def _go_on(self, outcome: Outcome) -> None:
        self.work = self._steps.send(outcome)
        self.start = self.row.kv.length

    def finish(self, reason: str) -> None:
        """End the turn; what the row holds of a draft is forgotten. Safe to call twice."""
        if self.work is None:
            return
        self.answer.end()  # before whoever takes its text sees that it is over
        self.work = None
        self._steps.close()
        del self._steps  # it knows the turn, which Python 3.12.3 has it do when it is closed, too
        self.row.truncate(len(self.session.tokens))
        self._keep_what_can_be_chosen_from()
        self.finish_reason = reason
        self.tell(
            events.TurnFinished,
            reason=reason,
            completion_tokens=len(self.answer.tokens),
            slow_steps=self.meter.slow_steps,
            fast_steps=self.meter.fast_steps,
        )
        self._tracer.finished()

    def begin_as_others(self) -> None:
        """Take what others have read of the prompt by now. No step of it may have been made."""
        assert self.others is not None
        self.others.take()
        self.session.tokens = list(self.prompt)
        self.reused = self.row.kv.length
        self.work = self._chunks.again(self.reused)
        self.start = self.row.kv.length

    def rewind(self) -> None:
        """Forget what a step committed of which the turn was not told, for it failed."""
        if self.work is not None and self.row.kv.length > self.start:
            self.row.truncate(self.start)

    def chunk(self, **last: bool) -> Work:
        """Work of the next prefill chunk; of the last one with these facts."""
        return self._chunks.chunk(self.row.kv.length, **last)

    def prefilled(self) -> None:
        """A prefill chunk is in the KV cache."""
        done, total = self.row.kv.length, len(self.prompt)
        self.tell(events.PrefillProgress, done=done, total=total)
        if self._on_progress:
            self._on_progress(done, total)

    def emit(self, predicted: Predicted) -> int | None:
        """Choose the next token and add it to the answer; None when that ends the turn."""
        return self._add(self._sampler.choose(predicted, self.session.tokens), predicted.logits)

    def propose(self, predicted: Predicted, draft: list[int]) -> int:
        """The token that is predicted after ``draft`` (whose first is already in the answer)."""
        return self._sampler.choose(predicted, self.session.tokens, draft[1:])

    def verify(self, draft: tuple[int, ...], passed: Outcome) -> int | None:
        """Add to the answer what dense attention gives, as far as the draft agrees, and one more.

        Args:
            draft: k proposed tokens, at least one.
            passed: what the dense pass predicts at the k + 1 positions.

        Returns:
            the latest token; None when the turn is over.
        """
        accepted, token = 0, None
        self._tracer.verifying(draft)
        for predicted, proposed in zip(passed, (*draft, None), strict=True):
            token = self.emit(predicted)
            if self.session.tokens[-1] != proposed:
                break
            accepted += 1
            if token is None:
                break
        self.parts.limit.record.verified(len(draft), accepted)
        self.meter.drafted += len(draft)
        self.meter.accepted += accepted
        self.tell(events.DraftVerified, drafted=len(draft), accepted=accepted)
        return token

    def agreed(self, start: int, read: tuple[int, ...]) -> int:
        """How many of the tokens ``read``, from position ``start`` on, are those of prompt and answer."""
        pairs = zip(self.session.tokens[start:], read, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def step(self, *tokens: int, **facts: Any) -> Work:
        """Work of a decode step that reads these tokens."""
        return Work(tokens, draw=self._sampler.draw, **facts)

    def goes_on(self) -> bool:
        """Whether the answer has room for more than the token that the next step finds."""
        return self.answer.left > 1

    def slow_next(self) -> bool:
        """Whether the token that the next step finds will be read by a slow step, and it alone."""
        return not self.policy.repair and self.parts.trigger.due

    def draft_room(self) -> int:
        """Tokens to draft now; refreshes the sparse memory first where a boundary has passed."""
        room = min(self.parts.limit.next(), self.answer.left - 1)
        if room > 0 and (self._passed() or self.row.memory is None):
            self.refresh()
        return room if self.row.memory is not None else 0

    def _passed(self) -> bool:
        """Whether the memory has become stale by a boundary; taken to have where too many tokens came."""
        self.stale = self.stale or len(self._unseen) == UNSEEN
        while self._unseen:
            if self._boundaries.observe(self._unseen.popleft()):
                self.stale = True
        return self.stale

    def fork(self) -> Boundaries:
        """Boundaries on which a draft may try its tokens; they end it where memory would go stale."""
        return self._boundaries.fork(ending=not self.parts.selector.reranks)

    def unrepaired(self) -> tuple[int, ...]:
        """Tokens that a slow step reads: the latest, or with ``repair`` all since the last slow one."""
        if self.policy.repair:
            self.row.truncate(self.row.kv.exact)
        return tuple(self.session.tokens[self.row.kv.length :])

    def refresh(self) -> None:
        """Let the selector choose the sparse memory anew, unless that was done early for this step."""
        self.parts.trigger.slow_step_done()
        self.stale = False
        chosen = self.choice.made()
        self.meter.read += chosen.read
        self._tracer.refreshed(chosen.seconds, chosen.read)
        if (memory := chosen.memory) is not None:
            self.tell(events.MemoryRefreshed, length=memory.length, positions=memory.budget)

    def _keep_what_can_be_chosen_from(self) -> None:
        """Forget the last tokens of a prompt that was read in part, if their queries are not there.

        The chunk behind them took their place. The next turn reads them again, and then has evidence.
        """
        row, read = self.row, self.row.kv.length
        wanted = min(self.parts.selector.rows_wanted(), read)
        if row.capture and read < len(self.prompt) and len(row.queries.latest(read, wanted)) < wanted:
            self.session.cut(read - wanted)

    def result(self, session: str | None) -> TurnResult:
        """The answer as it stands."""
        meter, answer = self.meter, self.answer.tokens
        return TurnResult(
            text=self.text.whole(),
            token_ids=tuple(answer),
            prompt_tokens=len(self.prompt),
            reused_tokens=self.reused,
            completion_tokens=len(answer),
            finish_reason=self.finish_reason or "cancelled",
            mode=self.policy.mode,
            slow_steps=meter.slow_steps,
            fast_steps=meter.fast_steps,
            drafted=meter.drafted,
            accepted=meter.accepted,
            kv_read_fraction=meter.read_fraction(len(answer)),
            prefill_seconds=meter.prefill_seconds,
            first_token_seconds=meter.first_token_seconds,
            decode_tokens_per_second=meter.tokens_per_second(len(answer)),
            session=session,
        )

    def _add(self, token: int, logits: Tensor) -> int | None:
        self.answer.add(token)
        self.meter.token()
        if self._observes:
            self.boundary = self._boundaries.observe(token, logits)
            self.stale = self.stale or self.boundary
        else:
            self._unseen.append(token)
        self._tracer.token(token, self.parts.trigger.cause if self.boundary else "")
        return None if self.answer.finish_reason else token

    def tell(self, kind: type[events.Event], **facts: Any) -> None:
        """Emit an event of this turn."""
        self._emit_event(kind(session=self.session.id, turn=self.session.turns, **facts))
