"""Streaming text: no half characters, no stop strings, and in the end the whole answer."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sfi_agent.errors import PromptTooLongError, SettingError
from sfi_agent.policy import Sampling
from sfi_agent.runtime.text import StopStrings, TextStream

MANY = settings(max_examples=150, deadline=None, derandomize=True)


def stream(tokenizer, ids: list[int]) -> list[str]:
    text = TextStream(tokenizer)
    return [*(text.push(id) for id in ids), text.flush()]


@MANY
@given(text=st.text(alphabet=st.sampled_from("aé東🙂👩‍👩‍👧 \n"), max_size=12))
def test_characters_come_whole(tiny, text):
    pieces = stream(tiny.tokenizer, tiny.tokenizer(text)["input_ids"])
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


@MANY
@given(ids=st.lists(st.integers(0, 258), max_size=20))
def test_any_tokens_give_the_tokenizers_own_text(tiny, ids):
    assert "".join(stream(tiny.tokenizer, ids)) == tiny.tokenizer.decode(ids, skip_special_tokens=True)


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer whose decoder drops the space that begins a text."""
    words = ["<unk>", "<s>", "<tool>", "▁the", "▁cat", "s", "▁", ".", "<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    inner = Tokenizer(models.BPE({word: id for id, word in enumerate(words)}, [], unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", additional_special_tokens=["<tool>"], unk_token="<unk>"
    )


@MANY
@given(ids=st.lists(st.sampled_from([1, 2, 3, 4, 5, 7]), max_size=10))
def test_spaces_around_special_tokens_survive(ids):
    tokenizer = sentencepiece()
    assert "".join(stream(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)


def test_a_setting_that_transformers_does_not_heed_changes_nothing():
    tokenizer = sentencepiece()
    tokenizer.clean_up_tokenization_spaces = True
    ids = [3, 4, 6, 7, 3, 7]
    assert (
        "".join(stream(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True) == "the cat . the."
    )


def test_a_tokenizer_with_a_decoder_of_its_own_is_asked():
    class Loud(PreTrainedTokenizerFast):
        def _decode(self, *args, **settings):
            return super()._decode(*args, **settings).upper()

    tokenizer = Loud(tokenizer_object=sentencepiece().backend_tokenizer)
    assert "".join(stream(tokenizer, [3, 4])) == "THE CAT"


def test_bytes_of_one_character_are_held_back():
    tokenizer = sentencepiece()
    assert stream(tokenizer, [3, 8, 9, 10, 11, 7]) == ["the", "", "", "", "🙂", ".", ""]


STOPS = st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3)


@MANY
@given(text=st.text(alphabet="abc", max_size=30), stops=STOPS, seed=st.integers(0, 99))
def test_a_stop_string_is_never_shown(text, stops, seed):
    """However the text is cut: what is shown is what precedes a stop string, all of it if there is none."""
    source, watch, shown, rest = random.Random(seed), StopStrings(stops), "", text
    while rest and not watch.hit:
        cut = source.randint(1, 4)
        shown += watch.push(rest[:cut])
        rest = rest[cut:]
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
    shown += watch.flush()
    assert watch.hit == any(stop in text for stop in stops)
    if watch.hit:
        assert any(text[len(shown) :].startswith(stop) for stop in stops)
        assert not any(stop in shown for stop in stops)
    else:
        assert shown == text


def runs(tiny, runtime, mode, **sampling):
    stream = runtime.stream(
        tiny.prompt(60),
        policy=tiny.policy(mode, adaptive_draft=False),
        sampling=tiny.sampling(40, **sampling),
    )
    chunks = list(stream)
    assert "".join(chunk.text for chunk in chunks) == stream.result.text
    assert tuple(token for chunk in chunks for token in chunk.token_ids) == stream.result.token_ids
    return stream.result


@pytest.fixture
def plain(tiny, runtime):
    """A runtime whose model writes a few letters and special tokens only, so that text can be searched."""
    head = runtime.model.lm_head.weight.data
    letters = set(tiny.tokenizer("abcdefgh")["input_ids"])
    for id in range(len(head)):
        if id not in letters:
            head[id] = 0
    return runtime


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_a_stop_string_that_spans_tokens_ends_the_turn(tiny, plain, mode):
    whole = runs(tiny, plain, mode)
    assert len(whole.text) > 30
    for start in (0, 1, 7, 20):
        stop = whole.text[start : start + 4]
        result = runs(tiny, plain, mode, stop=("never", stop))
        assert result.finish_reason == "stop"
        assert result.text == whole.text[: whole.text.index(stop)]
        ends = (
            n
            for n in range(41)
            if stop in tiny.tokenizer.decode(list(whole.token_ids[:n]), skip_special_tokens=True)
        )
        assert result.token_ids == whole.token_ids[: next(ends)]
    held = runs(tiny, plain, mode, stop=(whole.text[-3:] + "z",))
    assert (held.text, held.finish_reason) == (whole.text, "length"), "what was held back is shown at the end"


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_an_end_token_ends_the_turn_and_is_no_text(tiny, plain, mode):
    whole = runs(tiny, plain, mode, ignore_eos=True)
    plain.stop_tokens = frozenset([whole.token_ids[9]])
    first = whole.token_ids.index(whole.token_ids[9])
    result = runs(tiny, plain, mode, ignore_eos=False)
    assert (result.finish_reason, result.token_ids) == ("stop", whole.token_ids[: first + 1])
    assert runs(tiny, plain, mode, ignore_eos=True).token_ids == whole.token_ids


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
@pytest.mark.parametrize("tokens", [1, 2, 3, 17])
def test_max_new_tokens_is_exact(tiny, shared, mode, tokens):
    result = tiny.run(shared, tiny.prompt(50), mode, tokens, adaptive_draft=False)
    assert (result.completion_tokens, result.finish_reason) == (tokens, "length")


@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_the_window_ends_an_answer_without_limit(tiny, shared, mode):
    prompt = tiny.prompt(tiny.window - 5)
    sampling = Sampling.of(ignore_eos=True)
    result = shared.generate(prompt, policy=tiny.policy(mode, prefill_chunk=512), sampling=sampling)
    assert (result.completion_tokens, result.finish_reason) == (5, "length")


def test_the_longest_prompt_that_fits(tiny, shared):
    assert tiny.run(shared, tiny.prompt(tiny.window - 1), "dense", 1).completion_tokens == 1
    assert tiny.run(shared, tiny.prompt(tiny.window - 7), "dense", 7).completion_tokens == 7
    with pytest.raises(
        PromptTooLongError, match=rf"{tiny.window - 6} tokens .* 7 must .* {tiny.window}; .* 505"
    ):
        tiny.run(shared, tiny.prompt(tiny.window - 6), "dense", 7)
    with pytest.raises(PromptTooLongError, match=f"shorten the prompt to {tiny.window - 1}"):
        shared.stream(tiny.prompt(tiny.window))


def test_an_empty_stop_string_is_refused():
    with pytest.raises(SettingError, match="must not be empty"):
        Sampling.of(stop=("a", ""))
    assert Sampling.of(stop="abc").stop == ("abc",)
