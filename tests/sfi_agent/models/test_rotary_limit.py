"""Rotary frequencies that depend on the length of the context, against transformers' own output."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

from sfi_agent import Runtime
from sfi_agent.errors import RotaryLimitError
from sfi_agent.evaluate.teacher import Reader
from sfi_agent.models.architecture import rotary_limit
from sfi_agent.runtime.row import Row
from sfi_agent.runtime.step import Work, groups_of

LIMIT, TOKENS = 64, 12
MODES = ("dense", "verified")


LONGROPE: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [1.5, 3.0, 5.0, 8.0],
    "original_max_position_embeddings": LIMIT,
}


@pytest.fixture(scope="module")
def phi(tiny):
    rope = {"rope_parameters": dict(LONGROPE), "original_max_position_embeddings": LIMIT}
    with tiny.runtime("phi3", **rope) as runtime:
        yield runtime


def turn(tiny, phi, prompt, mode="dense", session=None, **settings):
    policy = tiny.policy(mode, adaptive_draft=False, **{"prefill_chunk": 16, **settings})
    return phi.generate(prompt, policy=policy, sampling=tiny.sampling(TOKENS), session=session)


def test_the_limit_is_read_off_the_model(tiny, phi, shared):
    assert phi.architecture.rotary_limit == LIMIT
    assert shared.architecture.rotary_limit is None
    nested = tiny.config("gemma3")
    nested.rope_parameters["full_attention"] = LONGROPE
    assert rotary_limit(nested) == LIMIT
    nested.max_position_embeddings = LIMIT
    assert rotary_limit(nested) is None, "the window ends where the long factors would begin"


@pytest.mark.parametrize("length", [LIMIT, LIMIT + 1, 200])
def test_a_reader_reads_prompts_past_it_as_a_turn_does(tiny, phi, length):
    prompt = tiny.prompt(length)
    logits = Reader(phi, phi.parts(phi.policy).kernel).prefill(prompt, 16)
    assert int(logits[-1].argmax()) == tiny.reference(phi, prompt, 1)[0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunk", [7, 64, 512])
@pytest.mark.parametrize("length", [10, LIMIT - TOKENS, LIMIT + 1, 70, 200])
def test_on_either_side_of_it_output_is_transformers_own(tiny, phi, length, chunk, mode):
    prompt = tiny.prompt(length)
    expected = tiny.reference(phi, prompt, TOKENS)
    assert turn(tiny, phi, prompt, mode, prefill_chunk=chunk).token_ids == expected


def test_the_two_sides_differ(tiny, phi):
    """What chunks below the limit would give a prompt beyond it: shows that the test above can fail."""
    prompt = tiny.prompt(100)
    reader = Reader(phi, phi.parts(phi.policy).kernel)
    with phi.transformers() as model, torch.inference_mode():
        whole = model(torch.tensor([prompt])).logits[0, :LIMIT]
        part = model(torch.tensor([prompt[:LIMIT]])).logits[0]
    assert (whole - part).abs().max() > 0.1
    torch.testing.assert_close(reader.read(prompt[:LIMIT], wanted=LIMIT), part, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("length", [LIMIT - TOKENS + 1, LIMIT])
def test_an_answer_that_would_cross_it_is_refused(tiny, phi, length):
    message = rf"{length} tokens and {TOKENS} must .* past {LIMIT} .* within {LIMIT} tokens"
    with pytest.raises(RotaryLimitError, match=message) as error:
        turn(tiny, phi, tiny.prompt(length))
    assert "\n" not in str(error.value)


def test_an_answer_without_limit_ends_there(tiny, phi):
    prompt = tiny.prompt(LIMIT - 5)
    result = phi.generate(prompt, policy=tiny.policy("verified"), sampling=tiny.sampling(max_new_tokens=None))
    assert (result.completion_tokens, result.finish_reason) == (5, "length")
    assert result.token_ids == tiny.reference(phi, prompt, 5)


def test_a_reader_is_stopped_there(tiny, phi):
    reader = Reader(phi, phi.parts(phi.policy).kernel)
    reader.read(tiny.prompt(LIMIT))
    with pytest.raises(RotaryLimitError):
        reader.read([5])


@pytest.mark.parametrize("mode", [*MODES, "sfi"])
def test_a_session_that_grows_past_it_is_read_anew_and_back_again(tiny, phi, mode):
    phi.drop_session("grows")
    first = turn(tiny, phi, tiny.prompt(40), mode, "grows")
    history = [*tiny.prompt(40), *first.token_ids, *tiny.prompt(40, seed=9)]
    second = turn(tiny, phi, history, mode, "grows")
    follow = [*history, *second.token_ids, 9]
    third = turn(tiny, phi, follow, mode, "grows")
    assert (second.reused_tokens, third.reused_tokens) == (0, len(history) + TOKENS - 1)
    back = turn(tiny, phi, tiny.prompt(45), mode, "grows")
    assert back.reused_tokens == 0
    if mode != "sfi":
        assert second.token_ids == tiny.reference(phi, history, TOKENS)
        assert third.token_ids == tiny.reference(phi, follow, TOKENS)
        assert back.token_ids == tiny.reference(phi, tiny.prompt(45), TOKENS)


@pytest.mark.parametrize("kept", [10, LIMIT, 90])
def test_a_rewritten_history_beyond_it_keeps_its_prefix(tiny, phi, kept):
    phi.drop_session("rewritten")
    history = tiny.prompt(100)
    turn(tiny, phi, history, "dense", "rewritten")
    other = [*history[:kept], (history[kept] - 2) % 200 + 3, *tiny.prompt(60, seed=3)]
    result = turn(tiny, phi, other, "dense", "rewritten")
    assert result.reused_tokens == kept
    assert result.token_ids == tiny.reference(phi, other, TOKENS)


def test_rows_on_two_sides_share_no_call():
    rows, works = [Row(), Row(), Row(), Row()], [Work((5,) * n) for n in (9, LIMIT + 1, LIMIT, 200)]
    assert groups_of(rows, works, LIMIT) == [[0, 2], [1, 3]]
    assert groups_of(rows, works, None) == [[0, 1, 2, 3]]


def test_turns_on_two_sides_at_once(tiny, phi):
    lengths = (10, 30, 90, 120)
    expected = [turn(tiny, phi, tiny.prompt(length)).token_ids for length in lengths]
    with ThreadPoolExecutor(len(lengths)) as pool:
        together = list(pool.map(lambda length: turn(tiny, phi, tiny.prompt(length)), lengths))
    assert [result.token_ids for result in together] == expected


@pytest.mark.parametrize("mode", [*MODES, "sfi"])
def test_turns_on_two_sides_at_once_in_pages(tiny, phi, mode):
    lengths = (10, 30, 90, 120)
    kernel = {"kernel": "torch"}
    expected = [turn(tiny, phi, tiny.prompt(length), mode, **kernel).token_ids for length in lengths]
    loaded = Runtime.load(phi.model, tokenizer=tiny.tokenizer, kv_bytes=2**23)
    with loaded as paged, ThreadPoolExecutor(len(lengths)) as pool:
        answers = pool.map(lambda length: turn(tiny, paged, tiny.prompt(length), mode, **kernel), lengths)
        together = list(answers)
    assert [result.token_ids for result in together] == expected


def test_dynamic_scaling_is_constant_up_to_the_window(tiny):
    """It scales past the window, where no turn goes, though a caller of transformers() may have."""
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with tiny.runtime(rope_parameters=scaled, max_position_embeddings=48) as runtime:
        assert runtime.architecture.rotary_limit is None
        for length in (20, 48 - TOKENS):
            prompt = tiny.prompt(length)
            expected = tiny.reference(runtime, prompt, TOKENS)
            with runtime.transformers() as model, torch.inference_mode():
                model(torch.tensor([tiny.prompt(100)]))
            assert tiny.run(runtime, prompt, "verified", TOKENS).token_ids == expected
