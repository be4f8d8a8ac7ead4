"""Support, on a model whose attention is known by construction."""

from __future__ import annotations

import pytest
import torch

from sfi_agent import Policy, Runtime
from sfi_agent.errors import SettingError
from sfi_agent.experiments.grid import Case
from sfi_agent.experiments.measure.attention import candidate_mass
from sfi_agent.experiments.measure.base import Reading
from sfi_agent.experiments.measure.support import SupportMeasurement
from sfi_agent.runtime.layout import Layout

CONTEXT = "cc" + "abbaabababbbaabaabab" * 2 + "c" * 10
"""Sink, candidates of which half are ``a`` and half ``b``, recent."""
POLICY = Policy.of(sink=2, recent=10, budget=2 + 20 + 10, boundaries=("punctuation",), dense_below=0)


def silent(done, total):
    pass


@pytest.fixture(scope="module")
def knowing(tiny):
    """``x`` and ``?`` attend to every ``a``, ``y`` and ``!`` to every ``b``, in both layers and all heads."""
    slow = {"rope_type": "default", "rope_theta": 1e30}  # the last dimensions do not turn
    model = tiny.model(rope_parameters=slow)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name:
                weight.zero_()
        letters = {letter: tiny.tokenizer(letter)["input_ids"][0] for letter in "abcxy?!"}
        embedding = model.get_input_embeddings().weight
        for place, members in enumerate(("a", "b", "x?", "y!", "c")):
            for letter in members:
                embedding[letters[letter], place] = 1.0
        size = model.config.head_dim
        for layer in model.model.layers:
            for head in range(model.config.num_key_value_heads):
                layer.self_attn.k_proj.weight[head * size + 6, 0] = 1.0
                layer.self_attn.k_proj.weight[head * size + 7, 1] = 1.0
            for head in range(model.config.num_attention_heads):
                layer.self_attn.q_proj.weight[head * size + 6, 2] = 2.0
                layer.self_attn.q_proj.weight[head * size + 7, 3] = 2.0
    with Runtime.load(model, tokenizer=tiny.tokenizer) as runtime:
        yield runtime


def measure(runtime, text, policy=POLICY):
    reading = Reading("made", tuple(runtime.encode(CONTEXT + text, raw=True)), len(CONTEXT))
    measurement = SupportMeasurement()
    shared = measurement.prepare(runtime, reading, silent)
    return measurement.measure(runtime, reading, Case("made", "made", policy), shared, silent)


def test_what_each_sentence_needs_stays_and_is_another_sentences_loss(knowing):
    found = measure(knowing, "xxxxxxx?yyyyyyy!")
    assert found.layers == (0, 1)
    assert found.distances == (1, 2, 3, 4, 6, 8, 12)
    assert (found.count, found.candidates, found.boundaries) == (20, 40, 1)
    assert found.pairs_within == (14, 12, 10, 8, 4, 0, 0)
    assert found.pairs_across == (1, 2, 3, 4, 6, 8, 4)
    for within, across, kept, lost in zip(
        found.mass_within, found.mass_across, found.kept_within, found.kept_across, strict=True
    ):
        assert within == (*[pytest.approx(1)] * 5, None, None)
        assert across == tuple([pytest.approx(0, abs=1e-6)] * 7)
        assert kept == (*[1.0] * 5, None, None)
        assert lost == (0.0,) * 7
    assert found.candidate_mass == pytest.approx([1, 1], abs=1e-6)
    assert found.support_mass == pytest.approx([1, 1], abs=1e-6)


def test_a_sentence_that_returns_to_its_subject(knowing):
    """Across two boundaries the support is the first one's again."""
    found = measure(knowing, "xxx?yyy!xxx?yyy!")
    by_distance = dict(zip(found.distances, found.mass_across[0], strict=True))
    assert by_distance[8] == pytest.approx(1)
    assert by_distance[4] == pytest.approx(0, abs=1e-6)
    assert by_distance[6] == pytest.approx(4 / 10)  # of 10 pairs 4 share a subject


def test_a_support_of_half_the_size_holds_half(knowing):
    found = measure(knowing, "xxxxxxx?yyyyyyy!", POLICY.but(budget=2 + 10 + 10))
    assert found.count == 10
    assert found.support_mass == pytest.approx([0.5, 0.5], abs=1e-6)
    assert found.mass_within[0][0] == pytest.approx(1)


def test_a_smaller_support_counts_what_falls_outside_the_candidates(knowing):
    """With a smaller sink and recent window the others' share of attention is still nothing."""
    found = measure(knowing, "xxxx?xxx", POLICY.but(sink=0, recent=22, budget=45))
    assert found.candidates == len(CONTEXT) - 22
    assert found.candidate_mass[0] == pytest.approx(CONTEXT[:-22].count("a") / 20, abs=1e-6)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss", "qwen3"])
def test_the_mass_is_what_transformers_attention_gives(tiny, family):
    """Soft-capping, sinks of their own and grouped heads included; sliding layers are left out."""
    model, length, tokens = tiny.model(family), 40, 12
    ids = tiny.prompt(length)
    reading = Reading("random", tuple(ids), length - tokens)
    with Runtime.load(model, tokenizer=tiny.tokenizer) as runtime:
        row = SupportMeasurement().prepare(runtime, reading, silent)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        attentions = model(torch.tensor([ids]), output_attentions=True).attentions
    layers = [layer for layer, store in row.kv.layers.items() if store.spec.window is None]
    assert len(layers) == (1 if family in ("gemma2", "gpt_oss") else 2)
    for layer in layers:
        queries, store = row.queries.gather(layer, row.queries.latest(length, tokens)), row.kv.layers[layer]
        for head in range(2):
            heads = slice(3 * head, 3 * head + 3)
            ours = candidate_mass(queries[:, heads], store, head, heads, length, Layout(2, 25, 5))
            theirs = attentions[layer][0, heads, -tokens:, 2:25].mean(0)
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_chunks_of_queries_do_not_show(tiny, shared, monkeypatch):
    reading = Reading("random", tuple(tiny.prompt(60)), 40)
    row = SupportMeasurement().prepare(shared, reading, silent)
    case = Case("made", "made", POLICY)
    whole = SupportMeasurement().measure(shared, reading, case, row, silent)
    monkeypatch.setattr("sfi_agent.experiments.measure.attention.CHUNK_BYTES", 4 * 3 * 60 * 7)
    assert SupportMeasurement().measure(shared, reading, case, row, silent) == whole


@pytest.mark.parametrize("budget", [1.0, 52, 2])
def test_a_budget_that_selects_nothing_is_refused(knowing, budget):
    with pytest.raises(SettingError, match="set a budget below 1 that exceeds sink and recent"):
        measure(knowing, "xxxx", POLICY.but(budget=budget))


def test_detectors_that_watch_the_model_make_no_sentences(knowing):
    with pytest.raises(SettingError, match="depend on logits; sentences need detectors that read"):
        measure(knowing, "xxxx", POLICY.but(boundaries=("drift",)))
