"""What every attention kernel must do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sfi_agent.contracts import AttentionKernel, LayerSpec
from sfi_agent.testing.cases import KV, ROOM, attention_case, uninitialised_is_nan
from sfi_agent.testing.exact import exact_dense, exact_sparse
from sfi_agent.testing.named import NamedKernel

HEADS = [(1, 1), (2, 2), (4, 2), (6, 2), (8, 2), (5, 1), (7, 1), (16, 2), (16, 1)]
"""Query and KV heads: groups of 1, 2, 3, 4, 5, 7, 8 and 16."""


class KernelTests(NamedKernel):
    """Subclass as ``class TestMine(KernelTests)`` and set ``name``, as :class:`NamedKernel` says."""

    @pytest.fixture
    def kernel(self) -> AttentionKernel:
        """A new kernel, or a skip that says why it cannot run here."""
        return self.make()

    @pytest.mark.parametrize(("new", "length"), [(1, 1), (1, 67), (5, 5), (5, 131), (64, 129), (3, 256)])
    def test_dense(self, kernel: AttentionKernel, dtype: torch.dtype, new: int, length: int) -> None:
        self.check_dense(kernel, new, length, dtype=dtype)

    @pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
    def test_dense_groups(self, kernel: AttentionKernel, heads: int, kv_heads: int) -> None:
        self.check_dense(kernel, 3, 45, heads=heads, kv_heads=kv_heads)

    @pytest.mark.parametrize("dim", [64, 96, 128])
    def test_dense_head_dims(self, kernel: AttentionKernel, dtype: torch.dtype, dim: int) -> None:
        self.check_dense(kernel, 3, 45, dim=dim, dtype=dtype)

    @pytest.mark.parametrize("new", [1, 7, 80])
    def test_values_narrower_than_keys(self, kernel: AttentionKernel, new: int) -> None:
        self.check_dense(kernel, new, 131, dim=96, value_dim=64)
        self.check_sparse(kernel, min(new, ROOM), 13, 40, dim=96, value_dim=64)

    @pytest.mark.parametrize("window", [1, 2, 17, 45, 100])
    @pytest.mark.parametrize("new", [1, 7, 45])
    def test_dense_window(self, kernel: AttentionKernel, new: int, window: int) -> None:
        self.check_dense(kernel, new, 45, window=window)

    @pytest.mark.parametrize("extra", [{"softcap": 2.0}, {"sinks": True}, {"softcap": 2.0, "sinks": True}])
    @pytest.mark.parametrize("new", [1, 7])
    def test_dense_softcap_and_sinks(self, kernel: AttentionKernel, new: int, extra: dict[str, Any]) -> None:
        self.check_dense(kernel, new, 45, **extra)
        self.check_dense(kernel, new, 45, window=9, **extra)

    def test_dense_of_transposed_tensors(self, kernel: AttentionKernel) -> None:
        queries, cache, spec = self.case(4, 45)
        keys, values = (t.transpose(0, 1).contiguous().transpose(0, 1) for t in cache.upto(45))
        turned = queries.transpose(0, 1).contiguous().transpose(0, 1)
        self.close(kernel.dense(turned, keys, values, spec), exact_dense(queries, keys, values, spec))

    def test_dense_of_large_logits(self, kernel: AttentionKernel) -> None:
        queries, cache, spec = self.case(4, 45)
        large = replace(spec, scaling=20.0)
        expected = exact_dense(queries, *cache.upto(45), large)
        out = kernel.dense(queries, *cache.upto(45), large)
        assert out.isfinite().all()
        # float32 logits of some hundreds are themselves off by 1e-5 of their size.
        torch.testing.assert_close(out.cpu().double(), expected, rtol=1e-2, atol=1e-2)

    @pytest.mark.parametrize("new", [1, 5])
    @pytest.mark.parametrize(
        ("planned", "tail"), [(0, 0), (0, 60), (0, 61), (13, 40), (1, 61), (33, 61), (61, 61)]
    )
    def test_sparse(
        self, kernel: AttentionKernel, dtype: torch.dtype, new: int, planned: int, tail: int
    ) -> None:
        """61 positions, then ``new`` more; memory is ``planned`` positions and everything from ``tail``."""
        self.check_sparse(kernel, new, planned, tail, dtype=dtype)

    @pytest.mark.parametrize(("heads", "kv_heads"), HEADS)
    def test_sparse_groups(self, kernel: AttentionKernel, heads: int, kv_heads: int) -> None:
        self.check_sparse(kernel, 2, 11, 50, heads=heads, kv_heads=kv_heads)

    @pytest.mark.parametrize("dim", [64, 96, 128])
    def test_sparse_head_dims(self, kernel: AttentionKernel, dtype: torch.dtype, dim: int) -> None:
        self.check_sparse(kernel, 1, 11, 50, dim=dim, dtype=dtype)

    @pytest.mark.parametrize("extra", [{"softcap": 2.0}, {"sinks": True}, {"softcap": 2.0, "sinks": True}])
    def test_sparse_softcap_and_sinks(self, kernel: AttentionKernel, extra: dict[str, Any]) -> None:
        self.check_sparse(kernel, 2, 11, 50, **extra)

    @pytest.mark.parametrize("new", [1, 3])
    @pytest.mark.parametrize("extra", [{}, {"softcap": 2.0}, {"sinks": True}])
    def test_heads_that_remember_fewer(
        self, kernel: AttentionKernel, new: int, extra: dict[str, Any]
    ) -> None:
        """-1 marks an unused place, wherever it stands; one head may use none at all."""
        queries, cache, spec = self.case(new, 61, heads=6, kv_heads=3, **extra)
        positions = cache.poisoned(13, 50)
        for head, places in ((0, [0, 1, 5]), (1, list(range(13)))):
            cache.keys[head, positions[head, places]] = torch.nan
            cache.values[head, positions[head, places]] = torch.nan
            positions[head, places] = -1
        plan = kernel.plan(*cache.upto(61), positions, 50, ROOM)
        keys, values = cache.grow(61, new)
        out = kernel.sparse(plan, queries, keys, values, spec, 61)
        self.close(out, exact_sparse(queries, keys, values, spec, positions, 50))

    @pytest.mark.parametrize("unused", [[], [0, 1, 5]])
    def test_a_plan_may_hold_the_last_token_too(self, kernel: AttentionKernel, unused: list[int]) -> None:
        """With nothing recent, the query attends to what was planned and no more."""
        queries, cache, spec = self.case(1, 61)
        positions = cache.poisoned(13, 61)
        cache.keys[0, positions[0, unused]] = torch.nan
        cache.values[0, positions[0, unused]] = torch.nan
        positions[0, unused] = -1
        plan = kernel.plan(*cache.upto(61), positions, 61, 0)
        out = kernel.sparse(plan, queries, *cache.upto(61), spec, 61)
        self.close(out, exact_sparse(queries, *cache.upto(61), spec, positions, 61))

    @pytest.mark.parametrize("tail", [0, 40, 61])
    def test_a_memory_of_everything_is_dense(self, kernel: AttentionKernel, tail: int) -> None:
        queries, cache, spec = self.case(3, 61)
        positions = torch.arange(tail, device=self.device).expand(2, -1).contiguous()
        plan = kernel.plan(*cache.upto(61), positions, tail, ROOM)
        keys, values = cache.grow(61, 3)
        self.close(
            kernel.sparse(plan, queries, keys, values, spec, 61), exact_dense(queries, keys, values, spec)
        )
        self.close(kernel.dense(queries, keys, values, spec), exact_dense(queries, keys, values, spec))

    def test_one_plan_serves_a_growing_context(self, kernel: AttentionKernel) -> None:
        queries, cache, spec = self.case(1, 61)
        positions = cache.poisoned(13, 50)
        plan = kernel.plan(*cache.upto(61), positions, 50, ROOM)
        for length in range(61, 61 + ROOM):
            keys, values = cache.grow(length, 1)
            out = kernel.sparse(plan, queries, keys, values, spec, length)
            self.close(out, exact_sparse(queries, keys, values, spec, positions, 50))

    def test_a_new_plan_replaces_the_old(self, kernel: AttentionKernel) -> None:
        queries, cache, spec = self.case(1, 61)
        for length, planned, tail in [(61, 13, 50), (63, 20, 57), (65, 5, 65)]:
            positions = cache.positions(planned, tail)
            plan = kernel.plan(*cache.upto(length), positions, tail, 2)
            for step in range(2):
                keys, values = cache.grow(length + step, 1)
                out = kernel.sparse(plan, queries, keys, values, spec, length + step)
                self.close(out, exact_sparse(queries, keys, values, spec, positions, tail))

    def test_two_plans_live_side_by_side(self, kernel: AttentionKernel) -> None:
        queries, cache, spec = self.case(1, 61)
        memories = [(cache.positions(13, 50), 50), (cache.positions(20, 57), 57)]
        plans = [kernel.plan(*cache.upto(61), *memory, ROOM) for memory in memories]
        for length in (61, 62):
            keys, values = cache.grow(length, 1)
            for plan, memory in zip(plans, memories, strict=True):
                out = kernel.sparse(plan, queries, keys, values, spec, length)
                self.close(out, exact_sparse(queries, keys, values, spec, *memory))

    @pytest.mark.parametrize(("new", "fresh"), [(1, 63), (1, 62), (3, 61), (1, 55), (3, 50)])
    def test_fresh_positions_are_read_anew(self, kernel: AttentionKernel, new: int, fresh: int) -> None:
        """The KV from ``fresh`` on is rewritten before the last ``new`` of three tokens are run again."""
        queries, cache, spec = self.case(3, 61)
        positions = cache.poisoned(13, 50)
        plan = kernel.plan(*cache.upto(61), positions, 50, ROOM)
        keys, values = cache.grow(61, 3)
        kernel.sparse(plan, queries, keys, values, spec, 61)
        keys[:, fresh:], values[:, fresh:] = values[:, fresh:].clone(), 3 * keys[:, fresh:]
        out = kernel.sparse(plan, queries[-new:], keys, values, spec, fresh)
        self.close(out, exact_sparse(queries[-new:], keys, values, spec, positions, 50))

    def test_a_rejected_draft_is_forgotten(self, kernel: AttentionKernel) -> None:
        queries, cache, spec = self.case(5, 61)
        positions = cache.poisoned(13, 50)
        plan = kernel.plan(*cache.upto(61), positions, 50, ROOM)
        kernel.sparse(plan, queries, *cache.grow(61, 5), spec, 61)
        cache.keys[:, 62:], cache.values[:, 62:] = torch.nan, torch.nan
        keys, values = cache.grow(62, 1)
        out = kernel.sparse(plan, queries[:1], keys, values, spec, 62)
        self.close(out, exact_sparse(queries[:1], keys, values, spec, positions, 50))

    def test_memory_it_did_not_write_is_not_read(self, kernel: AttentionKernel) -> None:
        with uninitialised_is_nan():
            self.check_dense(kernel, 3, 45)
            self.check_sparse(kernel, 2, 13, 50)

    def test_its_input_is_left_alone(self, kernel: AttentionKernel) -> None:
        queries, cache, spec = self.case(2, 61)
        positions = cache.positions(13, 50)
        plan = kernel.plan(*cache.upto(61), positions, 50, ROOM)
        given = (queries, *cache.grow(61, 2), positions)
        before = [tensor.clone() for tensor in given]
        kernel.dense(*given[:3], spec)
        kernel.sparse(plan, *given[:3], spec, 61)
        assert all(torch.equal(after, was) for after, was in zip(given, before, strict=True))

    def check_dense(self, kernel: AttentionKernel, new: int, length: int, **options: Any) -> None:
        """``dense`` of the last ``new`` of ``length`` tokens is near float64."""
        queries, cache, spec = self.case(new, length, **options)
        keys, values = cache.upto(length)
        out = kernel.dense(queries, keys, values, spec)
        assert out.dtype == queries.dtype
        self.close(out, exact_dense(queries, keys, values, spec))

    def check_sparse(
        self, kernel: AttentionKernel, new: int, planned: int, tail: int, **options: Any
    ) -> None:
        """``sparse`` after a plan at 61 tokens is near float64, and reads the memory alone."""
        queries, cache, spec = self.case(new, 61, **options)
        positions = cache.poisoned(planned, tail)
        plan = kernel.plan(*cache.upto(61), positions, tail, ROOM)
        keys, values = cache.grow(61, new)
        out = kernel.sparse(plan, queries, keys, values, spec, 61)
        assert out.dtype == queries.dtype
        self.close(out, exact_sparse(queries, keys, values, spec, positions, tail))

    def case(self, new: int, length: int, **options: Any) -> tuple[Tensor, KV, LayerSpec]:
        """A case of :func:`attention_case` on this device."""
        return attention_case(new, length, self.device, **options)
