"""Prompts in the steps in which others decode."""

from __future__ import annotations

import pytest
import torch

from sfi_agent import Runtime
from sfi_agent.runtime import engine, replay, shape
from sfi_agent.runtime.captured import Captured
from sfi_agent.runtime.draft import DraftCosts, DraftLimit
from sfi_agent.runtime.engine import Engine
from sfi_agent.runtime.replay import Replayer

MODES = ["dense", "sfi", "verified"]


@pytest.fixture
def paged(tiny, shared):
    """A runtime whose sessions are in pages."""
    with Runtime.load(shared.model, tokenizer=tiny.tokenizer, kv_bytes=2**22) as runtime:
        yield runtime


@pytest.fixture(params=[False, True], ids=["one after another", "ahead"])
def ahead(request, monkeypatch):
    """Whether steps begin before those before them are looked at, as on a GPU."""
    monkeypatch.setattr(engine, "DEVICES", frozenset({"cpu"}) if request.param else frozenset())
    return request.param


@pytest.fixture
def launched(monkeypatch):
    """What the rows of each step do, and whether it began behind another one."""
    found, real = [], Replayer._begun

    def begun(self, asks, captured, before=()):
        found.append(([ask.work for ask in asks], bool(before)))
        return real(self, asks, captured, before)

    monkeypatch.setattr(Replayer, "_begun", begun)
    return found


@pytest.fixture
def laid_out(monkeypatch):
    """The shape of each step, and how many logits it has."""
    found, real = [], Captured.launch

    def launch(self):
        mail = real(self)
        found.append((self._shape, len(self.logits)))
        return mail

    monkeypatch.setattr(Captured, "launch", launch)
    return found


def policy_of(tiny, mode, **settings):
    return tiny.policy(mode, kernel="torch", adaptive_draft=False, **settings)


def read_in_part(runtime, prompt, read, **options):
    """Begin a turn of session ``a`` that is cancelled behind so many chunks; where they ended."""
    chunks = []

    def progress(done, _):
        chunks.append(done)
        if len(chunks) == read:
            stream.cancel()

    stream = runtime.stream(prompt, session="a", on_progress=progress, **options)
    assert list(stream) == []
    return chunks


@pytest.mark.parametrize("mode", MODES)
def test_a_prompt_is_read_in_the_steps_of_those_that_decode(tiny, shared, ahead, paged, launched, mode):
    prompts = tiny.prompt(40, seed=1), tiny.prompt(170, seed=2)
    policy, sampling = policy_of(tiny, mode), tiny.sampling(40)
    first = paged.stream(prompts[0], policy=policy, sampling=sampling)
    for _ in range(4):
        next(first)
    launched.clear()
    second = paged.stream(prompts[1], policy=policy, sampling=sampling)
    next(second)
    chunks = [([work for work in works if work.prefill], len(works)) for works, _ in launched]
    read = [len(work.tokens) for found, _ in chunks for work in found]
    assert read == [32, 32, 32, 32, 32, 10]
    if mode != "verified":  # whose drafts wait for one another, and may find nobody to wait for
        assert all(rows == 2 for found, rows in chunks if found)
    for stream, prompt in zip((first, second), prompts, strict=True):
        for _ in stream:
            pass
        alone = shared.generate(prompt, policy=policy, sampling=sampling)
        assert stream.result.token_ids == alone.token_ids
        assert stream.result.slow_steps == alone.slow_steps


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("ahead", [True], indirect=True)
def test_a_chunk_begins_while_the_one_before_it_runs(tiny, ahead, paged, launched, mode):
    """So does what follows the last of them, with the token that it finds."""
    paged.generate(tiny.prompt(100), policy=policy_of(tiny, mode), sampling=tiny.sampling(3))
    assert [behind for _, behind in launched] == [False, True, True, True, True, True]
    assert [work.prefill for (work,), _ in launched] == [True] * 4 + [False] * 2
    assert [work.wanted for (work,), _ in launched] == [0, 0, 0, 1, 1, 1]
    assert [work.fast for (work,), _ in launched] == [False] * 4 + [mode == "sfi"] * 2


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cut", [{}, {"top_k": 40, "top_p": 0.95}], ids=["of all", "of the likeliest"])
def test_the_first_token_is_drawn_as_the_others(tiny, shared, ahead, paged, mode, cut):
    policy, prompt = policy_of(tiny, mode), tiny.prompt(70)
    for seed in range(4):
        sampling = tiny.sampling(5, temperature=1.2, seed=seed, **cut)
        found, wanted = (
            each.generate(prompt, policy=policy, sampling=sampling).token_ids for each in (paged, shared)
        )
        assert found == wanted


def test_a_step_has_logits_of_what_is_wanted_alone(tiny, paged, laid_out):
    """A prompt's would be a vocabulary for each of its tokens."""
    policy = policy_of(tiny, "verified", prefill_chunk=60)
    paged.generate(tiny.prompt(110), policy=policy, sampling=tiny.sampling(20))
    sizes = [(each.tokens, logits) for each, logits in laid_out]
    assert sizes[:2] == [(64, 1), (64, 1)]
    assert (16, 16) in sizes  # a pass over a draft


def test_nor_beside_drafts_that_are_verified(tiny, paged, laid_out):
    """A prompt's chunk adds to the tokens of such a step, not to its logits."""
    drafting = policy_of(tiny, "verified", max_draft=6)
    first = paged.stream(tiny.prompt(40, seed=1), policy=drafting, sampling=tiny.sampling(60))
    next(first)
    laid_out.clear()
    reading = policy_of(tiny, "dense", prefill_chunk=40)
    second = paged.stream(tiny.prompt(450, seed=2), policy=reading, sampling=tiny.sampling(3))
    for _ in zip(first, second, strict=False):
        pass
    assert (64, 16) in {(each.tokens, logits) for each, logits in laid_out}
    second.close()
    first.close()


def test_few_sizes_of_long_steps(tiny, paged, laid_out, monkeypatch):
    """And of contexts: a prompt passes many."""
    for name, value in (("SHORTEST", 16), ("EACH", (8, 32)), ("LONG", 8), ("TOGETHER", (8, 16, 32, 48))):
        monkeypatch.setattr(shape, name, value)
    for tokens in (9, 20, 31, 32, 70):
        paged.generate(tiny.prompt(tokens), policy=policy_of(tiny, "dense"), sampling=tiny.sampling(1))
    sizes = {(each.tokens, each.each, each.span) for each, _ in laid_out}
    assert sizes == {(32, 32, 16), (32, 32, 64), (8, 8, 128)}


def test_longer_chunks_are_read_outside(tiny, shared, paged, monkeypatch):
    monkeypatch.setattr(replay, "EACH", (8, 16))
    outside, called = [], Engine._called

    def noticed(self, jobs):
        outside.extend(len(job.turn.work.tokens) for job in jobs)
        return called(self, jobs)

    monkeypatch.setattr(Engine, "_called", noticed)
    policy, sampling = policy_of(tiny, "sfi"), tiny.sampling(8)
    found = paged.generate(tiny.prompt(70), policy=policy, sampling=sampling)
    assert outside == [32, 32]
    assert found.token_ids == shared.generate(tiny.prompt(70), policy=policy, sampling=sampling).token_ids


@pytest.mark.parametrize("chunk", [32, 97, 150])
@pytest.mark.parametrize("read", [1, 2])
def test_a_turn_that_ends_in_its_prompt_leaves_evidence_of_its_own_tokens(
    tiny, shared, ahead, paged, chunk, read
):
    """And of no later ones: what was launched behind its last chunk wrote queries to the same slots."""
    policy = policy_of(tiny, "sfi", selector="snapkv", prefill_chunk=chunk)
    prompt, sampling = tiny.prompt(400), tiny.sampling(40)
    read_in_part(paged, prompt, read, policy=policy, sampling=sampling)
    prompt = [*prompt[: chunk * read], *tiny.prompt(2, seed=9)]
    found = paged.generate(prompt, policy=policy, sampling=sampling, session="a")
    assert found.reused_tokens >= chunk * read - 32
    assert found.token_ids == shared.generate(prompt, policy=policy, sampling=sampling).token_ids


def test_a_selector_forgets_what_a_cancelled_prompt_left_to_be_read_again(tiny, paged):
    """Its masses of positions that are another prompt's then."""

    def tokens(*, cancelled):
        def policy(mode):
            settings = {"selector": "h2o", "selector_settings": {"captured": 64, "decay": 1.0}}
            return policy_of(tiny, mode, prefill_chunk=5, max_interval=3, **settings)

        history, session = tiny.prompt(150), f"cancelled {cancelled}"
        for mode, count, more in (("sfi", 1, 3), ("dense", 2, 10)):  # a dense turn keeps no queries
            sampling = tiny.sampling(count)
            answer = paged.generate(history, policy=policy(mode), sampling=sampling, session=session)
            history = [*history, *answer.token_ids, *tiny.prompt(more, seed=more)]
        if cancelled:
            options = {"policy": policy("sfi"), "sampling": tiny.sampling(5)}
            stream = paged.stream(history, session=session, on_progress=lambda *_: stream.cancel(), **options)
            assert list(stream) == []
        prompt = [*history[:97], *tiny.prompt(80, seed=7)]
        answer = paged.generate(prompt, policy=policy("sfi"), sampling=tiny.sampling(40), session=session)
        return answer.token_ids

    assert tokens(cancelled=True) == tokens(cancelled=False)


@pytest.mark.parametrize("read", [1, 2])
def test_a_turn_that_ends_while_its_next_chunk_is_under_way_leaves_its_pages(
    tiny, shared, ahead, paged, read
):
    free, policy = paged.pool.free, policy_of(tiny, "sfi")
    neighbour = paged.stream(tiny.prompt(40, seed=1), policy=policy, sampling=tiny.sampling(30))
    next(neighbour)
    prompt, sampling = tiny.prompt(170), tiny.sampling(9)
    chunks = read_in_part(paged, prompt, read, policy=policy, sampling=sampling)
    assert chunks == [32 * (index + 1) for index in range(read)]
    assert paged.sessions["a"].row.kv.length == 32 * read
    again = paged.generate(prompt, policy=policy, sampling=sampling, session="a")
    assert again.reused_tokens == 32 * read
    assert again.token_ids == shared.generate(prompt, policy=policy, sampling=sampling).token_ids
    for _ in neighbour:
        pass
    alone = shared.generate(tiny.prompt(40, seed=1), policy=policy, sampling=tiny.sampling(30))
    assert neighbour.result.token_ids == alone.token_ids
    paged.drop_session("a")
    assert paged.pool.free == free


def test_steps_that_read_a_prompt_tell_nothing_of_how_long_others_take(tiny, paged, launched, monkeypatch):
    """How many tokens are worth drafting is told by steps that decode."""
    told, real = [], DraftCosts.observe

    def observe(self, *given, shared, **facts):
        told.append(shared)
        real(self, *given, shared=shared, **facts)

    monkeypatch.setattr(DraftCosts, "observe", observe)
    monkeypatch.setattr(DraftLimit, "next", lambda _: 0)
    policy, sampling = policy_of(tiny, "verified"), tiny.sampling(40)
    first = paged.stream(tiny.prompt(40, seed=1), policy=policy, sampling=sampling)
    next(first)
    second = paged.stream(tiny.prompt(170, seed=2), policy=policy, sampling=sampling)
    for stream in (second, first):
        for _ in stream:
            pass
    beside = [works for works, _ in launched if any(work.prefill for work in works)]
    assert sum(told) == sum(any(not work.prefill for work in works) for works in beside) > 4
    assert len(told) == sum(any(not work.prefill for work in works) for works, _ in launched)


def test_queries_of_a_prompt_are_kept_for_the_next_turn(tiny, paged):
    """Whose selector may ask for them, as this one does not."""
    policy = policy_of(tiny, "sfi", selector="recent")
    paged.generate(tiny.prompt(70), policy=policy, sampling=tiny.sampling(5), session="a")
    row = paged.sessions["a"].row
    assert row.queries.latest(70, 8) == list(range(62, 70))
    kept = torch.stack([row.queries.gather(layer, list(range(64, 70))) for layer in range(2)])
    paged.generate(tiny.prompt(70), policy=policy_of(tiny, "sfi"), sampling=tiny.sampling(5), session="b")
    row = paged.sessions["b"].row
    assert row.queries.latest(70, 8) == list(range(64, 70))  # its first page is the other's
    same = torch.stack([row.queries.gather(layer, list(range(64, 70))) for layer in range(2)])
    torch.testing.assert_close(kept, same)
