"""The highest scores of a row by the kernel, against the contracts' own."""

from __future__ import annotations

import pytest
import torch

from sfi_agent.contracts import highest as plain
from sfi_kernels.highest import triton as triton_highest
from sfi_kernels.highest.triton import highest

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def wanted(scores, count):
    kept = plain._best(scores.cpu(), count)
    return torch.stack([row.nonzero().flatten() for row in kept.flatten(0, -2)]).view(*scores.shape[:-1], -1)


@pytest.mark.parametrize(
    ("places", "count"), [(1, 1), (5, 5), (300, 17), (2048, 1), (2049, 2048), (5000, 700), (4100, 4100)]
)
def test_it_is_what_a_sort_keeps(places, count):
    scores = torch.randn(2, 3, places, generator=torch.Generator().manual_seed(places)).to(DEVICE)
    assert torch.equal(highest(scores, count).cpu(), wanted(scores, count))


def test_the_earlier_of_equals_stay():
    scores = torch.randint(-2, 3, (4, 5000), generator=torch.Generator().manual_seed(0)).float().to(DEVICE)
    for count in (1, 900, 2500, 4999):
        assert torch.equal(highest(scores, count).cpu(), wanted(scores, count))


def test_infinities_zeros_and_the_least_of_numbers_rank_as_numbers_do():
    values = [-torch.inf, torch.inf, 0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, 1.0, -1.0]
    scores = torch.tensor(values * 40, device=DEVICE)[torch.randperm(400, generator=torch.manual_seed(1))][
        None
    ]
    for count in (1, 39, 120, 200, 399):
        assert torch.equal(highest(scores, count).cpu(), wanted(scores, count))


@pytest.mark.parametrize("count", [1, 60, 256, 700, 4999])
def test_rows_that_do_not_fit(count, monkeypatch):
    """By their parts, and theirs again, or read anew for each bit where too many are kept."""
    monkeypatch.setattr(triton_highest, "HELD", 1024)
    for places in (1025, 5000):
        scores = torch.randn(2, places, generator=torch.Generator().manual_seed(0)).round(decimals=1)
        kept = min(count, places)
        assert torch.equal(highest(scores.to(DEVICE), kept, 7).cpu(), wanted(scores, kept) + 7)


@pytest.mark.parametrize("sampled", [0.0, 9.0, -9.0])
@pytest.mark.parametrize("count", [1, 300, 700, 4999])
def test_a_sample_misleads_no_choice(sampled, count):
    """A CPU rules scores out by one in some, which may be among the highest or the lowest."""
    scores = torch.randn(2, 5000, generator=torch.Generator().manual_seed(count)).round(decimals=1)
    scores[:, :: plain.SAMPLED] += sampled
    best = scores.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    assert torch.equal(plain.highest(scores, count, 0), best.sort(-1).values)


@pytest.mark.parametrize("decimals", [0, 6], ids=["ties", "none"])
@pytest.mark.parametrize("count", [0, 1, 40, 100])
def test_heads_share_what_a_layer_keeps(count, decimals):
    """In ascending order, behind the unused places of a head that keeps fewer."""
    drawn = torch.randn(4, 3, 100, generator=torch.Generator().manual_seed(count))
    scores = (drawn + torch.tensor([0.0, 1.0, 0.2])[:, None]).round(decimals=decimals).to(DEVICE)
    found = plain.top_jointly(scores, count, 5).positions
    best = scores.flatten(1).sort(dim=-1, descending=True, stable=True).indices[:, : 3 * count].cpu()
    heads = [[best[row][best[row] // 100 == head] for head in range(3)] for row in range(4)]
    assert found.shape == (4, 3, max(len(head) for row in heads for head in row))
    for row, kept in zip(found.tolist(), heads, strict=True):
        for places, wanted in zip(row, kept, strict=True):
            unused = found.shape[2] - len(wanted)
            assert places == [-1] * unused + (wanted % 100 + 5).sort().values.tolist()


def test_places_are_counted_from_a_start():
    scores = torch.tensor([[1.0, 3.0, 2.0]], device=DEVICE)
    assert highest(scores, 2, 10).tolist() == [[11, 12]]
    assert plain.highest(scores, 2, 10).tolist() == [[11, 12]]


def test_strided_rows_are_read_as_they_stand():
    scores = torch.randn(300, 4, generator=torch.Generator().manual_seed(2)).to(DEVICE).t()
    assert torch.equal(highest(scores, 30).cpu(), wanted(scores, 30))
