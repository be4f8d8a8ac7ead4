"""``deterministic``: a turn gives the same bits whatever runs beside it."""

from __future__ import annotations

import threading

import pytest
import torch

from sfi_agent import Runtime

MODES = ("dense", "sfi", "verified")


def together(tiny, sessions, mode, *, paged, deterministic):
    """The first session's tokens, keys and values, after two turns each that ran at the same time."""
    model = tiny.model()
    runtime = Runtime.load(
        model, tokenizer=tiny.tokenizer, kv_bytes=2**22 if paged else None, deterministic=deterministic
    )
    ready, results = threading.Barrier(sessions), {}

    def turns(index: int) -> None:
        prompt = [*tiny.prompt(130), *tiny.prompt(20 + 13 * index, seed=index + 1)]
        ready.wait(30)
        for _ in range(2):
            answer = runtime.generate(
                prompt, policy=tiny.policy(mode), sampling=tiny.sampling(24), session=f"s{index}"
            )
            prompt = [*prompt, *answer.token_ids, *tiny.prompt(9, seed=index)]
        results[index] = answer.token_ids

    threads = [threading.Thread(target=turns, args=(index,)) for index in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    kv = runtime.sessions["s0"].row.kv
    held = [torch.cat(kv.layers[layer].span(0, kv.length)) for layer in sorted(kv.layers)]
    return results[0], torch.stack(held)


@pytest.mark.parametrize("paged", [False, True], ids=["own caches", "pages"])
@pytest.mark.parametrize("mode", MODES)
def test_a_turn_gives_the_same_bits_alone_and_beside_others(tiny, mode, paged):
    alone = together(tiny, 1, mode, paged=paged, deterministic=True)
    beside = together(tiny, 4, mode, paged=paged, deterministic=True)
    assert alone[0] == beside[0]
    assert torch.equal(alone[1], beside[1])


def test_without_it_neighbours_round_otherwise(tiny):
    """What the other test would miss if rows of one call rounded alike."""
    alone = together(tiny, 1, "dense", paged=False, deterministic=False)
    beside = together(tiny, 4, "dense", paged=False, deterministic=False)
    assert alone[0] == beside[0]
    assert not torch.equal(alone[1], beside[1])
    torch.testing.assert_close(alone[1], beside[1])
