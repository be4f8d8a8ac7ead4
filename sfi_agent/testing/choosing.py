"""What every rows kernel must do: attention to what rows choose by codes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sfi_agent.contracts import Ranked, RowsKernel
from sfi_agent.testing.attending import SHAPES, AttendingTests
from sfi_agent.testing.codings import EvenCoding
from sfi_agent.testing.lanes import PagedRows

SINK = 4
STOPS = 150, 40
"""Where the stretches end that the first two rows choose from."""


class ChoosingTests(AttendingTests):
    """Tests of :meth:`RowsKernel.attend` of rows that are ranked."""

    @pytest.mark.parametrize("tokens", [1, (1, 1, 5)], ids=str)
    @pytest.mark.parametrize(("bits", "shape"), [*zip((2, 1, 4), SHAPES[:3], strict=True)], ids=str)
    def test_chosen_beside_dense(
        self, rows: RowsKernel, bits: int, shape: tuple[int, ...], tokens: int | Sequence[int]
    ) -> None:
        """By the codes, for all KV heads together: some of a row's, and all of another's."""
        case = self.case(False, shape, tokens=tokens)
        likely = torch.zeros(shape[1], STOPS[0], dtype=torch.bool)
        for head in range(shape[1]):
            likely[head, SINK + head : STOPS[0] : 9 + 20 * head] = True
        self.check_chosen(rows, case, EvenCoding(bits), [likely, torch.ones(shape[1], STOPS[1]).bool()])

    def test_nothing_is_chosen(self, rows: RowsKernel) -> None:
        none = [torch.zeros(2, stop, dtype=torch.bool) for stop in STOPS]
        self.check_chosen(rows, PagedRows(self.device), EvenCoding(2), none)

    @pytest.mark.parametrize("wanted", [(37, 0), (STOPS[0] - SINK, 20)], ids=str)
    def test_of_equals_the_earlier_are_chosen(self, rows: RowsKernel, wanted: tuple[int, int]) -> None:
        """Of equal codes and queries; those of the first KV head before those of the second."""
        case = PagedRows(self.device)
        case.queries.copy_(case.queries[:, :1].clone())
        likely = [torch.zeros(2, stop, dtype=torch.bool) for stop in STOPS]
        for head, count in enumerate(wanted):
            likely[0][head, SINK : SINK + count] = True
        coding, shape = EvenCoding(2), case.pages.keys.shape[:3]
        codes = torch.full((*shape, 16), 0x5A, dtype=torch.uint8, device=self.device)
        scales = torch.ones(*shape, 1, dtype=torch.float16, device=self.device)
        case.pages = case.pages._replace(codes=codes, scales=scales)
        self.check_ranked(rows, case, coding, likely)

    def check_chosen(
        self, rows: RowsKernel, case: PagedRows, coding: EvenCoding, likely: Sequence[Tensor]
    ) -> None:
        """The first two rows choose these positions ``[H_kv, stop]`` (bool), whose codes say so."""
        case.coded(coding, dict(enumerate(likely)))
        self.check_ranked(rows, case, coding, likely)

    def check_ranked(
        self, rows: RowsKernel, case: PagedRows, coding: EvenCoding, likely: Sequence[Tensor]
    ) -> None:
        """They choose these by the codes that there are."""
        for row, own in enumerate(likely):
            own[:, :SINK] = True
            positions = torch.where(own, torch.arange(own.shape[1]), -1)
            case.remember(row, positions, own.shape[1])
        wanted = [int(own[:, SINK:].sum()) for own in likely]
        ranked = Ranked(coding, case.ints([SINK, SINK]), case.ints(STOPS), case.ints([*wanted, 0]), 160, 192)
        self.check(rows, case, ranked=ranked)
