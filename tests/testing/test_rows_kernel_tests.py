"""RowsKernelTests catch wrong kernels, by each method of theirs."""

import dataclasses

import pytest
import torch

from sfi_agent.contracts import AttentionKernel, Lists
from sfi_agent.hookspecs import hookimpl
from sfi_agent.registry import Registry
from sfi_agent.testing import RowsKernelTests
from sfi_agent.testing.codings import EvenCoding, InvertedCoding
from sfi_kernels.rows import TorchRows


class WrongRows(TorchRows):
    """Plain PyTorch's; ``wrong`` names one thing it gets wrong."""

    def __init__(self, wrong=None):
        self.wrong = wrong

    def attend(self, queries, keys, values, pages, lane, layer, spec):
        given, lane, spec = self._given(queries, keys, pages, lane, spec)
        out = super().attend(given, keys, values, pages, lane, layer, spec)
        if self.wrong == "group":
            out = out.unflatten(1, (keys.shape[1], -1)).transpose(1, 2).flatten(1, 2)
        if self.wrong == "elsewhere":
            pages.keys[-1, 0, -1, 0] = 0
        if self.wrong == "fills":
            out[-1] = 1
        if self.wrong == "random":
            out += 1e-6 * torch.rand_like(out)
        if self.wrong == "unwritten":
            out = out + 0 * torch.empty_like(out)
        if self.wrong == "in place":
            queries *= 2
        return out.float() if self.wrong == "dtype" else out

    def _given(self, queries, keys, pages, lane, spec):
        """Queries, lane and spec, perhaps others than they were."""
        if self.wrong == "group":
            queries = queries.unflatten(1, (-1, keys.shape[1])).transpose(1, 2).flatten(1, 2)
        if self.wrong == "next row":
            lane = dataclasses.replace(lane, tables=lane.tables.roll(1, 0))
        if self.wrong == "tail":
            lane = dataclasses.replace(lane, tails=lane.tails + (lane.tails > 0))
        if self.wrong == "last key" and lane.lists:
            lists = {layer: Lists(own.places, own.counts - 1) for layer, own in lane.lists.items()}
            lane = dataclasses.replace(lane, lists=lists)
        if self.wrong == "past the count" and lane.lists:
            lists = {layer: Lists(own.places, own.counts + 1) for layer, own in lane.lists.items()}
            lane = dataclasses.replace(lane, lists=lists)
        if self.wrong == "unused" and lane.lists:
            (layer, own), *_ = lane.lists.items()
            places = torch.where(own.places < 0, own.places[..., 1:2], own.places)
            lane = dataclasses.replace(lane, lists={layer: Lists(places, own.counts)})
        if self.wrong == "no ring":
            lane = dataclasses.replace(lane, rings=None)
        if self.wrong == "whole ring" and lane.rings:
            facts = lane.rings.facts.clone()
            facts[3] += 1
            lane = dataclasses.replace(lane, rings=lane.rings._replace(facts=facts))
        if self.wrong == "no sink":
            spec = dataclasses.replace(spec, sinks=None)
        if self.wrong == "no cap":
            spec = dataclasses.replace(spec, softcap=None)
        if self.wrong == "window":
            spec = dataclasses.replace(spec, window=spec.window and spec.window + 1)
        return queries, lane, spec

    def _chosen(self, row, queries, pages, lane, spec, places):
        ranked = lane.ranked
        start, stop = int(ranked.starts[row]), int(ranked.stops[row])
        if self.wrong == "one fewer":
            lane = dataclasses.replace(lane, ranked=ranked._replace(wanted=ranked.wanted - 1))
        if self.wrong == "scales":
            pages = pages._replace(scales=torch.ones_like(pages.scales))
        if self.wrong == "codes":
            pages = pages._replace(codes=pages.codes.roll(1, 1))
        kept = super()._chosen(row, queries, pages, lane, spec, places)
        if self.wrong == "the sink":
            return kept[:, start:]
        if self.wrong == "ties":
            kept = torch.where(kept >= start, start + stop - 1 - kept, kept)
        return kept.flip(0) if self.wrong == "ties of heads" else kept

    def share(self, reads, heads, pages):
        return -1 if self.wrong == "share" else super().share(reads, heads, pages)

    def mass(self, queries, keys, layers, table, start, stop, spec, power, *, norms):
        if self.wrong == "layers":
            layers = sorted(layers)
        if self.wrong == "power":
            power = 1.0
        if self.wrong == "order of pages":
            table = table.sort().values
        if self.wrong == "capped":
            spec = dataclasses.replace(spec, softcap=None)
        masses, lengths = super().mass(
            queries, keys, layers, table, start, stop, spec, power, norms=norms or self.wrong == "asked"
        )
        if self.wrong == "the last":
            masses = masses / masses[..., :-1].sum(-1, keepdim=True).clamp_min(1e-9)
        return masses, lengths.square() if self.wrong == "norms" and norms else lengths

    def place(self, positions, table, out, kept):
        if self.wrong == "first page":
            table = table.roll(1)
        if self.wrong == "kept":
            kept.zero_()
        if self.wrong == "unused places":
            positions = positions.clamp_min(0)
        super().place(positions, table, out, kept)

    def code(self, coding, keys, codes, scales, places, mean):
        if self.wrong == "mean":
            mean = torch.zeros_like(mean)
        if self.wrong == "own code" and not coding.nearest:
            coding = EvenCoding(coding.bits)
        if self.wrong == "codes elsewhere":
            codes[0, 0, 0, 0, 0] = codes[-1, -1, -1, -1, -1] = 1
        super().code(coding, keys, codes, scales, places[self.wrong == "a key" :], mean)
        if self.wrong == "twice the scale":
            scales *= 2

    def draw(self, logits, drawing, out):
        if drawing and self.wrong == "position":
            drawing = drawing._replace(positions=drawing.positions + 1)
        if drawing and self.wrong == "all may come":
            drawing = drawing._replace(likeliest=0)
        if drawing and self.wrong == "most likely":
            drawing = None
        if drawing is None and self.wrong == "the last of equals":
            out.copy_(logits.shape[-1] - 1 - logits.flip(-1).argmax(-1))
            return
        super().draw(logits, drawing, out)

    def linear(self, inputs, weight, bias):
        return super().linear(inputs, weight, None if self.wrong == "bias" else bias)

    def fused(self, inputs, weight, bias, beside):
        if self.wrong == "norm":
            beside = beside._replace(norm=None)
        if self.wrong == "residual":
            beside = beside._replace(residual=None)
        if self.wrong == "gate" and beside.gated:
            weight, bias = (each.roll(len(each) // 2, 0) for each in (weight, bias))
        if self.wrong == "rotation":
            beside = beside._replace(rotary=beside.rotary._replace(sin=-beside.rotary.sin))
        if self.wrong == "rotated keys":
            beside = beside._replace(rotary=beside.rotary._replace(keys=0))
        if self.wrong == "normed keys":
            beside = beside._replace(rotary=beside.rotary._replace(key_norm=beside.rotary.query_norm))
        return super().fused(inputs, weight, bias, beside)

    def fuses(self, tokens, dtype):
        return None if self.wrong == "fuses" else super().fuses(tokens, dtype)


F32 = torch.float32
SHAPE = 8, 2, 128, 128
CAUGHT = {
    "group": lambda tests, rows: tests.test_shapes(rows, SHAPE),
    "next row": lambda tests, rows: tests.test_dense(rows, F32, 1),
    "elsewhere": lambda tests, rows: tests.test_dense(rows, F32, 5),
    "fills": lambda tests, rows: tests.test_dense(rows, F32, (9, 1, 3)),
    "dtype": lambda tests, rows: tests.test_dense(rows, torch.bfloat16, 1),
    "in place": lambda tests, rows: tests.test_dense(rows, F32, 1),
    "no sink": lambda tests, rows: tests.test_windows_softcap_and_sinks(rows, {"sinks": True}, 1),
    "no cap": lambda tests, rows: tests.test_listed_with_softcap_and_sinks(rows, {"softcap": 2.0}),
    "window": lambda tests, rows: tests.test_windows_softcap_and_sinks(rows, {"window": 50}, (9, 1, 3)),
    "tail": lambda tests, rows: tests.test_listed_beside_dense(rows, F32, 5),
    "last key": lambda tests, rows: tests.test_listed_beside_dense(rows, F32, 1),
    "past the count": lambda tests, rows: tests.test_listed_beside_dense(rows, F32, (1, 1, 51)),
    "unused": lambda tests, rows: tests.test_listed_beside_dense(rows, F32, 1),
    "one fewer": lambda tests, rows: tests.test_chosen_beside_dense(rows, 2, SHAPE, 1),
    "codes": lambda tests, rows: tests.test_chosen_beside_dense(rows, 4, SHAPE, (1, 1, 5)),
    "scales": lambda tests, rows: tests.test_chosen_beside_dense(rows, 1, SHAPE, 1),
    "the sink": lambda tests, rows: tests.test_nothing_is_chosen(rows),
    "ties": lambda tests, rows: tests.test_of_equals_the_earlier_are_chosen(rows, (37, 0)),
    "ties of heads": lambda tests, rows: tests.test_of_equals_the_earlier_are_chosen(rows, (146, 20)),
    "no ring": lambda tests, rows: tests.test_queries_are_kept(rows, 1, None),
    "whole ring": lambda tests, rows: tests.test_queries_are_kept(rows, (9, 1, 12), None),
    "share": lambda tests, rows: tests.test_rows_that_share_a_launch(rows, 1),
    "random": lambda tests, rows: tests.test_the_same_twice(rows, 1),
    "unwritten": lambda tests, rows: tests.test_memory_it_did_not_write_is_not_read(rows),
    **dict.fromkeys(
        ["layers", "power", "order of pages", "capped", "asked", "the last", "norms"],
        lambda tests, rows: tests.test_mass(rows, 8, 2, 128, 3, 0.5, 4, 170),
    ),
    **dict.fromkeys(
        ["first page", "kept", "unused places"], lambda tests, rows: tests.test_place(rows, 4, 101)
    ),
    **dict.fromkeys(
        ["mean", "codes elsewhere", "a key", "twice the scale"],
        lambda tests, rows: tests.test_code(rows, EvenCoding(2), 64),
    ),
    "own code": lambda tests, rows: tests.test_code(rows, InvertedCoding(2), 64),
    **dict.fromkeys(
        ["position", "all may come", "most likely"], lambda tests, rows: tests.test_draw(rows, F32, 700)
    ),
    "the last of equals": lambda tests, rows: tests.test_of_equals_the_first_is_the_most_likely(rows),
    "bias": lambda tests, rows: tests.test_linear(rows, F32, 3, 200, 33),
    "norm": lambda tests, rows: tests.test_fused(rows, F32, "residual", True),
    "residual": lambda tests, rows: tests.test_fused(rows, F32, "residual", False),
    "gate": lambda tests, rows: tests.test_fused(rows, F32, "gate", False),
    "fuses": lambda tests, rows: tests.test_fused(rows, F32, "gate", False),
    "rotation": lambda tests, rows: tests.test_fused(rows, F32, "rotation", False),
    "rotated keys": lambda tests, rows: tests.test_fused(rows, F32, "rotation", False),
    "normed keys": lambda tests, rows: tests.test_fused(rows, F32, "rotation of normed heads", False),
}


@pytest.mark.parametrize("wrong", CAUGHT)
def test_a_wrong_rows_kernel_is_caught(wrong):
    CAUGHT[wrong](RowsKernelTests(), WrongRows())
    with pytest.raises(AssertionError):
        CAUGHT[wrong](RowsKernelTests(), WrongRows(wrong))


class WithoutRows(AttentionKernel):
    """Rows are no part of it."""

    dense = plan = sparse = None


class Plugin:
    @hookimpl
    def sfi_register_kernels(self, register):
        register("without", WithoutRows)


def test_a_kernel_without_rows_is_told_so():
    class Tests(RowsKernelTests):
        name = "without"

        def registry(self):
            return Registry(extra=[Plugin()], discover=False)

    with pytest.raises(AssertionError, match="without has no rows kernel"):
        Tests.rows.__wrapped__(Tests())
