"""Products, drawing and a refresh: ``make bench-gpu``, or ``python benchmarks/gpu_kernels.py [--quick]``.

As ``gpu.py`` does for attention: no time is taken unless each kernel gives what its reference gives; then
each is replayed in turns beside a large copy. Shapes are those of Qwen3-4B, products and drawing are of 8
tokens, the refresh is of one row; logits lie in the cache, as they do behind a product. ``--quick`` runs the
gate on small shapes, without a GPU in Triton's interpreter, and records nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

# First of the project's: without a GPU it has Triton interpret the kernels.
from gpu import BITS, CACHE, DEVICE, DIM, HEADS, KV_HEADS, ROUNDS, beside_copy, close, replayed
from record import Record, interleaved, show

from sfi_agent.contracts import PAGE, Draw, Drawing, LayerSpec, Rotary, sliding_max
from sfi_agent.contracts.highest import highest
from sfi_kernels.coding import reference as coding_reference
from sfi_kernels.highest.triton import highest as highest_kernel
from sfi_kernels.linear import reference as linear_reference
from sfi_kernels.linear.triton import linear
from sfi_kernels.paper_scores.triton import paper_scores
from sfi_kernels.rows import TorchRows, TritonRows
from sfi_kernels.sliding_max.triton import sliding_max as sliding_max_kernel
from sfi_plugins.indexes.rotated import RotatedCoding
from sfi_plugins.selectors import paper

if TYPE_CHECKING:
    from torch import Tensor

DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16  # the interpreter's narrowest
TOKENS = 8
HIDDEN, INNER, VOCABULARY = 2560, 9728, 151_936
DRAWS = {
    "the most likely": None,
    "drawn": Draw(1.0, 1),
    "drawn of 20, top_p 0.95": Draw(0.6, 2, top_k=20, top_p=0.95),
    "drawn, top_p 0.95": Draw(1.0, 3, top_p=0.95),
}
QUERIES = {"snapkv's": (16, 1.0, False), "the paper's": (4, 0.5, True)}
"""Of a selector: queries that it asks about, its power mean's exponent, and whether it reads norms."""
MARGIN = 1e-5
"""From the edge between two symbols: nearer, float32 and float64 may tell a key's element differently."""


def main() -> None:
    """Gate and times."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="the gate alone, on small shapes")
    quick = parser.parse_args().quick
    if DEVICE == "cpu" and not quick:
        parser.error("needs a GPU; --quick interprets the kernels on small shapes")
    torch.manual_seed(0)
    record = Record("gpu", keep=not quick)
    products = [Product(name, *shape, **around) for name, shape, around in _products(20 if quick else 1)]
    refresh = Refresh(2, 300) if quick else Refresh(12, 8192)
    tokens = Tokens(VOCABULARY // 20 if quick else VOCABULARY)
    for product in products:
        product.gate()
    refresh.gate()
    tokens.gate()
    print("gate: products, drawing and a refresh's kernels give what their references give", file=sys.stderr)
    if not quick:
        _times(record, products, refresh, tokens)
        show(record)


def _products(part: int) -> list[tuple[str, tuple[int, int], dict[str, bool]]]:
    """A layer's, one ``part``-th as wide: weights' rows and columns, and what is computed with them."""
    hidden, inner = HIDDEN // part, INNER // part // 16 * 16
    heads, keys = (max(1, count // part) for count in (HEADS, KV_HEADS))
    return [
        ("q, k and v", ((heads + 2 * keys) * DIM, hidden), {"normed": True, "turned": True}),
        ("o", (hidden, heads * DIM), {"added": True}),
        ("gate and up", (2 * inner, hidden), {"normed": True, "gated": True}),
        ("down", (hidden, inner), {"added": True}),
    ]


class Product:
    """Weights, as many copies as leave none of them in the cache, and inputs."""

    def __init__(
        self,
        name: str,
        rows: int,
        columns: int,
        *,
        normed: bool = False,
        gated: bool = False,
        added: bool = False,
        turned: bool = False,
    ) -> None:
        some = partial(torch.randn, dtype=DTYPE, device=DEVICE)
        self.name, self.inputs = name, some(TOKENS, columns)
        size = rows * columns * self.inputs.element_size()
        self.weights = [
            some(rows, columns) * columns**-0.5 for _ in range(1 + CACHE // size if DEVICE == "cuda" else 1)
        ]
        self.around: dict[str, Any] = {
            "norm": some(columns) if normed else None,
            "eps": 1e-6,
            "residual": some(TOKENS, rows) if added else None,
            "gated": gated,
            "rotary": self._rotary(rows // DIM) if turned else None,
        }

    def _rotary(self, heads: int) -> Rotary:
        """Of queries and keys, of which there are as many as values."""
        keys = max(1, heads * KV_HEADS // (HEADS + 2 * KV_HEADS))
        angles = torch.randn(TOKENS, DIM, device=DEVICE)
        norms = [torch.rand(DIM, device=DEVICE).to(DTYPE) for _ in range(2)]
        cos, sin = angles.cos().to(DTYPE), angles.sin().to(DTYPE)
        return Rotary(cos, sin, heads - 2 * keys, keys, *norms, 1e-6)

    def gate(self) -> None:
        """Stop unless the kernel gives what the reference gives."""
        wanted = linear_reference.linear(self.inputs, self.weights[0], **self.around)
        close(self.name, linear(self.inputs, self.weights[0], **self.around), wanted)

    def run(self) -> None:
        """All copies' products."""
        for weight in self.weights:
            linear(self.inputs, weight, **self.around)


class Tokens:
    """Logits, and ways in which the tokens that follow are chosen."""

    def __init__(self, vocabulary: int) -> None:
        self.logits = 3 * torch.randn(TOKENS, vocabulary, device=DEVICE).to(DTYPE)
        self.positions = torch.arange(TOKENS, device=DEVICE)
        self.out = torch.zeros(TOKENS, dtype=torch.int64, device=DEVICE)
        self.ways = {
            name: Drawing.of(TOKENS * [draw], self.positions, vocabulary) if draw else None
            for name, draw in DRAWS.items()
        }

    def choose(self, rows: Any, way: str) -> Tensor:
        rows.draw(self.logits, self.ways[way], self.out)
        return self.out

    def gate(self) -> None:
        """Stop unless the kernel gives the reference's tokens."""
        for way in self.ways:
            found, wanted = (self.choose(rows, way).clone() for rows in (TritonRows(), TorchRows()))
            _same(f"tokens, {way}", found, wanted)


class Refresh:
    """One row's keys in pages of several layers, and queries."""

    spec = LayerSpec(DIM**-0.5)

    def __init__(self, layers: int, context: int) -> None:
        pages = -(-context // PAGE)
        some = partial(torch.randn, dtype=DTYPE, device=DEVICE)
        self.layers, self.stop = tuple(range(layers)), context - 20
        self.keys = some(layers, pages, KV_HEADS, PAGE, DIM)
        self.table = torch.randperm(pages, device=DEVICE).int()
        self.queries = some(layers, max(count for count, _, _ in QUERIES.values()), HEADS, DIM)
        self.count = context // 4

    def mass(self, rows: Any, selector: str) -> tuple[Tensor, Tensor | None]:
        count, power, norms = QUERIES[selector]
        asked = self.queries[:, :count], self.keys, self.layers, self.table, 4, self.stop, self.spec, power
        found: tuple[Tensor, Tensor | None] = rows.mass(*asked, norms=norms)
        return found

    def gate(self) -> None:
        """Stop unless each kernel gives what its reference gives."""
        for selector in QUERIES:
            (mass, norms), (wanted, lengths) = (
                self.mass(rows, selector) for rows in (TritonRows(), TorchRows())
            )
            close(f"{selector} mass", mass, wanted, rtol=2e-3, atol=1e-7)
            if norms is not None and lengths is not None:
                close("keys' norms", norms, lengths)
                steps = 0.5, 0.7, 0.568, 1.8, 0.4, 0.25, True, 32, 2.0, 0.85
                scores = paper_scores(mass, norms, *steps)
                close(
                    "the paper's scores",
                    scores,
                    paper.paper_scores(mass, norms, *steps),
                    rtol=1e-4,
                    atol=1e-4,
                )
        _same("the greatest of a window", sliding_max_kernel(mass, 7), sliding_max(mass.cpu(), 7).to(DEVICE))
        chosen = highest_kernel(mass, self.count, 4)
        _same("the highest", chosen, highest(mass.cpu(), self.count, 4).to(DEVICE))
        placed = []
        for rows in (TritonRows(), TorchRows()):
            out = torch.empty(*chosen.shape[:2], 4 + self.count, dtype=torch.int32, device=DEVICE)
            kept = torch.zeros((), dtype=torch.int64, device=DEVICE)
            rows.place(chosen, self.table, out, kept)
            placed.append((out, kept))
        for found, wanted in zip(*placed, strict=True):
            _same("places", found, wanted)
        self._gate_codes()

    def _gate_codes(self) -> None:
        coding, (layers, pages) = RotatedCoding(BITS), self.keys.shape[:2]
        lead = layers, pages, KV_HEADS, PAGE
        codes = torch.zeros(*lead, DIM * BITS // 8, dtype=torch.uint8, device=DEVICE)
        scales = torch.zeros(*lead, 1, dtype=torch.float16, device=DEVICE)
        mean = torch.randn(layers, KV_HEADS, DIM, device=DEVICE)
        places = torch.randperm(pages * PAGE, device=DEVICE)[:77]

        def at(store: Tensor) -> Tensor:
            return store[:, places // PAGE, :, places % PAGE]

        TritonRows().code(coding, self.keys, codes, scales, places, mean)
        symbols, factors, margins = coding_reference.coded(
            at(self.keys), mean, coding.rotation(self.keys), coding.levels
        )
        found = at(codes)[..., None].long() >> torch.arange(0, 8, BITS, device=DEVICE) & 2**BITS - 1
        sure = margins > MARGIN
        _same("codes", found.flatten(-2)[sure], symbols[sure])
        keys = sure.all(-1)  # one symbol told differently is another scale
        close("codes' scales", at(scales)[..., 0].float()[keys], factors.float()[keys], rtol=1e-3, atol=0.0)


def _same(name: str, found: Tensor, wanted: Tensor) -> None:
    if not torch.equal(found, wanted):
        sys.exit(f"gate: {name}: not what the reference gives, so nothing is timed")


def _times(record: Record, products: list[Product], refresh: Refresh, tokens: Tokens) -> None:
    """Microseconds, and bytes over the bandwidth of a copy in the same rounds."""
    rows, size = TritonRows(), refresh.keys.nbytes
    moved: dict[str, tuple[Callable[[], Any], int]] = {
        f"{selector} mass": (partial(refresh.mass, rows, selector), 2 * size) for selector in QUERIES
    }
    runs = {name: replayed(run, 1) for name, (run, _) in moved.items()}
    for product in products:
        moved[product.name] = product.run, product.weights[0].nbytes
        runs[product.name] = replayed(product.run, len(product.weights))
    samples, bandwidth = beside_copy(runs)
    record.add(
        f"products of {TOKENS} tokens, and mass of a row of {refresh.stop} in 12 layers", "us", samples
    )
    ways = {way: replayed(partial(tokens.choose, rows, way), 1) for way in tokens.ways}
    record.add(f"{TOKENS} tokens of {tokens.logits.shape[1]}", "us", interleaved(ways, ROUNDS))
    for name, (_, bytes_) in moved.items():
        over = [bytes_ / time for time in samples[name]]
        record.ratio(f"{name}, bytes over a copy's bandwidth", over, bandwidth)


if __name__ == "__main__":
    main()
