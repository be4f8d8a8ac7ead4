"""A model left on attention ``sfi`` and called through transformers, and how it is given back."""

from __future__ import annotations

import errno
import gc
import threading
import weakref
from types import SimpleNamespace

import pytest
import torch
from transformers import AttentionMaskInterface

from sfi_agent import Runtime
from sfi_agent.errors import (
    PromptError,
    SessionNotSavedError,
    SettingError,
    SFIError,
    TurnTimeoutError,
)
from sfi_agent.evaluate.beside import DenseBeside
from sfi_agent.runtime import attention
from sfi_agent.store.stored import StoredSession

PAD = 2


def ragged(tiny, side: str) -> dict[str, torch.Tensor]:
    """Four prompts of different lengths, one of which needs no padding."""
    rows = [tiny.prompt(length, seed=length) for length in (31, 1, 12, 30)]
    width = max(map(len, rows))
    pads = [[PAD] * (width - len(row)) for row in rows]
    ids = [pad + row if side == "left" else row + pad for row, pad in zip(rows, pads, strict=True)]
    ones = [[1] * len(row) for row in rows]
    zeros = [[0] * len(pad) for pad in pads]
    mask = [z + o if side == "left" else o + z for o, z in zip(ones, zeros, strict=True)]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_give_the_models_own_logits(tiny, each_family, side):
    model, batch = tiny.model(each_family), ragged(tiny, side)
    own = model.config._attn_implementation
    with torch.inference_mode():
        expected = model(**batch).logits
        with Runtime.load(model, tokenizer=tiny.tokenizer):
            assert model.config._attn_implementation == "sfi"
            logits = model(**batch).logits
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3", "gpt_oss"])
def test_generate_over_a_ragged_batch(tiny, family):
    model, batch = tiny.model(family), ragged(tiny, "left")
    model.generation_config.eos_token_id = None
    expected = model.generate(**batch, max_new_tokens=10, do_sample=False)
    with Runtime.load(model, tokenizer=tiny.tokenizer):
        ours = model.generate(**batch, max_new_tokens=10, do_sample=False)
    assert ours.tolist() == expected.tolist()


def test_without_the_mask_registration_a_padded_batch_comes_out_wrong(tiny, monkeypatch):
    """The trap the two registrations are there for: shows that the test above can fail."""
    model, batch = tiny.model(), ragged(tiny, "left")
    with torch.inference_mode():
        expected = model(**batch).logits
        with Runtime.load(model, tokenizer=tiny.tokenizer):
            monkeypatch.delitem(AttentionMaskInterface._global_mapping, attention.NAME)
            logits = model(**batch).logits
    real = batch["attention_mask"].bool()
    assert (logits[real] - expected[real]).abs().max() > 0.1


def test_the_models_own_attention_comes_back(tiny):
    model = tiny.model()
    own = model.config._attn_implementation
    with Runtime.load(model, tokenizer=tiny.tokenizer) as runtime:
        with runtime.transformers() as lent:
            assert lent is model
            assert model.config._attn_implementation == own
        assert model.config._attn_implementation == "sfi"
        with pytest.raises(ZeroDivisionError), runtime.transformers():
            raise ZeroDivisionError
        assert model.config._attn_implementation == "sfi"
    assert model.config._attn_implementation == own
    assert runtime.sessions == {}


def test_a_model_that_could_not_be_served_keeps_its_own_attention(tiny):
    model = tiny.model()
    own = model.config._attn_implementation
    with pytest.raises(SettingError, match="at least two pages"):
        Runtime.load(model, tokenizer=tiny.tokenizer, kv_bytes=1)
    assert model.config._attn_implementation == own


def test_a_model_that_serves_two_runtimes_is_given_back_by_the_last(tiny):
    model = tiny.model()
    own = model.config._attn_implementation
    first = Runtime.load(model, tokenizer=tiny.tokenizer)
    with Runtime.load(model, tokenizer=tiny.tokenizer) as runtime:
        first.close()
        first.close()
        assert tiny.run(runtime, tiny.prompt(20)).token_ids
    assert model.config._attn_implementation == own


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kernel", ["auto", "torch"])  # of which the latter has rows in lanes on a CPU, too
@pytest.mark.parametrize("mode", ["dense", "sfi", "verified"])
def test_a_runtime_that_was_not_closed_lets_go_of_its_model_and_memory_at_once(tiny, mode, kernel):
    model, policy = tiny.model(), tiny.policy(mode, kernel=kernel)
    own = model.config._attn_implementation
    runtime = Runtime.load(model, tokenizer=tiny.tokenizer, kv_bytes=2**22)
    runtime.generate(tiny.prompt(90), policy=policy, sampling=tiny.sampling(9), session="a")
    stream = runtime.stream(tiny.prompt(40), policy=policy, sampling=tiny.sampling(9))
    next(stream)
    assert model.config._attn_implementation == "sfi"
    pool = weakref.ref(runtime.pool)
    del runtime, stream
    assert model.config._attn_implementation == own
    assert pool() is None


def _late(tiny, runtime):
    with pytest.raises(TurnTimeoutError):
        runtime.generate(tiny.prompt(300), sampling=tiny.sampling(200), timeout=0.01, session="a")


def _failing(tiny, runtime):
    with pytest.raises(ZeroDivisionError):
        runtime.generate(tiny.prompt(20), on_progress=lambda done, total: 1 // 0)


def _closed(tiny, runtime):
    stream = runtime.stream(tiny.prompt(20), sampling=tiny.sampling(50))
    next(stream)
    runtime.close()
    with pytest.raises(SFIError, match="closed before"):
        next(stream)


def _unsaved(tiny, runtime):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StoredSession, "_written", _full)
        runtime.generate(tiny.prompt(20), sampling=tiny.sampling(2), session="a")
        with pytest.raises(SessionNotSavedError):
            runtime.save("a")


def _full(*_):
    raise OSError(errno.ENOSPC, "no space left")


def _compared(tiny, runtime):
    asked = SimpleNamespace(prompt=tuple(tiny.prompt(600)), sampling=tiny.sampling(5))
    with pytest.raises(PromptError):
        list(DenseBeside(runtime).ask_all([asked, asked], tiny.policy("sfi")))


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("fail", [_late, _failing, _closed, _unsaved, _compared])
def test_a_runtime_is_gone_at_once_whatever_failed_in_it(tiny, tmp_path, fail):
    """What was raised, and where, is in no cycle with it."""
    runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path)
    model = weakref.ref(runtime.model)
    fail(tiny, runtime)
    runtime.flush()  # who writes a session knows the model
    del runtime
    assert model() is None


@pytest.mark.usefixtures("uncollected")
def test_runtimes_that_are_found_to_be_garbage_while_one_is_made(tiny):
    """In its thread, which has the guard of every model's attention: they must not wait for it."""
    models = [tiny.model() for _ in range(3)]
    own, real = models[0].config._attn_implementation, models[0].set_attn_implementation
    for model in models:
        left = [Runtime.load(model, tokenizer=tiny.tokenizer)]
        left.append(left)
    del left

    def collecting(name):
        gc.collect()
        real(name)

    models[0].set_attn_implementation = collecting
    made = [threading.Thread(target=lambda: made.append(Runtime.load(models[0], tokenizer=tiny.tokenizer)))]
    made[0].daemon = True
    made[0].start()
    made[0].join(30)
    assert not made[0].is_alive()
    assert [model.config._attn_implementation for model in models] == ["sfi", own, own]
    made[1].close()
    assert models[0].config._attn_implementation == own


def test_what_another_thread_counted_meanwhile_is_not_counted_again(tiny, monkeypatch):
    """Both saw that there is something to count; the other had the guard first."""
    model, guard = tiny.model(), threading.Lock()
    own, switch = model.config._attn_implementation, attention.Switch(model)

    class Guard:
        release = guard.release

        def acquire(self, blocking):
            monkeypatch.setattr(attention.Switch, "_guard", guard)
            attention.Switch._tell()
            return guard.acquire(blocking)

    switch._ended.detach()
    attention.Switch._over.append(model)
    monkeypatch.setattr(attention.Switch, "_guard", Guard())
    attention.Switch._tell()
    assert model.config._attn_implementation == own


@pytest.mark.parametrize("kv_bytes", [None, 2**22], ids=["copied", "paged"])
def test_a_closed_runtime_says_so(tiny, kv_bytes):
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, kv_bytes=kv_bytes) as runtime:
        policy = tiny.policy("dense", kernel="torch")
        stream = runtime.stream(tiny.prompt(20), policy=policy, sampling=tiny.sampling(9))
        next(stream)
    with pytest.raises(SFIError, match="closed"):
        list(stream)
    with pytest.raises(SFIError, match="closed"):
        tiny.run(runtime, tiny.prompt(20))


@pytest.mark.parametrize(
    "call",
    [
        lambda runtime: runtime.notes("a"),
        lambda runtime: runtime.fork("a", "b"),
        lambda runtime: runtime.save("a"),
        lambda runtime: runtime.exclusive().__enter__(),
        lambda runtime: runtime.transformers().__enter__(),
    ],
    ids=["notes", "fork", "save", "exclusive", "transformers"],
)
def test_a_closed_runtime_does_nothing_more(tiny, tmp_path, call):
    model = tiny.model()
    own = model.config._attn_implementation
    with Runtime.load(model, tokenizer=tiny.tokenizer, store=tmp_path) as runtime:
        runtime.generate(tiny.prompt(20), sampling=tiny.sampling(4), session="a")
        late = runtime.stream(tiny.prompt(20), session="a")
    with pytest.raises(SFIError, match="closed"):
        call(runtime)
    with pytest.raises(SFIError, match="closed"):
        next(late)
    assert model.config._attn_implementation == own
    with Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path) as another:
        turn = another.generate(tiny.prompt(20), sampling=tiny.sampling(4), session="a")
        assert turn.reused_tokens > 0


def test_closing_ends_the_turns_of_other_threads_and_stores_their_sessions(tiny, tmp_path):
    runtime = Runtime.load(tiny.model(), tokenizer=tiny.tokenizer, store=tmp_path)
    begun, told = threading.Event(), []

    def answer() -> None:
        try:
            with runtime.stream(tiny.prompt(20), sampling=tiny.sampling(400), session="a") as stream:
                for _ in stream:
                    begun.set()
        except SFIError as error:
            told.append(str(error))

    thread = threading.Thread(target=answer)
    thread.start()
    assert begun.wait(30)
    runtime.close()
    thread.join(30)
    assert [reason for reason in told if "closed before the turn was over" in reason] == told != []
    (stored,) = runtime.store.list()
    assert stored.tokens > 20


def test_an_answer_that_was_complete_is_complete_after_closing(tiny):
    with tiny.runtime() as runtime:
        stream = runtime.stream(tiny.prompt(20), sampling=tiny.sampling(4))
        assert list(stream)
    assert list(stream) == []
    assert stream.result.finish_reason == "length"


def test_a_turn_that_ends_because_its_runtime_closes_has_its_reason_by_then(tiny, monkeypatch):
    with tiny.runtime() as runtime:
        stream = runtime.stream(tiny.prompt(20), sampling=tiny.sampling(4))
        next(stream)
        cancel, told = stream.cancel, []

        def ends_at_once():
            cancel()
            with pytest.raises(SFIError, match="closed before"):
                list(stream)
            told.append(True)

        monkeypatch.setattr(stream, "cancel", ends_at_once)
        stream._end(SFIError("closed before"))
        assert told


def test_a_step_cannot_close_its_runtime(tiny):
    with tiny.runtime() as runtime:
        told = []

        def close(done: int, total: int) -> None:
            with pytest.raises(SFIError, match="would wait for itself"):
                runtime.close()
            told.append(done)

        assert runtime.generate(tiny.prompt(20), sampling=tiny.sampling(4), on_progress=close).token_ids
        assert told
        assert runtime.generate(tiny.prompt(20), sampling=tiny.sampling(4)).token_ids
