"""What every rows kernel must do: attention, and all beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Beside, Draw, Drawing, LayerSpec, Rotary, RowsKernel
from sfi_agent.contracts.drawing import weighed
from sfi_agent.testing.choosing import ChoosingTests
from sfi_agent.testing.codings import EvenCoding, InvertedCoding
from sfi_agent.testing.exact import exact_linear, exact_mass
from sfi_agent.testing.lanes import at
from sfi_agent.testing.tolerances import TOLERANCES

DRAWS = [
    None,
    Draw(1.0, 3),
    Draw(0.6, 2**63 + 11),
    Draw(1e9, 2**64 - 1, top_k=3),
    Draw(1.3, 5, top_p=0.7),
    Draw(1e-9, 6),
    Draw(0.8, 7, top_k=20, top_p=0.9),
]


class RowsKernelTests(ChoosingTests):
    """Subclass as ``class TestMine(RowsKernelTests)`` and set ``name``, as :class:`NamedKernel` says.

    The kernel of that name gives the rows kernel that is tested (:meth:`AttentionKernel.rows`).
    """

    @pytest.mark.parametrize(
        ("heads", "kv_heads", "dim", "captured", "power"),
        [(2, 2, 96, 1, 2.0), (8, 2, 128, 3, 0.5), (16, 1, 64, 7, 1.0)],
    )
    @pytest.mark.parametrize(("start", "stop"), [(4, 170), (0, 64), (63, 65), (130, 131)])
    def test_mass(
        self, rows: RowsKernel, heads: int, kv_heads: int, dim: int, captured: int, power: float,
        start: int, stop: int,
    ) -> None:  # fmt: skip
        """Of some of a ring's queries, over keys beside which all is NaN."""
        keys, places = self.keys(3, kv_heads, dim, stop)
        page, slot = at(places[:start])
        keys[:, page, :, slot] = torch.nan
        ring = self.drawn(2, captured + 3, heads, dim)
        queries, (page, slot) = ring[:, 2 : captured + 2], at(places[start:])
        table = (places[::PAGE] // PAGE).int()
        for softcap, norms in ((None, True), (1.5, False)):
            spec = LayerSpec(dim**-0.5, softcap)
            masses, lengths = rows.mass(queries, keys, (2, 0), table, start, stop, spec, power, norms=norms)
            assert masses.dtype == torch.float32
            assert (lengths is not None) == norms
            for index, layer in enumerate((2, 0)):
                own = keys[layer, page, :, slot].transpose(0, 1)
                expected = exact_mass(queries[index], own, spec, power)
                # Relative to their mean, below which the table's absolute tolerance would hide much.
                self.close(masses[index] * (stop - start), expected * (stop - start))
                if lengths is not None:
                    self.close(lengths[index], own.cpu().double().norm(dim=-1))

    @pytest.mark.parametrize(("sink", "count"), [(4, 101), (0, 1), (3, 0), (70, 1100)])
    def test_place(self, rows: RowsKernel, sink: int, count: int) -> None:
        table = torch.randperm(9, generator=torch.Generator().manual_seed(1)).int()
        generator = torch.Generator().manual_seed(2)
        positions = torch.randint(-1, 9 * PAGE, (2, 3, count), generator=generator)
        positions[..., 1::5] = -1
        every = torch.full((4, 3, sink + count + 5), 7, dtype=torch.int32, device=self.device)
        kept = torch.tensor(3, device=self.device)
        rows.place(positions.to(self.device), table.to(self.device), every[1:3, :, : sink + count], kept)
        expected = torch.full(every.shape, 7, dtype=torch.int32)
        for layer, head in [(layer, head) for layer in range(2) for head in range(3)]:
            all_positions = [*range(sink), *positions[layer, head].tolist()]
            expected[layer + 1, head, : sink + count] = torch.tensor(
                [-1 if p < 0 else int(table[p // PAGE]) * PAGE + p % PAGE for p in all_positions]
            )
        assert torch.equal(every.cpu(), expected)
        assert kept == 3 + 2 * 3 * sink + (positions >= 0).sum()

    @pytest.mark.parametrize(
        ("coding", "dim"),
        [(EvenCoding(2), 64), (EvenCoding(1), 64), (EvenCoding(4), 128), (InvertedCoding(2), 64)],
        ids=["2 bits", "1 bit", "4 bits", "its own code"],
    )
    def test_code(self, rows: RowsKernel, coding: EvenCoding, dim: int) -> None:
        """Of keys at some places; what is nearly between two levels may have either's symbol."""
        keys, places = self.keys(2, 3, dim, 77)
        mean = self.drawn(2, 3, dim, seed=2)
        places = places[torch.randperm(77, generator=torch.Generator().manual_seed(1)).to(self.device)]
        codes = torch.full((*keys.shape[:4], dim * coding.bits // 8), 7, device=self.device).byte()
        scales = torch.zeros(*keys.shape[:4], 1, device=self.device).half()
        rows.code(coding, keys, codes, scales, places, mean)
        page, slot = at(places)
        symbols, factors, margins = coding.symbols(keys[:, page, :, slot], mean)
        found, found_scales = codes[:, page, :, slot], scales[:, page, :, slot, 0]
        if not coding.nearest:
            found, found_scales = found.bitwise_not(), found_scales * 2
        shifts = torch.arange(0, 8, coding.bits, device=self.device)
        found_symbols = (found[..., None].long() >> shifts & 2**coding.bits - 1).flatten(-2)
        clear = margins > TOLERANCES[torch.float32].atol
        assert torch.equal(found_symbols[clear], symbols[clear])
        self.close(found_scales, factors.cpu())
        codes[:, page, :, slot], scales[:, page, :, slot] = 7, 0
        assert (codes == 7).all()
        assert not scales.any()

    @pytest.mark.parametrize("size", [1, 50, 700])
    def test_draw(self, rows: RowsKernel, dtype: torch.dtype, size: int) -> None:
        logits = 3 * self.drawn(len(DRAWS), size).to(dtype)
        positions = torch.arange(len(DRAWS), device=self.device) * 2**30
        for draws in (DRAWS, len(DRAWS) * [None]):
            drawing = Drawing.of(draws, positions, size)
            out = torch.full_like(positions, -1)
            rows.draw(logits, drawing if draws is DRAWS else None, out)
            scores = weighed(
                logits.cpu(), drawing._replace(numbers=drawing.numbers.cpu(), positions=positions.cpu())
            )
            highest, drawn = scores.amax(-1), scores.gather(-1, out.cpu()[:, None])[:, 0]
            torch.testing.assert_close(drawn, highest, rtol=1e-5, atol=1e-5)

    def test_of_equals_the_first_is_the_most_likely(self, rows: RowsKernel) -> None:
        logits, out = (
            torch.zeros(2, 700, device=self.device),
            torch.zeros(2, dtype=torch.int64, device=self.device),
        )
        logits[1, [697, 300, 33]] = 1
        rows.draw(logits, None, out)
        assert out.tolist() == [0, 33]

    @pytest.mark.parametrize(("tokens", "columns", "width"), [(1, 128, 32), (3, 200, 33), (17, 65, 40)])
    def test_linear(
        self, rows: RowsKernel, dtype: torch.dtype, tokens: int, columns: int, width: int
    ) -> None:
        inputs, weight, bias = self.layer(tokens, columns, width, dtype)
        for given in (None, bias):
            out = rows.linear(inputs, weight, given)
            assert out.dtype == dtype
            self.close(out, exact_linear(inputs, weight, given, Beside()))

    @pytest.mark.parametrize("normed", [False, True], ids=["", "normed"])
    @pytest.mark.parametrize("after", ["residual", "gate", "rotation", "rotation of normed heads"])
    def test_fused(self, rows: RowsKernel, dtype: torch.dtype, after: str, normed: bool) -> None:
        if normed and dtype == torch.float16:
            pytest.skip("there is no norm in float16")
        tokens, columns, width = 3, 200, 256
        inputs, weight, bias = self.layer(tokens, columns, width, dtype)
        beside: dict[str, Any] = {}
        if normed:
            inputs, beside = 3 * inputs, {"norm": (1 + self.drawn(columns) / 4).to(dtype), "eps": 0.5}
        if after == "residual":
            beside["residual"] = self.drawn(tokens, width, seed=3).to(dtype)
        beside["gated"] = after == "gate"
        if after.startswith("rotation"):
            heads_normed = after != "rotation"
            angles = 3 * self.drawn(tokens, 64, seed=3)
            query_norm, key_norm = (
                (1 + self.drawn(64, seed=seed) / 4).to(dtype) if heads_normed else None for seed in (1, 2)
            )
            beside["rotary"] = Rotary(
                angles.cos().to(dtype), angles.sin().to(dtype), 2, 1, query_norm, key_norm, 0.25
            )
        given = None if after.startswith("rotation") else bias
        out = rows.fused(inputs, weight, given, Beside(**beside))
        assert out.dtype == dtype
        self.close(out, exact_linear(inputs, weight, given, Beside(**beside)))
        assert isinstance(rows.fuses(tokens, dtype), bool)

    def layer(
        self, tokens: int, columns: int, width: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs, weights whose products are of the order of 1, and a bias."""
        weight = self.drawn(width, columns, seed=1) * columns**-0.5
        bias = self.drawn(width, seed=2)
        return self.drawn(tokens, columns).to(dtype), weight.to(dtype), bias.to(dtype)

    def keys(self, layers: int, kv_heads: int, dim: int, length: int) -> tuple[Tensor, Tensor]:
        """``[layers, pages, H_kv, PAGE, D]`` float32, NaN but at ``length`` places, the other result."""
        count = -(-length // PAGE)
        order = torch.randperm(count + 2, generator=torch.Generator().manual_seed(count))[:count]
        places = (order[:, None] * PAGE + torch.arange(PAGE)).flatten()[:length].to(self.device)
        keys = torch.full((layers, count + 2, kv_heads, PAGE, dim), torch.nan, device=self.device)
        page, slot = at(places)
        keys[:, page, :, slot] = self.drawn(length, layers, kv_heads, dim, seed=1)
        return keys, places

    def drawn(self, *shape: int, seed: int = 0) -> Tensor:
        """Normally distributed numbers on this device."""
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(self.device)
