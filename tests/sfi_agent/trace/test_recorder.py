"""Details as turns tell them, and what a recorder makes of them."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from torch import Tensor

from sfi_agent import Registry, Runtime
from sfi_agent.details import Detail, StepsDecoded
from sfi_agent.events import Event, PrefillProgress, TurnStarted
from sfi_agent.hookspecs import hookimpl
from sfi_agent.runtime import retold, tracer
from sfi_agent.runtime.result import TurnResult
from sfi_agent.runtime.retold import chosen_again
from sfi_agent.trace import Recorder, Trace, TurnTrace
from sfi_kernels.rows import TorchRows

POLICIES: dict[str, dict[str, Any]] = {
    "dense": {"mode": "dense"},
    "sfi": {"mode": "sfi", "boundaries": ("punctuation",)},
    "sfi, repaired": {"mode": "sfi", "repair": True, "boundaries": ("punctuation",)},
    "sfi, reranked": {"mode": "sfi", "selector": "index"},
    "verified": {"mode": "verified", "adaptive_draft": False, "max_draft": 5},
    "verified, reranked": {
        "mode": "verified",
        "selector": "index",
        "adaptive_draft": False,
        "max_draft": 5,
    },
}


class Plain:
    """An observer that wants no details."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    @hookimpl
    def sfi_on_event(self, event: Event) -> None:
        self.events.append(event)


def recorded(tiny: Any, runtime: Runtime, **policy: Any) -> tuple[TurnTrace, TurnResult]:
    recorder = Recorder()
    with runtime.observers.heard_by(recorder):
        result = tiny.run(runtime, tiny.prompt(70), tokens=40, **policy)
    (turn,) = recorder.trace.turns
    return turn, result


def marks(turn: TurnTrace) -> dict[str, int]:
    return {mark: sum(token.mark == mark for token in turn.tokens) for mark in Marks}


Marks = ("prompt", "fast", "slow", "accepted", "corrected")


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_a_trace_holds_the_answer_and_every_step(tiny, shared, policy) -> None:
    turn, result = recorded(tiny, shared, **policy)
    assert tuple(token.id for token in turn.tokens) == result.token_ids
    assert "".join(token.text for token in turn.tokens) == shared.tokenizer.decode(result.token_ids)
    assert "".join(turn.prompt) == shared.tokenizer.decode(tiny.prompt(70))
    assert [step.number for step in turn.steps] == list(range(len(turn.steps)))
    assert sum(not step.fast for step in turn.steps) == result.slow_steps
    assert sum(step.fast for step in turn.steps) == result.fast_steps
    assert (turn.mode, turn.prompt_tokens, turn.read) == (result.mode, 70, 70)
    assert turn.finish_reason == "length"
    assert turn.cost["kv_read_fraction"] == pytest.approx(result.kv_read_fraction)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_marks_equal_the_counts(tiny, shared, policy) -> None:
    turn, result = recorded(tiny, shared, **policy)
    counts = marks(turn)
    assert (counts["prompt"], sum(counts.values())) == (1, 40)
    if result.mode == "verified":
        assert counts["accepted"] == result.accepted > 0
        assert 0 < counts["corrected"] <= counts["corrected"] + counts["slow"] <= result.slow_steps
    else:
        assert (counts["slow"], counts["fast"]) == (result.slow_steps, result.fast_steps)


def test_a_corrected_token_tells_what_the_draft_had(tiny, shared) -> None:
    turn, _ = recorded(tiny, shared, **POLICIES["verified"])
    corrected = [token for token in turn.tokens if token.mark == "corrected"]
    assert corrected
    assert all(token.drafted and token.drafted != token.text for token in corrected)
    assert not any(token.drafted for token in turn.tokens if token.mark != "corrected")


def test_a_boundary_is_named_and_makes_the_next_step_slow(tiny, shared) -> None:
    for policy, cause in [
        ({"boundaries": ("interval",), "boundary_settings": {"interval": {"every": 3}}}, "interval"),
        ({"boundaries": (), "max_interval": 5}, "max_interval"),
    ]:
        turn, _ = recorded(tiny, shared, mode="sfi", **policy)
        bound = [token for token in turn.tokens if token.boundary]
        assert bound
        assert {token.boundary for token in bound} == {cause}
        slow = {step.number for step in turn.steps if not step.fast}
        assert {token.step + 1 for token in bound} - {len(turn.steps)} == slow


def test_a_refresh_is_noted_with_the_steps_that_read_it(tiny, shared) -> None:
    turn, _ = recorded(tiny, shared, **POLICIES["sfi"])
    slow = [step.number for step in turn.steps if not step.fast]
    assert [memory.step for memory in turn.memories] == [0, *(number + 1 for number in slow)]
    assert all(memory.seconds is not None for memory in turn.memories)
    assert turn.memories[0].length == 70
    assert turn.memories[0].chosen == 24 - 6 - 2  # budget, recent, sink


def test_a_step_that_chooses_itself_is_noted_each_time(tiny, shared) -> None:
    turn, _ = recorded(tiny, shared, **POLICIES["sfi, reranked"])
    assert [memory.step for memory in turn.memories] == [step.number for step in turn.steps if step.fast]
    assert all(memory.seconds is None for memory in turn.memories)


def test_what_a_kernel_chose_inside_the_device_is_told(tiny, shared, monkeypatch) -> None:
    """By the reference of the kernels, whose choice is looked at here."""
    kept: list[list[set[int]]] = []

    def watched(self: TorchRows, *arguments: Any) -> Any:
        positions = choose(self, *arguments)
        kept.append([{*head.tolist()} - {-1} for head in positions])
        return positions

    choose = TorchRows._chosen
    monkeypatch.setattr(TorchRows, "_chosen", watched)
    told: list[dict[int, Tensor]] = []
    monkeypatch.setattr(tracer, "chosen_again", lambda row: told.append(chosen_again(row)) or told[-1])
    masses: list[Tensor] = []
    highest = retold.top_jointly
    monkeypatch.setattr(
        retold, "top_jointly", lambda mass, *sizes: masses.append(mass[0]) or highest(mass, *sizes)
    )
    with Runtime.load(shared.model, tokenizer=shared.tokenizer, kv_bytes=2**23) as runtime:
        turn, result = recorded(tiny, runtime, mode="sfi", selector="index", kernel="torch")
        alone = tiny.run(runtime, tiny.prompt(70), tokens=40, mode="sfi", selector="index", kernel="torch")
    assert alone.token_ids == result.token_ids
    assert [memory.step for memory in turn.memories] == [step.number for step in turn.steps if step.fast]
    assert len(kept) == 2 * len([*turn.memories]) * 2  # two layers, and the turn without a recorder
    for step, layers in enumerate(told):
        for layer, positions in layers.items():
            sink, heads, mass = {0, 1}, kept[2 * step + layer], masses[2 * step + layer]
            found = [{*head.tolist()} - {-1} | sink for head in positions]
            assert sum(map(len, found)) == sum(map(len, heads))
            least = min(float(mass[head, at - 2]) for head, each in enumerate(found) for at in each - sink)
            for head, (one, other) in enumerate(zip(found, heads, strict=True)):
                for at in one ^ other:  # others where three bits behind the leading one tie, give or take
                    assert least / 1.2 < float(mass[head, at - 2]) < least * 1.2


def test_the_bytes_of_steps_and_refreshes_are_all_that_was_read(tiny, shared) -> None:
    turn, result = recorded(tiny, shared, **POLICIES["sfi"])
    read = sum(step.read for step in turn.steps) + sum(memory.read for memory in turn.memories[1:])
    dense = sum(turn.steps[0].dense // 71 * length for length in range(71, 71 + 39))
    assert read / dense == pytest.approx(result.kv_read_fraction)


def test_details_reach_only_who_wants_them(tiny, shared) -> None:
    plain = Plain()
    with shared.observers.heard_by(plain):
        tiny.run(shared, tiny.prompt(70), tokens=9)
        alone = [type(event) for event in plain.events]
        plain.events.clear()
        recorded(tiny, shared, mode="sfi")
    assert not any(issubclass(kind, Detail) for kind in alone)
    assert TurnStarted in alone
    assert not any(isinstance(event, Detail) for event in plain.events)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_decoding_is_the_same_with_and_without(tiny, shared, policy) -> None:
    _, result = recorded(tiny, shared, **policy)
    alone = tiny.run(shared, tiny.prompt(70), tokens=40, **policy)
    for fact in ("token_ids", "slow_steps", "fast_steps", "accepted", "kv_read_fraction"):
        assert getattr(alone, fact) == getattr(result, fact)


def test_turns_of_a_session_stand_side_by_side(tiny) -> None:
    recorder = Recorder("tiny", turns=2)
    with tiny.runtime(registry=Registry(extra=[recorder])) as runtime:
        for tokens in (70, 90, 110):
            runtime.generate(
                tiny.prompt(tokens), policy=tiny.policy(), sampling=tiny.sampling(5), session="s"
            )
    trace = recorder.trace
    assert [(turn.session, turn.turn, turn.prompt_tokens) for turn in trace.turns] == [
        ("s", 2, 90),
        ("s", 3, 110),
    ]
    assert (trace.model, trace.left_out) == ("tiny", 1)
    assert trace.turns[1].reused_tokens > 0
    assert Trace.model_validate_json(trace.model_dump_json()) == trace


def test_a_cancelled_turn_is_told_to_its_end(tiny, shared) -> None:
    recorder = Recorder()
    with shared.observers.heard_by(recorder):
        with shared.stream(tiny.prompt(70), policy=tiny.policy(), sampling=tiny.sampling(40)) as stream:
            for _ in range(5):
                next(stream)
        (turn,) = recorder.trace.turns
    assert turn.finish_reason == "cancelled"
    assert tuple(token.id for token in turn.tokens) == stream.result.token_ids


def test_a_turn_whose_beginning_was_not_heard_is_shown_from_there_on() -> None:
    recorder = Recorder()
    recorder.take(PrefillProgress(session="s", turn=4, done=10, total=20), "desk")
    recorder.take(StepsDecoded(session="s", turn=4), "desk")
    (turn,) = recorder.trace.turns
    assert (turn.runtime, turn.session, turn.turn, turn.read) == ("desk", "s", 4, 10)


@pytest.mark.usefixtures("uncollected")
def test_a_stream_that_is_collected_while_an_event_is_taken_tells_of_its_end(
    tiny, runtime, apart, monkeypatch
):
    """In the thread that takes it, and has the recorder's lock."""
    recorder = Recorder()

    def collecting(**facts):
        gc.collect()
        return TurnTrace(**facts)

    with runtime.observers.heard_by(recorder):
        left = [runtime.stream(tiny.prompt(20), sampling=tiny.sampling(9), session="left")]
        next(left[0])
        left.append(left)
        del left
        monkeypatch.setattr("sfi_agent.trace.recorder.TurnTrace", collecting)
        started = TurnStarted(session="b", turn=1, mode="dense", prompt_tokens=9, reused_tokens=0)
        taking = threading.Thread(target=recorder.take, args=(started,), daemon=True)
        taking.start()
        taking.join(30)
        assert not taking.is_alive(), "it waits for itself"
        apart()
    ends = {turn.session: turn.finish_reason for turn in recorder.trace.turns}
    assert ends == {"left": "cancelled", "b": ""}
