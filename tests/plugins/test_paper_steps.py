"""Each step of the paper's selector against plain loops over Python floats."""

import math

import pytest
import torch

from sfi_agent.contracts import Evidence, View
from sfi_plugins.selectors import paper
from sfi_plugins.selectors.paper import PaperSelector


def random_evidence(layers=2, heads=3, rows=8, candidates=19, captured=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(layers, heads, rows, candidates, generator=generator)
    return Evidence(logits, captured)


def random_mass(*shape, seed=0):
    return (2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))).softmax(-1)


def view_of(evidence, count, seed=1):
    layers, heads, _, candidates = evidence.logits.shape
    keys = torch.randn(layers, heads, candidates, 8, generator=torch.Generator().manual_seed(seed))
    return View(4, 4 + candidates, 4 + candidates + 7, count, tuple(range(layers)), list(keys))


def vectors(tensor):
    """Each vector along the last axis, as floats."""
    return tensor.double().reshape(-1, tensor.shape[-1]).tolist()


def softmax(values):
    peak = max(values)
    exponentials = [math.exp(value - peak) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def evidence_of(rows, power):
    """Step 1 for one head: a list of logits for each row."""
    rows = [softmax(row) for row in rows]
    mass = [(sum(row[i] ** power for row in rows) / len(rows)) ** (1 / power) for i in range(len(rows[0]))]
    return [value / sum(mass) for value in mass]


def prior_of(norms):
    """Step 2 for one head, with the published constants."""
    logs = []
    for i, norm in enumerate(norms):
        x = i / (len(norms) - 1)
        position = -0.568 * x**1.8 + 0.4 * math.log(max(1 - x, 1e-6))
        logs.append(-0.5 * math.log(norm) + 0.7 * position)
    return softmax(logs)


def weight_of(f, r, limit):
    """Step 3's lambda for one head."""
    ff, fr, rr = (sum(a * b for a, b in zip(*pair, strict=True)) for pair in ((f, f), (f, r), (r, r)))
    return min(max((ff - fr) / (ff - 2 * fr + rr), 0), limit)


def suppressed(scores, window):
    """Step 4 for one head."""
    out = []
    for i, score in enumerate(scores):
        around = scores[max(0, i - window // 2) : i + (window - 1) // 2 + 1]
        out.append(score - (max(around) - score))
    return out


def excluded(heads):
    """Step 5: a list of scores for each KV head."""
    out = [list(scores) for scores in heads]
    for i in range(len(heads[0])):
        shares = softmax([scores[i] / 2 for scores in heads])
        for head, share in enumerate(shares):
            out[head][i] += 0.85 * math.log(share)
    return out


def close(tensor, expected):
    torch.testing.assert_close(tensor.double(), torch.tensor(expected).double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_evidence_is_a_power_mean_over_rows(power):
    evidence = random_evidence()
    mass = paper.power_mean(evidence, power)
    expected = [evidence_of(head.tolist(), power) for head in evidence.logits.double().flatten(0, 1)]
    close(mass.flatten(0, 1), expected)
    close(mass.sum(-1), torch.ones(2, 3).tolist())


def test_the_power_mean_prefers_what_all_rows_agree_on():
    agreed = Evidence(torch.tensor([[[[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]]]]).log(), 2)
    assert paper.power_mean(agreed, 0.5)[0, 0, 0] > 0.5 > paper.power_mean(agreed, 2.0)[0, 0, 0]


def test_prior_has_the_published_shape():
    norms = torch.rand(2, 3, 19, generator=torch.Generator().manual_seed(0)) + 0.1
    position = paper.position_term(torch.linspace(0, 1, 19), 0.568, 1.8, 0.4)
    prior = paper.norm_prior(norms, 0.5, 0.7 * position)
    close(prior.flatten(0, 1), [prior_of(vector) for vector in vectors(norms)])


def test_prior_favours_low_norms_and_damps_the_latest():
    flat = paper.position_term(torch.linspace(0, 1, 9), 0.568, 1.8, 0.4)
    assert (flat.diff() < 0).all()
    assert flat.isfinite().all()
    prior = paper.norm_prior(torch.tensor([[[2.0, 1.0, 0.0, 4.0]]]), 0.5, torch.zeros(4))
    assert prior[0, 0].argsort(descending=True).tolist() == [2, 1, 0, 3]
    assert prior.isfinite().all()


@pytest.mark.parametrize("limit", [0.25, 0.35, 1.0])
def test_lambda_in_closed_form(limit):
    mass, prior = random_mass(2, 3, 19), random_mass(2, 3, 19, seed=1)
    expected = [weight_of(f, r, limit) for f, r in zip(vectors(mass), vectors(prior), strict=True)]
    close(paper.mixture_weight(mass, prior, limit).flatten(), expected)


def test_lambda_stays_in_its_limits():
    peaked = torch.tensor([[[1.0, 0.0, 0.0]]])
    flat = torch.full((1, 1, 3), 1 / 3)
    assert paper.mixture_weight(peaked, flat, 0.35).item() == pytest.approx(0.35)
    assert paper.mixture_weight(flat, peaked, 0.35).item() == pytest.approx(0.0, abs=1e-6)
    assert paper.mixture_weight(flat, flat, 0.35).item() == 0


@pytest.mark.parametrize("window", [1, 2, 5, 32, 100])
def test_suppression_within_a_window(window):
    scores = random_mass(2, 3, 71).log()
    expected = [suppressed(vector, window) for vector in vectors(scores)]
    close(paper.suppress(scores, window).flatten(0, 1), expected)


def test_exclusivity_between_heads():
    scores = random_mass(2, 3, 19).log()
    close(paper.exclude(scores, 2.0, 0.85), [excluded(layer) for layer in scores.double().tolist()])


@pytest.mark.parametrize(("captured", "limit"), [(1, 0.35), (4, 0.25)])
def test_all_steps_together(captured, limit):
    evidence = random_evidence(heads=3, candidates=70, captured=captured)
    view = view_of(evidence, count=20)
    positions = PaperSelector().refresh(evidence, view).positions
    for layer in range(2):
        scores = []
        for head in range(3):
            f = evidence_of(evidence.logits[layer, head].double().tolist(), 0.5)
            r = prior_of(view.keys[layer][head].double().norm(dim=-1).tolist())
            weight = weight_of(f, r, limit)
            scores.append(
                suppressed([math.log((1 - weight) * a + weight * b) for a, b in zip(f, r, strict=True)], 32)
            )
        for head, final in enumerate(excluded(scores)):
            best = sorted(range(70), key=lambda i: -final[i])[:20]
            assert positions[layer, head].tolist() == sorted(4 + i for i in best)


@pytest.mark.parametrize("step", ["prior", "suppression", "exclusivity", "fusion"])
def test_each_step_can_be_switched_off(step):
    evidence = random_evidence(candidates=70)
    if step == "fusion":  # Evidence flatter than the prior, for a lambda below its limit.
        evidence = Evidence(evidence.logits / 30, 4)
    view = view_of(evidence, count=20)
    whole, without = (
        PaperSelector().scores(evidence, view),
        PaperSelector(**{step: False}).scores(evidence, view),
    )
    assert not torch.allclose(whole, without)


def test_without_prior_and_neighbours_it_ranks_by_evidence():
    evidence = random_evidence(candidates=70)
    plain = PaperSelector(prior=False, suppression=False, exclusivity=False)
    expected = paper.power_mean(evidence, 0.5).log()
    torch.testing.assert_close(plain.scores(evidence, view_of(evidence, 20)), expected)


@pytest.mark.parametrize(("heads", "applied"), [(1, False), (2, False), (3, True)])
def test_exclusivity_needs_more_than_two_heads(heads, applied):
    evidence = random_evidence(heads=heads)
    view = view_of(evidence, count=5)
    with_it = PaperSelector().scores(evidence, view)
    without = PaperSelector(exclusivity=False).scores(evidence, view)
    assert torch.equal(with_it, without) != applied


@pytest.mark.parametrize("scale", [0.0, 1e-4, 1e2, 1e6])
def test_scores_are_finite(scale):
    evidence = random_evidence(candidates=70)
    evidence = Evidence(evidence.logits * scale, 4)
    view = view_of(evidence, count=20)
    silent = View(4, 74, 81, 20, (0, 1), [torch.zeros_like(keys) for keys in view.keys])
    for selector in (PaperSelector(), PaperSelector(prior=False), PaperSelector(power=3.0)):
        assert selector.scores(evidence, view).isfinite().all()
        assert selector.scores(evidence, silent).isfinite().all()


def test_rows_wanted_is_a_setting():
    assert PaperSelector().rows_wanted() == 4
    assert PaperSelector(captured=2).rows_wanted() == 2
