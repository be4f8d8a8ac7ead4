"""Steps launched before the tokens of those before them were looked at."""

from __future__ import annotations

import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch

from sfi_agent import Runtime
from sfi_agent.contracts import BoundaryDetector, LayerSpec
from sfi_agent.policy import Policy
from sfi_agent.registry import default_registry
from sfi_agent.runtime import engine
from sfi_agent.runtime.ahead import Ahead
from sfi_agent.runtime.draft import DraftLimit
from sfi_agent.runtime.intake import Intake
from sfi_agent.runtime.pages import PAGE, PagedCache
from sfi_agent.runtime.pool import PagePool
from sfi_agent.runtime.queries import EVIDENCE_ROWS
from sfi_agent.runtime.replay import Replayer
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.step import Step, Work
from sfi_agent.runtime.turn import Turn
from sfi_kernels.rows import TorchRows
from sfi_plugins.boundaries.interval import IntervalDetector
from sfi_plugins.selectors.snapkv import SnapKVSelector

BOUNDARIES = {"boundaries": ("interval",), "boundary_settings": {"interval": {"every": 5}}}
PAGED = {"kernel": "torch"}
MEMORY = {"budget": 0.3, "recent": 8, "sink": 2, "min_gap": 0, "dense_below": 0, **BOUNDARIES, **PAGED}
POLICIES = {
    "dense": Policy.of(mode="dense", **PAGED),
    "chosen at slow steps": Policy.of(mode="sfi", selector="snapkv", repair=False, **MEMORY),
    "chosen at every step": Policy.of(mode="sfi", selector="index", repair=False, **MEMORY),
    "repaired": Policy.of(mode="sfi", selector="snapkv", repair=True, **MEMORY),
    "verified": Policy.of(mode="verified", selector="snapkv", adaptive_draft=False, max_draft=6, **MEMORY),
}


@pytest.fixture
def launched(monkeypatch):
    """For each step: how many rows it had, and how many of them followed the step before."""
    found = []
    real = Replayer._begun

    def begun(self, asks, *laid_out):
        step = real(self, asks, *laid_out)
        found.append((len(asks), sum(ask.follows is not None for ask in asks)))
        return step

    monkeypatch.setattr(Replayer, "_begun", begun)
    return found


def beside(monkeypatch, wanted):
    monkeypatch.setattr(engine, "DEVICES", frozenset({"cpu"}) if wanted else frozenset())


def together(tiny, policy, **settings):
    """Tokens, keys and values, and queries of four sessions after two turns each, at the same time."""
    return of_each(tiny, dict(enumerate([policy] * 4)), **settings)


def of_each(tiny, policies, **settings):
    """The same of sessions by their numbers."""
    runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22)
    results, ready = {}, threading.Barrier(len(policies))

    def turns(index):
        policy = policies[index]
        prompt = [*tiny.prompt(90), *tiny.prompt(20 + 13 * index, seed=index + 1)]
        ready.wait(30)
        tokens = []
        for _ in range(2):
            sampling = tiny.sampling(20 + 5 * index, **settings)
            answer = runtime.generate(prompt, policy=policy, sampling=sampling, session=f"s{index}")
            tokens += answer.token_ids
            prompt = [*prompt, *answer.token_ids, *tiny.prompt(9, seed=index)]
        row = runtime.sessions[f"s{index}"].row
        held = [torch.cat(row.kv.layers[layer].span(0, row.kv.length)) for layer in sorted(row.kv.layers)]
        latest = row.queries.latest(row.kv.length, EVIDENCE_ROWS)
        asked = latest, [row.queries.gather(layer, latest) for layer in range(2) if latest]
        results[index] = tokens, torch.stack(held), asked, (answer.slow_steps, answer.fast_steps)

    threads = [threading.Thread(target=turns, args=(index,)) for index in policies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return [results[index] for index in policies]


DRAWN = {"temperature": 0.9, "seed": 5}
CUT = {"temperature": 1.5, "seed": 6, "top_k": 40, "top_p": 0.95}


def test_a_page_that_a_row_gave_back_is_another_rows(tiny, launched, monkeypatch):
    """A verified turn that drafts nothing forgets what lies past its tokens: the step ahead took that."""
    monkeypatch.setattr(DraftLimit, "next", lambda self: 0)
    monkeypatch.setattr(DraftLimit, "pausing", True)
    beside(monkeypatch, True)

    def answer(runtime, name, prompt):
        return runtime.generate(prompt, policy=POLICIES[name], sampling=tiny.sampling(80)).token_ids

    runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22)
    prompts, answers, ready = [tiny.prompt(100, seed=seed) for seed in range(4)], {}, threading.Barrier(4)

    def turn(index):
        ready.wait(30)
        answers[index] = answer(runtime, "verified", prompts[index])

    threads = [threading.Thread(target=turn, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert any(followed for _, followed in launched)
    for index, prompt in enumerate(prompts):  # all need another page at the same step
        assert answers[index] == answer(runtime, "dense", prompt)


@pytest.mark.parametrize("settings", [{}, DRAWN, CUT], ids=["greedy", "drawn", "of the likeliest"])
@pytest.mark.parametrize("name", POLICIES)
def test_it_changes_nothing_that_a_session_has(tiny, name, settings, launched, monkeypatch):
    monkeypatch.setattr("sfi_agent.contracts.drawing.DRAWN", 3)
    beside(monkeypatch, False)
    plain = together(tiny, POLICIES[name], **settings)
    assert launched
    assert not any(followed for _, followed in launched)
    launched.clear()
    beside(monkeypatch, True)
    ahead = together(tiny, POLICIES[name], **settings)
    assert sum(followed > 0 for _, followed in launched) > 10
    for (tokens, held, asked, steps), (own, kept, seen, counted) in zip(plain, ahead, strict=True):
        assert tokens == own
        assert steps == counted or name == "verified"  # drafts are longer beside others that are being made
        assert asked[0] == seen[0]
        torch.testing.assert_close(asked[1], seen[1])
        torch.testing.assert_close(held, kept)


@pytest.mark.parametrize("settings", [{}, CUT], ids=["greedy", "of the likeliest"])
def test_sessions_of_all_policies_share_steps_and_are_as_each_is_alone(tiny, settings, launched, monkeypatch):
    beside(monkeypatch, True)
    policies = dict(enumerate(POLICIES.values()))
    mixed = of_each(tiny, policies, **settings)
    assert any(rows > 2 for rows, _ in launched)
    for index, (tokens, held, asked, steps) in enumerate(mixed):
        ((own, kept, seen, counted),) = of_each(tiny, {index: policies[index]}, **settings)
        assert tokens == own
        assert steps == counted
        torch.testing.assert_close(held, kept)
        latest = len(seen[0]) - len(asked[0])  # fewer where it began as another, whose pages it shares
        assert asked[0] == seen[0][latest:]
        torch.testing.assert_close(asked[1], [queries[latest:] for queries in seen[1]][: len(asked[1])])


def test_drafts_are_verified_together(tiny, monkeypatch):
    """Rows whose drafts are shorter wait for the others', and one pass reads them all."""
    passes = []
    real = Replayer._begun

    def begun(self, asks, *laid_out):
        if several := sum(len(ask.work.tokens) > 1 for ask in asks):
            passes.append(several)
        return real(self, asks, *laid_out)

    monkeypatch.setattr(Replayer, "_begun", begun)
    beside(monkeypatch, True)
    together(tiny, POLICIES["verified"])
    assert sum(passes) / len(passes) > 2


def test_the_pass_that_verifies_follows_the_last_step_of_the_drafts(tiny, monkeypatch):
    """Its last token the host has not seen; pages that drafts reached are kept for it."""
    verified, real = [], Replayer._begun

    def begun(self, asks, *laid_out):
        passes = [ask for ask in asks if len(ask.work.tokens) > 1 and not ask.work.prefill]
        verified.extend(ask.follows is not None for ask in passes)
        return real(self, asks, *laid_out)

    used, advance = [], Turn.advance

    def advanced(turn, outcome):
        used.append(len(turn.work.tokens) > 1 and not turn.work.prefill)
        advance(turn, outcome)

    monkeypatch.setattr(Replayer, "_begun", begun)
    monkeypatch.setattr(Turn, "advance", advanced)
    beside(monkeypatch, True)
    together(tiny, POLICIES["verified"].but(boundary_settings={"interval": {"every": 1000}}))
    assert sum(verified) > 0.6 * len(verified)
    assert len(verified) < 1.2 * sum(used)  # those that were launched were right


@pytest.mark.parametrize("ahead", [False, True])
def test_a_draft_goes_on_past_a_boundary_while_others_are_made(tiny, monkeypatch, ahead):
    """It would wait for them otherwise. Alone it ends there, and the memory is chosen anew."""
    drafted = {}
    real = Turn.verify

    def verify(turn, draft, passed):
        drafted.setdefault(turn.session.id, []).append(len(draft))
        return real(turn, draft, passed)

    monkeypatch.setattr(Turn, "verify", verify)
    beside(monkeypatch, ahead)
    often = POLICIES["verified"].but(boundary_settings={"interval": {"every": 2}})
    rarely = POLICIES["verified"].but(boundary_settings={"interval": {"every": 1000}})
    ((alone, *_),) = of_each(tiny, {0: often})
    assert max(drafted.pop("s0")) == 2
    (beside_one, *_), _ = of_each(tiny, {0: often, 1: rarely})
    assert max(drafted["s0"]) == 6
    assert beside_one == alone
    ((dense, *_),) = of_each(tiny, {0: POLICIES["dense"]})
    assert alone == dense


def test_a_verified_turn_that_drafts_nothing_goes_on_as_a_dense_one(tiny, launched, monkeypatch):
    monkeypatch.setattr(DraftLimit, "next", lambda self: 0)
    monkeypatch.setattr(DraftLimit, "pausing", True)
    beside(monkeypatch, True)
    found = together(tiny, POLICIES["verified"])
    followed = sum(followed for _, followed in launched)
    assert followed > sum(rows for rows, _ in launched) / 2
    monkeypatch.setattr(DraftLimit, "pausing", False)
    launched.clear()
    for (tokens, *_), (own, *_) in zip(found, together(tiny, POLICIES["verified"]), strict=True):
        assert tokens == own
    assert not any(followed for _, followed in launched)


def alone(tiny, runtime, tokens=24, policy=POLICIES["chosen at slow steps"]):
    """One session's answer."""
    return runtime.generate(tiny.prompt(90), policy=policy, sampling=tiny.sampling(tokens), session="alone")


@pytest.mark.parametrize(
    ("known", "name"),
    [(False, "chosen at slow steps"), (True, "chosen at slow steps"), (False, "repaired")],
)
def test_a_fast_step_follows_a_slow_one(tiny, known, name, launched, monkeypatch):
    """And a slow one a fast one, where it is known to come whatever the token is."""
    beside(monkeypatch, True)
    if not known:
        monkeypatch.setattr(IntervalDetector, "due", BoundaryDetector.due)
    asked = []
    real = SnapKVSelector.refresh
    monkeypatch.setattr(
        SnapKVSelector, "refresh", lambda self, *given: (asked.append(1), real(self, *given))[1]
    )
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22) as runtime:
        result = alone(tiny, runtime, policy=POLICIES[name])
    assert result.slow_steps > 2
    starts = [place for place, (_, follows) in enumerate(launched) if not follows]
    assert (len(launched) == len(result.token_ids)) is known
    assert len(starts) == 1 + (0 if known else result.slow_steps)  # the prompt's step, and slow ones
    assert all(launched[place + 1] == (1, 1) for place in starts)
    assert len(asked) == 1 + result.slow_steps  # behind the prompt, and behind each slow step


def test_a_kernel_is_told_what_rows_read_that_differ(tiny, monkeypatch):
    told = []
    monkeypatch.setattr(TorchRows, "share", lambda self, reads, *_: (told.append(reads), 0)[1])
    beside(monkeypatch, True)
    policy = POLICIES["chosen at slow steps"]
    together(tiny, policy)
    rows = [each for reads in told for each in reads]
    assert all(min(reads) < max(reads) for reads in told if len(reads) > 1)  # one beside a prompt's chunk
    assert max(rows) > 130  # a dense row's whole context
    assert any(0.3 * 110 < each < 0.3 * 170 + 5 for each in rows)  # a budget, and what came since


@pytest.mark.parametrize("behind", [1, 2])
def test_a_choice_that_fails_behind_a_step_fails_its_turn(tiny, behind, monkeypatch):
    beside(monkeypatch, True)
    left, real = [behind + 1], SnapKVSelector.refresh

    def refresh(self, *given):
        left[0] -= 1
        if left[0] < 1:  # behind the step, and again where its error is told
            raise RuntimeError("no choice")
        return real(self, *given)

    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22) as runtime:
        with monkeypatch.context() as patched:
            patched.setattr(SnapKVSelector, "refresh", refresh)
            with pytest.raises(RuntimeError, match="no choice"):
                alone(tiny, runtime)
        again = alone(tiny, runtime)
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22) as runtime:
        assert alone(tiny, runtime).token_ids == again.token_ids


@pytest.mark.parametrize("ahead", [False, True], ids=["one after another", "ahead"])
@pytest.mark.parametrize("name", ["dense", "repaired"])
def test_a_step_that_fails_once_rows_were_committed_is_tried_again(tiny, monkeypatch, name, ahead):
    """They are as they were before."""
    beside(monkeypatch, ahead)
    wanted = [tokens for tokens, *_ in together(tiny, POLICIES[name])]
    calls, real = [], Replayer.read

    def read(self, step, *given):
        found = real(self, step, *given)
        calls.append(step)
        if len(step.asks) > 1 and len(calls) % 5 == 0:
            raise RuntimeError("once")
        return found

    monkeypatch.setattr(Replayer, "read", read)
    assert [tokens for tokens, *_ in together(tiny, POLICIES[name])] == wanted
    assert len(calls) > 50


def test_a_step_that_fails_once_its_row_chose_is_tried_again(tiny, launched, monkeypatch):
    beside(monkeypatch, True)
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22) as runtime:
        wanted = alone(tiny, runtime)
    failed, real = [], Replayer.read

    def read(self, step, kept, committed=()):
        if committed and len(failed) < 2:
            failed.append(step)
            raise RuntimeError("lost")
        return real(self, step, kept, committed)

    monkeypatch.setattr(Replayer, "read", read)
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22) as runtime:
        found = alone(tiny, runtime)
    assert len(failed) == 2
    assert (found.token_ids, found.slow_steps, found.fast_steps) == (
        wanted.token_ids,
        wanted.slow_steps,
        wanted.fast_steps,
    )


def test_no_step_follows_the_last_one(tiny, launched, monkeypatch):
    beside(monkeypatch, True)
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=2**22) as runtime:
        runtime.generate(tiny.prompt(30), policy=POLICIES["dense"], sampling=tiny.sampling(10))
    assert launched == [(1, 0)] + 9 * [(1, 1)]  # the prompt's own step gave the first token


@pytest.mark.parametrize("settings", [{"repetition_penalty": 1.3}, {"repetition_penalty": 1.3, **DRAWN}])
def test_a_turn_that_reads_logits_waits_for_them(tiny, settings, launched, monkeypatch):
    beside(monkeypatch, True)
    together(tiny, POLICIES["dense"], **settings)
    assert launched
    assert not any(followed for _, followed in launched)


def test_a_boundary_that_watches_logits_waits_for_them(tiny, launched, monkeypatch):
    beside(monkeypatch, True)
    together(tiny, POLICIES["chosen at every step"].but(boundaries=("drift",), boundary_settings={}))
    assert launched
    assert not any(followed for _, followed in launched)


class Rig:
    """Rows of a tiny model in so many pages."""

    def __init__(self, runtime, pages):
        like = torch.zeros(2, 16)
        self.model, self.window = runtime.model, runtime.window
        self.pool = PagePool(pages + 1, 2 * [LayerSpec(0.25)], (like, like))
        self.kernel = default_registry().create("kernel", "torch")
        self.ahead = Ahead(Replayer(self.model, self.pool, self.window), Intake())

    def job(self, prompt, token):
        row = Row(kv=PagedCache(self.pool))
        Step([row], [Work(tuple(prompt))], [self.kernel], self.window).run(self.model, self.model.device)
        parts = SimpleNamespace(kernel=self.kernel, selector=SimpleNamespace(rows_wanted=lambda: 0))
        work = Work((token,), goes_on=True)
        return SimpleNamespace(turn=SimpleNamespace(row=row, work=work, parts=parts, needs_logits=False))


def test_a_step_that_has_no_page_yet_is_not_launched(tiny, shared, launched):
    """The row may end before it needs one."""
    rig = Rig(shared, 2)
    job = rig.job(tiny.prompt(2 * PAGE - 1), 7)
    ((told, outcome),) = rig.ahead.step([job])
    assert told is job
    assert len(outcome.best) == 1
    assert job.turn.row.kv.length == 2 * PAGE
    assert launched == [(1, 0)]
    assert rig.ahead.step([]) == []


def test_a_row_that_left_is_not_told(tiny, shared, launched):
    rig = Rig(shared, 8)
    jobs = [rig.job(tiny.prompt(40, seed), 7) for seed in range(2)]
    for job, outcome in rig.ahead.step(jobs):
        job.turn.work = Work((outcome.best[0],), goes_on=True)
    left, stays = jobs
    ((told, _),) = rig.ahead.step([stays])
    assert told is stays
    assert [job.turn.row.kv.length for job in (left, stays)] == [41, 42]
    assert launched == [(2, 0), (2, 2), (1, 1)]


def test_rows_that_ended_are_let_go(tiny, shared):
    """No later step would ask for what is under way."""
    rig = Rig(shared, 8)
    job = rig.job(tiny.prompt(40), 7)
    rig.ahead.step([job])
    row = weakref.ref(job.turn.row)
    job.turn.work = None
    rig.ahead.begin([])
    del job
    gc.collect()
    assert row() is None
