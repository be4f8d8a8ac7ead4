"""A conversation: its tokens, its row, and what a new turn may reuse of them."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from sfi_agent.contracts import Selector
from sfi_agent.errors import SFIError, TurnTimeoutError
from sfi_agent.policy import Policy
from sfi_agent.runtime.queries import RecentQueries
from sfi_agent.runtime.row import Row, copied
from sfi_agent.runtime.stream import Hands, waited

if TYPE_CHECKING:
    import torch

    from sfi_agent.store.parked import ParkedRow

MakeSelector = Callable[[str, dict[str, Any]], Selector]


@dataclass(frozen=True)
class KeptSelector:
    """The selector of a session's last turn, with its state, and the name and settings it was made by."""

    name: str
    settings: dict[str, Any]
    selector: Selector

    def serves(self, policy: Policy) -> bool:
        """Whether ``policy`` names this selector with these settings."""
        return self.name == policy.selector and _plain(self.settings) == _plain(policy.selector_settings)

    def fork(self, make: MakeSelector) -> KeptSelector:
        """Another selector with the same state."""
        selector = make(self.name, self.settings)
        selector.restore(copied(self.selector))
        return replace(self, selector=selector)


def _plain(settings: dict[str, Any]) -> str:
    """Settings as JSON, which a session on disk holds them in (a tuple comes back as a list)."""
    return json.dumps(settings, sort_keys=True, default=repr)


class Session:
    """State that outlives a turn.

    Attributes:
        id: name of the conversation.
        parked: its row in the host's memory, while ``row`` is empty; None: it is not there.
        tokens: prompt and answer of the last turn; ``row`` holds the KV of all or most of them.
        turns: turns begun.
        policy: of the last turn; None before the first.
        kept: its selector, or None.
        notes: what a caller keeps with it, JSON; replaced, never changed.
        unsaved: whether a turn began, or notes were set, since it was last written to a store.
        lock: held for the length of a turn.
        reader: of the stream whose turn holds the lock; None: nobody's.
        in_step: whether a turn is in a step still although its iterator, collected meanwhile, holds no lock.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self.tokens: list[int] = []
        self.row = Row()
        self.parked: ParkedRow | None = None
        self.turns = 0
        self.policy: Policy | None = None
        self.kept: KeptSelector | None = None
        self.notes: dict[str, Any] = {}
        self.unsaved = False
        self.lock = threading.Lock()
        self.reader: Hands | None = None
        self.in_step = False

    def check_reader(self, timeout: float | None) -> None:
        """Refuse to wait without end for a stream with which this thread alone could go on.

        Raises:
            SFIError: that it would.
        """
        reader = self.reader
        if timeout is None and reader is not None and reader.only_here:
            raise SFIError(
                f"session {self.id!r} is still answering, in a stream that this thread has open, and would "
                "wait for itself; read the stream to its end or close it first (with ... as stream does)"
            )

    @contextmanager
    def held(self, timeout: float | None, reader: Hands | None = None) -> Iterator[None]:
        """Hold the lock, for a stream of ``reader``, waiting for it no longer than ``timeout`` seconds.

        Raises:
            TurnTimeoutError: another turn still held it.
            SFIError: a stream of this thread holds it, and there is no timeout.
            StreamCancelledError: ``reader`` was, while it waited.
        """
        self.check_reader(timeout)
        if not waited(lambda seconds: self.lock.acquire(timeout=seconds), timeout, reader):
            raise TurnTimeoutError(
                f"an earlier turn of session {self.id!r} still ran when this one passed its deadline; "
                "allow more time, or end that turn"
            )
        self.reader = reader
        try:
            yield
        finally:
            self.reader = None
            self.lock.release()

    @contextmanager
    def held_if_free(self) -> Iterator[bool]:
        """Hold the lock if no turn does, nor is in a step still; whether it is held."""
        free = not self.in_step and self.lock.acquire(blocking=False)
        try:
            yield free
        finally:
            if free:
                self.lock.release()

    def fork(self, id: str, make: MakeSelector) -> Session:
        """Another session that goes on from here as this one would. The caller holds the lock.

        Args:
            id: of the other.
            make: makes a selector by name and settings, as the registry does.

        Raises:
            PluginError: the selector keeps what cannot be copied.
        """
        twin = Session(id)
        twin.kept = self.kept.fork(make) if self.kept else None
        twin.row = self.row.fork(twin.kept.selector if twin.kept else None)
        twin.tokens, twin.turns, twin.policy = list(self.tokens), self.turns, self.policy
        twin.notes, twin.unsaved = copy.deepcopy(self.notes), True
        return twin

    def park(self) -> None:
        """Move the row to the host's memory. The caller holds the lock."""
        from sfi_agent.store.parked import ParkedRow

        self.parked = ParkedRow.of(self.row)
        self.forget()

    def forget(self) -> None:
        """Have no row any more; its pages are free at once. The caller holds the lock."""
        row, self.row = self.row, Row()
        row.truncate(0)  # a turn that is over may know the row until it is collected as garbage

    def wake(self, device: torch.device) -> None:
        """Move a parked row back to ``device``. The caller holds the lock."""
        if self.parked is not None:
            self.row = self.parked.row(device, self.kept.selector if self.kept else None)
            self.parked = None

    def selector_of(self, policy: Policy) -> Selector | None:
        """The selector this session used for such a policy, with its state; None if another."""
        return self.kept.selector if self.kept and self.kept.serves(policy) else None

    def cut(self, length: int) -> None:
        """Forget the history from ``length`` on, which a prompt rewrites. The caller holds the lock."""
        if length < self.row.kv.length:
            self.row.truncate(length)
            if self.kept:
                self.kept.selector.reset()

    def reusable(self, prompt: Sequence[int], policy: Policy, *, stretched: bool) -> int:
        """Tokens of ``prompt`` whose KV a turn may keep; see :meth:`begin`."""
        kv = self.row.kv
        # With repair a slow step would read what fast ones wrote again, and all of the prompt behind it.
        held = kv.length if policy.mode == "sfi" and not policy.repair else kv.exact
        return self.common(prompt, held) if kv.stretched == stretched else 0

    def common(self, prompt: Sequence[int], held: int) -> int:
        """Of the first ``held`` tokens, those with which a prompt, but for its last, begins."""
        own, new = self.tokens[:held], list(prompt[:-1])
        both = min(len(own), len(new))
        if own[:both] == new[:both]:  # mostly, and compared at once
            return both
        pairs = zip(own, new, strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    def begin(self, prompt: Sequence[int], policy: Policy, selector: Selector, *, stretched: bool) -> int:
        """Keep what ``prompt`` shares with the history and forget the rest.

        Returns:
            prompt tokens whose KV is kept: the longest common prefix, less what fast steps wrote
            if the mode promises dense output or repairs it, and never the whole prompt, whose last token must
            run to give logits; nothing if its rotary frequencies are not those of this prompt
            (``stretched``: past the model's rotary limit).
        """
        row = self.row
        common = self.reusable(prompt, policy, stretched=stretched)
        if common < row.kv.length:
            selector.reset()
        row.truncate(common)
        row.capture = policy.mode != "dense"
        if row.queries.rows < selector.rows_wanted():
            row.queries = RecentQueries(selector.rows_wanted())
        if self.kept is None or self.kept.selector is not selector:
            row.indexes.clear()
        self.kept = KeptSelector(policy.selector, policy.selector_settings, selector)
        self.policy, self.tokens = policy, list(prompt)
        self.turns += 1
        self.unsaved = True
        return common
