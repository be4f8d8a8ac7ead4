"""What every rows kernel must do: attention to everything, and to what is listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from sfi_agent.contracts import LayerPages, LayerSpec, RowsKernel
from sfi_agent.testing.cases import uninitialised_is_nan
from sfi_agent.testing.lanes import LAYER, LENGTHS, RINGS, PagedRows
from sfi_agent.testing.named import NamedKernel

SHAPES = [(2, 2, 64, 64), (8, 2, 128, 128), (16, 1, 64, 64), (6, 2, 96, 64)]
"""Query heads, KV heads, ``D`` and ``D_v``."""
TOKENS = [1, 5, (9, 1, 3), (1, 1, 51)]
"""New tokens of each row, or of three."""


class AttendingTests(NamedKernel):
    """Tests of :meth:`RowsKernel.attend` and :meth:`RowsKernel.share`, with the kernel ``rows``."""

    @pytest.fixture
    def rows(self) -> RowsKernel:
        """The rows kernel of a new kernel, or a skip that says why it cannot run here."""
        made = self.make().rows()
        assert made is not None, f"{self.name} has no rows kernel"
        return made

    @pytest.mark.parametrize("tokens", TOKENS, ids=str)
    def test_dense(self, rows: RowsKernel, dtype: torch.dtype, tokens: int | Sequence[int]) -> None:
        self.check(rows, PagedRows(self.device, dtype, tokens=tokens))

    def test_contexts_of_one_token_and_of_whole_pages(self, rows: RowsKernel) -> None:
        self.check(rows, PagedRows(self.device, lengths=(64, 1, 128)))

    @pytest.mark.parametrize("shape", SHAPES, ids=str)
    def test_shapes(self, rows: RowsKernel, shape: tuple[int, ...]) -> None:
        for listed in (False, True):
            self.check(rows, self.case(listed, shape, tokens=(1, 1, 3)))

    @pytest.mark.parametrize("tokens", [1, (9, 1, 3)], ids=str)
    @pytest.mark.parametrize(
        "extra", [{"window": 50}, {"softcap": 2.0}, {"sinks": True}, {"window": 70, "sinks": True}], ids=str
    )
    def test_windows_softcap_and_sinks(
        self, rows: RowsKernel, extra: dict[str, Any], tokens: int | Sequence[int]
    ) -> None:
        self.check(rows, PagedRows(self.device, tokens=tokens), **extra)

    @pytest.mark.parametrize("tokens", [1, 5, (1, 1, 51)], ids=str)
    def test_listed_beside_dense(
        self, rows: RowsKernel, dtype: torch.dtype, tokens: int | Sequence[int]
    ) -> None:
        """A row that remembers much, one that remembers its latest tokens alone, and one that has all."""
        self.check(rows, self.case(True, dtype=dtype, tokens=tokens))

    @pytest.mark.parametrize("extra", [{"softcap": 2.0}, {"sinks": True}], ids=str)
    def test_listed_with_softcap_and_sinks(self, rows: RowsKernel, extra: dict[str, Any]) -> None:
        self.check(rows, self.case(True), **extra)

    def test_a_window_is_attended_to_whatever_is_listed(self, rows: RowsKernel) -> None:
        case = PagedRows(self.device)
        case.remembered = {0: (torch.zeros(2, 1, dtype=torch.int64, device=self.device), 190)}
        self.check(rows, case, window=50)

    @pytest.mark.parametrize("tokens", [1, 5, (9, 1, 12)], ids=str)
    @pytest.mark.parametrize("window", [None, 50])
    def test_queries_are_kept(
        self, rows: RowsKernel, tokens: int | Sequence[int], window: int | None
    ) -> None:
        """Of as many tokens as a row's ring is to keep, and has room for; none of a layer with a window."""
        case = PagedRows(self.device, tokens=tokens)
        rings, first = case.rings(), 0
        out = self.attended(rows, case, LayerSpec(0.125, window=window), rings=rings)[0]
        self.close(out, case.expected(LayerSpec(0.125, window=window)))
        for ring, (size, most), length, new in zip(rings.stores, RINGS, LENGTHS, case.tokens, strict=False):
            if ring is not None:
                expected = torch.zeros_like(ring)
                for token in range(min(most, new) if window is None else 0):
                    expected[LAYER, (length - new + token) % size] = case.queries[first + token]
                assert torch.equal(ring, expected)
            first += new

    @pytest.mark.parametrize("tokens", [1, (1, 1, 51)], ids=str)
    def test_rows_that_share_a_launch(self, rows: RowsKernel, tokens: int | Sequence[int]) -> None:
        case = self.case(True, tokens=tokens)
        reads = [147, 29] + ([LENGTHS[2]] if tokens == 1 else [])
        share = rows.share(reads, 6, case.pages)
        assert isinstance(share, int)
        assert share >= 0
        self.check(rows, case, share=share)

    @pytest.mark.parametrize("tokens", [1, (1, 1, 51)], ids=str)
    def test_the_same_twice(self, rows: RowsKernel, tokens: int | Sequence[int]) -> None:
        case = self.case(True, tokens=tokens)
        first, second = (self.attended(rows, case, LayerSpec(0.125))[0] for _ in range(2))
        assert torch.equal(first, second)

    def test_memory_it_did_not_write_is_not_read(self, rows: RowsKernel) -> None:
        with uninitialised_is_nan():
            self.check(rows, self.case(True, tokens=(1, 1, 51)))
            self.check(rows, PagedRows(self.device, tokens=(9, 1, 3)))

    def case(
        self,
        listed: bool,
        shape: tuple[int, ...] = (6, 2, 64, 64),
        *,
        dtype: torch.dtype = torch.float32,
        tokens: int | Sequence[int] = 1,
    ) -> PagedRows:
        """Rows of such a shape, two of which remember some positions if ``listed``."""
        heads, kv_heads, dim, value_dim = shape
        made = PagedRows(
            self.device, dtype, tokens=tokens, heads=heads, kv_heads=kv_heads, dim=dim, value_dim=value_dim
        )
        if listed:
            made.remember_some()
        return made

    def check(
        self,
        rows: RowsKernel,
        case: PagedRows,
        *,
        sinks: bool = False,
        softcap: float | None = None,
        window: int | None = None,
        **lane: Any,
    ) -> None:
        """``attend`` is near float64, reads what it may, and writes the new keys and values alone."""
        heads, dim = case.queries.shape[1:]
        drawn = torch.linspace(-1, 2, heads, device=self.device).to(case.queries.dtype) if sinks else None
        spec = LayerSpec(dim**-0.5, softcap, window, drawn)
        inputs = case.queries, case.keys, case.values, case.tables
        before, wanted = [each.clone() for each in inputs], case.written()
        out, pages = self.attended(rows, case, spec, **lane)
        assert out.dtype == case.queries.dtype
        self.close(out, case.expected(spec))
        assert not out[sum(case.tokens) :].any(), "tokens of no row give zeros"
        assert all(torch.equal(one, other) for one, other in zip(inputs, before, strict=True))
        for found, exact in zip(pages[:2], wanted[:2], strict=True):  # page 0 belongs to nobody
            assert torch.equal(found[1:].nan_to_num(7e3), exact[1:].nan_to_num(7e3))

    def attended(
        self, rows: RowsKernel, case: PagedRows, spec: LayerSpec, **lane: Any
    ) -> tuple[Tensor, LayerPages]:
        """What ``attend`` returns, and the pages afterwards."""
        keys, values, *coded = case.pages
        pages = LayerPages(keys.clone(), values.clone(), *coded)
        given = case.queries, case.keys, case.values
        return rows.attend(*given, pages, case.lane(**lane), LAYER, spec), pages
