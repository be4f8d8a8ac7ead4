"""Pages for a runtime's sessions, and the pages that a new session finds written already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

import torch
from transformers import PreTrainedModel

from sfi_agent.contracts import PAGE, AttentionKernel
from sfi_agent.errors import SettingError
from sfi_agent.runtime.pages import PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.step import Step, Work

FREE_SHARE = 0.8
"""Of a device's free memory, at most what pages take: the rest is for steps and codes."""
WINDOWS = 16
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
    entries = [store.entry for store in probe.kv.layers.values()]
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
    return PagePool(pages, len(entries), (key, value))


def in_pages(pool: PagePool, session: Session, prompt: Sequence[int], others: Mapping[str, Session]) -> None:
    """Have the session's KV in pages; a new one begins with the pages that another has of its prompt.

    No step may run meanwhile; the others may forget what they hold, or leave memory, at any time.

    Raises:
        PoolFullError: there is no room for what it holds.
    """
    row = session.row
    if not isinstance(row.kv, PagedCache):
        session.cut(prompt)  # first: the turn was promised pages for no more than its own tokens
        row.kv = PagedCache.adopt(pool, row.kv)
    if row.kv.length:
        return
    best, length = None, 0
    for other in others.values():
        tokens, kv = other.tokens, other.row.kv  # in this order: a turn forgets before it has new tokens
        if isinstance(kv, PagedCache) and (same := _common(tokens[: kv.exact], prompt)) > length:
            best, length = kv, same
    if best is not None:
        session.tokens = list(prompt[: row.kv.share(best, length)])


def _common(tokens: Sequence[int], prompt: Sequence[int]) -> int:
    """Tokens of whole pages with which a prompt, but for its last token, begins as others do."""
    pairs = zip(tokens, prompt[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) // PAGE * PAGE
