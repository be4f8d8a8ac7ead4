"""Kernels on a GPU: ``make bench-gpu``, or ``python benchmarks/gpu.py [--quick] [ROWSxCONTEXT ...]``.

The gate comes first: no time is taken unless each kernel gives what its reference gives. Then each is
captured in a CUDA graph and replayed, all in turns, beside torch's own attention and a large copy; medians
are appended to ``benchmarks/results/gpu.csv`` with the share of that copy's bandwidth. Each goes through as
many layers as it takes to leave nothing in the cache. ``--quick`` runs the gate on a small shape, without a
GPU in Triton's interpreter, and records nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from record import Record, interleaved, show
from rig import RECENT, SELECTED, SINK, large_copy, timed

from sfi_agent.contracts import LayerSpec
from sfi_agent.testing.tolerances import TOLERANCES
from sfi_kernels.choice import reference as choice_reference
from sfi_kernels.choice.triton import choose
from sfi_kernels.dense_attention import reference as dense_reference
from sfi_kernels.dense_attention.triton import dense_attention
from sfi_kernels.index_scores import reference as scores_reference
from sfi_kernels.index_scores.triton import LOG2_E, scores
from sfi_kernels.paging import PAGE, Paged
from sfi_kernels.sparse_attention import reference as sparse_reference
from sfi_kernels.sparse_attention.triton import sparse_attention

if TYPE_CHECKING:
    from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SHAPES = ("1x8192", "8x8192", "16x8192", "1x32768", "8x32768", "1x131072", "3x131072")
HEADS, KV_HEADS, DIM, BITS = 32, 8, 128, 2
"""Of a layer of Qwen3-4B and Llama-3-8B; bits of the index."""
ROUNDS, REPLAYS = 15, 10
CACHE = 200 * 2**20
"""Bytes that no cache holds; keys of so many are gone through before any is read again."""


def main() -> None:
    """Gate and times, shape after shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shapes", nargs="*", default=list(SHAPES), help="rows x context, as in 8x32768")
    parser.add_argument("--quick", action="store_true", help="the gate alone, on a small shape")
    options = parser.parse_args()
    if DEVICE == "cpu" and not options.quick:
        parser.error("needs a GPU; --quick interprets the kernels on a small shape")
    record = Record("gpu", keep=not options.quick)
    for shape in ["2x400"] if options.quick else options.shapes:
        rows, context = map(int, shape.split("x"))
        dtype = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter's narrowest
        layer = Layer.random(rows, context, dtype)
        gate(layer)
        print(f"gate at {shape}: every kernel gives what its reference gives", file=sys.stderr)
        if not options.quick:
            copies = 1 + CACHE // layer.store.keys.nbytes
            times(record, [layer, *(Layer.random(rows, context, dtype) for _ in range(copies - 1))])
            del layer
    if record.lines:
        show(record)


@dataclass
class Layer:
    """One attention layer's state for several rows, at random.

    Attributes:
        queries: ``[R, H, D]``.
        fresh: key and value ``[R, H_kv, D]`` of the new token.
        store, index: KV and two-bit codes in pages.
        lengths, starts, stops, wanted: ``[R]`` int32, as the kernels take them.
        selected: positions chosen for each KV head, on average.
        recent: positions after the stretch that is chosen from.
    """

    rows: int
    context: int
    queries: Tensor
    fresh: tuple[Tensor, Tensor]
    store: Paged
    index: Paged
    lengths: Tensor
    starts: Tensor
    stops: Tensor
    wanted: Tensor
    selected: int
    recent: int

    spec = LayerSpec(DIM**-0.5)
    levels = (-1.5104, -0.4528, 0.4528, 1.5104)
    rotation = torch.linalg.qr(torch.randn(DIM, DIM)).Q.contiguous().to(DEVICE)

    @classmethod
    def random(cls, rows: int, context: int, dtype: torch.dtype) -> Layer:
        """Pages lie in random order."""
        torch.manual_seed(0)
        pages = -(-context // PAGE)
        tables = torch.randperm(rows * pages, device=DEVICE).int().view(rows, pages)
        kv = [torch.randn(rows * pages, KV_HEADS, PAGE, DIM, device=DEVICE, dtype=dtype) for _ in range(2)]
        codes = torch.randint(0, 256, (*kv[0].shape[:3], DIM * BITS // 8), dtype=torch.uint8, device=DEVICE)
        scales = torch.rand(*kv[0].shape[:3], 1, device=DEVICE).half()
        recent, selected = min(RECENT, context // 4), min(SELECTED, context // 4)

        def each(value: int) -> Tensor:
            return torch.full((rows,), value, dtype=torch.int32, device=DEVICE)

        return cls(
            rows,
            context,
            torch.randn(rows, HEADS, DIM, device=DEVICE, dtype=dtype),
            tuple(torch.randn(rows, KV_HEADS, DIM, device=DEVICE, dtype=dtype) for _ in range(2)),
            Paged.pool(*kv, tables),
            Paged.pool(codes, scales, tables),
            each(context),
            each(SINK),
            each(context - recent),
            each(selected * KV_HEADS),
            selected,
            recent,
        )

    def row(self, paged: Paged, row: int) -> tuple[Tensor, Tensor]:
        """``[H_kv, L, ...]`` of one row, in order."""
        pages = paged.tables[row].long()
        return tuple(
            store[pages].transpose(0, 1).flatten(1, 2)[:, : self.context]
            for store in (paged.keys, paged.values)
        )

    def positions(self, row: int, places: Tensor) -> Tensor:
        """Positions of a row's places in the storage."""
        pages = torch.empty(self.store.keys.shape[0], dtype=torch.int64, device=DEVICE)
        own = self.store.tables[row].long()
        pages[own] = torch.arange(len(own), device=DEVICE)
        return pages[places.long() // PAGE] * PAGE + places.long() % PAGE

    def dense(self) -> Tensor:
        return dense_attention(
            self.queries, self.store, self.lengths, self.spec, longest=self.context, fresh=self.fresh
        )

    def scores(self) -> Any:
        return scores(
            self.queries, self.rotation, self.index, self.starts, self.stops, self.levels,
            self.spec, longest=self.context,
        )  # fmt: skip

    def choose(self, scored: Any) -> tuple[Tensor, Tensor]:
        most = min(int(self.selected * KV_HEADS), self.context)
        return choose(scored, self.starts, self.stops, self.wanted, self.store.tables, most=most)

    def sparse(self, chosen: tuple[Tensor, Tensor]) -> Tensor:
        return sparse_attention(
            self.queries, self.store, *chosen, self.stops, self.lengths, self.spec,
            longest=chosen[0].shape[2] + self.recent, fresh=self.fresh,
        )  # fmt: skip

    def fast(self) -> Tensor:
        """All of a fast step's attention with an index."""
        return self.sparse(self.choose(self.scores()))


def gate(layer: Layer) -> None:
    """Stop unless each kernel gives what its reference gives, on the first row and the last."""
    dense, scored = layer.dense(), layer.scores()
    chosen = layer.choose(scored)
    sparse, tail = layer.sparse(chosen), int(layer.stops[0])
    for row in {0, layer.rows - 1}:
        keys, values = layer.row(layer.store, row)
        queries = layer.queries[row, None]
        close("dense", dense[row, None], dense_reference.dense_attention(queries, keys, values, layer.spec))
        codes, scales = layer.row(layer.index, row)
        wanted = scores_reference.scores(
            queries[0], layer.rotation, codes, scales[..., 0], layer.levels, layer.spec
        )
        found = scored.logits[row, :, SINK:tail].float().transpose(1, 2).flatten(0, 1) / LOG2_E
        torch.testing.assert_close(found, wanted[:, SINK:tail], rtol=1e-2, atol=1e-2)
        mass = choice_reference.mass_of(found, KV_HEADS)
        kept = choice_reference.chosen(choice_reference.keys_of(mass), int(layer.wanted[row]))
        got = torch.zeros_like(kept)
        for head in range(KV_HEADS):
            got[head, layer.positions(row, chosen[0][row, head, : chosen[1][row, head]]) - SINK] = True
        if (
            got.sum() != kept.sum()
            or ((mass[got != kept] - mass[kept].min()).abs() > 2**-6 * mass[kept].min()).any()
        ):
            sys.exit(f"gate: choice differs from its reference in {int((got != kept).sum())} places")
        places = torch.full(kept.shape, -1, device=DEVICE)
        places[got] = got.nonzero()[:, 1] + SINK
        plan = sparse_reference.Plan(places, tail)
        close(
            "sparse",
            sparse[row, None],
            sparse_reference.sparse_attention(plan, queries, keys, values, layer.spec),
        )


def close(name: str, found: Tensor, wanted: Tensor, **tolerance: float) -> None:
    """Stop unless a kernel gives what its reference gives, as far as its dtype allows or ``tolerance``."""
    tolerance = tolerance or asdict(TOLERANCES[found.dtype])
    if not torch.allclose(found.float(), wanted.float(), **tolerance):
        worst = float((found.float() - wanted.float()).abs().max())
        sys.exit(f"gate: {name}: {worst:.3g} away from the reference, so nothing is timed")


def times(record: Record, layers: list[Layer]) -> None:
    """Each kernel's microseconds a layer, and bytes over the bandwidth of a copy in the same rounds."""
    layer = layers[0]
    entry = 2 * DIM * layer.queries.element_size()  # key and value of one position and head
    rows = layer.rows * KV_HEADS
    index = rows * layer.context * (DIM * BITS // 8 + 2)
    selected = rows * (layer.selected + layer.recent) * entry
    everything = rows * layer.context * entry
    steps = [(each, scored := each.scores(), each.choose(scored)) for each in layers]
    moved: dict[str, tuple[Callable[[], Any], int]] = {
        "torch sdpa": (lambda: [_sdpa(each) for each in layers], everything),
        "dense": (lambda: [each.dense() for each in layers], everything),
        "sparse": (lambda: [each.sparse(chosen) for each, _, chosen in steps], selected),
        "scores": (lambda: [each.scores() for each in layers], index),
        "choice": (
            lambda: [each.choose(scored) for each, scored, _ in steps],
            layer.rows * HEADS * layer.context * 2,
        ),
        "scores, choice and sparse": (lambda: [each.fast() for each in layers], index + selected),
    }
    shape = f"{layer.rows} x {layer.context}"
    samples, bandwidth = beside_copy({name: replayed(run, len(layers)) for name, (run, _) in moved.items()})
    record.add(f"attention of one layer, {shape}", "us", samples)
    for name, (_, size) in moved.items():
        over = [size / time for time in samples[name]]
        record.ratio(f"{name}, bytes over a copy's bandwidth, {shape}", over, bandwidth)


def beside_copy(runs: dict[str, Callable[[], float]]) -> tuple[dict[str, list[float]], list[float]]:
    """Samples of these in turns, and in the same rounds the bandwidth of a copy, bytes a microsecond."""
    copy, copied = large_copy()
    samples = interleaved({"copy": copy, **runs}, ROUNDS)
    return samples, [copied / (1000 * time) for time in samples.pop("copy")]


def _sdpa(layer: Layer) -> Tensor:
    """torch's own attention over as many bytes, taken as if they were one plain tensor a row."""
    plain = (
        store.view(layer.rows, KV_HEADS, -1, DIM)[:, :, : layer.context]
        for store in (layer.store.keys, layer.store.values)
    )
    queries = layer.queries[:, :, None]
    return torch.nn.functional.scaled_dot_product_attention(queries, *plain, enable_gqa=True)


def replayed(run: Callable[[], Any], layers: int) -> Callable[[], float]:
    """Microseconds of one of ``run``'s layers, replayed as a graph."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return lambda: 1000 * timed(graph.replay, REPLAYS) / layers


if __name__ == "__main__":
    main()
