"""Log-probabilities of given text: transformers' own under dense attention, the sfi loop's otherwise."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.errors import PromptError
from sfi_agent.evaluate.likelihood import Scorer
from sfi_agent.evaluate.teacher import Reader


def by_transformers(runtime, context, continuation):
    """Log-probability of the continuation and whether it is greedy, in one pass of transformers."""
    ids = torch.tensor([[*context, *continuation]])
    with runtime.transformers() as model, torch.inference_mode():
        logits = model(ids).logits[0, len(context) - 1 : -1]
    truth = torch.tensor(continuation)
    logprob = logits.log_softmax(-1).gather(-1, truth[:, None]).sum()
    return float(logprob), bool((logits.argmax(-1) == truth).all())


@pytest.mark.parametrize("context", [1, 2, 90])
@pytest.mark.parametrize("continuation", [1, 5, 150])
@pytest.mark.parametrize("mode", ["dense", "verified"])
def test_full_attention_scores_as_transformers_does(tiny, shared, context, continuation, mode):
    tokens = tiny.prompt(context + continuation)
    found = Scorer(shared, tiny.policy(mode)).score(tokens[:context], tokens[context:])
    logprob, greedy = by_transformers(shared, tokens[:context], tokens[context:])
    assert found.logprob == pytest.approx(logprob, rel=1e-4)
    assert found.greedy == greedy


def test_what_the_model_would_write_is_greedy(tiny, shared):
    context = tiny.prompt(40)
    written = tiny.run(shared, context, "dense", 12).token_ids
    scorer = Scorer(shared, tiny.policy("dense"))
    assert scorer.score(context, written).greedy
    assert not scorer.score(context, [*written[:-1], (written[-1] + 1) % 200]).greedy


@pytest.mark.parametrize("seed", range(5))
def test_what_a_policy_would_write_is_greedy_under_it(tiny, shared, each_selector, seed):
    context, policy = tiny.prompt(150, seed), tiny.policy(selector=each_selector)
    written = tiny.run(shared, context, tokens=30, selector=each_selector).token_ids
    assert Scorer(shared, policy).score(context, written).greedy
    assert not Scorer(shared, policy.but(mode="dense")).score(context, written).greedy


def test_a_covering_budget_scores_as_full_attention(tiny, shared):
    tokens, policy = tiny.prompt(200), tiny.policy(budget=12)
    dense, sparse, covering = (
        Scorer(shared, policy.but(**changed)).score(tokens[:120], tokens[120:]).logprob
        for changed in ({"mode": "dense"}, {}, {"budget": 1.0})
    )
    assert covering == pytest.approx(dense, rel=1e-5)
    assert sparse != pytest.approx(dense, rel=1e-2)


def test_a_context_that_comes_again_is_read_once(tiny, shared, monkeypatch):
    reads = []
    prefill = Reader.prefill
    monkeypatch.setattr(
        Reader,
        "prefill",
        lambda self, tokens, chunk: (reads.append(len(tokens)), prefill(self, tokens, chunk))[1],
    )
    context, scorer = tiny.prompt(100), Scorer(shared, tiny.policy())
    first, again = (scorer.score(context, tiny.prompt(9, seed=7)) for _ in range(2))
    assert first == again
    scorer.score(context, tiny.prompt(4, seed=8))
    assert reads == [99]
    scorer.score(context[1:], tiny.prompt(4, seed=8))
    assert reads == [99, 98]


def test_a_long_context_loses_its_beginning(tiny, shared):
    context, continuation = tiny.prompt(700), tiny.prompt(50, seed=1)
    scorer = Scorer(shared, tiny.policy("dense"))
    kept = context[-(tiny.window + 1 - 50) :]
    assert scorer.score(context, continuation) == scorer.score(kept, continuation)
    assert scorer.score(context[-1:], tiny.prompt(tiny.window, seed=2)).logprob < 0


def test_nothing_to_score_is_certain(tiny, shared):
    found = Scorer(shared, tiny.policy()).score(tiny.prompt(30), [])
    assert (found.logprob, found.greedy) == (0.0, True)


def test_what_cannot_be_scored(tiny, shared):
    scorer = Scorer(shared, tiny.policy())
    for context, continuation in (([], [5]), ([5], tiny.prompt(tiny.window + 1))):
        with pytest.raises(PromptError, match="needs a token before it and has at most 512 tokens"):
            scorer.score(context, continuation)
