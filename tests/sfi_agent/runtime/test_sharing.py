"""Pages that sessions share, while threads of their own begin, cut and drop these sessions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sfi_agent.contracts import Coding, LayerSpec
from sfi_agent.runtime import pages, sharing
from sfi_agent.runtime.pages import PAGE, PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.session import Session


@pytest.fixture
def pool():
    """Of eight pages, for two layers."""
    return PagePool(9, 2, (torch.zeros(2, 8), torch.zeros(2, 8)))


def session_of(pool, length):
    """A session of tokens 0 ... whose keys and values are random."""
    session = Session("donor")
    session.tokens, session.row.kv = list(range(length)), PagedCache(pool)
    append(session.row.kv, length)
    return session


def append(kv, count):
    kv.prepare(count)
    for layer in range(2):
        kv.write(layer, torch.randn(2, count, 8), torch.randn(2, count, 8), LayerSpec(1.0))
    kv.commit(count, fast=False)


@pytest.mark.parametrize("kept", [0, PAGE, 100])
def test_pages_that_their_session_leaves_meanwhile_are_not_held(pool, monkeypatch, kept):
    donor, new, common = session_of(pool, 3 * PAGE), Session("new"), sharing._common

    def forgotten(*arguments):
        found = common(*arguments)
        donor.row.truncate(kept)  # as the donor's own thread may do at any time
        return found

    monkeypatch.setattr(sharing, "_common", forgotten)
    sharing.in_pages(pool, new, [*range(3 * PAGE), 7], {"donor": donor})
    assert new.tokens == list(range(kept))
    assert new.row.kv.length == kept
    assert set(pool.take(pool.free)).isdisjoint(new.row.kv.held)
    for layer in range(2):
        for own, other in zip(
            new.row.kv.gathered(layer, 0, kept), donor.row.kv.gathered(layer, 0, kept), strict=True
        ):
            assert torch.equal(own, other)


def test_a_session_may_leave_while_others_are_looked_at(tiny, runtime):
    ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(2)}
    for name in ("a", "b"):
        runtime.generate(tiny.prompt(20), session=name, **ask)
    seen = []
    for session in runtime.sessions.values():
        seen.append(session.id)
        runtime.drop_session("b")
    assert seen == ["a", "b"]


def test_threads_that_share_cut_and_drop(tiny, shared):
    """Prompts that begin alike and part at random, in sessions and without, some dropped on the way."""
    policy, sampling = tiny.policy("dense", kernel="torch"), tiny.sampling(4)
    prompts = [[*tiny.prompt(200)[:cut], *tiny.prompt(40, seed=cut)] for cut in (64, 100, 128, 192)]
    expected = [shared.generate(prompt, policy=policy, sampling=sampling).token_ids for prompt in prompts]
    with Runtime.load(shared.model, tokenizer=shared.tokenizer, kv_bytes=2**23) as runtime:
        free, ready = runtime.pool.free, threading.Barrier(4)

        def work(thread):
            ready.wait()
            found = []
            for turn in range(6):
                which = (thread + turn) % len(prompts)
                session = f"s{(thread + turn // 2) % 3}" if turn % 3 else None
                got = runtime.generate(prompts[which], policy=policy, sampling=sampling, session=session)
                found.append(got.token_ids == expected[which])
                if turn == 3:
                    runtime.drop_session(f"s{thread % 3}")
            return found

        with ThreadPoolExecutor(4) as threads:
            assert all(all(found) for found in threads.map(work, range(4)))
        for name in list(runtime.sessions):
            runtime.drop_session(name)
        assert runtime.pool.free == free


class Noting(Coding):
    """The sign of each element in a byte; notes how many elements it was given at a time."""

    bits, levels = 8, ()

    def __init__(self):
        self.given = []

    def rotation(self, like):
        return torch.eye(like.shape[-1])

    def code(self, keys, mean):
        self.given.append(keys.numel())
        return (keys - mean > 0).to(torch.uint8), (keys - mean).mean(-1)


def codes_of(kv):
    return [part[:, kv.held].clone() for part in (kv.pool.codes, kv.pool.scales)]


def test_what_is_shared_is_coded_alike_by_all(pool):
    """Neither had coded the first page when the second session took it."""
    donor, twin, coding = session_of(pool, 3 * PAGE).row.kv, PagedCache(pool), Noting()
    assert twin.share(donor, PAGE) == PAGE
    append(twin, 2 * PAGE)
    pool.code_with(coding)
    donor.code(coding, 2 * PAGE)
    before = codes_of(donor)
    twin.code(coding, 3 * PAGE)
    for part, expected in zip(codes_of(donor), before, strict=True):
        assert torch.equal(part[:, :2], expected[:, :2])


def test_a_context_that_begins_anew_is_coded_by_its_own_keys(pool):
    kv, coding = session_of(pool, 2 * PAGE).row.kv, Noting()
    pool.code_with(coding)
    kv.code(coding, PAGE)
    kv.truncate(0)
    append(kv, 2 * PAGE)
    kv.code(coding, PAGE)
    again = codes_of(kv)
    fresh = PagedCache(pool)
    append(fresh, 2 * PAGE)
    for layer in range(2):
        fresh.put(layer, fresh.places(0, 2 * PAGE), *kv.gathered(layer, 0, 2 * PAGE), LayerSpec(1.0))
    fresh.code(coding, PAGE)
    for part, expected in zip(codes_of(fresh), again, strict=True):
        assert torch.equal(part[:, :1], expected[:, :1])


def test_a_few_pages_are_coded_at_a_time(pool, monkeypatch):
    kv, coding, each = session_of(pool, 6 * PAGE).row.kv, Noting(), 2 * 2 * 8
    pool.code_with(coding)
    kv.code(coding, 6 * PAGE - 9)
    whole = codes_of(kv)
    monkeypatch.setattr(pages, "CODED_ELEMENTS", 2 * PAGE * each)
    kv.coded, coding.given = 5, []
    assert kv.code(coding, 6 * PAGE - 9) == 6 * PAGE - 14
    assert max(coding.given) == 2 * PAGE * each
    assert sum(coding.given) == (6 * PAGE - 14) * each
    for part, expected in zip(codes_of(kv), whole, strict=True):
        assert torch.equal(part[:, :5], expected[:, :5])
