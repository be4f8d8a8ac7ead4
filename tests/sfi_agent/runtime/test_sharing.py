"""What sessions share, while threads of their own begin, cut and drop these sessions."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sfi_agent.contracts import Coding, LayerSpec, rows
from sfi_agent.policy import Policy
from sfi_agent.runtime import sharing
from sfi_agent.runtime.kv import KVCache
from sfi_agent.runtime.pages import PAGE, PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.runtime import Runtime
from sfi_agent.runtime.session import Session
from sfi_agent.runtime.sharing import Beginning, Others
from sfi_kernels.rows import TorchRows
from sfi_plugins.selectors.recent import RecentSelector


@pytest.fixture
def pool():
    """Of eight pages, for two layers."""
    return PagePool(9, 2 * [LayerSpec(1.0)], (torch.zeros(2, 8), torch.zeros(2, 8)))


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


def asked(prompt, own=1):
    return Beginning(prompt, Policy(mode="dense"), False, len(prompt) - own)


@pytest.mark.parametrize("kept", [0, PAGE, 100])
@pytest.mark.parametrize("paged", [True, False])
def test_what_its_session_forgets_meanwhile_is_not_taken(pool, monkeypatch, kept, paged):
    donor, new, common = session_of(pool, 3 * PAGE), Session("new"), sharing._common
    if paged:
        new.row.kv = PagedCache(pool)
    else:
        donor.row.kv = in_one_piece(donor.row.kv)

    def forgotten(*arguments):
        same = common(*arguments)
        donor.row.truncate(kept)  # as the donor's own thread may do at any time
        return same

    monkeypatch.setattr(sharing, "_common", forgotten)
    Others(new, asked([*range(3 * PAGE), 7]), {"donor": donor}).take()
    assert new.tokens == list(range(kept))
    assert (new.row.kv.length, new.row.kv.exact) == (kept, kept)
    if paged:
        assert set(pool.take(pool.free)).isdisjoint(new.row.kv.held)
    for layer in range(2 if kept else 0):
        for own, other in zip(*(of.row.kv.layers[layer].span(0, kept) for of in (new, donor)), strict=True):
            assert torch.equal(own, other)


def in_one_piece(paged):
    """The same positions in a cache of their own."""
    kv = KVCache()
    for layer, store in paged.layers.items():
        kv.write(layer, *store.span(0, paged.length), store.spec)
    kv.commit(paged.length, fast=False)
    return kv


@pytest.mark.parametrize("same", [0, PAGE - 1, PAGE, 100, 3 * PAGE])
@pytest.mark.parametrize("own", [1, 40])
def test_whole_pages_are_taken_and_the_last_tokens_left_to_read(pool, same, own):
    donor, new = session_of(pool, 3 * PAGE), Session("new")
    donor.row.kv = in_one_piece(donor.row.kv)
    prompt = [*range(same), *[-1] * (2 * PAGE)][: 3 * PAGE]
    Others(new, asked(prompt, own), {"new": new, "donor": donor}).take()
    assert new.row.kv.length == min(same, 3 * PAGE - own) // PAGE * PAGE
    assert new.tokens == prompt[: new.row.kv.length]


@pytest.mark.parametrize("held", [20, PAGE, 100])
def test_a_rewritten_session_keeps_what_agrees_and_takes_the_rest(pool, held):
    donor, other = session_of(pool, 3 * PAGE), session_of(pool, 3 * PAGE)
    donor.row.kv, other.row.kv = in_one_piece(donor.row.kv), in_one_piece(other.row.kv)
    other.tokens[held:] = [-1] * (3 * PAGE - held)
    queries = other.row.queries
    queries.write(0, 2 * PAGE, torch.ones(PAGE, 2, 8))
    queries.commit(2 * PAGE, PAGE)
    before = other.row.kv.layers[0].span(0, held)[0].clone()
    Others(other, asked([*range(3 * PAGE), 7]), {"other": other, "donor": donor}).take()
    assert (other.row.kv.length, other.row.kv.exact) == (3 * PAGE, 3 * PAGE)
    keys, donors = (of.row.kv.layers[0].span(0, 3 * PAGE)[0] for of in (other, donor))
    assert torch.equal(keys[:, :held], before)
    assert torch.equal(keys[:, held:], donors[:, held:])
    assert queries.latest(3 * PAGE, 8) == [], "those were of the past that is rewritten"


def test_what_fast_steps_wrote_is_taken_by_none_and_given_up_for_none(pool):
    donor, new = session_of(pool, 3 * PAGE), Session("new")
    donor.row.kv = in_one_piece(donor.row.kv)
    donor.row.kv.exact = 100
    Others(new, asked([*range(3 * PAGE), 7]), {"donor": donor}).take()
    assert new.row.kv.length == PAGE
    sparse = Beginning([*range(3 * PAGE), 7], Policy(mode="sfi", repair=False), False, 3 * PAGE)
    full = session_of(pool, 3 * PAGE)
    full.row.kv = in_one_piece(full.row.kv)
    donor.row.truncate(150)
    assert sharing.found(donor, sparse, {"full": full}) is None
    assert sharing.found(new, sparse, {"full": full}) == (full.row.kv, 3 * PAGE)


def test_keys_past_the_rotary_limit_are_no_others(pool):
    donor, new = session_of(pool, 3 * PAGE), Session("new")
    donor.row.kv = in_one_piece(donor.row.kv)
    donor.row.kv.stretched = True
    turn = Beginning.of(range(3 * PAGE), Policy(mode="dense"), RecentSelector(), None)
    assert sharing.found(new, turn, {"donor": donor}) is None
    past = Beginning.of(range(3 * PAGE), Policy(mode="dense"), RecentSelector(), 2 * PAGE)
    assert sharing.found(new, past, {"donor": donor}) == (donor.row.kv, 2 * PAGE)


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
    donor.code(coding, 2 * PAGE, TorchRows())
    before = codes_of(donor)
    twin.code(coding, 3 * PAGE, TorchRows())
    for part, expected in zip(codes_of(donor), before, strict=True):
        assert torch.equal(part[:, :2], expected[:, :2])


@pytest.mark.parametrize("before", [9, PAGE + 9])
@pytest.mark.parametrize("kept", [0, 5, PAGE])
@pytest.mark.parametrize("forked", [False, True])
def test_codes_follow_from_the_keys_alone(pool, before, kept, forked):
    """Whatever the first page held when a session was coded before: it may be read from disk in between."""
    kv, coding = session_of(pool, before).row.kv, Noting()
    pool.code_with(coding)
    kv.code(coding, before - 3, TorchRows())
    if forked:
        kv = kv.fork(kept)
    kv.truncate(kept)
    append(kv, 2 * PAGE - kv.length)
    kv.code(coding, PAGE + 3, TorchRows())
    fresh = PagedCache(pool)
    fresh.prepare(2 * PAGE)
    for layer in range(2):
        fresh.put(layer, fresh.places(0, 2 * PAGE), *kv.gathered(layer, 0, 2 * PAGE))
    fresh.length = 2 * PAGE
    fresh.code(coding, PAGE + 3, TorchRows())
    assert kv.coded == fresh.coded == PAGE + 3
    for part, expected in zip(codes_of(kv), codes_of(fresh), strict=True):
        assert torch.equal(part[:, 0], expected[:, 0])
        assert torch.equal(part[:, 1, :, :3], expected[:, 1, :, :3])


def test_a_few_pages_are_coded_at_a_time(pool, monkeypatch):
    kv, coding, each = session_of(pool, 6 * PAGE).row.kv, Noting(), 2 * 2 * 8
    pool.code_with(coding)
    kv.code(coding, 6 * PAGE - 9, TorchRows())
    whole = codes_of(kv)
    monkeypatch.setattr(rows, "CODED_ELEMENTS", 2 * PAGE * each)
    kv.coded, coding.given = 5, []
    assert kv.code(coding, 6 * PAGE - 9, TorchRows()) == 6 * PAGE - 14
    assert max(coding.given) == 2 * PAGE * each
    assert sum(coding.given) == (6 * PAGE - 14) * each
    for part, expected in zip(codes_of(kv), whole, strict=True):
        assert torch.equal(part[:, :5], expected[:, :5])


def test_what_is_not_coded_has_a_finite_scale(pool):
    """A kernel reads whole pages; a row's codes end within one, and memory that nobody wrote may be NaN."""
    torch.use_deterministic_algorithms(True)  # which fills such memory with NaN
    try:
        pool.code_with(Noting())
    finally:
        torch.use_deterministic_algorithms(False)
    assert pool.scales.isfinite().all()
