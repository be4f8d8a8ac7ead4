"""Pages for a runtime's sessions, and the beginning of a prompt that another session has read already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from sfi_agent.contracts import PAGE, AttentionKernel, Selector
from sfi_agent.errors import SettingError
from sfi_agent.policy import Policy
from sfi_agent.runtime.kv import KVCache
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.step import Step, Work

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FREE_SHARE = 0.8
"""Of a device's free memory, at most what pages take: the rest is for steps and codes."""
WINDOWS = 64
"""Contexts of the model's full window that pages have room for, at most."""


def pool_for(
    model: PreTrainedModel, kernel: AttentionKernel, window: int, kv_bytes: int | None
) -> PagePool | None:
    """Pages for the model's keys and values, or None where each session is to have its own.

    Args:
        model: on attention ``sfi``.
        kernel: runs the one step by which the layers show what they store.
        window: of the model, tokens.
        kv_bytes: for all pages; None: on a CUDA device as much as is free, elsewhere none.

    Raises:
        SettingError: ``kv_bytes`` holds no page, or the layers differ in what they store.
    """
    if kv_bytes is None and model.device.type != "cuda":
        return None
    probe = Row(capture=False)
    Step([probe], [Work((0,))], [kernel], window).run(model, model.device)
    stores = [store for _, store in sorted(probe.kv.layers.items())]
    entries = [store.entry for store in stores]
    if len({(key.shape, value.shape) for key, value in entries}) != 1:
        if kv_bytes is None:
            return None
        raise SettingError("kv_bytes: this model's layers store keys of different shapes; leave it out")
    page = PAGE * len(entries) * sum(part.numel() * part.element_size() for part in entries[0])
    if kv_bytes is None:
        free, _ = torch.cuda.mem_get_info(model.device)
        kv_bytes = min(int(FREE_SHARE * free), WINDOWS * -(-window // PAGE) * page)
    if (pages := kv_bytes // page) < 2:
        raise SettingError(f"kv_bytes: must hold at least two pages of {page} bytes (given {kv_bytes})")
    key, value = entries[0]
    return PagePool(pages, [store.spec for store in stores], (key, value))


@dataclass(frozen=True)
class Beginning:
    """What a turn is about to read.

    Attributes:
        prompt: the whole of it.
        policy: of the turn.
        stretched: whether it goes past the model's rotary limit.
        most: of its tokens, those that may be another's; the last it reads itself, for logits and evidence.
    """

    prompt: list[int]
    policy: Policy
    stretched: bool
    most: int

    @classmethod
    def of(cls, prompt: Sequence[int], policy: Policy, selector: Selector, limit: int | None) -> Beginning:
        """Of a turn with this selector; ``limit`` is the model's ``rotary_limit``."""
        stretched = limit is not None and len(prompt) > limit
        own = 1 if policy.mode == "dense" else max(1, selector.rows_wanted())
        return cls(list(prompt), policy, stretched, len(prompt) - own)


def in_pages(pool: PagePool, session: Session, prompt: Sequence[int]) -> None:
    """Have the session's KV in pages. No step may run meanwhile.

    Raises:
        PoolFullError: there is no room for what it holds.
    """
    # Cut first: the turn was promised pages for no more than its own tokens.
    session.cut(session.common(prompt, session.row.kv.length))
    session.row.kv = PagedCache.adopt(pool, session.row.kv)


def found(session: Session, turn: Beginning, others: Mapping[str, Session]) -> tuple[KVCache, int] | None:
    """Whose KV a turn's prompt begins with, and for how long; None: nobody's for longer than its own.

    The others may forget what they hold, or leave memory, at any time.
    """
    kv = session.row.kv
    own = session.reusable(turn.prompt, turn.policy, stretched=turn.stretched)
    if own > kv.exact:  # a past that fast steps wrote is the session's own
        return None
    best = None
    for other in others.values():
        tokens, theirs = other.tokens, other.row.kv  # in this order: a turn forgets before it has new tokens
        if other is session or type(theirs) is not type(kv) or theirs.stretched != turn.stretched:
            continue
        if (same := _common(tokens, turn.prompt, min(theirs.exact, turn.most))) > own:
            best, own = theirs, same
    return None if best is None else (best, own)


@dataclass(frozen=True)
class Others:
    """What a turn may take of what others have read.

    Attributes:
        session: of the turn.
        turn: what it is about to read.
        sessions: whose keys and values may be taken.
    """

    session: Session
    turn: Beginning
    sessions: Mapping[str, Session]

    def there(self) -> bool:
        """Whether one of them holds more of the prompt than the session."""
        return found(self.session, self.turn, self.sessions) is not None

    def take(self) -> None:
        """Have the session begin with that, in the same pages or in a copy. No step may be made meanwhile."""
        session, turn = self.session, self.turn
        if (there := found(session, turn, self.sessions)) is None:
            return
        row, own = session.row, session.reusable(turn.prompt, turn.policy, stretched=turn.stretched)
        session.cut(own)
        row.queries.forget(own, there[1] - own)  # those of a rewritten past
        session.tokens = turn.prompt[: row.kv.share(*there)]

    def shared(self, prompt: Sequence[int]) -> int:
        """Tokens that could be taken of a session that has read another prompt."""
        return _common(list(prompt), self.turn.prompt, self.turn.most)


def _common(tokens: Sequence[int], prompt: Sequence[int], most: int) -> int:
    """Tokens of whole pages, at most ``most``, with which both begin."""
    length = 0
    while length + PAGE <= most and tokens[length : length + PAGE] == prompt[length : length + PAGE]:
        length += PAGE
    return length
