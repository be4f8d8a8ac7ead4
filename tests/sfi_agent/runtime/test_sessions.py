"""Turns of one session: what is reused, what must not be, and what survives a turn cut short."""

from __future__ import annotations

import concurrent.futures.thread
import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from sfi_agent import Limits, Runtime
from sfi_agent.contracts import Selection, Selector, top_positions
from sfi_agent.errors import PluginError, SFIError, TurnTimeoutError
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import Registry
from sfi_agent.runtime import batcher
from sfi_agent.runtime.row import RecentQueries, Row
from sfi_agent.runtime.step import Step
from sfi_kernels.bundles import TorchKernel

MODES = ("dense", "sfi", "verified")
EXACT = ("dense", "verified")


class Bomb:
    """What a test makes go off inside a plugin: ``error`` after ``calls`` more calls, ``times`` times."""

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.calls, self.times = 0, 1

    def tick(self) -> None:
        self.calls -= 1
        if self.error is not None and self.calls < 0:
            error, self.times = self.error, self.times - 1
            self.error = error if self.times else None
            raise error


BOMB = Bomb()


@dataclass
class BombKernel(TorchKernel):
    def dense(self, *args):
        BOMB.tick()
        return super().dense(*args)

    def sparse(self, *args):
        BOMB.tick()
        return super().sparse(*args)


@dataclass
class BombSelector(Selector):
    evidence_rows: ClassVar[int] = 4

    def refresh(self, evidence, view):
        BOMB.tick()
        return top_positions(evidence.probabilities.mean(-2), view.count, view.start)


class Bombs:
    name = "bombs"

    @hookimpl
    def sfi_register_kernels(self, register):
        register("bomb", BombKernel)

    @hookimpl
    def sfi_register_selectors(self, register):
        register("bomb", BombSelector)


@pytest.fixture(scope="module")
def armed(tiny):
    """A runtime with plugins that fail when told to."""
    with tiny.runtime(registry=Registry([Bombs()])) as runtime:
        yield runtime


@pytest.fixture(autouse=True)
def _disarmed():
    BOMB.error, BOMB.times = None, 1


def turn(tiny, runtime, prompt, mode, session, tokens=12, **settings):
    return runtime.generate(
        prompt, policy=tiny.policy(mode, **settings), sampling=tiny.sampling(tokens), session=session
    )


def take(stream, got: list[int]) -> None:
    """Read a stream to its end, into ``got``."""
    for chunk in stream:
        got.extend(chunk.token_ids)


@pytest.mark.parametrize("mode", MODES)
def test_a_follow_up_pays_for_its_new_tokens_only(tiny, runtime, mode):
    first = turn(tiny, runtime, tiny.prompt(60), mode, "a")
    history = [*tiny.prompt(60), *first.token_ids]
    follow = [*history, *tiny.prompt(20, seed=9)]
    second = turn(tiny, runtime, follow, mode, "a")
    assert first.reused_tokens == 0
    assert second.reused_tokens == len(history) - 1, "the last token was never read"
    assert second.prompt_tokens == len(follow)
    if mode in EXACT:
        assert second.token_ids == tiny.run(runtime, follow, "dense", 12).token_ids


def test_a_follow_up_is_read_in_chunks_and_once(tiny, monkeypatch):
    """What fast steps wrote last is repaired on the way, and not by a slow step that reads all behind it."""
    sizes, run = [], Step.run

    def noted(step, *given):
        sizes.extend(len(work.tokens) for _, work, *_ in step._parts)
        return run(step, *given)

    monkeypatch.setattr(Step, "run", noted)
    with tiny.runtime() as runtime:
        policy = tiny.policy("sfi", repair=True, boundaries=(), max_interval=16, prefill_chunk=64)
        first = runtime.generate(tiny.prompt(100), policy=policy, sampling=tiny.sampling(24), session="a")
        row = runtime.sessions["a"].row
        assert row.kv.exact < row.kv.length
        follow = [*tiny.prompt(100), *first.token_ids, *tiny.prompt(300, seed=1)]
        again = runtime.generate(follow, policy=policy, sampling=tiny.sampling(24), session="a")
        assert again.reused_tokens >= 100
        assert max(sizes) == 64


@pytest.mark.parametrize("mode", EXACT)
@pytest.mark.parametrize("shared_tokens", [0, 1, 30, 59, 60, 65])
def test_a_rewritten_history_is_read_anew_from_there(tiny, runtime, mode, shared_tokens):
    first = turn(tiny, runtime, tiny.prompt(60), mode, "a")
    history = [*tiny.prompt(60), *first.token_ids]
    other = tiny.prompt(40, seed=3)
    other[0] = history[shared_tokens] % 200 + 4  # differs from the history here
    rewritten = [*history[:shared_tokens], *other]
    second = turn(tiny, runtime, rewritten, mode, "a")
    assert second.reused_tokens == shared_tokens
    assert second.token_ids == tiny.run(runtime, rewritten, "dense", 12).token_ids


@pytest.mark.parametrize("mode", MODES)
def test_the_same_or_a_shorter_prompt_again(tiny, runtime, mode):
    prompt = tiny.prompt(60)
    fresh = turn(tiny, runtime, prompt, mode, "a")
    again = turn(tiny, runtime, prompt, mode, "a")
    assert again.reused_tokens == 59, "the last token must run for its logits"
    assert again.token_ids[0] == fresh.token_ids[0]
    shorter = turn(tiny, runtime, prompt[:40], mode, "a")
    assert shorter.reused_tokens == 39
    if mode in EXACT:
        assert again.token_ids == fresh.token_ids
        assert shorter.token_ids == tiny.run(runtime, prompt[:40], "dense", 12).token_ids


@pytest.mark.parametrize("mode", EXACT)
@pytest.mark.parametrize("repair", [True, False])
def test_what_fast_steps_wrote_is_no_part_of_a_dense_turn(tiny, runtime, mode, repair):
    first = turn(tiny, runtime, tiny.prompt(60), "sfi", "a", 20, repair=repair)
    assert first.fast_steps > 5
    follow = [*tiny.prompt(60), *first.token_ids, *tiny.prompt(10, seed=9)]
    second = turn(tiny, runtime, follow, mode, "a")
    assert 60 <= second.reused_tokens < 80
    assert second.token_ids == tiny.run(runtime, follow, "dense", 12).token_ids
    third = turn(tiny, runtime, [*follow, *second.token_ids, 7], mode, "a")
    assert third.reused_tokens == len(follow) + 11, "the dense turn's own KV is exact"


def test_with_repair_only_the_last_stretch_is_inexact(tiny, runtime):
    turn(tiny, runtime, tiny.prompt(60), "sfi", "a", 20, repair=True, max_interval=3, boundaries=())
    assert runtime.sessions["a"].row.kv.exact > 60 + 10


def test_a_long_conversation_in_all_modes(tiny, runtime):
    history, modes = tiny.prompt(30), [*MODES, *MODES[::-1], "dense", "sfi", "sfi", "verified"]
    for i, mode in enumerate(modes):
        result = turn(tiny, runtime, history, mode, "a", 9)
        if mode in EXACT:
            assert result.token_ids == tiny.run(runtime, history, "dense", 9).token_ids
        history = [*history, *result.token_ids, *tiny.prompt(5 + i, seed=i)]
    assert runtime.sessions["a"].turns == len(modes)


def test_dropping_a_session_forgets_it(tiny, runtime):
    turn(tiny, runtime, tiny.prompt(30), "dense", "a")
    runtime.drop_session("a")
    runtime.drop_session("never seen")
    assert turn(tiny, runtime, tiny.prompt(30), "dense", "a").reused_tokens == 0


def test_the_selector_is_kept_between_turns_and_reset_when_history_changes(tiny, armed, monkeypatch):
    resets: list[Selector] = []
    monkeypatch.setattr(BombSelector, "reset", lambda self: resets.append(self))
    armed.drop_session("kept")
    first = turn(tiny, armed, tiny.prompt(60), "sfi", "kept", selector="bomb")
    kept = armed.sessions["kept"].selector_of(tiny.policy(selector="bomb"))
    follow = [*tiny.prompt(60), *first.token_ids, 9]
    turn(tiny, armed, follow, "sfi", "kept", selector="bomb")
    assert armed.sessions["kept"].selector_of(tiny.policy(selector="bomb")) is kept
    assert resets == []
    turn(tiny, armed, [9, *follow], "sfi", "kept", selector="bomb")
    assert resets == [kept]


@pytest.mark.parametrize("mode", EXACT)
def test_cancelled_after_any_token_and_continued(tiny, runtime, mode):
    prompt = tiny.prompt(50)
    whole = tiny.run(runtime, prompt, "dense", 14).token_ids
    for cut in range(1, 13):
        stream = runtime.stream(
            prompt,
            policy=tiny.policy(mode, adaptive_draft=False),
            sampling=tiny.sampling(14),
            session=f"s{cut}",
        )
        taken = [token for _, chunk in zip(range(cut), stream, strict=False) for token in chunk.token_ids]
        stream.close()
        assert stream.result.finish_reason == "cancelled"
        assert stream.result.token_ids[: len(taken)] == tuple(taken)
        kept = stream.result.token_ids
        rest = turn(tiny, runtime, [*prompt, *kept], mode, f"s{cut}", 14 - len(kept))
        assert (*kept, *rest.token_ids) == whole
        assert rest.reused_tokens == 50 + len(kept) - 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunks", [1, 3])
def test_an_interrupt_in_prefill_leaves_what_was_read(tiny, runtime, mode, chunks):
    prompt, seen = tiny.prompt(100), []

    def on_progress(done: int, total: int) -> None:
        seen.append((done, total))
        if len(seen) == chunks:
            raise KeyboardInterrupt

    policy, sampling = tiny.policy(mode, prefill_chunk=25), tiny.sampling(10)
    with pytest.raises(KeyboardInterrupt):
        runtime.generate(prompt, policy=policy, sampling=sampling, session="a", on_progress=on_progress)
    assert seen == [(25 * i, 100) for i in range(1, chunks + 1)]
    after = runtime.generate(prompt, policy=policy, sampling=sampling, session="a")
    assert after.reused_tokens == 25 * chunks
    assert after.token_ids == runtime.generate(prompt, policy=policy, sampling=sampling).token_ids


def test_a_timeout_leaves_the_session_usable(tiny, runtime):
    prompt = tiny.prompt(40)
    with pytest.raises(TurnTimeoutError) as error:
        runtime.generate(prompt, policy=tiny.policy(), session="a", timeout=1e-9)
    assert "\n" not in str(error.value)
    assert (
        turn(tiny, runtime, prompt, "verified", "a").token_ids
        == tiny.run(runtime, prompt, "dense", 12).token_ids
    )


def test_a_timeout_in_the_middle_keeps_what_was_generated(tiny, runtime, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(batcher.time, "monotonic", lambda: float(next(clock)))
    prompt, got = tiny.prompt(40), []
    stream = runtime.stream(
        prompt, policy=tiny.policy("dense"), sampling=tiny.sampling(100), session="a", timeout=12
    )
    with pytest.raises(TurnTimeoutError, match=r"after [0-9]+ tokens"):
        take(stream, got)
    monkeypatch.undo()
    assert 0 < len(got) < 100
    assert runtime.sessions["a"].tokens == [*prompt, *got]
    follow = turn(tiny, runtime, [*prompt, *got], "dense", "a", 5)
    assert follow.reused_tokens == 40 + len(got) - 1
    assert (*got, *follow.token_ids) == tiny.run(runtime, prompt, "dense", len(got) + 5).token_ids


@pytest.mark.parametrize(("got", "said"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens")])
def test_a_timeout_counts_in_words_and_promises_no_session(got, said):
    turn = SimpleNamespace(answer=SimpleNamespace(tokens=[7] * got), finish=lambda reason: None)
    job = SimpleNamespace(turn=turn, cancelled=threading.Event(), deadline=0.0)
    batcher._end_due([job])
    assert str(job.error).startswith(f"the turn passed its deadline after {said}, which a session keeps; ")


def test_waiting_for_an_earlier_turn_counts_towards_the_timeout(tiny, runtime):
    stream = runtime.stream(tiny.prompt(20), policy=tiny.policy(), sampling=tiny.sampling(5), session="a")
    next(stream)
    with pytest.raises(TurnTimeoutError, match="earlier turn of session 'a'"):
        runtime.generate(tiny.prompt(20), session="a", timeout=0.01)
    assert len([*stream]) == 4
    assert stream.result.completion_tokens == 5


ITSELF = r"^session 'a' is still answering, in a stream that this thread has open.* close it first .*$"


@pytest.mark.parametrize("limits", [None, Limits(bytes=10**7)])
def test_a_turn_does_not_wait_for_a_stream_of_its_own_thread(tiny, limits):
    """Whatever needs the session says so at once, and the stream goes on."""
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, limits=limits) as runtime:
        expected = tiny.run(runtime, tiny.prompt(20), "dense", 9).token_ids
        with runtime.stream(
            tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(9), session="a"
        ) as stream:
            next(stream)
            for call in (
                lambda: runtime.generate(tiny.prompt(9), session="a"),
                lambda: next(runtime.stream(tiny.prompt(9), session="a")),
                lambda: runtime.notes("a"),
                lambda: runtime.fork("a", "b"),
            ):
                with pytest.raises(SFIError, match=ITSELF):
                    call()
            assert turn(tiny, runtime, tiny.prompt(20), "dense", "other", 9).token_ids == expected
            list(stream)
        assert stream.result.token_ids == expected
        assert turn(tiny, runtime, tiny.prompt(20), "dense", "a", 9).token_ids == expected


def test_a_callback_of_a_turn_cannot_wait_for_it(tiny, runtime):
    def on_progress(done: int, total: int) -> None:
        runtime.generate(tiny.prompt(9), session="a")

    with pytest.raises(SFIError, match=ITSELF):
        runtime.generate(tiny.prompt(20), policy=tiny.policy("dense"), session="a", on_progress=on_progress)
    assert turn(tiny, runtime, tiny.prompt(20), "dense", "a").finish_reason == "length"


@pytest.mark.parametrize("where", ["opened", "iterated", "both"])
def test_a_turn_waits_for_a_stream_that_another_thread_has_had(tiny, runtime, where):
    """It may be read to its end there."""
    ready, ended, streams = threading.Event(), threading.Event(), []

    def open_stream():
        streams.append(
            runtime.stream(
                tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(9), session="a"
            )
        )

    def read():
        if where != "iterated":
            open_stream()
        if where == "opened":
            ready.set()
        else:
            next(streams[0])
            ready.set()
        ended.wait(30)
        list(streams[0])

    if where == "iterated":
        open_stream()
    thread = threading.Thread(target=read)
    thread.start()
    ready.wait(30)
    if where == "opened":
        next(streams[0])
    with pytest.raises(TurnTimeoutError):
        turn_in_time(tiny, runtime, 0.01)
    threading.Timer(0.05, ended.set).start()
    assert turn_in_time(tiny, runtime, None).completion_tokens == 9
    thread.join()
    assert streams[0].result.completion_tokens == 9


def turn_in_time(tiny, runtime, timeout):
    return runtime.generate(
        tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(9), session="a", timeout=timeout
    )


def test_turns_of_one_session_run_one_after_another(tiny, runtime):
    prompt, results = tiny.prompt(40), []
    expected = tiny.run(runtime, prompt, "dense", 10).token_ids

    def run(mode: str) -> None:
        results.append(turn(tiny, runtime, prompt, mode, "a", 10))

    threads = [threading.Thread(target=run, args=(mode,)) for mode in EXACT * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.token_ids for result in results] == [expected] * 6
    assert sorted(result.reused_tokens for result in results) == [0] + [39] * 5


class TestAPluginThatFails:
    @pytest.mark.parametrize("kind", ["selector", "kernel"])
    @pytest.mark.parametrize("calls", [0, 1, 5])
    @pytest.mark.parametrize("mode", ["sfi", "verified"])
    def test_it_fails_its_turn_and_the_session_goes_on(self, tiny, armed, kind, calls, mode):
        prompt = tiny.prompt(60)
        policy = tiny.policy(mode, adaptive_draft=False, max_interval=2, **{kind: "bomb"})
        armed.drop_session("a")
        BOMB.error, BOMB.calls = ZeroDivisionError("bang"), calls
        got = []
        with pytest.raises(ZeroDivisionError, match="bang"):
            take(armed.stream(prompt, policy=policy, sampling=tiny.sampling(60), session="a"), got)
        assert armed.sessions["a"].tokens == [*prompt, *got]
        after = turn(tiny, armed, [*prompt, *got], "verified", "a")
        assert after.token_ids == tiny.run(armed, [*prompt, *got], "dense", 12).token_ids

    @pytest.mark.parametrize("kind", ["selector", "kernel"])
    def test_it_fails_no_turn_but_its_own(self, tiny, armed, kind):
        """Two turns share every step; the plugin of one raises in it."""
        healthy_prompt = tiny.prompt(50, seed=1)
        expected = tiny.run(armed, healthy_prompt, "dense", 30).token_ids
        broken = armed.stream(
            tiny.prompt(60), policy=tiny.policy(max_interval=2, **{kind: "bomb"}), sampling=tiny.sampling(30)
        )
        healthy = armed.stream(healthy_prompt, policy=tiny.policy("dense"), sampling=tiny.sampling(30))
        next(broken), next(healthy)
        BOMB.error, BOMB.calls, BOMB.times = ZeroDivisionError("bang"), 3, 2 if kind == "kernel" else 1
        list(healthy)  # a kernel fails in the shared step, and once more when its row runs alone
        assert BOMB.error is None, "it went off in a step of the healthy turn's thread"
        assert healthy.result.token_ids == expected
        with pytest.raises(ZeroDivisionError, match="bang"):
            list(broken)

    @pytest.mark.parametrize("kind", ["selector", "kernel"])
    @pytest.mark.parametrize("calls", [0, 1, 2, 3, 4, 9])
    def test_an_interrupt_inside_a_step(self, tiny, armed, kind, calls):
        """Ctrl-C in the thread that happens to step: its turn ends, the other's comes out right."""
        prompts = [tiny.prompt(60), tiny.prompt(50, seed=1)]
        expected = tiny.run(armed, prompts[1], "dense", 30).token_ids
        policy = tiny.policy("verified", max_interval=2, adaptive_draft=False, **{kind: "bomb"})
        armed.drop_session("a")
        stream = armed.stream(prompts[0], policy=policy, sampling=tiny.sampling(60), session="a")
        other = armed.stream(prompts[1], policy=tiny.policy("verified"), sampling=tiny.sampling(30))
        first, _ = next(stream), next(other)
        got = list(first.token_ids)
        BOMB.error, BOMB.calls = KeyboardInterrupt(), calls
        with pytest.raises(KeyboardInterrupt):
            take(stream, got)
        list(other)
        assert other.result.token_ids == expected
        after = turn(tiny, armed, [*prompts[0], *got], "verified", "a")
        assert after.token_ids == tiny.run(armed, [*prompts[0], *got], "dense", 12).token_ids

    def test_an_interrupt_while_another_turn_takes_its_outcome(self, tiny, armed):
        """The one interrupted in its selector says so; the third, not yet told, loses nothing."""
        third_prompt = tiny.prompt(50, seed=1)
        expected = tiny.run(armed, third_prompt, "dense", 20).token_ids
        mine = armed.stream(
            tiny.prompt(40), policy=tiny.policy("dense"), sampling=tiny.sampling(99), session="m"
        )
        broken = armed.stream(
            tiny.prompt(60), policy=tiny.policy(selector="bomb", max_interval=1), sampling=tiny.sampling(99)
        )
        third = armed.stream(third_prompt, policy=tiny.policy("dense"), sampling=tiny.sampling(20))
        for stream in (mine, broken, third):
            next(stream)
        BOMB.error, BOMB.calls = KeyboardInterrupt(), 0
        with pytest.raises(KeyboardInterrupt):
            list(mine)
        list(third)
        assert third.result.token_ids == expected
        with pytest.raises(SFIError, match="interrupted"):
            list(broken)

    def test_an_interrupt_as_a_step_begins(self, tiny, runtime, monkeypatch):
        """The next one may begin."""

        def over(job):
            BOMB.tick()
            return job.turn.work is None

        monkeypatch.setattr(batcher.Job, "over", property(over))
        BOMB.error, BOMB.calls = KeyboardInterrupt(), 2  # the first two ask whether there is anything to tell
        with pytest.raises(KeyboardInterrupt):
            tiny.run(runtime, tiny.prompt(20), "dense", 4)
        assert BOMB.error is None
        assert tiny.run(runtime, tiny.prompt(20), "dense", 4).completion_tokens == 4

    @pytest.mark.parametrize("calls", [0, 1, 2, 3])
    @pytest.mark.parametrize("mode", EXACT)
    def test_an_interrupt_once_rows_are_committed(self, tiny, opened, monkeypatch, mode, calls):
        """Their turns have not been told: the step counts for none of them."""
        runtime, policy = opened(), tiny.policy(mode, kernel="torch", adaptive_draft=False)
        prompts = [tiny.prompt(60), tiny.prompt(50, seed=1)]
        mine, other = (
            runtime.stream(prompt, policy=policy, sampling=tiny.sampling(30)) for prompt in prompts
        )
        next(mine), next(other)
        real = Row.commit

        def commit(self, *committed, **kind):
            real(self, *committed, **kind)
            BOMB.tick()

        monkeypatch.setattr(Row, "commit", commit)
        BOMB.error, BOMB.calls = KeyboardInterrupt(), calls
        with pytest.raises(KeyboardInterrupt):
            list(mine)
        list(other)
        assert other.result.token_ids == tiny.run(runtime, prompts[1], "dense", 30).token_ids

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (lambda chosen: None, "returned a NoneType; expected a Selection"),
            (lambda chosen: chosen.positions, "returned a Tensor; expected a Selection"),
            (lambda chosen: Selection(None), "returned a Selection; expected a Selection of a tensor"),
            (
                lambda chosen: Selection(chosen.positions.float()),
                r"returned positions of torch\.float32; expected torch\.int64",
            ),
            (
                lambda chosen: Selection(chosen.positions[0]),
                r"returned positions of shape .*; expected \(2, 2, S\)",
            ),
            (
                lambda chosen: Selection(chosen.positions * 0),
                r"chose position 0; expected 2 \.\.\. \d+, or -1",
            ),
            (
                lambda chosen: Selection(chosen.positions[..., :1].expand_as(chosen.positions)),
                r"chose position (\d+) behind \1; expected them ascending, each once",
            ),
            (lambda chosen: Selection(chosen.positions + 60), r"chose position \d+; expected 2 \.\.\. \d+"),
            (lambda chosen: chosen, "chose .* positions where the budget allows"),
        ],
    )
    def test_a_selector_that_returns_nonsense_is_named(self, tiny, armed, monkeypatch, wrong, said):
        def refresh(self, evidence, view):
            return wrong(top_positions(evidence.probabilities.mean(-2), view.count + 1, view.start))

        monkeypatch.setattr(BombSelector, "refresh", refresh)
        with pytest.raises(PluginError, match=f"selector BombSelector {said}") as found:
            tiny.run(armed, tiny.prompt(60), selector="bomb")
        assert found.value.__notes__ == ["raised while selector 'bomb' chose the memory"]


class TestATurnInsideAnother:
    """Calls that would wait for themselves say so instead."""

    def test_inside_transformers(self, tiny, runtime):
        with runtime.transformers(), pytest.raises(SFIError, match="wait for itself"):
            tiny.run(runtime, tiny.prompt(20))
        assert tiny.run(runtime, tiny.prompt(20), "dense", 3).completion_tokens == 3

    def test_inside_a_progress_callback(self, tiny, runtime):
        def nested(done: int, total: int) -> None:
            tiny.run(runtime, tiny.prompt(20))

        with pytest.raises(SFIError, match="wait for itself"):
            runtime.generate(tiny.prompt(20), policy=tiny.policy(), on_progress=nested)
        assert tiny.run(runtime, tiny.prompt(20), "dense", 3).completion_tokens == 3

    def test_between_the_chunks_of_another(self, tiny, runtime):
        expected = tiny.run(runtime, tiny.prompt(20), "dense", 8).token_ids
        stream = runtime.stream(tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(8))
        for _ in stream:
            tiny.run(runtime, tiny.prompt(30, seed=2), "sfi", 3)
        assert stream.result.token_ids == expected


def test_an_abandoned_stream_collected_during_a_step(tiny, armed, apart, monkeypatch):
    """Garbage collection may close a stream anywhere, in the thread that steps, too."""
    stream = armed.stream(
        tiny.prompt(40), policy=tiny.policy("dense"), sampling=tiny.sampling(50), session="g"
    )
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    del stream, cycle
    once = [True]
    monkeypatch.setattr(BOMB, "tick", lambda: once.pop() and gc.collect() if once else None)
    done = []
    thread = threading.Thread(
        target=lambda: done.append(tiny.run(armed, tiny.prompt(20), "dense", 4, kernel="bomb")), daemon=True
    )
    thread.start()
    thread.join(30)
    assert done, "the step waits for itself"
    apart()
    assert armed._batcher._jobs == []
    tokens = list(armed.sessions["g"].tokens)
    assert turn(tiny, armed, tokens, "dense", "g").token_ids == tiny.run(armed, tokens, "dense", 12).token_ids


@pytest.fixture
def leave():
    """``leave([stream])`` leaves a stream to the next ``gc.collect()``, if nobody else knows it."""

    def left(cycle: list) -> None:
        cycle.append(cycle)
        gc.disable()

    yield left
    gc.enable()


def test_a_turn_waits_while_one_of_its_session_was_collected_in_a_step(tiny, armed, leave, monkeypatch):
    """The step still has the row."""
    longer, dense = [*tiny.prompt(40), *tiny.prompt(5, seed=3)], tiny.policy("dense")
    expected = tiny.run(armed, longer, "dense", 8).token_ids
    stream = armed.stream(tiny.prompt(40), policy=dense, sampling=tiny.sampling(50), session="w")
    next(stream)
    session, results = armed.sessions["w"], []
    waiting = threading.Thread(target=lambda: results.append(turn(tiny, armed, longer, "dense", "w", 8)))
    once = [True]

    def tick() -> None:
        if once:
            once.pop()
            gc.collect()
            waiting.start()
            waiting.join(0.5)
            assert session.turns == 1

    monkeypatch.setattr(BOMB, "tick", tick)
    leave([stream])
    del stream
    tiny.run(armed, tiny.prompt(20), "dense", 4, kernel="bomb")
    waiting.join(30)
    assert results[0].token_ids == expected


@pytest.mark.parametrize("dropped", [False, True])
def test_a_session_whose_stream_was_dropped_in_a_step_is_stored(tiny, tmp_path, dropped):
    """By a callback, in the thread that steps: it is over behind the step."""
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path) as runtime:
        left = [
            runtime.stream(
                tiny.prompt(40), policy=tiny.policy("dense"), sampling=tiny.sampling(50), session="s"
            )
        ]
        next(left[0])
        session = runtime.sessions["s"]
        if dropped:
            runtime.drop_session("s")
        runtime.generate(
            tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(2),
            on_progress=lambda done, total: left.clear(),
        )  # fmt: skip
        assert not session.unsaved
        assert turn(tiny, runtime, tiny.prompt(41), "dense", "s", 2).reused_tokens == 40


def test_a_stream_is_collected_where_a_step_of_another_waits_for_what_is_locked(
    tiny, armed, leave, apart, monkeypatch
):
    """It waits for that step in a thread of its own, not in the one that has the lock."""
    lock, in_step, collected = threading.Lock(), threading.Event(), threading.Event()

    def tick() -> None:
        in_step.set()
        collected.wait(10)
        with lock:
            pass

    stream = armed.stream(
        tiny.prompt(40), policy=tiny.policy("dense"), sampling=tiny.sampling(50), session="g"
    )
    next(stream)
    leave([stream])
    del stream
    monkeypatch.setattr(BOMB, "tick", tick)
    done = []
    thread = threading.Thread(
        target=lambda: done.append(tiny.run(armed, tiny.prompt(20), "dense", 2, kernel="bomb")), daemon=True
    )
    thread.start()
    assert in_step.wait(30)

    def collect() -> None:
        with lock:
            gc.collect()
            collected.set()

    collecting = threading.Thread(target=collect, daemon=True)
    collecting.start()
    collecting.join(30)
    thread.join(30)
    assert done, "each waits for the other"
    apart()
    assert armed._batcher._jobs == []
    assert armed.sessions["g"].lock.acquire(timeout=30)
    armed.sessions["g"].lock.release()


def test_a_stream_is_collected_where_something_is_given_to_a_pool_of_threads(
    tiny, tmp_path, leave, monkeypatch
):
    """Such pools share a lock, and the store has one, too."""
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path) as runtime:
        stream = runtime.stream(
            tiny.prompt(40), policy=tiny.policy("dense"), sampling=tiny.sampling(50), session="s"
        )
        next(stream)
        leave([stream])
        del stream
        real = concurrent.futures.thread._WorkItem

        def collecting(*given):
            gc.collect()
            return real(*given)

        pool = ThreadPoolExecutor(1)
        with monkeypatch.context() as patched:
            patched.setattr(concurrent.futures.thread, "_WorkItem", collecting)
            giving = threading.Thread(target=pool.submit, args=(int,), daemon=True)
            giving.start()
            giving.join(30)
        assert not giving.is_alive(), "it waits for itself"
        assert turn(tiny, runtime, tiny.prompt(41), "dense", "s", 2).reused_tokens == 40
        pool.shutdown()


@pytest.mark.parametrize("dropped", [False, True])
def test_a_session_whose_stream_was_collected_in_a_step_is_stored(tiny, tmp_path, leave, apart, dropped):
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path) as runtime:
        stream = runtime.stream(
            tiny.prompt(40), policy=tiny.policy("dense"), sampling=tiny.sampling(50), session="s"
        )
        next(stream)
        session = runtime.sessions["s"]
        if dropped:
            runtime.drop_session("s")
        leave([stream])
        del stream
        runtime.generate(
            tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(2),
            on_progress=lambda done, total: gc.collect(),
        )  # fmt: skip
        apart()
        assert not session.unsaved
        assert turn(tiny, runtime, tiny.prompt(41), "dense", "s", 2).reused_tokens == 40


class TestATurnThatFailsAsItEnds:
    """Its index cannot be cut."""

    @pytest.fixture
    def cut(self, tiny, runtime, monkeypatch):
        """A stream that fails once it is ended."""
        policy = tiny.policy("sfi", selector="index", budget=30)
        stream = runtime.stream(tiny.prompt(90), policy=policy, sampling=tiny.sampling(20), session="cut")
        next(stream)
        indexes = runtime.sessions["cut"].row.indexes.values()
        assert indexes
        for index in indexes:
            monkeypatch.setattr(index, "truncate", lambda length: 1 // 0)
        return [stream]

    def test_in_a_step_of_another(self, tiny, runtime, cut):
        cut[0].cancel()
        assert tiny.run(runtime, tiny.prompt(20), "dense", 4).completion_tokens == 4
        with pytest.raises(ZeroDivisionError):
            list(cut[0])

    def test_when_it_was_collected(self, tiny, runtime, cut, leave, apart, caplog):
        leave([cut.pop()])
        result = runtime.generate(
            tiny.prompt(20), policy=tiny.policy("dense"), sampling=tiny.sampling(2),
            on_progress=lambda done, total: gc.collect(),
        )  # fmt: skip
        assert result.completion_tokens == 2
        apart()
        assert tiny.run(runtime, tiny.prompt(20), "dense", 4).completion_tokens == 4
        assert [record.levelname for record in caplog.records] == ["ERROR"]


class TestRecentQueries:
    """A ring of queries: what it says it holds is what was written last."""

    def test_evidence_is_not_of_a_history_that_a_dense_turn_rewrote(self, tiny, runtime):
        """Dense turns capture no queries, so those of the positions they rewrite are gone."""
        first = tiny.prompt(60)
        turn(tiny, runtime, first, "sfi", "a")
        rewritten = [*first[:40], *tiny.prompt(20, seed=5)]
        turn(tiny, runtime, rewritten, "dense", "a", 1)
        row = runtime.sessions["a"].row
        assert row.queries.latest(60, 8) == []
        assert row.queries.latest(40, 4) == [36, 37, 38, 39]

    def test_a_failed_chunk_takes_the_queries_it_overwrote_with_it(self, tiny, armed):
        prompt = tiny.prompt(40)
        turn(tiny, armed, prompt, "sfi", "q", 1, kernel="bomb")
        queries = armed.sessions["q"].row.queries
        BOMB.error, BOMB.calls = ZeroDivisionError(), 1
        with pytest.raises(ZeroDivisionError):
            turn(
                tiny,
                armed,
                [*prompt, *tiny.prompt(150, seed=2)],
                "sfi",
                "q",
                1,
                kernel="bomb",
                prefill_chunk=512,
            )
        assert queries.latest(40, 4) == []

    def test_layers_with_a_window_keep_none(self):
        ring = RecentQueries(4)
        ring.forget(0, 1)
        ring.entered(0, 1, (8, None), torch.zeros(1, 2)).fill_(1)
        ring.commit(0, 1)
        positions, layers = ring.held(1)
        assert (positions, list(layers)) == ([0], [1])
        assert torch.equal(layers[1], torch.ones(1, 1, 2))

    @pytest.mark.parametrize("at_once", [False, True], ids=["layer by layer", "all layers at once"])
    def test_property(self, at_once):
        for seed in range(30):
            source = random.Random(seed)
            ring = RecentQueries(source.choice([1, 4, 16, 32, 60]))
            truth: dict[int, float] = {}
            length = 0
            for _ in range(60):
                n = source.choice([1, 1, 1, 2, 7, 17, 65, 66, 130])
                values = [source.random() for _ in range(n)]
                ring.forget(length, n)
                queries = torch.tensor(values).view(n, 1, 1)
                if at_once:
                    kept = range(max(length, length + n - ring.size), length + n)
                    slots, those = [position % ring.size for position in kept], queries[-len(kept) :]
                    ring.entered(length, n, (None, None), queries[0])[:, slots] = torch.stack([those, -those])
                else:
                    ring.write(0, length, queries)
                if source.random() < 0.2 and n <= 65:
                    continue  # the step failed
                ring.commit(length, n)
                truth.update(enumerate(values, length))
                length += n
                if source.random() < 0.3:
                    length -= source.randrange(min(length, 65))  # a draft refused
                rows = source.randrange(1, ring.rows + 1)
                positions = ring.latest(length, rows)
                assert positions == list(range(length - len(positions), length))
                assert ring.gather(0, positions).flatten().tolist() == pytest.approx(
                    [truth[position] for position in positions]
                )
                if at_once:
                    assert torch.equal(ring.gather(0, positions), -ring.gather(1, positions))
                    if positions:
                        both = ring.gather_layers((0, 1), positions[0], positions[-1] + 1)
                        assert torch.equal(
                            both, torch.stack([ring.gather(layer, positions) for layer in (0, 1)])
                        )
                assert len(positions) == min(rows, length) or length < max(truth) + 1


def test_a_result_stays_when_its_session_goes_on(tiny, runtime):
    ask = {"policy": tiny.policy("dense"), "sampling": tiny.sampling(6), "session": "a"}
    with runtime.stream(tiny.prompt(30), **ask) as stream:
        tokens = [token for chunk in stream for token in chunk.token_ids]
    runtime.generate(tiny.prompt(50, seed=1), **ask)
    assert stream.result.token_ids == tuple(tokens)
    assert stream.result.completion_tokens == 6
