"""The Triton kernels: the conformance tests of every kernel, and what pages and rows add."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from sfi_agent.contracts import LayerSpec
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import Registry
from sfi_agent.testing import KernelTests
from sfi_agent.testing.tolerances import TOLERANCES
from sfi_kernels.bundles import TritonKernel
from sfi_kernels.dense_attention import reference as dense_reference
from sfi_kernels.sparse_attention import reference as sparse_reference

pytest.importorskip("triton")
from sfi_kernels.dense_attention.triton import dense_attention
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.sparse_attention.triton import sparse_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Triton's interpreter, which takes the place of a GPU, has no bfloat16 arithmetic.
DTYPES = tuple(TOLERANCES) if DEVICE == "cuda" else (torch.float32, torch.float16)


class AnywhereKernel(TritonKernel):
    """The kernel, interpreted where there is no GPU."""

    def unavailable(self, device):
        return None


class Plugin:
    name = "anywhere"

    @hookimpl
    def sfi_register_kernels(self, register):
        register("anywhere", AnywhereKernel)


class TestTriton(KernelTests):
    name = "anywhere"
    device = DEVICE
    dtypes = DTYPES

    def registry(self) -> Registry:
        return Registry(extra=[Plugin()])


def test_it_says_where_it_runs(monkeypatch):
    assert TritonKernel().unavailable(torch.device("cpu")) == "runs on CUDA devices, not on cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 6))
    assert TritonKernel().unavailable(torch.device("cuda")) is None
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    reason = "needs a GPU of compute capability 8.0 (Ampere) or newer; this one has 7.5"
    assert TritonKernel().unavailable(torch.device("cuda")) == reason


def ints(values):
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


class Rows:
    """Rows of several lengths in one pool, their pages out of order, unused pages full of NaN."""

    def __init__(self, lengths, n, dtype, heads=4, kv_heads=2, dim=64, value_dim=64):
        torch.manual_seed(sum(lengths))
        self.lengths, self.n = lengths, n
        pages = [-(-length // PAGE) for length in lengths]
        order = (torch.randperm(sum(pages)) + 1).tolist()
        self.tables = ints([[0] * max(pages) for _ in lengths])
        for row, count in enumerate(pages):
            self.tables[row, :count] = ints([order.pop() for _ in range(count)])
        shape = (sum(pages) + 1, kv_heads, PAGE)
        self.keys, self.values = (
            torch.randn(*shape, size, device=DEVICE).to(dtype) for size in (dim, value_dim)
        )
        self.keys[0] = self.values[0] = torch.nan
        count = len(lengths) * n
        self.queries = torch.randn(count, heads, dim, device=DEVICE).to(dtype)
        self.fresh = tuple(
            torch.randn(count, kv_heads, size, device=DEVICE).to(dtype) for size in (dim, value_dim)
        )

    def row(self, index):
        """Keys and values ``[H_kv, L, ...]`` of one row as they should be after the step."""
        stores = []
        for pool, fresh in zip((self.keys, self.values), self.fresh, strict=True):
            whole = torch.cat([pool[page] for page in self.tables[index]], 1)[
                :, : self.lengths[index]
            ].clone()
            whole[:, self.lengths[index] - self.n :] = fresh[self.of(index)].transpose(0, 1)
            stores.append(whole)
        return stores

    def of(self, index):
        """One row's tokens."""
        return slice(index * self.n, (index + 1) * self.n)

    @property
    def store(self):
        return Paged.pool(self.keys, self.values, self.tables)


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.mark.parametrize(
    ("lengths", "n"), [([1, 70, 200], 1), ([131, 70, 17], 17), ([64, 128], 1), ([40], 40)]
)
@pytest.mark.parametrize("extra", [{}, {"window": 30}, {"softcap": 2.0, "sinks": True}], ids=str)
def test_dense_rows_in_pages_write_what_is_new(lengths, n, extra, dtype):
    rows = Rows(lengths, n, dtype)
    sinks = torch.randn(4, device=DEVICE) if extra.get("sinks") else None
    spec = LayerSpec(0.125, extra.get("softcap"), extra.get("window"), sinks)
    expected = [rows.row(index) for index in range(len(lengths))]
    out = dense_attention(
        rows.queries, rows.store, ints(lengths), spec, longest=max(lengths) + 99, fresh=rows.fresh
    )
    for index, (keys, values) in enumerate(expected):
        wanted = dense_reference.dense_attention(rows.queries[rows.of(index)], keys, values, spec)
        torch.testing.assert_close(out[rows.of(index)], wanted, **asdict(TOLERANCES[dtype]))
        after = rows.row(index)
        assert torch.equal(
            torch.cat([rows.keys[p] for p in rows.tables[index]], 1)[:, : lengths[index]], keys
        )
        assert torch.equal(after[1], values)


@pytest.mark.parametrize(
    ("lengths", "n", "listed"), [([200, 90], 1, 24), ([300, 140, 80], 5, 1), ([70], 1, 0)]
)
def test_sparse_rows_in_pages_write_what_is_new(lengths, n, listed, dtype):
    rows = Rows(lengths, n, dtype)
    spec = LayerSpec(0.125)
    expected = [rows.row(index) for index in range(len(lengths))]
    tails = [length - n - 3 * index for index, length in enumerate(lengths)]
    places = ints([[torch.randperm(tail)[:listed].tolist() for _ in range(2)] for tail in tails])
    places = places.view(len(lengths), 2, listed)
    counts = ints([[listed, listed // 2] for _ in lengths])
    stored = [
        rows.tables[index].to(DEVICE)[own.long() // PAGE] * PAGE + own % PAGE
        for index, own in enumerate(places)
    ]
    # What lies past a head's count must not be read.
    junk = torch.cat([torch.stack(stored), torch.full_like(places[..., :1], 10**6)], -1)
    out = sparse_attention(
        rows.queries, rows.store, junk, counts, ints(tails), ints(lengths), spec,
        longest=listed + max(lengths), fresh=rows.fresh,
    )  # fmt: skip
    for index, (keys, values) in enumerate(expected):
        kept = places[index].long().clone()
        kept[1, listed // 2 :] = -1
        wanted = sparse_reference.sparse_attention(
            sparse_reference.Plan(kept, tails[index]), rows.queries[rows.of(index)], keys, values, spec
        )
        torch.testing.assert_close(out[rows.of(index)], wanted, **asdict(TOLERANCES[dtype]))
        assert torch.equal(
            torch.cat([rows.keys[p] for p in rows.tables[index]], 1)[:, : lengths[index]], keys
        )


def test_heads_may_lie_further_apart_than_32_bits_count():
    """As those of a plain tensor of a million positions do; the memory between them is never touched."""
    far, length, dim = 2**30, 40, 32
    store = torch.empty(2**31 + 2 * far + length * dim, dtype=torch.float16, device=DEVICE)
    keys = store.as_strided((3, length, dim), (far, dim, 1), 2**31)
    torch.manual_seed(0)
    keys.copy_(torch.randn(keys.shape))
    queries, spec = torch.randn(1, 6, dim, device=DEVICE).half(), LayerSpec(dim**-0.5)
    wanted = dense_reference.dense_attention(queries, keys, keys, spec)
    found = TritonKernel().dense(queries, keys, keys, spec)
    torch.testing.assert_close(found, wanted, **asdict(TOLERANCES[found.dtype]))
