"""Pages of keys and values, of which many sessions may hold one."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from sfi_agent.contracts import PAGE, Coding, LayerPages, LayerSpec
from sfi_agent.errors import PoolFullError
from sfi_agent.runtime.kv import alike


class PagePool:
    """Storage for a fixed number of pages, each counted by how many sessions hold it.

    Page 0 belongs to nobody: rows that only fill a launch write there.

    Args:
        pages: how many.
        specs: of the model's layers, in order.
        like: a key ``[H_kv, D]`` and a value ``[H_kv, D_v]`` of any layer, for shapes, dtype and device.

    Attributes:
        specs: of the layers.
        windows: of the layers, in order; None: full attention.
        alike: layers, as ``KVCache.alike``.
        key_bytes, position_bytes: of one position's key, and of key and value, in one layer.
        guard: held while pages change hands.
    """

    def __init__(self, pages: int, specs: Sequence[LayerSpec], like: tuple[Tensor, Tensor]) -> None:
        self.pages, self.specs = pages, tuple(specs)
        self.windows = tuple([spec.window for spec in specs])
        self.alike = alike([(index, tuple(like[0].shape), spec) for index, spec in enumerate(specs)])
        self.keys, self.values = (
            part.new_empty(len(self.specs), pages, part.shape[0], PAGE, part.shape[1]) for part in like
        )
        self.key_bytes, value_bytes = (part.numel() * part.element_size() for part in like)
        self.position_bytes = self.key_bytes + value_bytes
        self.coding: Coding | None = None
        self.codes: Tensor | None = None
        self.scales: Tensor | None = None
        self._counts = [0] * pages
        self._free = list(range(pages - 1, 0, -1))
        self.guard = threading.RLock()  # a cache may be collected, and leave its pages, inside any of these

    @property
    def page_bytes(self) -> int:
        """Bytes of a page's keys and values in all layers."""
        return (self.keys.nbytes + self.values.nbytes) // self.pages

    @property
    def tokens(self) -> int:
        """Positions that all pages hold together."""
        return (self.pages - 1) * PAGE

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        return len(self._free)

    def layer(self, index: int) -> LayerPages:
        """One layer's part."""
        if self.codes is None or self.scales is None:
            return LayerPages(self.keys[index], self.values[index])
        return LayerPages(self.keys[index], self.values[index], self.codes[index], self.scales[index])

    def sent(self, numbers: Sequence[int], dtype: torch.dtype) -> Tensor:
        """``[len(numbers)]`` on the pages' device, without waiting for what that is doing."""
        here = torch.tensor(numbers, dtype=dtype, pin_memory=self.keys.is_cuda)  # else the copy would wait
        return here.to(self.keys.device, non_blocking=True)

    def take(self, count: int) -> list[int]:
        """Pages that were free.

        Raises:
            PoolFullError: fewer are.
        """
        with self.guard:
            if count > len(self._free):
                raise PoolFullError(count * PAGE, len(self._free) * PAGE, self.tokens)
            taken = [self._free.pop() for _ in range(count)]
            for page in taken:
                self._counts[page] = 1
            return taken

    def hold(self, pages: Sequence[int]) -> None:
        """One more session holds these pages."""
        with self.guard:
            for page in pages:
                self._counts[page] += 1

    def leave(self, pages: Sequence[int]) -> None:
        """One session fewer holds these pages."""
        with self.guard:
            for page in pages:
                self._counts[page] -= 1
                if not self._counts[page]:
                    self._free.append(page)

    def shared(self, page: int) -> bool:
        """Whether several sessions hold a page, so that none may write to it."""
        return self._counts[page] > 1

    def copy(self, page: int) -> int:
        """A page of one's own with the same content."""
        own = self.take(1)[0]
        for part in (self.keys, self.values, self.codes, self.scales):
            if part is not None:
                part[:, own] = part[:, page]
        self.leave([page])
        return own

    def code_with(self, coding: Coding) -> bool:
        """Make room for these codes; False where the pool holds another's."""
        if self.coding is None:
            codes, _ = coding.code(self.keys[0, 0, :, 0], torch.zeros((), device=self.keys.device))
            lead = self.keys.shape[:4]
            self.codes = codes.new_empty(*lead, codes.shape[-1])
            self.scales = self.keys.new_zeros(*lead, 1, dtype=torch.float16)
            self.coding = coding
        return self.coding == coding
