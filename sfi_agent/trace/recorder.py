"""The plugin that gathers a trace from events."""

from __future__ import annotations

import threading

from sfi_agent import __version__
from sfi_agent.details import StepsDecoded, TurnMeasured, TurnOpened
from sfi_agent.events import Event, PrefillProgress, TurnFinished, TurnStarted
from sfi_agent.hookspecs import hookimpl
from sfi_agent.trace.model import Trace, TurnTrace

TURNS = 20
Key = tuple[str, str, int]


class Recorder:
    """Gathers what turns do. Safe from threads.

    Attributes:
        model: its name, for the trace.

    Args:
        turns: how many are remembered; of more the earliest are forgotten.
    """

    wants_details = True
    """A plugin that says so is told of the events of :mod:`sfi_agent.details`, too."""

    def __init__(self, model: str = "", *, turns: int = TURNS) -> None:
        self.model = model
        self._most, self._left_out = turns, 0
        self._turns: dict[Key, TurnTrace] = {}
        self._lock = threading.RLock()  # a stream may be collected, and tell of its end, inside of it

    @property
    def trace(self) -> Trace:
        """What was gathered so far; a copy."""
        with self._lock:
            turns = [_copy(turn) for turn in list(self._turns.values())]
            left_out = self._left_out
        return Trace(sfi_agent=__version__, model=self.model).model_copy(
            update={"turns": turns, "left_out": left_out}
        )

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        """Take an event of this process."""
        self.take(event)

    def take(self, event: Event, runtime: str = "") -> None:
        """Take an event of the runtime of that name."""
        with self._lock:
            self._take(event, runtime)

    def _take(self, event: Event, runtime: str) -> None:
        match event:
            case TurnStarted():
                turn = self._of(event, runtime, new=True)
                turn.mode, turn.prompt_tokens = event.mode, event.prompt_tokens
                turn.reused_tokens = turn.read = event.reused_tokens
            case TurnOpened():
                turn = self._of(event, runtime)
                turn.policy, turn.prompt = event.policy, list(event.prompt)
            case PrefillProgress():
                self._of(event, runtime).read = event.done
            case StepsDecoded():
                turn = self._of(event, runtime)
                turn.steps += event.steps
                turn.tokens += event.tokens
                turn.memories += event.memories
            case TurnFinished():
                self._of(event, runtime).finish_reason = event.reason
            case TurnMeasured():
                cost = {name: getattr(event, name) for name in TurnMeasured.__annotations__}
                self._of(event, runtime).cost = cost

    def _of(self, event: Event, runtime: str, *, new: bool = False) -> TurnTrace:
        """The turn of an event; one whose beginning was not heard begins here."""
        key = runtime, event.session, event.turn
        if new:
            self._turns.pop(key, None)
        if key not in self._turns:
            self._turns[key] = TurnTrace(runtime=runtime, session=event.session, turn=event.turn)
            while len(self._turns) > self._most:
                del self._turns[next(iter(self._turns))]
                self._left_out += 1
        return self._turns[key]


def _copy(turn: TurnTrace) -> TurnTrace:
    lists = {name: [*getattr(turn, name)] for name in ("prompt", "tokens", "steps", "memories")}
    return turn.model_copy(update=lists)
