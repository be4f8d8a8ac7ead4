"""Rows of a lane over pages: Triton's against plain PyTorch's."""

from __future__ import annotations

from dataclasses import asdict
from itertools import accumulate

import pytest
import torch

from sfi_agent.contracts import PAGE, Lane, LayerPages, LayerSpec, Lists, Ranked, Rings
from sfi_agent.contracts.drawing import halves
from sfi_agent.testing.tolerances import TOLERANCES
from sfi_kernels.rows import TorchRows, TritonRows
from sfi_plugins.indexes.rotated import RotatedCoding

pytest.importorskip("triton")
from sfi_kernels.paging import Paged
from sfi_kernels.spans import MOST_FRESH, Spans
from sfi_kernels.splits import MOST_JOINED, Launch, share_for

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
KV_HEADS, PAGES = 2, 24
LENGTHS = (700, 65, 200)


def ints(*values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


def more(each):
    """With two rows that only fill a lane."""
    return each if each is None else torch.cat([each, torch.zeros_like(each[:2])])


class Case:
    """Three rows in pages that lie in random order; the last one is dense in every lane.

    Each has as many new tokens, or these numbers of them, behind which two tokens and two rows fill the lane.
    """

    def __init__(self, dtype, *, group=3, dim=64, tokens=1, coding=None):
        torch.manual_seed(7)
        self.each = [tokens] * 3 if isinstance(tokens, int) else tokens
        self.filled = not isinstance(tokens, int)
        shape = PAGES, KV_HEADS, PAGE, dim
        keys, values = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(2))
        codes = scales = None
        if coding:
            codes, scales = coding.code(keys, keys.float().mean())
            scales = scales[..., None].half()
        self.pages = LayerPages(keys, values, codes, scales)
        order = (torch.randperm(PAGES - 1) + 1).int().tolist()
        self.tables = torch.zeros(3, 12, dtype=torch.int32)
        for row, length in enumerate(LENGTHS):
            for index in range(-(-length // PAGE)):
                self.tables[row, index] = order.pop()
        self.tables = self.tables.to(DEVICE)
        count = sum(self.each) + 2 * self.filled
        self.queries = torch.randn(count, KV_HEADS * group, dim, device=DEVICE).to(dtype)
        self.new = [torch.randn(count, KV_HEADS, dim, device=DEVICE).to(dtype) for _ in range(2)]

    def lane(self, tails, *, lists=None, ranked=None, mixed=False):
        """Each of whose rows but the second keeps queries, the last one those of all tokens but two."""
        first, _, last = self.each
        counts, sizes = (first, 0, last - last // 3), (7, 0, 97)
        shape = self.queries.shape[1:]
        stores = [
            torch.zeros(2, size, *shape, dtype=self.queries.dtype, device=DEVICE) if size else None
            for size in sizes
        ]
        addresses = [halves(0 if store is None else store.data_ptr()) for store in stores]
        facts = ints(*zip(*addresses, strict=True), sizes, counts)
        lengths, shares, firsts = ints(*LENGTHS), ints(2, 2, 0) if mixed else None, None
        lane = self.tables, lengths, ints(*tails)
        if self.filled:
            firsts = ints(*accumulate(self.each, initial=0), *[sum(self.each)] * 2)
            lane, stores = [more(each) for each in lane], [*stores, None, None]
            shares, facts = more(shares), more(facts.t()).t().contiguous()
            lists = lists and {layer: Lists(*map(more, each)) for layer, each in lists.items()}
            ranked = ranked and ranked._replace(
                starts=more(ranked.starts), stops=more(ranked.stops), wanted=more(ranked.wanted)
            )
        return Lane(max(self.each), *lane, 1024, lists, ranked, shares, Rings(stores, facts), firsts)

    def places(self, row, positions):
        return self.tables[row].long()[positions // PAGE] * PAGE + positions % PAGE

    def check(self, lane, dtype, **spec):
        layer = LayerSpec(0.125, **spec)
        found, wanted = [], []
        for kernel, results in ((TorchRows(), wanted), (TritonRows(), found)):
            pages = LayerPages(*(part if part is None else part.clone() for part in self.pages))
            out = kernel.attend(self.queries, *self.new, pages, lane, 1, layer)
            rings = [store for store in lane.rings.stores if store is not None]
            results += [out, pages.keys[1:], pages.values[1:], *(ring.clone() for ring in rings)]
            assert all(bool(ring[1].any()) is (layer.window is None) for ring in rings)
            for ring in rings:
                ring.zero_()
        torch.testing.assert_close(found[0], wanted[0], **asdict(TOLERANCES[dtype]))
        assert all(torch.equal(one, other) for one, other in zip(found[1:], wanted[1:], strict=True))


@pytest.fixture(params=[torch.float32, torch.float16, torch.bfloat16], ids=str)
def dtype(request):
    if request.param == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter has no bfloat16")
    return request.param


def divided(singles, halves):
    """Cases of single precision, and those of half: the interpreter takes too long for all with each."""
    cases = [(torch.float32, *case) for case in singles]
    return cases + [(half, *case) for half in (torch.float16, torch.bfloat16) for case in halves]


@pytest.mark.parametrize(
    ("dtype", "tokens", "softcap", "memory"),
    divided([(130, None, 0), (200, 3.0, 2**20)], [(MOST_FRESH, None, 0), (200, None, 2**20)]),
    indirect=["dtype"],
)
def test_a_prompt_of_more_tokens_than_attention_writes(dtype, tokens, softcap, memory, monkeypatch):
    """With shared memory for two pages of blocks that all of its tokens see, or for one."""
    monkeypatch.setattr(f"{__name__}.LENGTHS", (700, 331, 290))
    monkeypatch.setattr("sfi_kernels.splits.shared_memory", lambda _: memory)
    case = Case(dtype, group=1, tokens=tokens)
    case.check(case.lane((0, 0, 0)), dtype, softcap=softcap)


@pytest.mark.parametrize(
    ("dtype", "spec"), divided([({"window": 100},)], [({},)]), indirect=["dtype"], ids=str
)
def test_a_prompt_beside_rows_of_fewer_tokens(dtype, spec):
    """Its beginning, and the row before it a page that ends with its tokens."""
    case = Case(dtype, tokens=(1, 65, 200))
    case.check(case.lane((0, 0, 0)), dtype, **spec)


def test_more_heads_of_a_group_than_a_tile_has_room_for():
    case = Case(torch.float32, group=20, dim=256, tokens=(3, 1, 2))
    case.check(case.lane((0, 0, 0)), torch.float32)


@pytest.mark.parametrize(
    ("dtype", "spec"), divided([({},)], [({"window": 100},)]), indirect=["dtype"], ids=str
)
def test_a_row_that_reads_more_blocks_of_tokens_than_others(dtype, spec):
    case = Case(dtype, tokens=(1, 65, 129))
    case.check(case.lane((0, 0, 0)), dtype, **spec)


@pytest.fixture(params=[16, 1], ids=["by the last program", "by a second launch"])
def many_parts(request, monkeypatch):
    """As on a device of 8 multiprocessors, which a CPU only has for this."""
    monkeypatch.setattr("sfi_kernels.splits.multiprocessors", lambda _: 8)
    monkeypatch.setattr("sfi_kernels.splits.MOST_JOINED", request.param)
    monkeypatch.setattr("sfi_kernels.splits.FEWER_JOINED", request.param)


@pytest.mark.parametrize(
    ("dtype", "tokens", "spec"),
    divided(
        [(1, {}), (1, {"sinks": 6}), (40, {"window": 100}), ((3, 1, 40), {"sinks": 6})],
        [(1, {"window": 100}), (40, {"sinks": 6}), ((3, 1, 40), {"window": 100})],
    ),
    indirect=["dtype"],
    ids=str,
)
def test_many_parts_are_joined(dtype, tokens, spec, many_parts):
    case = Case(dtype, tokens=tokens)
    if "sinks" in spec:
        spec = {"sinks": torch.linspace(-1, 1, spec["sinks"], device=DEVICE)}
    case.check(case.lane((0, 0, 0)), dtype, **spec)


@pytest.mark.parametrize("tokens", [1, (3, 1, 40)], ids=str)
def test_parts_are_joined_in_one_order_and_counters_are_left_as_they_were(tokens, many_parts):
    case, kernel = Case(torch.float32, tokens=tokens), TritonRows()
    attended = [
        kernel.attend(case.queries, *case.new, case.pages, case.lane((0, 0, 0)), 0, LayerSpec(0.125))
        for _ in range(2)
    ]
    assert torch.equal(*attended)
    assert not kernel._held.any()


@pytest.mark.parametrize(("dtype", "mixed"), divided([(False,)], [(True,)]), indirect=["dtype"], ids=str)
def test_many_parts_of_what_is_listed(dtype, mixed, many_parts):
    check_listed(Case(dtype), dtype, mixed=mixed)


@pytest.mark.parametrize(("context", "parts"), [(4096, MOST_JOINED), (2**16, 32), (2**20, 128)])
def test_the_last_part_joins_those_of_mixed_rows(context, parts, monkeypatch):
    """However long a dense row is: a launch that joined them would wait for the others' programs, too."""
    monkeypatch.setattr("sfi_kernels.splits.multiprocessors", lambda _: 132)
    case = Case(torch.float32)
    store, queries = Paged.pool(case.pages.keys, case.pages.values, case.tables), case.queries
    launch = Launch.of(queries, store, LayerSpec(0.125), None, context, 3, Spans(None, 1), mixed=True)
    assert launch.grid[2] == parts
    assert launch.constants["PARTS"] == MOST_JOINED
    assert launch.constants["MANY"] is (parts > MOST_JOINED)


@pytest.mark.parametrize(
    ("tokens", "most", "parts"), [(1, 192, 128), (1, 4096, 66), (400, 4096, 11), (4000, 4096, 1)]
)
def test_there_is_room_for_the_sums_of_few_more_parts_than_run_at_a_time(tokens, most, parts, monkeypatch):
    monkeypatch.setattr("sfi_kernels.splits.multiprocessors", lambda _: 132)
    case = Case(torch.float16, group=4, dim=128, tokens=(1, 1, tokens))
    store = Paged.pool(case.pages.keys, case.pages.values, case.tables)
    spans = Spans(case.lane((0, 0, 0)).firsts, most)
    launch = Launch.of(case.queries, store, LayerSpec(0.125), None, 2**15, 5, spans, mixed=False)
    assert launch.parts == parts
    assert launch.parts == 1 or launch.partial.numel() < 3 * launch.slots * launch.constants["TILE"] * 128


def test_programs_of_mixed_rows_run_at_a_time():
    fast, dense = 37, 129
    for rows in (2, 8, 12):
        blocks = [fast] * (rows - 1) + [dense]
        share = share_for(blocks, 8, 396)
        programs = [8 * sum(-(-each // size) for each in blocks) for size in (share, share - 1)]
        assert programs[0] <= 396 < programs[1]
    assert share_for([fast] * 63 + [dense], 8, 396) == 50  # whatever is taken, some are left over


def test_listed_beside_a_prompt(dtype):
    check_listed(Case(dtype, tokens=(1, 1, 200)), dtype)


@pytest.mark.parametrize(("dtype", "mixed"), divided([(True,)], [(False,)]), indirect=["dtype"], ids=str)
def test_listed_beside_a_dense_row_of_more_tokens(dtype, mixed, many_parts):
    check_listed(Case(dtype, tokens=(1, 1, 40)), dtype, mixed=mixed)


@pytest.mark.parametrize(
    ("dtype", "joined", "tokens"),
    divided([(2, 1), (8, (1, 1, 40))], [(8, 1), (2, (1, 1, 40))]),
    indirect=["dtype"],
    ids=str,
)
def test_many_parts_of_a_long_row_among_others(dtype, joined, tokens, monkeypatch):
    """More than its last program asks for at a time."""
    monkeypatch.setattr("sfi_kernels.splits.multiprocessors", lambda _: 16)
    monkeypatch.setattr("sfi_kernels.splits.MOST_JOINED", joined)
    monkeypatch.setattr("sfi_kernels.splits.LONG", 1)
    check_listed(Case(dtype, tokens=tokens), dtype, mixed=True)


def check_listed(case, dtype, *, mixed=False):
    tails, places = (600, 40, 0), torch.full((3, KV_HEADS, 128), -1, dtype=torch.int32, device=DEVICE)
    for row, count in ((0, 100), (1, 30)):
        for head in range(KV_HEADS):
            chosen = torch.randperm(tails[row], device=DEVICE)[:count].sort().values
            places[row, head, :count] = case.places(row, chosen).int()
            places[row, head, 7 + head] = -1  # is passed over
    counts = ints([100, 100], [30, 30], [0, 0])
    case.check(case.lane(tails, lists={1: Lists(places, counts)}, mixed=mixed), dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], indirect=True)
def test_chosen_beside_a_prompt(dtype):
    coding = RotatedCoding(2)
    case = Case(dtype, coding=coding, tokens=(1, 1, 200))
    ranked = Ranked(coding, ints(4, 4, 0), ints(600, 40, 0), ints(100, 20, 0), 256, 1024)
    case.check(case.lane((600, 40, 0), ranked=ranked), dtype)
