"""Scores from codes, and the choice among them, against plain PyTorch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfi_agent.contracts import LayerSpec
from sfi_kernels.choice import reference as choice_reference
from sfi_kernels.index_scores import reference as scores_reference

pytest.importorskip("triton")
from sfi_kernels.choice.triton import choose
from sfi_kernels.index_scores.triton import CHUNK, LOG2_E, Scores, scores
from sfi_kernels.paging import PAGE, Paged

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def ints(values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("extra", [{}, {"softcap": 1.5}], ids=str)
@pytest.mark.parametrize(
    ("bits", "dim", "heads", "kv_heads"), [(2, 64, 6, 2), (1, 64, 4, 1), (4, 128, 16, 1), (2, 96, 2, 2)]
)
def test_scores(bits, dim, heads, kv_heads, extra):
    torch.manual_seed(bits)
    starts, stops = [4, 0, 65], [1100, 63, 130]
    pages = [-(-stop // PAGE) for stop in stops]
    codes = torch.randint(0, 256, (sum(pages), kv_heads, PAGE, dim * bits // 8), dtype=torch.uint8)
    scales = torch.rand(sum(pages), kv_heads, PAGE, 1).half()
    order = torch.randperm(sum(pages)).tolist()
    tables = [[order.pop() for _ in range(count)] + [0] * (max(pages) - count) for count in pages]
    queries, levels = torch.randn(3, heads, dim), torch.randn(2**bits).sort().values.tolist()
    rotation = torch.linalg.qr(torch.randn(dim, dim)).Q.contiguous()
    spec = LayerSpec(dim**-0.5, **extra)
    index = Paged.pool(codes.to(DEVICE), scales.to(DEVICE), ints(tables))
    found = scores(
        queries.to(DEVICE),
        rotation.to(DEVICE),
        index,
        ints(starts),
        ints(stops),
        levels,
        spec,
        longest=2 * CHUNK + 1,
    )
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        whole = [torch.cat([pool[page] for page in tables[row]], 1)[:, :stop] for pool in (codes, scales)]
        wanted = scores_reference.scores(queries[row], rotation, whole[0], whole[1][..., 0], levels, spec)
        got = found.logits[row, :, start:stop].float().cpu().transpose(1, 2).flatten(0, 1) / LOG2_E
        wanted = wanted[:, start:]
        torch.testing.assert_close(got, wanted, rtol=2e-3, atol=6e-3)  # in float16, and a rounded query
        top, total = found.stats[:, row].cpu()
        sums = (total * top.exp2()).sum(1).flatten()
        torch.testing.assert_close(sums, wanted.exp().sum(-1), rtol=1e-2, atol=1e-2)


def given_scores(logits, starts, stops, kv_heads):
    """``Scores`` of made-up logits ``[R, H, span]``."""
    rows, heads, span = logits.shape
    place = torch.arange(span)
    used = (place >= torch.tensor(starts)[:, None]) & (place < torch.tensor(stops)[:, None])
    grouped = (LOG2_E * logits).view(rows, kv_heads, -1, span).transpose(2, 3)
    seen = grouped.masked_fill(~used[:, None, :, None], -torch.inf)
    seen = seen.reshape(rows, kv_heads, -1, CHUNK, heads // kv_heads)
    top = seen.amax(3)
    total = (seen - top.nan_to_num(neginf=0).unsqueeze(3)).exp2().sum(3)
    return Scores(grouped.half().contiguous().to(DEVICE), torch.stack([top, total]).to(DEVICE))


def check_choice(logits, starts, stops, wanted, kv_heads, exact=True):
    logits = (LOG2_E * logits).half().float() / LOG2_E
    most = max(min(want, stop - start) for want, start, stop in zip(wanted, starts, stops, strict=True))
    positions, counts = choose(
        given_scores(logits, starts, stops, kv_heads),
        ints(starts),
        ints(stops),
        ints(wanted),
        ints([list(range(logits.shape[2] // PAGE))] * len(starts)),
        most=max(most, 1),
    )
    for row, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        mass = choice_reference.mass_of(logits[row, :, start:stop], kv_heads)
        kept = choice_reference.chosen(choice_reference.keys_of(mass), wanted[row])
        got = torch.zeros_like(kept)
        for head in range(kv_heads):
            places = positions[row, head, : counts[row, head]].cpu().long() - start
            assert torch.equal(places, places.sort().values)
            got[head, places] = True
        assert got.sum() == kept.sum()
        # The two sum in another order: on either side of a step keys differ by one, and then so do the ties.
        least = mass[kept].min() if kept.any() else 0
        assert ((mass[got != kept] - least).abs() <= 2**-choice_reference.MANTISSA * least).all()
        if exact:
            assert torch.equal(got, kept)


@pytest.mark.parametrize("most", [64, 2])
def test_the_highest_of_several_rows_and_heads(most, monkeypatch):
    """Pieces of a chunk, and pieces that grew."""
    monkeypatch.setattr("sfi_kernels.choice.triton.SHORTEST_PIECE", CHUNK)
    monkeypatch.setattr("sfi_kernels.choice.triton.MOST_PIECES", most)
    torch.manual_seed(0)
    check_choice(
        3 * torch.randn(3, 4, 3 * CHUNK),
        [4, 0, 1500],
        [3000, 30, 1501],
        [300, 20, 5],
        kv_heads=2,
        exact=False,
    )


@pytest.mark.parametrize("wanted", [0, 1, 7, 1199, 1200, 5000])
def test_equal_scores_go_to_the_earlier(wanted):
    check_choice(torch.zeros(1, 2, CHUNK), [4], [604], [wanted], kv_heads=2)


def test_nothing_to_choose_from():
    check_choice(torch.zeros(1, 2, CHUNK), [64], [64], [10], kv_heads=2)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_any_choice(data):
    torch.manual_seed(data.draw(st.integers(0, 99)))
    kv_heads, group = data.draw(st.sampled_from([(1, 1), (2, 3), (3, 1)]))
    start = data.draw(st.integers(0, 70))
    stop = data.draw(st.integers(start, CHUNK))
    levels = data.draw(st.sampled_from([2, 9, 10**6]))  # few levels: many ties
    logits = torch.randint(0, levels, (1, kv_heads * group, CHUNK)) / levels * 8
    wanted = data.draw(st.integers(0, 2 * CHUNK))
    check_choice(logits, [start], [stop], [wanted], kv_heads, exact=levels < 10)


def test_a_probability_above_one_is_the_highest():
    """A logit rounded to float16 may pass the sum that it is divided by."""
    logits = torch.zeros(1, 1, CHUNK)
    logits[0, 0, 700] = 40.0166  # rounds up by 1.5 %
    row = ints([0]), ints([CHUNK]), ints([1]), ints([list(range(CHUNK // PAGE))])
    places, counts = choose(given_scores(logits, [0], [CHUNK], 1), *row, most=1)
    assert (places.tolist(), counts.tolist()) == ([[[700]]], [[1]])
    keys = choice_reference.keys_of(torch.tensor([1.0, 1.02] + [0.0] * 4094))
    assert keys[:3].tolist() == [choice_reference.BINS - 1] * 2 + [0]


def test_more_sinks_than_a_chunk_holds():
    sink, stop, wanted, span = CHUNK + 300, 2 * CHUNK, 40, 2 * CHUNK
    torch.manual_seed(3)
    logits, pages = torch.randn(1, 2, span), torch.randperm(span // PAGE)
    places, counts = choose(
        given_scores(logits, [sink], [stop], 2),
        ints([sink]), ints([stop]), ints([wanted]), ints([pages.tolist()]),
        most=sink + wanted, sinks=True,
    )  # fmt: skip
    position = torch.arange(sink)
    expected = (pages[position // PAGE] * PAGE + position % PAGE).tolist()
    assert [head[:sink].tolist() for head in places[0]] == [expected, expected]
    assert counts.sum() == 2 * sink + wanted


@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_keys_lose_little_probability(spread):
    """Against an exact sort of 8 heads' probabilities; how fine keys are is a choice of speed."""
    torch.manual_seed(0)
    mass = choice_reference.mass_of(spread * torch.randn(32, 8192), kv_heads=8)
    wanted = 8 * 512
    kept = choice_reference.chosen(choice_reference.keys_of(mass), wanted)
    assert mass[kept].sum() >= (1 - 2e-3) * mass.flatten().topk(wanted).values.sum()
