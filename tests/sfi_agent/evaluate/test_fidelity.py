"""Teacher-forced fidelity: exact where it must be, and counted as the runtime counts."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from sfi_agent import Registry, Sampling
from sfi_agent.contracts import Selector, top_positions
from sfi_agent.errors import PromptError
from sfi_agent.evaluate.fidelity import Reference, fidelity
from sfi_agent.hookspecs import hookimpl

TEXT = 90


def test_a_covering_budget_is_dense(tiny, shared, each_selector):
    for budget in (1.0, 500):
        result = fidelity(shared, tiny.prompt(TEXT), 50, tiny.policy(selector=each_selector, budget=budget))
        assert result.agree == 1.0
        assert result.accept == pytest.approx(1, abs=1e-5)
        assert result.kl == pytest.approx(0, abs=1e-6)
        assert result.ppl_ratio == pytest.approx(1, abs=1e-5)
        assert (result.slow_rate, result.kv_read_fraction) == (1.0, 1.0)
        assert (result.prompt_tokens, result.decode_tokens) == (50, 40)


def test_a_small_memory_differs(tiny, shared):
    result = fidelity(shared, tiny.prompt(TEXT), 50, tiny.policy(budget=4, max_interval=1000, boundaries=()))
    assert result.agree < 0.9
    assert 0.1 < result.accept < 0.95
    assert result.kl > 0.01
    assert result.ppl_ratio != pytest.approx(1, abs=1e-3)
    assert result.slow_rate == 1 / 40
    assert result.kv_read_fraction < 0.6


def test_slow_steps_with_repair_are_dense(tiny, shared):
    """With repair each slow step's logits are dense attention's; at interval 1 that is every other one."""
    policy = tiny.policy(budget=4, max_interval=1, boundaries=(), repair=True)
    repaired = fidelity(shared, tiny.prompt(TEXT), 50, policy)
    assert repaired.slow_rate == 0.5
    drifting = fidelity(shared, tiny.prompt(TEXT), 50, policy.but(repair=False))
    assert repaired.kl < drifting.kl
    assert repaired.agree >= 0.5


def test_the_first_memory_has_the_evidence_that_a_turn_has(tiny):
    seen = []

    @dataclass
    class Watching(Selector):
        def rows_wanted(self):
            return 12

        def refresh(self, evidence, view):
            seen.append((view.length, evidence.captured, evidence.logits.clone()))
            return top_positions(evidence.probabilities.mean(-2), view.count, view.start)

    class Plugin:
        @hookimpl
        def sfi_register_selectors(self, register):
            register("watching", Watching)

    registry = Registry()
    registry.add(Plugin())
    tokens = tiny.prompt(TEXT)
    with tiny.runtime(registry=registry) as runtime:
        policy = tiny.policy(selector="watching", budget=20, recent=12)
        fidelity(runtime, tokens, 50, policy)
        measured = seen[0]
        seen.clear()
        runtime.generate(tokens[:50], policy=policy, sampling=Sampling(max_new_tokens=2))
    assert measured[:2] == seen[0][:2] == (50, 10)
    torch.testing.assert_close(measured[2], seen[0][2])


@pytest.mark.parametrize("prompt", [1, 2, 50, TEXT - 1])
@pytest.mark.parametrize("chunk", [7, 512])
def test_it_runs_from_any_prompt(tiny, shared, prompt, chunk):
    seen = []
    result = fidelity(
        shared, tiny.prompt(TEXT), prompt, tiny.policy(prefill_chunk=chunk), lambda *at: seen.append(at)
    )
    assert result.decode_tokens == TEXT - prompt
    assert seen[-1] == (TEXT - prompt, TEXT - prompt)


def test_every_selector_and_family(tiny, of_family, each_family):
    runtime = of_family(each_family)
    result = fidelity(runtime, tiny.prompt(70), 50, tiny.policy(budget=12))
    assert 0 < result.slow_rate < 1
    assert fidelity(runtime, tiny.prompt(70), 50, tiny.policy(budget=1.0)).agree == 1.0


@pytest.mark.parametrize(("length", "prompt"), [(0, 0), (5, 0), (5, 5), (5, 9), (600, 50)])
def test_texts_that_cannot_be_compared(tiny, shared, length, prompt):
    with pytest.raises(PromptError):
        fidelity(shared, tiny.prompt(length), prompt, tiny.policy())


@pytest.mark.parametrize("repair", [True, False])
def test_a_stretch_of_fast_steps_may_be_read_at_once(tiny, shared, each_selector, repair, monkeypatch):
    """Given tokens need no one-token steps: same comparison, same bytes."""
    policy = tiny.policy(budget=12, selector=each_selector, repair=repair, max_interval=9)
    together = fidelity(shared, tiny.prompt(TEXT), 50, policy)
    monkeypatch.setattr("sfi_agent.evaluate.fidelity.BLOCK", 1)
    one_by_one = fidelity(shared, tiny.prompt(TEXT), 50, policy)
    assert together.agree == one_by_one.agree
    for name in ("accept", "kl", "ppl_ratio", "kv_read_fraction", "slow_rate"):
        assert getattr(together, name) == pytest.approx(getattr(one_by_one, name), rel=1e-3), name


def test_one_reference_serves_many_policies(tiny, shared):
    tokens = tiny.prompt(TEXT)
    reference = Reference.read(shared, tokens, 50)
    for budget in (8, 20):
        policy = tiny.policy(budget=budget)
        assert fidelity(shared, tokens, 50, policy, reference=reference) == fidelity(
            shared, tokens, 50, policy
        )
